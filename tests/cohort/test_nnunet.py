"""Data sets of nnU-Net: which file is which, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zoo
from zoo import V1, V2, assert_lesions_lie_where_they_were_put, classes, found, ids, named, sliced

from understudy.cohort.guess import guess
from understudy.errors import UnderstudyError


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet(tmp_path: Path, version: int) -> None:
    zoo.nnunet(tmp_path, ["BRATS_001", "BRATS_002", "a_b"], V1 if version == 1 else json.dumps(V2))
    cohort = found(tmp_path)
    assert (cohort.layout, cohort.channels, classes(cohort)) == ("nnunet", ("T1", "FLAIR"), {1: "edema", 2: "core"})
    assert ids(cohort) == ["BRATS_001", "BRATS_002", "a_b"]
    assert named(cohort, 2) == {
        "T1": "imagesTr/a_b_0000.nii.gz",
        "FLAIR": "imagesTr/a_b_0001.nii.gz",
        "labels": "labelsTr/a_b.nii.gz",
    }
    assert cohort.notes == ()
    slices = sliced(cohort, tmp_path / "out")
    assert_lesions_lie_where_they_were_put(slices)
    assert slices.channels == ("T1", "FLAIR")


def test_nnunet_missing_and_unused_files_stay_visible(tmp_path: Path) -> None:
    listed = '"training": [{"image": "./imagesTr/z.nii.gz", "label": "./labelsTr/z.nii.gz"}]'
    zoo.nnunet(tmp_path, ["a", "b"], V1.replace('"training": []', listed))
    (tmp_path / "imagesTr/b_0001.nii.gz").unlink()
    zoo.put(tmp_path / "imagesTs/c_0000.nii.gz", zoo.image(0, 0))
    zoo.put(tmp_path / "labelsTs/c.nii.gz", zoo.annotation())
    cohort = found(tmp_path)
    assert ids(cohort) == ["a", "b", "z"]
    assert cohort.patients[1].missing == {"FLAIR": tmp_path / "imagesTr/b_0001.nii.gz"}
    assert set(cohort.patients[2].missing) == {"T1", "FLAIR", "labels"}
    assert cohort.patients[2].folder == tmp_path / "imagesTr"
    assert [note.file for note in cohort.notes] == [tmp_path / "imagesTs/c_0000.nii.gz"]


def test_nnunet_with_listed_files_and_uncompressed(tmp_path: Path) -> None:
    zoo.patterned(tmp_path, {"T1": "raw/{p}-t1.nii", "FLAIR": "raw/{p}-f.nii", "labels": "seg/{p}.nii"}, ["x", "y"])
    cases = {p: {"images": [f"raw/{p}-t1.nii", f"raw/{p}-f.nii"], "label": f"seg/{p}.nii"} for p in ("x", "y")}
    (tmp_path / "dataset.json").write_text(json.dumps({**V2, "dataset": cases, "file_ending": ".nii"}))
    assert named(found(tmp_path), 1) == {"T1": "raw/y-t1.nii", "FLAIR": "raw/y-f.nii", "labels": "seg/y.nii"}


def test_decathlon_with_one_channel(tmp_path: Path) -> None:
    zoo.patterned(tmp_path, {"MR": "imagesTr/{p}.nii.gz", "labels": "labelsTr/{p}.nii.gz"}, ["h_1", "h_2"])
    text = '{"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "hippocampus"}}'
    (tmp_path / "dataset.json").write_text(text)
    assert named(found(tmp_path)) == {"MRI": "imagesTr/h_1.nii.gz", "labels": "labelsTr/h_1.nii.gz"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "regions"),
        ({"labels": {"background": 0, "edema": 1, "ignore": 2}}, "ignore"),
        ({"labels": {"background": 0, "edema": 1.5}}, "1.5"),
        ({"labels": {"background": 0}}, "beside the background"),
        ({"labels": []}, "names and values"),
        ({"file_ending": ".nrrd"}, ".nrrd"),
        ({"file_ending": ".png"}, ".png"),
        ({"channel_names": {"0": "T1", "2": "FLAIR"}}, "channel_names"),
        ({"labels": {"background": 0, "edema": "²"}}, "²"),
        ({"dataset": {"../a": {"images": ["a.nii.gz", "a.nii.gz"], "label": "b.nii.gz"}}}, "list of cases"),
        ({"dataset": {"a": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}}, "list of cases"),
    ],
)
def test_nnunet_data_sets_that_cannot_be_used_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    zoo.nnunet(tmp_path, ["a"], json.dumps({**V2, **changes}))
    for attempt in (lambda: found(tmp_path), lambda: guess(tmp_path)):
        with pytest.raises(UnderstudyError, match=says) as caught:
            attempt()
        assert caught.value.where == str(tmp_path / "dataset.json")
        assert caught.value.fix


def test_nnunet_channels_in_one_file_are_refused(tmp_path: Path) -> None:
    zoo.patterned(tmp_path, {"MR": "imagesTr/{p}.nii.gz", "labels": "labelsTr/{p}.nii.gz"}, ["a"])
    (tmp_path / "dataset.json").write_text(V1)
    with pytest.raises(UnderstudyError, match="Decathlon"):
        found(tmp_path)


def test_nnunet_repeated_channel_names_are_told_apart(tmp_path: Path) -> None:
    zoo.nnunet(tmp_path, ["a"], json.dumps({**V2, "channel_names": {"0": "MRI", "1": "MRI"}}))
    assert found(tmp_path).channels == ("MRI_0", "MRI_1")


def test_a_folder_of_nnunet_data_sets_is_no_data_set(tmp_path: Path) -> None:
    for name in ("Dataset001_A", "Dataset002_B"):
        zoo.nnunet(tmp_path / name, ["a"], V1)
    with pytest.raises(UnderstudyError, match="Dataset001_A, Dataset002_B") as caught:
        found(tmp_path)
    assert str(tmp_path / "Dataset001_A") in str(caught.value.fix)
