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

from understudy.nifti import read_header, read_voxels
from understudy.errors import UnderstudyError

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
