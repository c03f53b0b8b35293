"""Each trap is found, named, and says what to do; a clean cohort has nothing to say."""

from __future__ import annotations

import gzip
import os
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from understudy.cohort.checks import accept, check_cohort
from understudy.cohort.config import CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.errors import UnderstudyError

FLAT = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # two axes in one direction


@pytest.fixture
def folder(tmp_path, write_patient):
    """Two clean patients."""
    write_patient(tmp_path, "A", seed=1)
    write_patient(tmp_path, "B", seed=2)
    return tmp_path


def problems_of(folder, **config):
    return check_cohort(find_patients(CohortConfig(path=folder, **config)), progress=False).problems


def rewrite(path, change, dtype=None, affine=None):
    """Writes a file again after `change` has been done to its voxels."""
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels = voxels if dtype is None else voxels.astype(dtype)
    changed = change(voxels)
    nib.save(nib.Nifti1Image(voxels if changed is None else changed, image.affine if affine is None else affine), path)


def put(value, where=(0, 0, 0)):
    def change(voxels):
        voxels[where] = value

    return change


def test_a_clean_cohort_has_no_problems(folder):
    cohort = find_patients(CohortConfig(path=folder))
    problems = check_cohort(cohort, progress=False).problems
    assert problems == []
    assert accept(cohort, problems) is cohort


@pytest.mark.parametrize(
    ("suffix", "change", "message", "severity"),
    [
        ("flair", lambda p: p.unlink(), "no FLAIR image", "error"),
        ("seg", lambda p: p.unlink(), "no annotation", "error"),
        ("t2", lambda p: rewrite(p, lambda v: v[:, :, 1:]), "T2w has shape 24x20x8, T1w 24x20x9", "error"),
        ("t2", lambda p: rewrite(p, lambda v: None, affine=np.eye(4)), "T2w .RAS.", "error"),
        ("t2", lambda p: rewrite(p, lambda v: v[..., None].repeat(2, 3)), "4 dimensions", "error"),
        ("t2", lambda p: rewrite(p, lambda v: v[..., None]), "", ""),
        ("seg", lambda p: rewrite(p, put(7)), "label 7", "error"),
        ("seg", lambda p: rewrite(p, put(3)), "unexpected label 3", "error"),
        ("seg", lambda p: rewrite(p, lambda v: None, np.float64), "stored as float64", "warning"),
        (
            "seg",
            lambda p: rewrite(p, put(1.00000006), np.float64),  # what a scale factor leaves of 1
            "stored as float64",
            "warning",
        ),
        ("seg", lambda p: rewrite(p, put(1.4), np.float64), "1.4", "error"),
        ("seg", lambda p: rewrite(p, put(np.nan), np.float32), "1 NaN or infinite", "error"),
        ("seg", lambda p: rewrite(p, lambda v: v * 0), "annotation is empty", "warning"),
        ("t1", lambda p: rewrite(p, put(np.nan), np.float32), "T1w holds 1 NaN", "error"),
        ("t1", lambda p: rewrite(p, put(np.inf), np.float32), "1 NaN", "error"),
        ("t1", lambda p: rewrite(p, lambda v: v * 0), "T1w is empty", "error"),
        ("t1", lambda p: rewrite(p, lambda v: v * 0 + 5), "T1w is constant .all 5", "error"),
        ("t1", lambda p: rewrite(p, lambda v: (v - v.mean()) / v.std()), "T1w is negative in", "error"),
        ("t1", lambda p: rewrite(p, put(-3)), "slightly negative", "warning"),
        ("t1", lambda p: rewrite(p, lambda v: np.maximum(v, v.max() * 0.3)), "corners", "warning"),
        ("t1", lambda p: rewrite(p, lambda v: np.maximum(v, v.max() * 0.05)), "", ""),
        ("t1", lambda p: nib.save(nib.load(p), p.with_name("A_t1.nii")), "2 files match T1w", "error"),
        ("t1ce", lambda p: shutil.copy(p, p.with_name("A_t1.nii.gz")), "identical to T1w", "warning"),
        ("t1", lambda p: p.write_bytes(p.read_bytes()[:-700]), "truncated or damaged", "error"),
        ("t1", lambda p: p.write_bytes(p.read_bytes()[:40]), "header", "error"),
        ("t1", lambda p: p.write_bytes(b""), "header", "error"),
        ("t1", lambda p: p.write_text("not an image"), "header", "error"),
        ("t1", lambda p: p.write_bytes(flip_a_byte(p.read_bytes())), "truncated or damaged", "error"),
        ("t1", lambda p: rewrite(p, lambda v: None, affine=FLAT), "singular", "error"),
    ],
)
def test_each_trap(folder, suffix, change, message, severity):
    path = folder / "A" / f"A_{suffix}.nii.gz"
    change(path)
    problems = problems_of(folder)
    if not message:
        assert problems == []
        return
    assert len(problems) == 1
    (problem,) = problems
    assert re.search(message, problem.problem), problem
    assert problem.severity == severity
    assert problem.patient == "A"
    assert problem.file.parent == folder / "A"
    assert problem.fix


def flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def test_a_truncated_uncompressed_file(tmp_path, write_patient):
    files = write_patient(tmp_path, "A", suffix=".nii")
    files["T1w"].write_bytes(files["T1w"].read_bytes()[:2000])
    (problem,) = problems_of(tmp_path)
    assert "truncated or damaged" in problem.problem


def test_a_file_of_several_gzip_members_is_read_whole(folder):
    path = folder / "A" / "A_t1.nii.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    assert problems_of(folder) == []


def test_a_strangely_named_annotation_is_pointed_at(folder):
    (folder / "A" / "A_seg.nii.gz").rename(folder / "A" / "W39_Segm.nii.gz")
    missing, unused = sorted(problems_of(folder), key=lambda problem: problem.severity)
    assert "W39_Segm.nii.gz" in missing.fix
    assert "W39_Segm.nii.gz" in unused.problem


def test_an_annotation_with_another_header_goes_on_only_knowingly(folder):
    """The trap of the real data: the arrays align, the header of the annotation says RAS instead of LPS."""
    rewrite(folder / "A" / "A_seg.nii.gz", lambda v: None, affine=np.eye(4))
    (problem,) = problems_of(folder)
    assert problem.severity == "error"
    assert "trust_array_order" in problem.fix
    assert "100% of the annotation" in problem.problem
    (known,) = problems_of(folder, trust_array_order=True)
    assert known.severity == "warning"


def test_files_stored_in_another_order_with_matching_headers_are_only_mentioned(folder):
    path = folder / "A" / "A_seg.nii.gz"
    image = nib.load(path)
    nib.save(nib.as_closest_canonical(image), path)
    (problem,) = problems_of(folder)
    assert problem.severity == "warning"
    assert "stored as RAS" in problem.problem


def test_a_copied_patient_is_found(folder):
    for path in (folder / "A").iterdir():
        (folder / "C").mkdir(exist_ok=True)
        shutil.copy(path, folder / "C" / path.name.replace("A_", "C_"))
    problems = problems_of(folder)
    assert {(p.patient, p.severity) for p in problems} == {("C", "error")}
    assert any("patient A" in p.problem for p in problems)
    cohort = find_patients(CohortConfig(path=folder))
    assert [p.id for p in accept(cohort, problems, skip_bad_patients=True).patients] == ["A", "B"]


def test_one_id_in_two_folders(tmp_path, write_patient):
    write_patient(tmp_path / "HGG", "A", seed=1)
    write_patient(tmp_path / "LGG", "A", seed=2)
    (problem,) = problems_of(tmp_path)
    assert str(tmp_path / "HGG" / "A") in problem.problem


def test_bad_patients_are_refused_by_name_or_left_out(folder):
    (folder / "A" / "A_flair.nii.gz").unlink()
    cohort = find_patients(CohortConfig(path=folder))
    problems = check_cohort(cohort, progress=False).problems
    with pytest.raises(UnderstudyError, match=r"1 of 2 patients") as caught:
        accept(cohort, problems)
    assert "skip_bad_patients" in caught.value.message
    assert [p.id for p in accept(cohort, problems, skip_bad_patients=True).patients] == ["B"]
    (folder / "B" / "B_seg.nii.gz").write_bytes(b"x")
    with pytest.raises(UnderstudyError, match="left"):
        accept(cohort, check_cohort(cohort, progress=False).problems, skip_bad_patients=True)


def test_workers_do_not_change_the_answer(folder, write_patient):
    for i in range(5):
        write_patient(folder, f"P{i}", seed=i, leave_out=("T2w",) if i % 2 else ())
    cohort = find_patients(CohortConfig(path=folder))
    assert check_cohort(cohort, workers=1, progress=False) == check_cohort(cohort, workers=3, progress=False)


def test_one_wrong_header_is_the_one_that_is_blamed(folder):
    """The grid is that of most files, not of the first."""
    rewrite(folder / "A" / "A_t1.nii.gz", lambda v: None, affine=np.eye(4))
    (problem,) = problems_of(folder)
    assert (problem.severity, problem.file.name) == ("error", "A_t1.nii.gz")


def test_arrays_of_other_voxel_sizes_are_not_trusted(folder):
    """They would give all of them the wrong size."""
    rewrite(folder / "A" / "A_t1.nii.gz", lambda v: None, affine=np.diag([-3.0, -3.0, 3.0, 1.0]))
    (problem,) = problems_of(folder, trust_array_order=True)
    assert (problem.severity, problem.file.name) == ("error", "A_t1.nii.gz")


def test_a_copy_with_another_type_is_found(folder):
    for path in (folder / "A").iterdir():
        (folder / "C").mkdir(exist_ok=True)
        copy = folder / "C" / path.name.replace("A_", "C_")
        shutil.copy(path, copy)
        if "seg" not in copy.name:
            rewrite(copy, lambda v: None, np.float32)
    assert {(p.patient, p.severity) for p in problems_of(folder)} == {("C", "error")}


def test_what_cannot_be_seen_may_hide_patients_and_is_refused_or_known(folder):
    os.mkdir(os.fsencode(folder) + b"/M\xfcller")
    (folder / "B2").symlink_to(folder / "gone")  # a patient's folder that was not fetched
    cohort = find_patients(CohortConfig(path=folder))
    problems = check_cohort(cohort, progress=False).problems
    assert {(p.patient, p.severity, p.file.name) for p in problems} == {
        ("", "error", "M\\xfcller"),
        ("", "error", "B2"),
    }
    with pytest.raises(UnderstudyError) as caught:
        accept(cohort, problems)
    assert "skip_bad_patients" in (caught.value.fix or "")
    assert accept(cohort, problems, skip_bad_patients=True).patients == cohort.patients
