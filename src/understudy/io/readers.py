"""Readers of whole files in foreign formats, each within its budget (see `foreign`); nothing is ever unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import reading
from understudy.io.foreign import MODEL, NUMPY, PARQUET, Budget, Kind, OverBudget

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

_LARGEST = 1e10  # of a weight; those of trained networks stay below 1e5
Network = TypeVar("Network", bound="nn.Module")
Config = TypeVar("Config")


def array_header(stream: IO[bytes], held: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order (whether Fortran's) and type of an array in a stream of `held` bytes; ValueError for no array."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > held:
        raise ValueError(f"it is said to have the shape {shape}, but holds {held:,} bytes")
    return shape, fortran, dtype


def read_array(path: Path, member: str = "") -> NDArray[Any]:
    """A `.npy` file, or a member of a `.npz` file."""
    if member:
        return read_arrays(path, member)[member]
    with reading(path, NUMPY), open(path, "rb") as handle:
        return _array(handle, path.stat().st_size, Budget(path, NUMPY))


def read_arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file: those named, which must be there, or all."""
    with reading(path, NUMPY), zipfile.ZipFile(path) as archive:
        budget, found = Budget(path, NUMPY), dict[str, NDArray[Any]]()
        for name in names or array_names(archive):
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as stream:
                found[name] = _array(stream, entry.file_size, budget)
        return found


def array_names(archive: zipfile.ZipFile) -> tuple[str, ...]:
    """The names of the arrays in an open `.npz` file."""
    return tuple(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))


def _array(stream: IO[bytes], held: int, budget: Budget) -> NDArray[Any]:
    shape, fortran, dtype = array_header(stream, held)
    size = math.prod(shape) * dtype.itemsize
    budget.spend(size)
    content = bytearray(stream.read(size))  # so that the array may be changed
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")


def read_table(path: Path, *columns: str) -> pd.DataFrame:
    """A Parquet file as a table; raises `UnderstudyError` where one of the `columns` is missing."""
    import pandas as pd
    from pyarrow import parquet

    with reading(path, PARQUET):
        said = parquet.read_metadata(path)
        Budget(path, PARQUET).spend(8 * said.num_rows * said.num_columns)
        frame = pd.read_parquet(path)
    if missing := [name for name in columns if name not in frame]:
        raise UnderstudyError(f"the table has no column {', '.join(missing)}", where=path, fix=PARQUET.fix)
    return frame


def count_rows(path: Path) -> int:
    """The rows of a Parquet file, of which nothing but the footer is read."""
    from pyarrow import parquet

    with reading(path, PARQUET):
        return int(parquet.read_metadata(path).num_rows)


def read_tensors(path: Path, kind: Kind = MODEL) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose library compares the header with the bytes that are there.

    Weights that are NaN, infinite or of an absurd size are damage: the network would run with them all the same.
    """
    import safetensors.torch

    with reading(path, kind):
        found = safetensors.torch.load_file(path)
        for name, tensor in found.items():
            if tensor.is_floating_point() and tensor.numel() and not float(tensor.abs().max()) < _LARGEST:  # NaN too
                raise ValueError(f"{name} has values that are NaN, infinite, or above {_LARGEST:g}")
        return found


def built(build: Callable[[Config], Network], config: Config, held: Iterable[Any], path: Path) -> Network:
    """The network of a configuration that comes from the file `path`, which holds these arrays or tensors.

    It is first counted on torch's `meta` device, where it takes no memory: a file may hold one of two networks, but
    not claim one of another order of size (`OverBudget`).
    """
    import torch

    with torch.device("meta"):
        wanted = sum(tensor.numel() for tensor in build(config).state_dict().values())
    there = sum(math.prod(values.shape) for values in held)
    if wanted > 4 * there + (4 << 20):
        what = f"the file claims a network of {wanted:,} numbers, and holds {there:,}"
        raise OverBudget(what, where=path, fix="check where the file comes from")
    return build(config)
