"""MATLAB files: honest ones, one that crashes SciPy, one that hangs it, one that asks for gigabytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from understudy.errors import UnderstudyError
from understudy.io import matlab
from understudy.io.matlab import read_mat


def _mat(content: dict[str, object], flipped: int | None = None, mask: int = 0) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, content)
    raw = bytearray(buffer.getvalue())
    if flipped is not None:
        raw[flipped] ^= mask
    return bytes(raw)


VECTOR = {"p": np.arange(1, 8.0)}
STRUCTS = {"d": np.array([(f"BraTS_{i}",) for i in range(3)], dtype=[("name", object)])}


def test_vectors_and_names(tmp_path: Path) -> None:
    (tmp_path / "p.mat").write_bytes(_mat({**VECTOR, **STRUCTS, "seed": 3, "nan": np.array([1, np.nan])}))
    found = read_mat(tmp_path / "p.mat")
    assert found.vectors == {"p": list(range(1, 8))}
    assert found.names == [["BraTS_0", "BraTS_1", "BraTS_2"]]


@pytest.mark.parametrize(("content", "flipped", "mask"), [(VECTOR, 176, 1), (VECTOR, 177, 128), (STRUCTS, 163, 4)])
def test_a_file_that_kills_or_hangs_the_parser_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: dict[str, object], flipped: int, mask: int
) -> None:
    """Two crash SciPy 1.x (SIGSEGV, SIGBUS), the third keeps it busy for minutes."""
    (tmp_path / "p.mat").write_bytes(_mat(content, flipped, mask))
    code = Path(matlab.__file__).read_text().replace("SECONDS, MEMORY = 20,", "SECONDS, MEMORY = 3,")
    (tmp_path / "quick.py").write_text(code)  # the same with a limit of three seconds
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(matlab.__file__).parents[2]}")
    monkeypatch.setattr(matlab, "__name__", "quick")
    with pytest.raises(UnderstudyError, match="not a readable MATLAB file"):
        read_mat(tmp_path / "p.mat")


def test_what_is_no_matlab_file(tmp_path: Path) -> None:
    (tmp_path / "p.mat").write_bytes(b"P" * 400)
    with pytest.raises(UnderstudyError, match="not a readable MATLAB file"):
        read_mat(tmp_path / "p.mat")
    with pytest.raises(UnderstudyError, match="not found"):
        read_mat(tmp_path / "absent.mat")
