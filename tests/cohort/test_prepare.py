"""Slices equal those of a plain transcription of the rule, in doubles and loops; the real BraTS patient keeps 79."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.cohort.config import CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.cohort.patient import class_indices
from understudy.cohort.prepare import prepare
from understudy.cohort.slicing import SliceConfig
from understudy.errors import UnderstudyError
from understudy.slices import SliceSet, evenly_coded
from understudy.volumes import VolumeSet

REAL = Path(os.environ.get("UNDERSTUDY_REAL", Path(__file__).parents[3] / "shared" / "real"))


def matlab_uint8(values):
    """uint8() of MATLAB: round halves away from zero, saturate."""
    return np.clip(np.trunc(values + np.copysign(0.5, values)), 0, 255).astype(np.uint8)


def reference(files, size, intensity=50, fraction=0.15):
    """The paper's slices of one patient whose arrays are stored as LPS: {z: (images [C, size, size], labels)}."""
    volumes = {name: nib.load(path).get_fdata() for name, path in files.items()}
    kept = {}
    for z in range(volumes["T1w"].shape[2]):
        images = {}
        for name, volume in volumes.items():
            plane = volume[:, :, z] if name == "labels" else volume[:, :, z] / volume.max() * 255
            padded = np.zeros((size, size))
            x, y = (size - plane.shape[0]) // 2, (size - plane.shape[1]) // 2
            padded[x : x + plane.shape[0], y : y + plane.shape[1]] = plane
            images[name] = padded.T  # rows run to posterior
        if (images["T1w"] > intensity).sum() / size**2 > fraction:
            labels = images.pop("labels")
            kept[z] = (np.stack([matlab_uint8(image) for image in images.values()]), labels)
    return kept


@pytest.fixture
def patient(tmp_path, write_patient):
    """One patient of 24 x 20 x 9 voxels, padded to 32 x 32."""
    return write_patient(tmp_path / "cohort", "A", seed=3)


def run(folder, out, split=None, cohort_config=None, **config):
    cohort = find_patients(CohortConfig(path=folder, **(cohort_config or {})))
    parts = split or {p.id: "train" for p in cohort.patients}
    config = {"resolution": 32, "rule_fraction": 0.2, **config}
    counts = prepare(cohort, parts, SliceConfig(**config), out, progress=False)
    return SliceSet.open(out / "slices"), counts


def test_slices_are_the_papers(tmp_path, patient):
    expected = reference(patient, 32, fraction=0.2)
    slices, counts = run(tmp_path / "cohort", tmp_path / "out")
    assert 0 < len(expected) < 9  # the rule decides something here
    assert slices.index.z.tolist() == list(expected)
    assert slices.channels == ("T1w", "T1wGd", "T2w", "FLAIR")
    assert slices.axes == ("P", "L")
    assert slices.spacing == (1.0, 1.0, 1.0)
    images, labels = slices.read(slice(None))
    for got, mask, (image, truth) in zip(images, labels, expected.values(), strict=True):
        np.testing.assert_array_equal(got, image)
        np.testing.assert_array_equal(np.array([0, 1, 2, 4])[mask], truth)
    assert counts["train"] == {
        "patients": 1,
        "slices": len(expected),
        "annotated": sum(bool(truth.any()) for _, truth in expected.values()),
        "without_slices": 0,
    }
    assert slices.index.iloc[0].to_dict() == {
        "id": f"A_{min(expected):03d}",
        "subject": "A",
        "site": "",
        "z": min(expected),
        "split": "train",
    }
    assert slices.attrs["sources"]["A"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2"])
def test_every_type_gives_the_same_slices(tmp_path, patient, dtype):
    for path in patient.values():
        image = nib.load(path)
        voxels = np.asarray(image.dataobj) // (8 if path != patient["labels"] else 1)
        nib.save(nib.Nifti1Image(voxels.astype(dtype), image.affine), path)
    expected = reference(patient, 32, fraction=0.2)
    slices, _ = run(tmp_path / "cohort", tmp_path / "out")
    assert slices.index.z.tolist() == list(expected)
    np.testing.assert_array_equal(slices.read(slice(None))[0], np.stack([i for i, _ in expected.values()]))


def test_a_header_with_slope_and_intercept_is_obeyed(tmp_path, patient):
    image = nib.load(patient["T2w"])
    image.header.set_slope_inter(0.37, 11.0)
    scaled = nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)
    scaled.header.set_slope_inter(0.37, 11.0)
    nib.save(scaled, patient["T2w"])
    assert nib.load(patient["T2w"]).get_fdata().min() > 5
    expected = reference(patient, 32, fraction=0.2)
    slices, _ = run(tmp_path / "cohort", tmp_path / "out")
    np.testing.assert_array_equal(slices.read(slice(None))[0], np.stack([i for i, _ in expected.values()]))


@pytest.mark.parametrize("axes", ["RAS", "LAS", "PIR", "SRA"])
def test_slices_look_the_same_however_the_file_is_stored(tmp_path, patient, axes):
    before, _ = run(tmp_path / "cohort", tmp_path / "before")
    for path in patient.values():
        image = nib.load(path)
        turn = nib.orientations.ornt_transform(
            nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
        )
        nib.save(image.as_reoriented(turn), path)
    after, _ = run(tmp_path / "cohort", tmp_path / "after")
    np.testing.assert_array_equal(before.read(slice(None))[0], after.read(slice(None))[0])
    np.testing.assert_array_equal(before.read(slice(None))[1], after.read(slice(None))[1])


def test_trusted_arrays_are_not_turned(tmp_path, patient):
    before, _ = run(tmp_path / "cohort", tmp_path / "before")
    image = nib.load(patient["labels"])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), patient["labels"])
    with pytest.raises(UnderstudyError, match="trust_array_order") as caught:
        run(tmp_path / "cohort", tmp_path / "after")
    assert caught.value.where == str(patient["labels"])
    after, _ = run(tmp_path / "cohort", tmp_path / "after", cohort_config={"trust_array_order": True})
    np.testing.assert_array_equal(before.read(slice(None))[1], after.read(slice(None))[1])


def test_smaller_slices_are_means_and_majorities(tmp_path, patient):
    full, _ = run(tmp_path / "cohort", tmp_path / "full")
    small, _ = run(tmp_path / "cohort", tmp_path / "small", resolution=8)
    images, labels = full.read(slice(None))
    got, mask = small.read(slice(None))
    assert small.index.z.tolist() == full.index.z.tolist()  # the rule looks at the full resolution
    assert small.spacing == (4.0, 4.0, 1.0)
    for n, y, x in np.ndindex(len(full), 8, 8):
        block = images[n, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].astype(float)
        np.testing.assert_array_equal(got[n, :, y, x], np.floor(block.mean(axis=(1, 2)) + 0.5))
        votes = np.bincount(labels[n, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].ravel(), minlength=4)
        assert mask[n, y, x] == np.flatnonzero(votes == votes.max())[-1]


def test_whole_volumes_of_validation_and_test_patients(tmp_path, write_patient):
    for i, patient in enumerate("ABC"):
        files = write_patient(tmp_path / "cohort", patient, seed=i)
    (tmp_path / "cohort" / "participants.tsv").write_text("participant_id\tsite\nC\tnorth\n")
    split = {"A": "train", "B": "val", "C": "test"}
    slices, counts = run(tmp_path / "cohort", tmp_path / "out", split, resolution=16)
    volumes = VolumeSet.open(tmp_path / "out" / "volumes")
    assert volumes.subjects() == ["B", "C"]
    volume = volumes.read("C")
    assert (volume.split, volume.site, volume.spacing) == ("test", "north", (1.0, 1.0, 1.0))
    assert volume.images.shape == (9, 4, 16, 16)
    assert volume.truth.shape == (9, 20, 24)
    rows = slices.rows(subject="C")
    images, labels = slices.read(rows)
    np.testing.assert_array_equal(np.flatnonzero(volume.kept), slices.index.z.iloc[rows])
    np.testing.assert_array_equal(volume.images[volume.kept], images)
    np.testing.assert_array_equal(volume.labels_at_network(4)[volume.kept], labels)
    truth = np.asarray(nib.load(files["labels"]).dataobj)
    for z, y, x in ((4, 10, 12), (3, 9, 14), (4, 8, 15)):
        world = volume.affine @ [y, x, z, 1]
        i, j, k = np.rint(np.linalg.inv(nib.load(files["labels"]).affine) @ world)[:3].astype(int)
        assert np.array([0, 1, 2, 4])[volume.truth[z, y, x]] == truth[i, j, k] != 0
    assert [counts[part]["patients"] for part in ("train", "val", "test")] == [1, 1, 1]
    assert set(slices.index.split) == {"train", "val", "test"}


def test_keep_all_keeps_all(tmp_path, patient):
    slices, _ = run(tmp_path / "cohort", tmp_path / "out", keep="all")
    assert slices.index.z.tolist() == list(range(9))


def test_robust_scaling_ignores_an_outlier(tmp_path, patient):
    image = nib.load(patient["T1wGd"])
    voxels = np.asarray(image.dataobj).copy()
    voxels[12, 10, 4] = 30000
    nib.save(nib.Nifti1Image(voxels, image.affine), patient["T1wGd"])
    slices, _ = run(tmp_path / "cohort", tmp_path / "out", scaling="robust", keep="all")
    top = np.percentile(voxels[voxels != 0], 99.5)
    expected = matlab_uint8(np.minimum(voxels[:, :, 4] / top * 255, 255)).T
    np.testing.assert_array_equal(slices.read([4])[0][0, 1, 6:26, 4:28], expected)


def test_threads_and_interruption_do_not_change_the_result(tmp_path, write_patient, monkeypatch):
    import understudy.cohort.prepare as room
    import understudy.slices

    monkeypatch.setattr(understudy.slices, "SHARD", 8)
    for i in range(6):
        write_patient(tmp_path / "cohort", f"P{i}", seed=i)
    one, _ = run(tmp_path / "cohort", tmp_path / "one", workers=1)
    plain = room.slice_patient

    def fails_at_the_last(patient, **arguments):
        if patient.id == "P5":
            raise KeyboardInterrupt
        return plain(patient, **arguments)

    monkeypatch.setattr(room, "slice_patient", fails_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cohort", tmp_path / "three", workers=3)
    assert not (tmp_path / "three" / "slices").exists()
    assert any((tmp_path / "three" / "slices.partial" / "parts").iterdir())
    monkeypatch.setattr(room, "slice_patient", plain)
    three, _ = run(tmp_path / "cohort", tmp_path / "three", workers=3)
    assert three.content_hash == one.content_hash
    again, _ = run(tmp_path / "cohort", tmp_path / "three")  # as a job that was killed before it was recorded
    assert again.content_hash == one.content_hash


def test_what_cannot_be_sliced_is_said(tmp_path, patient, write_patient):
    with pytest.raises(UnderstudyError, match="rule_fraction"):
        run(tmp_path / "cohort", tmp_path / "out", rule_fraction=0.99)
    with pytest.raises(UnderstudyError, match="T1,"):
        run(tmp_path / "cohort", tmp_path / "out", rule_channel="T1")
    with pytest.raises(UnderstudyError, match="patient A"):
        run(tmp_path / "cohort", tmp_path / "out", {"B": "train"})
    with pytest.raises(UnderstudyError, match="64"):
        run(tmp_path / "cohort", tmp_path / "out", resolution=64)
    write_patient(tmp_path / "cohort", "B", leave_out=("FLAIR",))
    with pytest.raises(UnderstudyError, match="patient B: no FLAIR"):
        run(tmp_path / "cohort", tmp_path / "out")


def test_a_head_in_a_corner(tmp_path, patient):
    for name, path in patient.items():
        if name == "labels":
            continue
        image = nib.load(path)
        voxels = np.asarray(image.dataobj).astype(np.float32)
        voxels[14:], voxels[:, 15:] = 0, 0
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    expected = reference(patient, 32, fraction=0.1)
    slices, _ = run(tmp_path / "cohort", tmp_path / "out", rule_fraction=0.1)
    assert slices.index.z.tolist() == list(expected)
    assert expected
    np.testing.assert_array_equal(slices.read(slice(None))[0], np.stack([i for i, _ in expected.values()]))


@given(hnp.arrays(st.sampled_from([np.uint8, np.int16, np.float32]), (2, 3, 3), elements=st.sampled_from([0, 2, 9])))
def test_labels_become_class_indices(voxels):
    classes = evenly_coded({2: "a", 9: "b"})
    expected = np.where(voxels == 2, 1, np.where(voxels == 9, 2, 0))
    np.testing.assert_array_equal(class_indices(voxels, classes, Path("x")), expected)
    voxels[0, 0, 0] = 7
    with pytest.raises(UnderstudyError, match="unexpected label 7"):
        class_indices(voxels, classes, Path("x"))


@pytest.mark.skipif(not (REAL / "brats").is_dir(), reason=f"no real BraTS patient at {REAL} (UNDERSTUDY_REAL)")
def test_the_real_brats_patient_keeps_79_slices(tmp_path):
    cohort = find_patients(CohortConfig(path=REAL / "brats"))
    (patient,) = cohort.patients
    prepare(cohort, {patient.id: "train"}, SliceConfig(), tmp_path, progress=False)
    slices = SliceSet.open(tmp_path / "slices")
    assert slices.index.z.tolist() == list(range(45, 124))
    expected = reference({**patient.images, "labels": patient.labels}, 256)
    assert list(expected) == list(range(45, 124))
    images, labels = slices.read([0, 40, 78])
    for got, mask, z in zip(images, labels, (45, 85, 123), strict=True):
        np.testing.assert_array_equal(got, expected[z][0])
        np.testing.assert_array_equal(mask, expected[z][1])
