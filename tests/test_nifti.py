"""Reading volumes: damage is told from intact files exactly where zlib tells it."""

from __future__ import annotations

import gzip
import hashlib
import zlib

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.nifti import VolumeHeader, as_stored, read_header, read_voxels, slices_of

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


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL", "ILA"])
def test_slices_go_back_to_the_order_in_which_they_were_stored(axes):
    affine = np.eye(4)
    for column, letter in enumerate(axes):
        row, sign = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}[letter]
        affine[:3, column] = 0
        affine[row, column] = sign
    header = VolumeHeader(VOXELS.shape, VOXELS.dtype, 0, 1.0, 0.0, affine)
    assert header.axes == axes
    np.testing.assert_array_equal(as_stored(slices_of(VOXELS, header), header), VOXELS)
