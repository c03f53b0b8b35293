"""Label files of all kinds as two arrays: what is accepted, and what to do where they are not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from understudy.errors import UnderstudyError
from understudy.metrics.files import file_pairs, read_pair

LABELS = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)


def test_endings_may_be_in_capital_letters(tmp_path: Path) -> None:
    for folder, names in (("a", ("P1.NII.GZ", "p2.NPY")), ("b", ("P1.nii.gz", "p2.npy"))):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(LABELS, np.eye(4)), tmp_path / folder / "x.nii.gz")
        (tmp_path / folder / "x.nii.gz").rename(tmp_path / folder / names[0])
        with open(tmp_path / folder / names[1], "wb") as handle:
            np.save(handle, LABELS)
    pairs, notes = file_pairs(tmp_path / "a", tmp_path / "b")
    assert [pair[0].name for pair in pairs] == ["P1.NII.GZ", "p2.NPY"]
    assert notes == []
    for pair in pairs:
        read = read_pair(*pair)
        assert read.name == pair[1].name.split(".")[0]
        np.testing.assert_array_equal(read.truth, LABELS)


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_an_array_in_another_order_is_to_be_transposed(tmp_path: Path, order: tuple[int, int, int]) -> None:
    np.save(tmp_path / "a.npy", LABELS)
    np.save(tmp_path / "b.npy", LABELS.transpose(order))
    with pytest.raises(UnderstudyError) as caught:
        read_pair(tmp_path / "a.npy", tmp_path / "b.npy")
    back = tuple(np.argsort(order).tolist())
    assert f"transpose{back}" in str(caught.value.fix)
    np.save(tmp_path / "b.npy", LABELS[:-1])
    with pytest.raises(UnderstudyError) as caught:
        read_pair(tmp_path / "a.npy", tmp_path / "b.npy")
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
        read_pair(tmp_path / "a.npy", path)
    assert caught.value.where == str(path)
    assert cure in str(caught.value.fix)


@pytest.mark.parametrize(("array", "cure"), [(LABELS[0], "array[None]"), (LABELS[None], "one volume")])
def test_another_number_of_axes_is_told_with_what_to_do(tmp_path: Path, array: np.ndarray, cure: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnderstudyError) as caught:
        read_pair(tmp_path / "a.npy", tmp_path / "a.npy")
    assert cure in str(caught.value.fix)
