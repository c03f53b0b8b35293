"""`understudy init`: what it prints loads, passes the check, and says where to look."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from understudy.cli import app
from understudy.cohort.checks import check_cohort
from understudy.cohort.layouts import find_patients
from understudy.errors import UnderstudyError
from understudy.study.config.schema import Study, load_study
from understudy.study.init import suggest_study

sys.path.insert(0, str(Path(__file__).parents[1] / "cohort"))
import zoo

DATASET = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "a b": 1, "on": 2}}
PLAIN = {"FLAIR": "{p}/flair.nii.gz", "dwi": "{p}/dwi.nii.gz", "labels": "{p}/mask.nii.gz"}
PEOPLE = [f"p{n:02d}" for n in range(16)]
ROOTS: dict[str, Callable[[Path], None]] = {
    "brats2018": lambda root: zoo.brats(root, PEOPLE),
    "brats2023": lambda root: zoo.brats(root, PEOPLE[:5], zoo.BRATS_2023, "-"),
    "nnunet": lambda root: zoo.nnunet(root, PEOPLE, json.dumps(DATASET)),
    "bids": lambda root: zoo.bids(root, PEOPLE),
    "pattern": lambda root: zoo.patterned(root, PLAIN, PEOPLE),
}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def loaded(text: str, folder: Path) -> Study:
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    return load_study(folder / "study.yaml")


@pytest.mark.parametrize("layout", ROOTS)
def test_what_is_printed_loads_and_passes_the_check(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "my: data #1 ü"
    ROOTS[layout](root)
    text = suggest_study(root)
    study = loaded(text, tmp_path)
    assert study.cohort is not None
    assert (study.cohort.layout, study.cohort.path) == (layout, root)
    cohort = find_patients(study.cohort)
    assert study.slices.rule_channel in cohort.channels
    checked = check_cohort(cohort, study.slices, progress=False)
    assert [p for p in checked.problems if p.severity == "error"] == []
    assert all(checked.kept.values())
    assert ("CHECK: name what the values mean" in text) == (layout == "pattern")
    for word in (*cohort.channels, *(entry.name for entry in cohort.classes[1:]), "16 x 16 x 6 voxels of 1 x 1 x 1 mm"):
        assert word in text
    assert study.name == "my-data-1"


@pytest.mark.parametrize(("patients", "test"), [(5, 2), (16, 5)])
def test_test_patients_suit_the_number(tmp_path: Path, patients: int, test: int) -> None:
    zoo.patterned(tmp_path / "d", PLAIN, PEOPLE[:patients])
    text = suggest_study(tmp_path / "d")
    assert loaded(text, tmp_path).split.test_patients == test
    assert ("CHECK: few patients" in text) == (patients == 5)


def test_a_gpu_gets_the_preset_of_a_workstation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for patient in PEOPLE[:3]:
        wide = np.pad(np.ones((100, 120, 2), np.uint8), ((20, 20), (20, 20), (0, 0)))
        for name in ("t1", "seg"):
            zoo.put(tmp_path / "d" / patient / f"{name}.nii.gz", wide)
    assert yaml.safe_load(suggest_study(tmp_path / "d"))["preset"] == "quickstart"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    text = suggest_study(tmp_path / "d")
    assert yaml.safe_load(text)["preset"] == "workstation"
    assert loaded(text, tmp_path).slices.resolution == 128


def test_slices_as_acquired_and_all_where_none_is_bright(tmp_path: Path) -> None:
    for patient in PEOPLE[:3]:
        thick = np.zeros((6, 64, 64), np.int16)
        thick[2:4, 30:34, 30:34] = 100  # small: no slice is bright on 15 % of its pixels
        thick[3, 32, 32] = 200
        affine = np.diag([-6.0, -1.0, 1.0, 1.0])
        for name, voxels in (("t1", thick), ("seg", (thick > 0).astype(np.uint8))):
            zoo.put(tmp_path / "d" / patient / f"{name}.nii.gz", voxels, affine)
    slices = loaded(suggest_study(tmp_path / "d"), tmp_path).slices
    assert (slices.plane, slices.keep) == ("sagittal", "all")


def test_the_command_prints_the_study_and_nothing_else(tmp_path: Path) -> None:
    zoo.patterned(tmp_path / "d", PLAIN, PEOPLE[:3])
    result = CliRunner().invoke(app, ["init", str(tmp_path / "d")])
    assert result.exit_code == 0
    assert result.stdout == suggest_study(tmp_path / "d")
    assert "understudy release template forms" in result.stdout
    assert result.stderr == ""


def test_a_folder_that_tells_nothing_is_refused_with_names_that_were_seen(tmp_path: Path) -> None:
    zoo.put(tmp_path / "d/a/x1.nii.gz", zoo.annotation())
    with pytest.raises(UnderstudyError, match=r"a/x1\.nii\.gz") as caught:
        suggest_study(tmp_path / "d")
    assert "layout: pattern" in str(caught.value.fix)
