"""Scaling and rule equal the paper's arithmetic; heads have their true size; a grey background is set to 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.cohort.checks import check_cohort, check_split
from understudy.cohort.config import CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.cohort.prepare import prepare, slice_new_patient
from understudy.cohort.slicing import (
    Bright,
    Frame,
    SliceConfig,
    grey_background,
    kept_slices,
    slice_images,
    to_8_bit,
    without_background,
)
from understudy.cohort.splits import SplitConfig
from understudy.errors import UnderstudyError
from understudy.io.grids import VolumeHeader
from understudy.slices import SliceSet
from understudy.volumes import SliceGeometry, VolumeSet


def matlab_uint8(values):
    """uint8() of MATLAB: round halves away from zero, saturate."""
    return np.clip(np.trunc(values + np.copysign(0.5, values)), 0, 255).astype(np.uint8)


def eight_bit(voxels, ceiling):
    """All slices of `to_8_bit`."""
    out = np.empty(voxels.shape, np.uint8)
    to_8_bit(voxels, ceiling, np.arange(len(voxels)), out=out)
    return out


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
        (2, 5, 4),
        elements=st.integers(0, 255),
    ),
    st.integers(1, 255),
    st.floats(0, 254),
)
def test_scaling_and_rule_match_doubles(voxels, ceiling, intensity):
    scaled = voxels.astype(np.float64) / ceiling * 255
    np.testing.assert_array_equal(eight_bit(voxels, float(ceiling)), matlab_uint8(scaled))
    config = SliceConfig(rule_intensity=intensity, rule_fraction=0.1)
    geometry = SliceGeometry.fit(5, 4, 8)
    expected = (scaled > intensity).sum(axis=(1, 2)) / 64 > 0.1
    np.testing.assert_array_equal(kept_slices(Bright(voxels, (0, 0), float(ceiling)), geometry, config), expected)


@given(
    hnp.arrays(st.sampled_from([np.float32, np.float64]), (2, 4, 4), elements=st.floats(-100, 1000, width=32)),
    st.floats(0, 254.9),
    st.booleans(),
)
def test_the_rules_lowest_value_decides_as_doubles_do(voxels, intensity, exact):
    ceiling = float(voxels.max())
    if not ceiling > 1e-3:
        return
    if exact:  # a voxel lies on the threshold, as far as its type can
        voxels[0, 0, 0] = intensity / 255 * ceiling
    config = SliceConfig(rule_intensity=intensity, rule_fraction=0.1)
    expected = (voxels.astype(np.float64) / ceiling * 255 > intensity).sum(axis=(1, 2)) / 16 > 0.1
    found = kept_slices(Bright(voxels, (0, 0), ceiling), SliceGeometry.fit(4, 4, 4), config)
    np.testing.assert_array_equal(found, expected)


def test_negative_voxels_become_zero():
    voxels = np.array([[[-5, 0, 100, 200]]], np.int16)
    assert eight_bit(voxels, 200.0).tolist() == [[[0, 0, 128, 255]]]
    assert eight_bit(voxels.astype(np.float32), 200.0).tolist() == [[[0, 0, 128, 255]]]


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


TYPES = ["u1", "i2", ">i2", "u2", "f4", ">f8"]


def volume(level: int, dtype: str = "f4") -> np.ndarray:
    """Slices [4, 16, 16] with tissue of 200 in the middle, and a black hole in it."""
    slices = np.full((4, 16, 16), level, dtype)
    slices[:, 4:12, 4:12] = 200
    slices[:, 6, 6] = 0
    return slices


@given(st.integers(0, 199), st.sampled_from(TYPES))
def test_the_level_is_that_of_the_corners(level: int, dtype: str) -> None:
    slices = volume(level, dtype)
    found = grey_background(slices)
    assert found == (level if level > 20 else 0)
    expected = slices.copy()
    if found:
        expected[slices == level] = 0
    if 200 - level <= 4:  # a fiftieth of the maximum: tissue is like the background
        expected[:] = 0
    np.testing.assert_array_equal(without_background(slices), expected)


def test_tissue_like_the_background_stays_where_it_is_enclosed() -> None:
    rng = np.random.default_rng(0)
    slices = volume(100)
    slices += rng.normal(0, 3, slices.shape).astype("f4")
    slices[:, 7:9, 7:9] = 100  # as air, but in the head
    slices[:, 9:11, 7:9] = 40  # darker than air: it must not be lost, as it would be by subtracting
    slices[:, 1, 2] = 150  # a speck
    cleared = without_background(slices)
    head = np.zeros(slices.shape, bool)
    head[:, 4:12, 4:12] = True
    np.testing.assert_array_equal(cleared, np.where(head, slices, 0))


def test_a_dark_volume_is_not_touched() -> None:
    slices = volume(3)
    assert without_background(slices) is slices
    nothing = np.zeros((2, 8, 8), np.uint8)
    assert without_background(nothing) is nothing


@pytest.mark.parametrize("background", ["keep", "zero"])
def test_slices_with_and_without_it(background: str, tmp_path: object) -> None:
    config = SliceConfig.model_validate(
        {"resolution": 16, "background": background, "rule_intensity": 50, "rule_fraction": 0.3}
    )
    stored = {"T1w": volume(100, "u1"), "FLAIR": volume(0, "u1")}
    files = dict.fromkeys(stored, tmp_path)
    images, kept = slice_images(stored.__getitem__, files, SliceGeometry.fit(16, 16, 16), config)  # type: ignore[arg-type]
    assert images[0, 0, 0, 0] == (0 if background == "zero" else 128)  # 100 / 200 * 255 = 127.5
    assert images[:, 0].max() == 255
    assert (images[:, 1] == np.where(stored["FLAIR"] > 0, 255, 0)).all()
    assert kept.all() == (background == "keep")  # 64 of 256 pixels are tissue: the grey ones would pass the rule


def test_what_is_kept_does_not_change_a_study() -> None:
    assert "background" not in SliceConfig().model_dump()
    assert SliceConfig(background="zero").model_dump()["background"] == "zero"
