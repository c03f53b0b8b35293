"""Scores of label files: against the libraries whose definitions they name, and what headers can get wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from medpy.metric import binary
from monai.metrics import compute_hausdorff_distance
from typer.testing import CliRunner

from understudy import cli
from understudy.errors import UnderstudyError
from understudy.metrics.label_files import as_result, file_pairs, read_pair, score_labels

VALUES = {"NCR": 1, "ED": 2, "ET": 4}
AFFINE = np.array([[-0.9, 0, 0, 20], [0, 1.2, 0, -31], [0, 0, 3.0, 5], [0, 0, 0, 1]])
SPACING = (0.9, 1.2, 3.0)


def nested(shift: int = 0, seed: int = 0) -> np.ndarray:
    """Boxes of the labels 2, 4, 1 in each other, with 3 % of the labels at random if shifted."""
    labels = np.zeros((22, 20, 14), np.uint8)
    for value, edge in ((2, 3), (4, 5), (1, 6)):
        labels[edge:-edge, edge:-edge, edge : -edge - 1] = value
    if shift:
        labels = np.roll(labels, shift, axis=0)
        rng = np.random.default_rng(seed)
        noise = rng.random(labels.shape) < 0.03
        labels[noise] = rng.choice([0, 1, 2, 4], int(noise.sum()))
    return labels


def save(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return save(tmp_path / "truth.nii.gz", nested()), save(tmp_path / "prediction.nii.gz", nested(1))


def result(truth: Path, prediction: Path, **options: Any) -> dict[str, Any]:
    return as_result(score_labels(pred=prediction, target=truth, **options))


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["score", *map(str, arguments)])


def check_entry(entry: dict[str, Any], truth: np.ndarray, prediction: np.ndarray) -> None:
    """Against MedPy, MONAI and, where installed, surface-distance."""
    assert entry["dice"] == pytest.approx(binary.dc(prediction, truth))
    assert entry["precision"] == pytest.approx(binary.precision(prediction, truth))
    assert entry["recall"] == pytest.approx(binary.recall(prediction, truth))
    assert entry["hd"] == pytest.approx(binary.hd(prediction, truth, SPACING), rel=1e-6)
    assert entry["hd95_pooled"] == pytest.approx(binary.hd95(prediction, truth, SPACING), rel=1e-6)
    onehot = [torch.from_numpy(m)[None, None] for m in (prediction, truth)]
    directed = compute_hausdorff_distance(*onehot, include_background=True, percentile=95, spacing=SPACING)
    assert entry["hd95_directed"] == pytest.approx(directed.item(), rel=1e-5)
    assert entry["volume_error"] == pytest.approx(prediction.sum() / truth.sum() - 1)
    assert (entry["truth_voxels"], entry["prediction_voxels"]) == (truth.sum(), prediction.sum())
    assert [entry[f] for f in ("truth_empty", "prediction_empty", "missed", "false_alarm")] == [False] * 4


def test_two_files_equal_the_libraries(pair: tuple[Path, Path]) -> None:
    found = result(*pair)
    assert list(found["classes"]) == ["1", "2", "4"]
    for value in (1, 2, 4):
        check_entry(found["classes"][str(value)], nested() == value, nested(1) == value)
    check_entry(found["foreground"], nested() > 0, nested(1) > 0)
    assert found["mean"]["dice"] == pytest.approx(np.mean([c["dice"] for c in found["classes"].values()]))
    assert found["spacing_mm"] == pytest.approx(SPACING)
    assert (found["regions"], found["notes"], found["policy"]) == ({}, [], "brats")


def test_surfel_distance_of_files_equals_its_peer(pair: tuple[Path, Path]) -> None:
    peer = pytest.importorskip("surface_distance")
    entry = result(*pair)["classes"]["2"]
    apart = peer.compute_surface_distances(nested() == 2, nested(1) == 2, SPACING)
    assert entry["hd95_surfel"] == pytest.approx(peer.compute_robust_hausdorff(apart, 95))


def test_named_classes_and_regions(pair: tuple[Path, Path]) -> None:
    found = result(*pair, classes=VALUES)
    assert list(found["classes"]) == list(VALUES)
    assert list(found["regions"]) == ["WT", "TC"]
    check_entry(found["regions"]["TC"], np.isin(nested(), [1, 4]), np.isin(nested(1), [1, 4]))
    assert found["mean"]["dice"] == pytest.approx(np.mean([c["dice"] for c in found["classes"].values()]))
    own = result(*pair, regions={"core": ["1", "4"]})
    assert own["regions"]["core"] == found["regions"]["TC"]
    part = result(*pair, classes={"ET": 4})
    assert part["classes"]["ET"] == found["classes"]["ET"]
    assert ["1, 2" in note for note in part["notes"]] == [True]


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(False, True, False), (True, True, True)])
def test_axes_in_another_order_are_turned(
    pair: tuple[Path, Path], axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    """The prediction stored with permuted and flipped axes and an affine that says so scores the same."""
    expected, labels, affine = result(*pair), nested(1), AFFINE.copy()
    for axis in np.flatnonzero(flips):
        affine[:3, 3] += affine[:3, axis] * (labels.shape[axis] - 1)
        affine[:3, axis] *= -1
        labels = np.flip(labels, axis)
    affine[:, :3] = affine[:, list(axes)]
    save(pair[1], labels.transpose(axes), affine)
    found = result(*pair)
    assert "order of the truth" in found["notes"][0]
    for name, entry in expected["classes"].items():
        assert found["classes"][name] == pytest.approx(entry)


def test_another_place_or_shape_is_refused(pair: tuple[Path, Path]) -> None:
    expected, moved = result(*pair), AFFINE.copy()
    moved[0, 3] += 4
    save(pair[1], nested(1), moved)
    with pytest.raises(UnderstudyError, match=r"up to 4.44 voxels apart[\s\S]*--ignore-affine"):
        result(*pair)
    found = result(*pair, ignore_affine=True)
    assert found["classes"] == expected["classes"]
    assert "were ignored" in found["notes"][0]
    save(pair[1], nested(1)[:-1])
    for ignore in (True, False):
        with pytest.raises(UnderstudyError, match=r"\(22, 20, 14\).*\(21, 20, 14\)"):
            result(*pair, ignore_affine=ignore)


def test_whole_numbers_stored_as_floats_are_rounded_and_others_refused(pair: tuple[Path, Path]) -> None:
    expected = result(*pair)
    save(pair[1], nested(1).astype(np.float32))
    assert result(*pair) == expected
    save(pair[1], nested(1).astype(np.float32) + np.float32(2e-5))
    found = result(*pair)
    assert found["classes"] == expected["classes"]
    assert found["notes"] == ["prediction.nii.gz: labels were rounded to whole numbers"]
    for wrong, message in ((0.5, "not whole, for example 0.5"), (-1.0, "labels"), (math.nan, "labels")):
        labels = nested(1).astype(np.float32)
        labels[0, 0, 0] = wrong
        save(pair[1], labels)
        with pytest.raises(UnderstudyError, match=message):
            result(*pair)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, ">i2"])
def test_integer_types_and_large_values(tmp_path: Path, dtype: Any) -> None:
    labels = nested().astype(dtype)
    labels[labels == 4] = 3000
    save(tmp_path / "t.nii", labels)
    found = result(tmp_path / "t.nii", tmp_path / "t.nii")
    assert list(found["classes"]) == ["1", "2", "3000"]
    assert found["mean"]["dice"] == 1


def test_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", nested())
    np.savez_compressed(tmp_path / "p.npz", prediction=nested(1).astype(bool), images=np.zeros(3))
    truth = tmp_path / "t.npy"
    found = result(truth, tmp_path / "p.npz", classes={"any": 1}, spacing=SPACING)
    assert found["spacing_mm"] == list(SPACING)
    assert "1 mm was assumed" in result(truth, truth)["notes"][0]
    with pytest.raises(UnderstudyError, match="spacing"):
        result(truth, truth, spacing=(1, 0, 1))
    np.savez(tmp_path / "two.npz", a=nested(), b=nested())
    with pytest.raises(UnderstudyError, match=r"which array.*'a', 'b'"):
        result(truth, tmp_path / "two.npz")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(UnderstudyError, match="not a NumPy file"):
        result(truth, tmp_path / "bad.npy")


@pytest.mark.parametrize(("policy", "dice", "hd"), [("brats", 0, True), ("paper", 0, None), ("inf", 0, None)])
def test_missed_and_absent_classes_follow_the_policy(
    pair: tuple[Path, Path], policy: str, dice: float, hd: bool | None
) -> None:
    labels = nested(1)
    labels[labels == 4] = 0
    save(pair[1], labels)
    found = result(*pair, policy=policy, classes=VALUES | {"RC": 7})
    missed, absent = found["classes"]["ET"], found["classes"]["RC"]
    diagonal = math.sqrt(sum((n * s) ** 2 for n, s in zip(labels.shape, SPACING, strict=True)))
    assert missed["dice"] == dice
    assert missed["hd95_surfel"] == (pytest.approx(diagonal) if hd else None)
    assert (missed["truth_empty"], missed["prediction_empty"], missed["missed"]) == (False, True, True)
    assert missed["volume_error"] == -1
    assert absent["truth_empty"] == absent["prediction_empty"] is True
    assert absent["dice"] == (None if policy == "paper" else 1)


@pytest.mark.parametrize(("of_truth", "of_prediction"), [(1, 255), (255, 1)])
@pytest.mark.parametrize("classes", [None, {"lesion": 1}])
def test_labels_that_do_not_meet_are_noted(
    tmp_path: Path, of_truth: int, of_prediction: int, classes: dict[str, int] | None
) -> None:
    """The same mask as 1 and as 255 scores 0: the note names both values."""
    mask = (nested() > 0).astype(np.uint8)
    pair = save(tmp_path / "t.nii", of_truth * mask), save(tmp_path / "p.nii", of_prediction * mask)
    found = result(*pair, classes=classes)
    assert found["mean"]["dice"] == 0
    (note,) = [n for n in found["notes"] if "only in the ground truth" in n]
    assert f"label {of_truth};" in note
    assert f"prediction[prediction == {of_prediction}] = {of_truth}" in note


def test_one_renamed_label_among_others_is_noted(tmp_path: Path) -> None:
    """BraTS 2023 calls 3 what was 4 before; 1 and 2 agree, so that the mean alone looks like a poor segmentation."""
    renamed = np.where(nested() == 4, 3, nested()).astype(np.uint8)
    found = result(save(tmp_path / "t.nii", nested()), save(tmp_path / "p.nii", renamed))
    assert (found["classes"]["1"]["dice"], found["classes"]["4"]["dice"]) == (1, 0)
    assert any("prediction[prediction == 3] = 4" in n for n in found["notes"])


def test_labels_of_one_file_of_a_folder_are_noted_for_it(tmp_path: Path) -> None:
    mask = (nested() > 0).astype(np.uint8)
    for name in ("truth", "prediction"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "a.nii", mask)
        save(tmp_path / name / "b.nii", mask * (2 if name == "truth" else 1))
        save(tmp_path / name / "c.nii", 2 * mask)
    found = result(tmp_path / "truth", tmp_path / "prediction")
    assert "only in the ground truth" in found["files"]["b"]["notes"][-1]
    assert found["files"]["a"]["notes"] == found["files"]["c"]["notes"] == []


def test_a_class_that_no_truth_has_is_noted(pair: tuple[Path, Path]) -> None:
    found = result(*pair, classes=VALUES | {"RC": 7})
    assert any("no ground truth has the class RC" in n for n in found["notes"])
    assert result(*pair, classes=VALUES)["notes"] == []


def test_stray_voxels_do_not_find_a_class(tmp_path: Path) -> None:
    """Missed: no voxel of it is found, though some are predicted elsewhere."""
    stray = np.zeros_like(nested())
    stray[0, 0, 0] = 4
    found = result(save(tmp_path / "t.nii", nested()), save(tmp_path / "p.nii", stray))["classes"]["4"]
    assert (found["tp"], found["dice"], found["missed"], found["prediction_empty"]) == (0, 0, True, False)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("truth", "prediction"):
        (tmp_path / name).mkdir()
    for i in range(3):
        truth = nested() if i else np.where(nested() == 4, 0, nested()).astype(np.uint8)  # the first has no label 4
        save(tmp_path / "truth" / f"case{i}.nii.gz", truth)
        predicted = nested(1, i) if i else np.where(nested(1) == 4, 0, nested(1)).astype(np.uint8)
        save(tmp_path / "prediction" / f"case{i}.nii", predicted)
    return tmp_path / "truth", tmp_path / "prediction"


def test_folders_give_every_file_and_the_means(folders: tuple[Path, Path]) -> None:
    found = result(*folders)
    assert (list(found["files"]), found["n_files"]) == (["case0", "case1", "case2"], 3)
    assert list(found["files"]["case0"]["classes"]) == ["1", "2", "4"]
    assert found["files"]["case0"]["classes"]["4"]["truth_empty"] is True
    for i in (1, 2):
        check_entry(found["files"][f"case{i}"]["classes"]["2"], nested() == 2, nested(1, i) == 2)
    dice = [f["classes"]["4"]["dice"] for f in found["files"].values()]
    assert dice[0] == 1
    assert found["classes"]["4"]["dice"] == pytest.approx(np.mean(dice))
    assert found["classes"]["4"]["truth_empty"] == found["classes"]["4"]["prediction_empty"] == 1
    dropped = result(*folders, policy="drop")
    assert dropped["classes"]["4"]["dice"] == pytest.approx(np.mean(dice[1:]))
    assert dropped["files"]["case0"]["classes"]["4"]["dice"] is None


def test_files_without_a_partner_are_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "case1.nii").rename(folders[1] / "other.nii")
    with pytest.raises(UnderstudyError, match=r"case1; 1 without a partner.*other[\s\S]*--skip-unmatched"):
        result(*folders)
    found = result(*folders, skip_unmatched=True)
    assert list(found["files"]) == ["case0", "case2"]
    assert any("case1" in note for note in found["notes"])
    with pytest.raises(UnderstudyError, match="a folder and a file"):
        result(folders[0], folders[1] / "other.nii")
    with pytest.raises(UnderstudyError, match="no such file"):
        result(folders[0], folders[1] / "gone")
    save(folders[1] / "case0.nii.gz", nested())
    with pytest.raises(UnderstudyError, match="two files are called case0"):
        result(*folders)


def test_names_that_differ_are_matched_by_what_they_have_in_common_or_by_a_table(tmp_path: Path) -> None:
    for n, shift in ((1, 0), (2, 1)):
        save(tmp_path / "truth" / f"BraTS_{n:03d}_seg.nii.gz", nested())
        save(tmp_path / "pred" / f"case-{n:03d}.nii.gz", np.roll(nested(), shift, axis=0))
    folders = tmp_path / "truth", tmp_path / "pred"
    with pytest.raises(UnderstudyError, match="--match"):
        result(*folders)
    found = result(*folders, match=r"\d{3}")
    dice = {name: one["foreground"]["dice"] for name, one in found["files"].items()}
    assert dice["BraTS_001_seg"] == 1
    assert 0 < dice["BraTS_002_seg"] < 1
    table = tmp_path / "pairs.csv"
    table.write_text("truth,prediction\nBraTS_001_seg.nii.gz,case-002\nBraTS_002_seg,case-001.nii.gz\n")
    crossed = {name: one["foreground"]["dice"] for name, one in result(*folders, match=str(table))["files"].items()}
    assert crossed == {"BraTS_001_seg": dice["BraTS_002_seg"], "BraTS_002_seg": 1}


@pytest.mark.parametrize(
    ("match", "what"),
    [
        (r"case", "is not in the name BraTS_001"),
        (r"[A-Za-z]+", "two files are called BraTS"),
        (r"(", "not a regular expression"),
        (r"x*", "is not in the name"),  # an empty match says nothing
        ("truth,prediction\nBraTS_001_seg,case-009\n", "there is no label file case-009"),
        ("truth,prediction\nBraTS_001_seg,case-001\nBraTS_002_seg,case-001\n", "case-001 stands in two lines"),
        ("truth,prediction\nBraTS_001_seg,case-001\n", "without a partner"),
        ("a,b\nBraTS_001_seg,case-001\n", "no columns truth and prediction"),
    ],
)
def test_patterns_and_tables_that_do_not_pair_every_file_are_refused(tmp_path: Path, match: str, what: str) -> None:
    for n in (1, 2):
        save(tmp_path / "truth" / f"BraTS_{n:03d}_seg.nii.gz", nested())
        save(tmp_path / "pred" / f"case-{n:03d}.nii.gz", nested())
    if "\n" in match:
        (tmp_path / "pairs.csv").write_text(match)
        match = str(tmp_path / "pairs.csv")
    with pytest.raises(UnderstudyError, match=what):
        result(tmp_path / "truth", tmp_path / "pred", match=match)


def test_nothing_to_score_and_wrong_names_are_refused(pair: tuple[Path, Path]) -> None:
    for path in pair:
        save(path, np.zeros_like(nested()))
    with pytest.raises(UnderstudyError, match="no label above 0"):
        result(*pair)
    assert result(*pair, classes={"lesion": 1})["classes"]["lesion"]["dice"] == 1
    for options, message in (
        ({"classes": {"a": 0}}, "not classes"),
        ({"classes": {"a": 1, "b": 1}}, "not classes"),
        ({"regions": {"WT": ["NCR"]}}, "not known"),
        ({"classes": VALUES, "regions": {"WT": ["NCR", "NET"]}}, "union of classes"),
        ({"classes": VALUES, "policy": "best"}, "unknown policy"),
    ):
        with pytest.raises(UnderstudyError, match=message):
            result(*pair, **options)


def test_the_command_prints_a_table_or_json(pair: tuple[Path, Path], tmp_path: Path) -> None:
    options = ["--classes", "NCR=1,ED=2,ET=4", "--regions", "TC=NCR+ET"]
    shown = run(*pair, *options, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output) == result(*pair, classes=VALUES, regions={"TC": ["NCR", "ET"]})
    table = run(*pair, *options, "--csv", tmp_path / "rows.csv")
    assert table.exit_code == 0, table.output
    for word in ("HD95 pooled", "surfel", "NCR", "TC", "foreground"):
        assert word in table.output
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 5
    for wrong in (["--classes", "NCR"], ["--classes", "NCR=one"], ["--regions", "TC="]):
        assert isinstance(run(*pair, *wrong).exception, UnderstudyError)


def test_the_command_on_folders(folders: tuple[Path, Path]) -> None:
    shown = run(*folders, "-q")
    assert "means over 3 files" in shown.output
    assert json.loads(run(*folders, "--json").output) == result(*folders)


# --- files

LABELS = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)


def test_endings_may_be_in_capital_letters(tmp_path: Path) -> None:
    for folder, names in (("a", ("P1.NII.GZ", "p2.NPY")), ("b", ("P1.nii.gz", "p2.npy"))):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(LABELS, np.eye(4)), tmp_path / folder / "x.nii.gz")
        (tmp_path / folder / "x.nii.gz").rename(tmp_path / folder / names[0])
        with open(tmp_path / folder / names[1], "wb") as handle:
            np.save(handle, LABELS)
    pairs, notes = file_pairs(pred=tmp_path / "b", target=tmp_path / "a")
    assert [pair[1].name for pair in pairs] == ["P1.NII.GZ", "p2.NPY"]
    assert notes == []
    for pair in pairs:
        read = read_pair(pred=pair[0], target=pair[1])
        assert read.name == pair[1].name.split(".")[0]
        np.testing.assert_array_equal(read.target, LABELS)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_an_array_in_another_order_is_to_be_transposed(tmp_path: Path, order: tuple[int, int, int]) -> None:
    np.save(tmp_path / "a.npy", LABELS)
    np.save(tmp_path / "b.npy", LABELS.transpose(order))
    with pytest.raises(UnderstudyError) as caught:
        read_pair(pred=tmp_path / "b.npy", target=tmp_path / "a.npy")
    back = tuple(np.argsort(order).tolist())
    assert f"transpose{back}" in str(caught.value.fix)
    np.save(tmp_path / "b.npy", LABELS[:-1])
    with pytest.raises(UnderstudyError) as caught:
        read_pair(pred=tmp_path / "b.npy", target=tmp_path / "a.npy")
    assert "resample" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("content", "what", "cure"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
        (b"a,b\n1,2\n", "not a NumPy file", "numpy.save"),
        (b"", "empty", "numpy.save"),
        (b"PK\x03\x04 cut off", "cannot be read", "intact copy"),
        (b"\x80\x04K\x01.", "pickled", "numpy.save"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_a_file_that_is_no_array_is_named_as_what_it_is(
    tmp_path: Path, content: bytes, what: str, cure: str, ending: str
) -> None:
    np.save(tmp_path / "a.npy", LABELS)
    path = tmp_path / f"b.{ending}"
    path.write_bytes(content)
    with pytest.raises(UnderstudyError, match=what) as caught:
        read_pair(pred=path, target=tmp_path / "a.npy")
    assert caught.value.where == str(path)
    assert cure in str(caught.value.fix)


@pytest.mark.parametrize(("array", "cure"), [(LABELS[0], "array[None]"), (LABELS[None], "one volume")])
def test_another_number_of_axes_is_told_with_what_to_do(tmp_path: Path, array: np.ndarray, cure: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnderstudyError) as caught:
        read_pair(tmp_path / "a.npy", tmp_path / "a.npy")
    assert cure in str(caught.value.fix)
