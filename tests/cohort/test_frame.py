"""Heads have their true size in every slice, whatever matrix and pixels they were stored with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from understudy.cohort.checks import check_cohort, check_split
from understudy.cohort.config import CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.cohort.prepare import prepare, slice_new_patient
from understudy.cohort.slicing import Frame, SliceConfig
from understudy.cohort.splits import SplitConfig
from understudy.errors import UnderstudyError
from understudy.io.grids import VolumeHeader
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

HEAD, LESION = 40.0, 10.0  # mm, diameters


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def header(edge: int, pixel: float = 1.0, plane: str = "axial") -> VolumeHeader:
    affine = np.diag([-pixel, -pixel, 2.0, 1.0])
    return VolumeHeader((edge, edge, 5), np.dtype(np.int16), 0, 1.0, 0.0, affine, plane)  # type: ignore[arg-type]


def ball(patient: str, folder, shape, spacing, axis: int = 2) -> None:
    """A disc-shaped head with a round lesion right of and behind its middle, in slices across `axis`."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    x, y, z = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"
    )
    flat = [c for i, c in enumerate((x, y, z)) if i != axis]
    image = np.where(flat[0] ** 2 + flat[1] ** 2 < (HEAD / 2) ** 2, 400, 0)
    lesion = (flat[0] - 8) ** 2 + (flat[1] - 6) ** 2 < (LESION / 2) ** 2
    generator = np.random.default_rng(sum(map(ord, patient)))
    image = np.where(lesion, 1000, image + generator.integers(0, 20, shape) * (image > 0))
    save(folder / patient / f"{patient}_flair.nii.gz", image.astype(np.int16), affine)
    save(folder / patient / f"{patient}_seg.nii.gz", lesion.astype(np.uint8), affine)


def config(folder, **more) -> CohortConfig:
    names = {"FLAIR": "{patient}/{patient}_flair.nii.gz"}
    described = {"layout": "pattern", "channels": names, "labels": "{patient}/{patient}_seg.nii.gz"}
    return CohortConfig(path=folder, classes={1: "lesion"}, **described, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edges", "matrix"), [([240] * 9, 256), ([128] * 5 + [130], 128), ([256, 257, 256], 256), ([100, 300], 128)]
)
def test_the_square_holds_at_least_half_of_the_patients(edges, matrix):
    frame = Frame.of([header(edge) for edge in edges], SliceConfig(resolution=32))
    assert (frame.pixel, frame.matrix) == (1.0, matrix)
    for edge in edges:
        geometry = frame.geometry(header(edge))
        assert not geometry.resampled
        assert geometry.inside == (min(edge, matrix),) * 2


def test_pixels_within_a_hundredth_stay_as_they_are_and_others_are_resampled():
    headers = [header(100, 1.0), header(100, 1.004), header(100, 0.5), header(100, 1.0)]
    frame = Frame.of(headers, SliceConfig(resolution=32))
    assert frame.pixel == 1.0
    assert [frame.geometry(h).rows for h in headers] == [100, 100, 50, 100]
    with pytest.raises(UnderstudyError, match="voxel size"):
        frame.geometry(header(100, 20.0))


def test_what_the_user_says_of_pixels_and_matrix_is_done():
    frame = Frame.of([header(240)], SliceConfig(resolution=64, pixel_size=2.0, matrix=256))
    assert (frame.pixel, frame.matrix, frame.geometry(header(240)).inside) == (2.0, 256, (120, 120))
    with pytest.raises(UnderstudyError, match="larger than"):
        Frame.of([header(60)], SliceConfig(resolution=128))
    for wrong in (100, 0, 3):
        with pytest.raises(ValueError):
            SliceConfig(matrix=wrong)


def test_heads_of_all_matrices_and_pixels_have_one_size(tmp_path):
    """Areas of head and lesion in mm2 are those of the discs that were drawn."""
    grids = {"A": (64, 1.0), "B": (66, 1.0), "C": (100, 0.64), "D": (48, 1.25), "E": (64, 1.0)}
    for patient, (edge, pixel) in grids.items():
        ball(patient, tmp_path / "in", (edge, edge, 4), (pixel, pixel, 3.0))
    cohort = find_patients(config(tmp_path / "in"))
    split = dict.fromkeys("ABC", "train") | {"D": "test", "E": "val"}
    slicing = SliceConfig(resolution=64, rule_channel="FLAIR")
    checked = check_cohort(cohort, slicing, progress=False)
    assert [p for p in checked.problems if p.severity == "error"] == []
    prepare(cohort, split, slicing, tmp_path / "out", progress=False)
    slices = SliceSet.open(tmp_path / "out" / "slices")
    assert slices.attrs["frame"] == {"plane": "axial", "pixel": 1.0, "matrix": 64, "resolution": 64}
    assert slices.spacing == (1.0, 1.0, 3.0)
    assert checked.kept == dict.fromkeys("ABCDE", 4)
    for patient in grids:
        images, labels = slices.read(slices.rows(subject=patient))
        assert len(images) == 4
        assert (images[:, 0] > 51).sum((1, 2)) == pytest.approx(np.pi * (HEAD / 2) ** 2, rel=0.03)
        assert (labels == 1).sum((1, 2)) == pytest.approx(np.pi * (LESION / 2) ** 2, rel=0.08)
        assert images[:, 0][labels == 1].mean() > 230  # the label lies on the bright lesion
        y, x = np.argwhere(labels[0]).mean(0)
        # towards the left of the stored x axis (-8 mm of L) and the back of y
        assert (y, x) == pytest.approx((31.5 + 6, 31.5 + 8), abs=0.3)
    # a prediction that is right on the network's grid is right on the original grid
    volume = VolumeSet.open(tmp_path / "out" / "volumes").read("D")
    assert volume.truth.shape == (4, 48, 48)
    scores = np.eye(2, dtype=np.float32)[volume.labels_at_network(2)].transpose(0, 3, 1, 2)
    import torch

    found = volume.geometry.restore(torch.from_numpy(np.ascontiguousarray(scores)))
    overlap = 2 * ((found == 1) & (volume.truth == 1)).sum() / ((found == 1).sum() + (volume.truth == 1).sum())
    assert overlap > 0.93


def test_a_new_patient_with_other_pixels_is_brought_into_the_frame_of_the_training(tmp_path):
    ball("A", tmp_path, (64, 64, 4), (1.0, 1.0, 3.0))
    ball("B", tmp_path, (100, 100, 4), (0.64, 0.64, 3.0))
    slicing = SliceConfig(resolution=32, rule_channel="FLAIR")
    frame = Frame("axial", 1.0, 64, 32)
    for patient, edge in (("A", 64), ("B", 100)):
        files = {"FLAIR": tmp_path / patient / f"{patient}_flair.nii.gz"}
        volume, header = slice_new_patient(files, slicing, frame)
        # 2 mm pixels
        assert (volume.images[:, 0] > 51).sum((1, 2)) == pytest.approx(np.pi * (HEAD / 2) ** 2 / 4, rel=0.05)
        assert volume.truth.shape == header.slice_shape == (4, edge, edge)
        import torch

        scores = torch.from_numpy((volume.images[:, 0] > 51).astype(np.float32))
        head = volume.geometry.restore(torch.stack([1 - scores, scores], 1))
        area = (head == 1).sum((1, 2)) * header.spacing[1] * header.spacing[2]
        assert area == pytest.approx(np.pi * (HEAD / 2) ** 2, rel=0.05)


@pytest.mark.parametrize(("axis", "plane"), [(0, "sagittal"), (1, "coronal")])
def test_thick_slices_of_another_plane_are_refused_and_sliced_in_their_own(tmp_path, axis, plane):
    shape, spacing = [64, 64, 64], [1.0, 1.0, 1.0]
    shape[axis], spacing[axis] = 9, 5.0
    for patient in "AB":
        ball(patient, tmp_path / "in", tuple(shape), tuple(spacing), axis)
    cohort = find_patients(config(tmp_path / "in"))
    wrong = check_cohort(cohort, SliceConfig(resolution=32, rule_channel="FLAIR"), progress=False)
    errors = [p for p in wrong.problems if p.severity == "error"]
    assert {p.patient for p in errors} == {"A", "B"}
    assert all(f"plane: {plane}" in p.fix for p in errors)
    slicing = SliceConfig(resolution=64, rule_channel="FLAIR", plane=plane)
    right = check_cohort(cohort, slicing, progress=False)
    assert right.problems == []
    prepare(cohort, {"A": "train", "B": "test"}, slicing, tmp_path / "out", progress=False)
    slices = SliceSet.open(tmp_path / "out" / "slices")
    images, labels = slices.read(slice(None))
    assert len(slices) == 18
    assert slices.spacing == (1.0, 1.0, 5.0)
    assert slices.axes == {"sagittal": ("I", "P"), "coronal": ("I", "L")}[plane]
    assert (images[:, 0] > 51).sum((1, 2)) == pytest.approx(np.pi * (HEAD / 2) ** 2, rel=0.03)
    assert images[:, 0][labels == 1].mean() > 230


def test_cropping_that_takes_an_annotation_is_an_error_and_tissue_a_warning(tmp_path):
    for patient in "ABC":
        ball(patient, tmp_path, (60, 60, 4), (1.0, 1.0, 3.0))
    ball("D", tmp_path, (60, 60, 4), (1.0, 1.0, 3.0))
    ball("E", tmp_path, (60, 60, 4), (1.0, 1.0, 3.0))
    image = np.full((100, 100, 4), 100, np.int16)
    image[50, 50] = 1000
    labels = np.zeros((100, 100, 4), np.uint8)
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    for patient, place in (("D", (50, 50)), ("E", (1, 50))):
        labels[:] = 0
        labels[place] = 1
        save(tmp_path / patient / f"{patient}_flair.nii.gz", image + ord(patient), affine)
        save(tmp_path / patient / f"{patient}_seg.nii.gz", labels, affine)
    checked = check_cohort(
        find_patients(config(tmp_path)), SliceConfig(resolution=32, rule_channel="FLAIR"), progress=False
    )
    assert checked.frame is not None
    assert checked.frame.matrix == 64
    cut = {
        p.patient: p.severity
        for p in checked.problems
        if "matrix: 128" in p.fix and p.file.name.endswith("_seg.nii.gz")
    }
    assert cut == {"E": "error"}
    assert {p.patient for p in checked.problems if "matrix: 128" in p.fix and p.severity == "warning"} == {"D", "E"}


def test_a_patient_without_a_slice_and_a_class_that_nobody_has_are_named(tmp_path):
    for patient in "ABC":
        ball(patient, tmp_path, (60, 60, 4), (1.0, 1.0, 3.0))
    dim = np.zeros((60, 60, 4), np.int16)
    dim[30, 30], dim[20, 20] = 1000, 5
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    save(tmp_path / "C" / "C_flair.nii.gz", dim, affine)
    described = config(tmp_path).model_copy(update={"classes": {1: "lesion", 2: "necrosis"}})
    cohort = find_patients(described)
    checked = check_cohort(cohort, SliceConfig(resolution=32, rule_channel="FLAIR"), progress=False)
    assert checked.kept == {"A": 4, "B": 4, "C": 0}
    assert [p.patient for p in checked.problems if "slice rule" in p.problem] == ["C"]
    assert [p.patient for p in checked.problems if "necrosis" in p.problem] == [""]
    strict = SliceConfig(resolution=32, rule_channel="FLAIR", rule_fraction=0.9)
    none = check_cohort(cohort, strict, progress=False)
    (empty,) = check_split(cohort, none, SplitConfig(test_patients=1, validation_fraction=0.0), False)
    assert empty.severity == "error"
    assert "rule_fraction" in empty.fix


def test_cohorts_whose_slices_are_as_before_are_told_from_others():
    """Only the latter get other job ids than in versions that padded each volume by itself."""
    config = SliceConfig(resolution=32)
    for headers, changed in (
        ([header(240), header(250)], False),
        ([header(128), header(130)], True),
        ([header(100), header(100, 0.8)], True),
        ([header(100), replace(header(100), units="micron")], True),
    ):
        assert Frame.of(headers, config).changes(headers) == changed
