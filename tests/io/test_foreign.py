"""Files that claim more than they hold, and wrappers that keep the cause of an error."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import BaseModel
from safetensors.numpy import save_file

from understudy.errors import Interrupted, UnderstudyError
from understudy.exchange.pixels import read_png
from understudy.io.files import read_json, reading
from understudy.io.foreign import CHECKPOINT, JSON, NUMPY, PARQUET, SLICES, Budget, OverBudget, not_finite
from understudy.io.nifti import read_header
from understudy.io.readers import built, read_array, read_arrays, read_table, read_tensors
from understudy.io.yaml import load_yaml


def test_a_budget_is_the_smaller_of_its_two_limits() -> None:
    small, large = Budget("x", CHECKPOINT, 1000), Budget("x", PARQUET, 1000)
    assert small.memory == (32 << 20) + 16_000
    assert large.memory == 1 << 30
    with pytest.raises(OverBudget, match="more memory than its 1,000 bytes"):
        small.spend(33 << 20)
    with pytest.raises(OverBudget, match="more memory than 1 GB"):
        large.spend((1 << 30) + 1)
    entries = Budget("x", replace(JSON, items=3, depth=2), 10)
    entries.spend(items=3, depth=2)
    with pytest.raises(OverBudget, match="more than 3 entries"):
        entries.spend(items=1)
    with pytest.raises(OverBudget, match="nested too deep"):
        Budget("x", replace(JSON, depth=2), 10).spend(depth=3)


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("a"), RecursionError("a"), OSError("a"), struct.error("a")])
def test_whatever_parsing_raises_names_the_file_and_keeps_its_cause(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="the table cannot be read") as caught, reading(tmp_path / "t", PARQUET):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.where == str(tmp_path / "t")
    assert caught.value.fix == PARQUET.fix


@pytest.mark.parametrize("error", [NameError, AssertionError, ImportError, MemoryError, Interrupted])
def test_our_own_mistakes_and_a_lack_of_memory_pass(error: type[Exception]) -> None:
    with pytest.raises(error), reading("file", JSON):
        raise error("ours")


def test_a_schema_says_which_field_is_wrong() -> None:
    class Form(BaseModel):
        size: int

    with pytest.raises(UnderstudyError, match=r"slice set cannot be read \(size: "), reading("set", SLICES):
        Form.model_validate({"size": "x"})


def nifti(shape: tuple[int, int, int], slope: float = 1.0, code: int = 4, bits: int = 16) -> bytes:
    """A NIfTI-1 header without voxels."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, slope, 0)
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    header[344:348] = b"n+1\0"
    return bytes(header)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nifti((2048, 2048, 1024)), "announces 8.0 GB"),
        (nifti((1024, 1024, 512)), "1,073,742,176 bytes are announced"),
        (nifti((1024, 1024, 512), slope=2.0, code=2, bits=8), "announces 4.0 GB"),  # as doubles
        (nifti((64, 64, 64), slope=float("nan")), r"slope|scales|damaged"),
    ],
)
def test_a_small_nifti_cannot_claim_gigabytes(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(content))
    assert path.stat().st_size < 200
    with pytest.raises(UnderstudyError, match=message):
        read_header(path)


def npz(path: Path, shape: str, content: bytes = b"", name: str = "a.npy") -> Path:
    """A .npz file with one array of a claimed shape."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content)
    return path


def test_arrays_within_what_the_file_holds(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    np.savez_compressed(tmp_path / "a.npz", x=values, y=np.zeros(0))
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.npz", "x")["x"], values)
    assert set(read_arrays(tmp_path / "a.npz")) == {"x", "y"}
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), values)
    with pytest.raises(UnderstudyError, match="no item named"):
        read_array(tmp_path / "a.npz", "z")
    for shape in ("(10000000000,)", "(-1,)", "(1099511627776, 1099511627776)"):
        with pytest.raises(UnderstudyError, match=r"shape|read"):
            read_arrays(npz(tmp_path / "b.npz", shape, b"\0" * 8))
    bomb = npz(tmp_path / "c.npz", "(8388608,)", bytes(8 << 20))  # honest: 8 kB that inflate to 8 MB
    assert len(read_arrays(bomb)["a"]) == 8 << 20
    few = replace(NUMPY, times=10, least=0)
    with pytest.raises(OverBudget):
        Budget(bomb, few).spend(8 << 20)


def test_a_table_needs_its_columns_and_a_plausible_size(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [1, 2]}).to_parquet(path)
    assert read_table(path, "a")["a"].tolist() == [1, 2]
    with pytest.raises(UnderstudyError, match="no column b"):
        read_table(path, "a", "b")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UnderstudyError, match="the table cannot be read"):
        read_table(path)


def test_a_picture_is_measured_before_it_is_decoded(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(out, "PNG")
    for edge, error in ((9000, OverBudget), (2000, OverBudget), (60_000, UnderstudyError)):  # Pillow refuses the last
        content = bytearray(out.getvalue())
        struct.pack_into(">2I", content, 16, edge, edge)
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(error):
            read_png(tmp_path / "a.png")


def test_json_is_counted_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.io.files.JSON", replace(JSON, items=100))
    (tmp_path / "a.json").write_text(json.dumps([[]] * 99))
    with pytest.raises(OverBudget, match="entries"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UnderstudyError):
        read_json(tmp_path / "a.json")


def aliases(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (aliases(7), "100,000 entries"),
        ("a: &a [*a]", "nested too deep"),
        ("a: &a {b: *a}", "nested too deep"),
        ("[" * 5000, "nested too deep"),
        ("a: [" + "x," * 100_001 + "]", "100,000 entries"),
        ("a: 1\na: 2", "given twice"),
        ("x" * (2 << 20), "more memory"),
    ],
)
def test_yaml_has_a_budget(text: str, message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        load_yaml(text, "study.yaml")
    content, lines = load_yaml(aliases(4), "study.yaml")
    assert content["a3"][9][9][9][9] == "x"
    assert lines["a3",] == 4


def test_a_network_is_measured_before_it_is_built(tmp_path: Path) -> None:
    import torch

    save_file({"weight": np.zeros((4, 4), np.float32)}, tmp_path / "w.safetensors")
    held = read_tensors(tmp_path / "w.safetensors").values()
    assert built(lambda n: torch.nn.Linear(n, n, bias=False), 4, held, tmp_path).weight.device.type == "cpu"
    with pytest.raises(OverBudget, match="claims a network of 10,000,000,000 numbers, and holds 16"):
        built(lambda n: torch.nn.Linear(n, n, bias=False), 100_000, held, tmp_path)


def test_values_that_are_no_numbers_are_counted_and_placed() -> None:
    values = np.zeros((2, 3, 4), np.float32)
    assert not_finite(values) is None
    assert not_finite(values.astype(np.uint8)) is None
    values[1, 2, 0], values[1, 2, 3] = np.inf, np.nan
    assert not_finite(values) == "2 NaN or infinite values of 24, the first at [1, 2, 0]"
