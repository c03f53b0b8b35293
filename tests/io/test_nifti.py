"""Reading volumes: damage is told from intact files exactly where zlib tells it."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.io.grids import as_stored, slices_of
from understudy.io.nifti import headers_on_one_grid, read_header, read_voxels, whole_numbers

VOXELS = np.random.default_rng(0).normal(0, 30, (13, 11, 7)).astype(np.int16)


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A compressed file, its bytes and its header."""
    path = tmp_path_factory.mktemp("volume") / "a.nii.gz"
    nib.save(nib.Nifti1Image(VOXELS, np.eye(4)), path)
    return path, path.read_bytes(), read_header(path)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["flip", "cut", "insert", "zeros", "trailing"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 255),
)
def test_damage_is_told_where_zlib_tells_it(volume, kind, where, value):
    path, intact, header = volume
    content, place = bytearray(intact), int(where * len(intact))
    match kind:
        case "flip":
            content[place] ^= value
        case "cut":
            del content[place:]
        case "insert":
            content.insert(place, value)
        case "zeros":
            content[place : place + 40] = bytes(len(content[place : place + 40]))
        case "trailing":
            content += bytes([value] * 5)
    path.write_bytes(content)
    try:
        expected = zlib.decompress(content, wbits=31)
    except zlib.error:
        expected = None
    if expected is None:
        with pytest.raises(UnderstudyError, match="truncated or damaged"):
            read_voxels(path, header)
    else:
        found = read_voxels(path, header)
        offset = header.offset
        assert found.tobytes(order="F") == expected[offset : offset + VOXELS.nbytes]


def test_the_digest_is_that_of_the_file(volume):
    path, intact, header = volume
    path.write_bytes(intact)
    digest = hashlib.sha256()
    np.testing.assert_array_equal(read_voxels(path, header, digest), VOXELS)
    assert digest.hexdigest() == hashlib.sha256(intact).hexdigest()


def test_members_one_after_the_other_and_a_cut_last_one(volume):
    path, intact, header = volume
    content = gzip.decompress(intact)
    members = [gzip.compress(content[start : start + 700]) for start in range(0, len(content), 700)]
    assert len(members) > 2
    path.write_bytes(b"".join(members))
    np.testing.assert_array_equal(read_voxels(path, header), VOXELS)
    path.write_bytes(b"".join(members)[:-9])
    with pytest.raises(UnderstudyError, match="truncated or damaged"):
        read_voxels(path, header)


def saved(path: Path, change=lambda header: None, voxels=VOXELS, affine=None) -> Path:
    """A volume of 2 x 1 x 3 mm whose header was changed before it was written."""
    image = nib.Nifti1Image(voxels, np.diag([-2.0, -1.0, 3.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    change(image.header)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_a_voxel_has_its_size_whatever_the_units(tmp_path, units, factor):
    path = saved(
        tmp_path / "a.nii", lambda h: h.set_xyzt_units(units), affine=np.diag([-2.0 * factor, -factor, 3 * factor, 1])
    )
    assert read_header(path).spacing == pytest.approx((3.0, 1.0, 2.0))
    headers_on_one_grid([saved(tmp_path / "mm.nii"), path])


@pytest.mark.parametrize("size", [0.001, 2000.0, 1e-6])
def test_a_size_that_no_voxel_has_is_refused(tmp_path, size):
    with pytest.raises(UnderstudyError, match="units") as caught:
        read_header(saved(tmp_path / "a.nii", affine=np.diag([size, size, size, 1])))
    assert caught.value.where == str(tmp_path / "a.nii")


def test_sform_and_qform_that_turn_a_volume_differently_are_refused(tmp_path):
    def flip(header):
        header.set_qform(np.diag([2.0, -1.0, 3.0, 1.0]), code=1)

    with pytest.raises(UnderstudyError, match="qform"):
        read_header(saved(tmp_path / "flip.nii", flip))
    with pytest.raises(UnderstudyError, match="qform"):
        read_header(saved(tmp_path / "size.nii", lambda h: h.set_qform(np.diag([-1.0, -1.0, 3.0, 1.0]), code=1)))
    moved = np.diag([-2.0, -1.0, 3.0, 1.0])
    moved[:3, 3] = 10, 20, 30
    header = read_header(saved(tmp_path / "moved.nii", lambda h: h.set_qform(moved, code=1)))
    np.testing.assert_array_equal(header.affine, np.diag([-2.0, -1.0, 3.0, 1.0]))  # the sform's
    assert len(header.doubts) == 1
    assert read_header(saved(tmp_path / "same.nii", lambda h: h.set_qform(h.get_sform(), code=1))).doubts == ()


def test_a_header_without_a_position_is_doubtful(tmp_path):
    path = saved(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)  # qform_code, sform_code
    path.write_bytes(content)
    assert [fix for _, fix in read_header(path).doubts]


@pytest.mark.parametrize(
    ("voxels", "fix"),
    [
        (np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "one channel a file"),
        (np.full((4, 4, 4), 3 + 4j, np.complex64), "magnitudes"),
        (np.zeros((4, 4), np.int16), "volume"),
        (np.zeros((4, 4, 4, 2), np.int16), "fslsplit"),
    ],
)
def test_what_is_no_volume_of_grey_values_is_refused(tmp_path, voxels, fix):
    with pytest.raises(UnderstudyError) as caught:
        read_header(saved(tmp_path / "a.nii", voxels=voxels))
    assert fix in (caught.value.fix or "")


def test_names_that_say_another_compression(tmp_path):
    plain = saved(tmp_path / "a.nii")
    plain.rename(tmp_path / "b.nii.gz")
    zipped = saved(tmp_path / "c.nii.gz")
    zipped.rename(tmp_path / "d.nii")
    for path, cure in ((tmp_path / "b.nii.gz", "b.nii"), (tmp_path / "d.nii", "d.nii.gz")):
        with pytest.raises(UnderstudyError) as caught:
            read_header(path)
        assert caught.value.fix == f"rename it to {cure}"


def test_a_header_that_announces_more_than_there_is_takes_no_memory(tmp_path):
    path = saved(tmp_path / "a.nii.gz")
    header = read_header(path)
    claims = replace(header, shape=(1000, 1000, 1000))
    with pytest.raises(UnderstudyError, match="truncated"):
        read_voxels(path, claims)
    bomb = gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 26))
    path.write_bytes(bomb)
    with pytest.raises(UnderstudyError, match="longer than"):
        read_voxels(path, header)
    content = bytearray(saved(tmp_path / "b.nii").read_bytes())
    content[42:48] = np.array([2000, 2000, 2000], "<i2").tobytes()
    (tmp_path / "b.nii").write_bytes(content)
    with pytest.raises(UnderstudyError, match="GB"):
        read_header(tmp_path / "b.nii")


@given(st.sampled_from([-1e-7, 1.0, 1.00000006, 0.9999, 2.0, 254.9999]), st.sampled_from([np.float32, np.float64]))
def test_labels_near_a_whole_number_are_that_number(value, dtype):
    found = whole_numbers(np.array([0, value], dtype), Path("x"))
    assert found.dtype == np.uint8
    assert found.tolist() == [0, round(value)]


@pytest.mark.parametrize("value", [0.5, 1.01, -1.0, np.nan, np.inf, 70_000.0])
def test_other_values_are_no_labels(value):
    with pytest.raises(UnderstudyError) as caught:
        whole_numbers(np.array([0, value]), Path("x"))
    assert caught.value.where == "x"


def test_a_header_without_a_position_is_taken_as_stored(tmp_path):
    """nibabel's convention for it would mirror the array on one that has a position."""
    known = read_header(saved(tmp_path / "a.nii"))
    path = saved(tmp_path / "b.nii")
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)  # qform_code, sform_code
    path.write_bytes(content)
    unknown = read_header(path)
    assert known.same_grid(unknown)
    np.testing.assert_array_equal(slices_of(VOXELS, unknown.like(known)), slices_of(VOXELS, known))
    np.testing.assert_array_equal(known.arranged(VOXELS, unknown), VOXELS)
    with pytest.raises(UnderstudyError) as caught:
        headers_on_one_grid([tmp_path / "a.nii", path])
    assert caught.value.where == str(path)


@pytest.mark.parametrize("order", ["LPS", "RAS", "PIR", "SAL"])
def test_files_on_one_grid_are_arranged_alike(tmp_path, order):
    image = nib.Nifti1Image(VOXELS, np.diag([-2.0, -1.0, 3.0, 1.0]))
    nib.save(image, tmp_path / "a.nii")
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(order)
    )
    nib.save(image.as_reoriented(turn), tmp_path / "b.nii")
    one, other = read_header(tmp_path / "a.nii"), read_header(tmp_path / "b.nii")
    stored = read_voxels(tmp_path / "b.nii", other)
    assert one.same_grid(other)
    np.testing.assert_array_equal(one.arranged(stored, other), VOXELS)
    np.testing.assert_array_equal(slices_of(stored, other.like(one)), slices_of(VOXELS, one))
    np.testing.assert_array_equal(as_stored(slices_of(stored, other.like(one)), other.like(one)), stored)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_long_extension_is_passed_over(tmp_path, name):
    image = nib.Nifti1Image(VOXELS, np.diag([-2.0, -1.0, 3.0, 1.0]))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(4, bytes(np.random.default_rng(0).bytes(200_000))))
    nib.save(image, tmp_path / name)
    header = read_header(tmp_path / name)
    np.testing.assert_array_equal(read_voxels(tmp_path / name, header), VOXELS)


def test_an_sform_to_a_template_may_stretch(tmp_path):
    def to_template(header):
        header.set_qform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
        header["sform_code"] = 4

    assert len(read_header(saved(tmp_path / "a.nii", to_template)).doubts) == 1
