"""Exports: what is written is read back equal; nnU-Net's folds never part a patient; nnU-Net's own check passes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from foreign import CHANNELS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.exchange.export import export_images, export_nnunet, new_folder, patient_folds
from understudy.exchange.pixels import Target
from understudy.exchange.read import read_folder
from understudy.exchange.spec import FolderSpec
from understudy.slices import BACKGROUND, LabelClass, SliceSet, SliceWriter, evenly_coded

BRATS = (BACKGROUND, LabelClass("NCR/NET", 1, 51), LabelClass("ED", 2, 102), LabelClass("ET", 4, 204))


def slice_set(path: Path, n: int = 24, patients: int = 6, edge: int = 16, real: bool = True, seed: int = 0) -> SliceSet:
    """Slices of so many patients, the last of whom is a test patient."""
    rng = np.random.default_rng(seed)
    writer = SliceWriter(path, CHANNELS, BRATS, edge)
    rows: list[dict[str, str]] = [{"id": f"p{i % patients}/{i}"} for i in range(n)]
    for i, row in enumerate(rows):
        if real:
            row |= {"subject": f"p{i % patients}", "split": "test" if i % patients == patients - 1 else "train"}
    images = rng.integers(0, 256, (n, 4, edge, edge), np.uint8)
    writer.append(images, rng.integers(0, 4, (n, edge, edge), np.uint8), rows)
    return writer.close()


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.sampled_from([4, 8, 16]), st.integers(0, 2**32), st.booleans())
def test_images_are_read_back_equal(channels: int, classes: int, edge: int, seed: int, named: bool) -> None:
    rng = np.random.default_rng(seed)
    names = CHANNELS[:channels] if named else tuple(f"ch{i}" for i in range(channels))
    known = evenly_coded({i: f"class{i}" for i in range(1, classes + 1)})
    n = int(rng.integers(1, 12))
    images = rng.integers(0, 256, (n, channels, edge, edge), np.uint8)
    labels = rng.integers(0, classes + 1, (n, edge, edge), np.uint8)
    labels[0, 0, 0] = 1
    with tempfile.TemporaryDirectory() as folder:
        writer = SliceWriter(Path(folder) / "set", names, known, edge)
        writer.append(images, labels, [{"id": f"s{i}"} for i in range(n)])
        export_images(writer.close(), Path(folder) / "png", progress=False)
        target = Target(names, known, edge)
        found = read_folder(Path(folder) / "png", FolderSpec(), Path(folder) / "back", target, progress=False)
        got, ids = found.read(slice(None)), found.index["id"].tolist()
    np.testing.assert_array_equal(got[0], images)
    np.testing.assert_array_equal(got[1], labels)
    assert ids == [f"s{i}" for i in range(n)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=30, max_size=60), st.integers(2, 5), st.integers(0, 99))
def test_no_patient_is_in_training_and_validation_of_a_fold(owners: list[int], folds: int, seed: int) -> None:
    owners = owners + list(range(9))
    cases = [f"c{i}" for i in range(len(owners))]
    splits = patient_folds(cases, [str(o) for o in owners], folds, seed)
    owner = dict(zip(cases, owners, strict=True))
    for split in splits:
        assert not {owner[c] for c in split["train"]} & {owner[c] for c in split["val"]}
        assert sorted(split["train"] + split["val"]) == sorted(cases)
    assert sorted(case for split in splits for case in split["val"]) == sorted(cases)


def test_the_structure_that_nnunet_expects(tmp_path: Path) -> None:
    real = slice_set(tmp_path / "set")
    synthetic = slice_set(tmp_path / "synthetic", n=5, real=False, seed=1)
    raw = export_nnunet(real, tmp_path / "out", 7, "Test", synthetic=synthetic, progress=False)
    assert raw == tmp_path / "out" / "nnUNet_raw" / "Dataset007_Test"
    description = json.loads((raw / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "T1w", "1": "T1wGd", "2": "T2w", "3": "FLAIR"}
    assert description["labels"] == {"background": 0, "NCR/NET": 1, "ED": 2, "ET": 3}
    assert (description["numTraining"], description["file_ending"]) == (25, ".png")
    cases = {p.stem for p in (raw / "labelsTr").iterdir()}
    assert {p.stem for p in (raw / "imagesTr").iterdir()} == {f"{c}_{k:04d}" for c in cases for k in range(4)}
    assert len(cases) == 25
    assert {c.split("_")[0] for c in cases} == {"p0", "p1", "p2", "p3", "p4", "synthetic"}
    assert {p.stem.split("_")[0] for p in (raw / "labelsTs").iterdir()} == {"p5"}
    splits = json.loads(
        (tmp_path / "out" / "nnUNet_preprocessed" / "Dataset007_Test" / "splits_final.json").read_text()
    )
    assert len(splits) == 5
    for split in splits:
        assert set(split["train"]) | set(split["val"]) == cases
        assert not any(case.startswith("synthetic") for case in split["val"])
        assert not {c.split("_")[0] for c in split["train"]} & {c.split("_")[0] for c in split["val"]}
    images, labels = real.read([1])
    for k in range(4):
        np.testing.assert_array_equal(np.asarray(Image.open(raw / "imagesTr" / f"p1_1_{k:04d}.png")), images[0, k])
    np.testing.assert_array_equal(np.asarray(Image.open(raw / "labelsTr" / "p1_1.png")), labels[0])


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    real = slice_set(tmp_path / "set")
    with pytest.raises(UnderstudyError, match="5 patients"):
        export_nnunet(real, tmp_path / "out", folds=6, progress=False)
    with pytest.raises(UnderstudyError, match="8 pixels, not 16"):
        export_nnunet(real, tmp_path / "out", synthetic=slice_set(tmp_path / "s", edge=8, real=False), progress=False)
    with pytest.raises(UnderstudyError, match="1000"):
        export_nnunet(real, tmp_path / "out", 1000, progress=False)
    assert not (tmp_path / "out").exists()
    export_images(real, tmp_path / "out", progress=False)
    with pytest.raises(UnderstudyError, match="not empty"):
        export_images(real, tmp_path / "out", progress=False)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device"), SystemExit])
def test_half_an_export_is_none(tmp_path: Path, stop: BaseException | type[BaseException]) -> None:
    for place in ("new", "empty"):
        out = tmp_path / place
        if place == "empty":
            out.mkdir()
        with pytest.raises((UnderstudyError, KeyboardInterrupt, SystemExit)), new_folder(out) as folder:
            (folder / "half").write_text("x")
            raise stop
        assert out.exists() == (place == "empty")
        with new_folder(out) as folder:
            (folder / "whole").write_text("x")
        assert [path.name for path in out.iterdir()] == ["whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]  # and nothing temporary


def nnunet_python() -> str | None:
    """A Python with nnunetv2: this one, or the one that UNDERSTUDY_NNUNET_PYTHON names."""
    for python in (sys.executable, os.environ.get("UNDERSTUDY_NNUNET_PYTHON", "")):
        code = "import importlib.util as u, sys; sys.exit(u.find_spec('nnunetv2') is None)"
        if python and shutil.which(python) and subprocess.run([python, "-c", code], check=False).returncode == 0:
            return python
    return None


def test_nnunets_own_integrity_check_passes_and_finds_a_fault(tmp_path: Path) -> None:
    python = nnunet_python()
    if python is None:
        pytest.skip("nnunetv2 is not installed: pip install nnunetv2 in a venv, UNDERSTUDY_NNUNET_PYTHON=its python")
    raw = export_nnunet(slice_set(tmp_path / "set", edge=32), tmp_path / "out", progress=False)
    code = (
        "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity as verify\n"
        f"if __name__ == '__main__': verify({str(raw)!r}, num_processes=1)"
    )
    (tmp_path / "verify.py").write_text(code)
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run([python, tmp_path / "verify.py"], capture_output=True, text=True, env=clean, check=False)
    assert run.returncode == 0, run.stderr
    assert "verify_dataset_integrity Done" in run.stdout
    next((raw / "imagesTr").glob("*_0002.png")).unlink()
    run = subprocess.run([python, tmp_path / "verify.py"], capture_output=True, text=True, env=clean, check=False)
    assert run.returncode != 0
