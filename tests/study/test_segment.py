"""`understudy segment`: exactly what the study's evaluation predicts, on the patient's own grid, and clear refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_study import seal_again

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_file, write_json
from understudy.io.grids import slices_of
from understudy.io.nifti import read_header, read_voxels
from understudy.study.config.schema import Study
from understudy.study.engine.plan import make_plan
from understudy.study.engine.run import run_study
from understudy.study.segment import PREPARATION, find_channels, save_labels, segment_patient
from understudy.volumes import VolumeSet

VALUES = np.array([0, 1, 2, 4], np.uint8)  # of BraTS' label volumes


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, str]:
    """(study's folder, segmenter job, folder of a test patient, its id); the network finds lesions everywhere."""
    out = tmp_path_factory.mktemp("segment") / "out"
    study = Study.model_validate(
        {
            "name": "s",
            "phantom": {"patients": 4, "shape": [24, 20, 12]},
            "slices": {"resolution": 16, "scaling": "robust"},
            "split": {"test_patients": 1},
            "trainings": ["real"],
            "segmenters": {"unet": {"model": {"width": 4}, "training": {"samples": 32, "batch": 16}}},
        }
    )
    plan = make_plan(study)
    assert run_study(plan, out, "cpu", progress=False, until="segmenter").complete
    (job,) = (out / "jobs").glob("segmenter-*")
    weights = load_file(job / "model" / "segmenter.safetensors")
    for name, tensor in weights.items():
        if name.endswith("bias") and tensor.shape == (4,) and "norm" not in name and "adn" not in name:
            tensor[0] -= 50  # the background of every output
    save_file(weights, job / "model" / "segmenter.safetensors")
    record = read_json(job / "model" / "config.json")
    hashes = {"segmenter.safetensors": sha256_file(job / "model" / "segmenter.safetensors")}
    write_json(job / "model" / "config.json", {**record, "sha256": hashes})
    seal_again(job)
    assert run_study(plan, out, "cpu", progress=False, until="evaluate").complete
    (prepared,) = (out / "jobs").glob("prepare-*")
    (subject,) = VolumeSet.open(prepared / "volumes").subjects("test")
    (patient,) = (out / "jobs").glob(f"phantom-*/phantoms/{subject}")
    return out, job, patient, subject


def evaluated(out: Path, subject: str) -> np.ndarray:
    """The evaluate stage's labels [Z, H, W]."""
    (file,) = (out / "jobs").glob(f"evaluate-*/predictions/{subject}.npz")
    with np.load(file) as arrays:
        return np.asarray(arrays["prediction"])


def as_lps(path: Path) -> np.ndarray:
    """A label volume as [Z, H, W], by nibabel's own reorientation."""
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt("LPS")
    )
    return np.asarray(image.as_reoriented(turn).dataobj).T


def test_a_test_patient_gets_exactly_the_labels_of_the_evaluation(
    done: tuple[Path, Path, Path, str], tmp_path: Path
) -> None:
    out, job, patient, subject = done
    counts = segment_patient(job, patient, tmp_path / "seg.nii.gz", device="cpu")
    found, like = nib.load(tmp_path / "seg.nii.gz"), nib.load(patient / f"{subject}_t1.nii.gz")
    assert found.shape == like.shape
    np.testing.assert_array_equal(found.affine, like.affine)
    expected = VALUES[evaluated(out, subject)]
    assert len(np.unique(expected)) > 2
    assert (expected == 0).all((1, 2)).any()  # slices that the rule drops
    np.testing.assert_array_equal(as_lps(tmp_path / "seg.nii.gz"), expected)
    assert sum(counts.values()) == (expected > 0).sum()
    segment_patient(job / "model", patient, tmp_path / "all.nii", dropped="predict", device="cpu")
    assert as_lps(tmp_path / "all.nii").any((1, 2)).all()


def test_a_swin_gives_the_labels_of_its_evaluation_too(tmp_path: Path) -> None:
    training = {"samples": 64, "epochs": None, "batch": 16, "warmup_samples": 0, "lr": 1e-3}
    study = Study.model_validate(
        {
            "name": "s",
            "phantom": {"patients": 4, "shape": [24, 20, 12]},
            "slices": {"resolution": 32, "scaling": "robust"},
            "split": {"test_patients": 1},
            "trainings": ["real"],
            "segmenters": {"swin": {"model": {"size": "mini"}, "training": training}},
        }
    )
    out = tmp_path / "out"
    assert run_study(make_plan(study), out, "cpu", progress=False, until="evaluate").complete
    (job,) = (out / "jobs").glob("segmenter-*")
    (file,) = (out / "jobs").glob("evaluate-*/predictions/*.npz")
    (patient,) = (out / "jobs").glob(f"phantom-*/phantoms/{file.stem}")
    segment_patient(job, patient, tmp_path / "seg.nii.gz", device="cpu")
    expected = VALUES[evaluated(out, file.stem)]
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(as_lps(tmp_path / "seg.nii.gz"), expected)


def test_volumes_stored_in_another_order_get_the_same_labels(
    done: tuple[Path, Path, Path, str], tmp_path: Path
) -> None:
    out, job, patient, subject = done
    for path in patient.glob("*.nii.gz"):
        image = nib.load(path)
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt("SAR")
        )
        nib.save(image.as_reoriented(turn), tmp_path / path.name)
    segment_patient(job, tmp_path, tmp_path / "seg.nii.gz", device="cpu")
    assert nib.aff2axcodes(nib.load(tmp_path / "seg.nii.gz").affine) == ("S", "A", "R")
    np.testing.assert_array_equal(as_lps(tmp_path / "seg.nii.gz"), VALUES[evaluated(out, subject)])


def test_the_model_says_itself_how_its_slices_were_made_or_its_job_does(
    done: tuple[Path, Path, Path, str], tmp_path: Path
) -> None:
    _, job, patient, _ = done
    shutil.copytree(job / "model", tmp_path / "model")
    record = read_json(job / "model" / "config.json")
    assert record[PREPARATION]["slices"]["scaling"] == "robust"
    segment_patient(tmp_path / "model", patient, tmp_path / "1.nii", device="cpu")
    write_json(tmp_path / "model" / "config.json", {k: v for k, v in record.items() if k != PREPARATION})
    with pytest.raises(UnderstudyError, match="does not say how its slices were made"):
        segment_patient(tmp_path / "model", patient, tmp_path / "2.nii", device="cpu")
    kept = read_json(job / "model" / "config.json")
    write_json(job / "model" / "config.json", {k: v for k, v in record.items() if k != PREPARATION})
    seal_again(job)
    segment_patient(job, patient, tmp_path / "3.nii", device="cpu")
    write_json(job / "model" / "config.json", kept)
    seal_again(job)
    np.testing.assert_array_equal(as_lps(tmp_path / "3.nii"), as_lps(tmp_path / "1.nii"))


def test_a_patient_with_wrong_channels_is_refused(done: tuple[Path, Path, Path, str], tmp_path: Path) -> None:
    _, job, patient, subject = done
    shutil.copytree(patient, tmp_path / "p")
    flair = tmp_path / "p" / f"{subject}_flair.nii.gz"
    flair.rename(tmp_path / "p" / "dark_fluid.nii.gz")
    with pytest.raises(
        UnderstudyError, match=r"has no FLAIR; the segmenter needs T1w, T1wGd, T2w, FLAIR\n.*dark_fluid"
    ):
        segment_patient(job, tmp_path / "p", tmp_path / "seg.nii.gz")
    named = {"FLAIR": tmp_path / "p" / "dark_fluid.nii.gz"}
    assert segment_patient(job, tmp_path / "p", tmp_path / "seg.nii.gz", named, device="cpu")
    with pytest.raises(UnderstudyError, match="the segmenter has no channel SWI"):
        segment_patient(job, tmp_path / "p", tmp_path / "x.nii.gz", {"SWI": named["FLAIR"]})
    small = nib.Nifti1Image(np.ones((5, 5, 5), np.int16), np.eye(4))
    nib.save(small, tmp_path / "small.nii.gz")
    with pytest.raises(UnderstudyError, match="FLAIR has shape 5x5x5, T1w 24x20x12"):
        segment_patient(job, tmp_path / "p", tmp_path / "x.nii.gz", {"FLAIR": tmp_path / "small.nii.gz"})
    shutil.copy(tmp_path / "p" / f"{subject}_t1.nii.gz", tmp_path / "p" / "again_T1w.nii.gz")
    with pytest.raises(UnderstudyError, match="several files could be T1w"):
        segment_patient(job, tmp_path / "p", tmp_path / "x.nii.gz", named)
    with pytest.raises(UnderstudyError, match="no finished segmenter"):
        segment_patient(tmp_path, tmp_path / "p", tmp_path / "x.nii.gz")
    with pytest.raises(UnderstudyError, match="result is a NIfTI volume"):
        segment_patient(job, patient, tmp_path / "seg.png")
    assert not (tmp_path / "x.nii.gz").exists()


def test_files_are_found_by_the_names_of_any_brats_release_and_by_the_cohorts_patterns(tmp_path: Path) -> None:
    channels = ("T1w", "T1wGd", "T2w", "FLAIR")
    for name in ("a-t1n", "a-t1c", "a-t2w", "a-t2f", "a-seg"):
        (tmp_path / f"{name}.nii.gz").touch()
    found = find_channels(tmp_path, channels, {}, {})
    assert [path.name for path in found.values()] == [f"a-{x}.nii.gz" for x in ("t1n", "t1c", "t2w", "t2f")]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "P7_pre.nii").touch()
    patterns = {"pre": "{patient}/{patient}_pre.nii"}
    assert find_channels(tmp_path / "own", ("pre",), patterns, {})["pre"].name == "P7_pre.nii"


@pytest.mark.parametrize(("units", "factor", "codes"), [("meter", 1e-3, 1), ("mm", 1, 1), ("mm", 1, 0)])
def test_labels_have_the_size_and_the_position_of_the_image(
    tmp_path: Path, units: str, factor: float, codes: int
) -> None:
    image = nib.Nifti1Image(np.ones((8, 9, 5), np.int16), np.diag([-3.0 * factor, -3 * factor, 12 * factor, 1]))
    image.header.set_xyzt_units(units)
    image.set_sform(image.affine if codes else None, codes)
    image.set_qform(image.affine if codes else None, codes)
    nib.save(image, tmp_path / "a.nii.gz")
    header = read_header(tmp_path / "a.nii.gz")
    labels = np.zeros(header.slice_shape, np.uint8)
    labels[2, 3, 4] = 1
    save_labels(labels, header, tmp_path / "a.nii.gz", tmp_path / "out.nii.gz")
    found = read_header(tmp_path / "out.nii.gz")
    assert found.spacing == pytest.approx((12, 3, 3))
    assert found.positioned == header.positioned == bool(codes)
    np.testing.assert_array_equal(slices_of(read_voxels(tmp_path / "out.nii.gz", found), found), labels)
