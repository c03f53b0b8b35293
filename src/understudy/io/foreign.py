"""Files that others made: what reading one may cost, and what is said of a damaged one.

Every reader works inside `files.reading(path, KIND)`. What a file claims is compared with the bytes that are there
before room is made for it, and copies and views are charged to a `Budget`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError, first_line

MB, GB = 1 << 20, 1 << 30
DEFLATE = 1032  # bytes that one byte of gzip, zip or PNG can hold at most
_INTACT = "replace the file by an intact copy (download or export it again)"
_AGAIN = "make it again, or restore it from a copy"
_DOUBT = "check where the file comes from: no file of this kind and size needs so much"


class OverBudget(UnderstudyError):
    """Reading a file would take more than a file of its kind and size can need."""


def _numpy_words(path: Path, error: BaseException) -> tuple[str, str]:
    text = first_line(error)
    with open(path, "rb") as handle:
        start = handle.read(8)
    what, fix = f"the array cannot be read ({text})", "save it again (numpy.save), or replace it by an intact copy"
    if not start.startswith((b"\x93NUMPY", b"PK", b"\x80")):  # .npy, .npz, pickle
        what = f"this is not a NumPy file: it begins with {start!r}" if start else "the file is empty"
    elif start.startswith(b"\x80") or "Python objects" in text or "Object arrays" in text:
        what = "the file holds pickled Python objects, which are never executed"
        fix = "save plain numeric arrays with numpy.save or numpy.savez"
    return what, fix


def _image_words(path: Path, error: BaseException) -> tuple[str, str]:
    reason = "it is not an image" if type(error).__name__ == "UnidentifiedImageError" else first_line(error)
    return f"the image cannot be read ({reason})", "replace it by an intact copy"


@dataclass(frozen=True)
class Kind:
    """A format, what may be made of one file of it, and the words for a damaged one."""

    what: str
    fix: str = _INTACT
    most: int = 2 * GB  # bytes that may be made of one file ...
    times: int | None = None  # ... and no more than so many for each of its bytes, besides ...
    least: int = 0  # ... so many for any file
    items: int = 1 << 62  # entries, values or operations
    depth: int = 1 << 62  # levels inside each other
    words: Callable[[Path, BaseException], tuple[str, str]] | None = None  # what and fix by the error

    def damaged(self, path: str | Path, error: BaseException) -> UnderstudyError:
        """What is said where reading raised `error`."""
        reason = "nested too deep" if isinstance(error, RecursionError) else first_line(error)
        if type(error).__name__ == "ValidationError":  # pydantic's: its first line only counts the errors
            first = error.errors()[0]  # type: ignore[attr-defined]
            reason = f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
        plain = f"{self.what} ({reason[:300]})", self.fix
        what, fix = self.words(Path(path), error) if self.words else plain
        return UnderstudyError(what, where=path, fix=fix)


# The limits of all formats. Memory is 2 GB for one file wherever nothing else is said: more than any volume, patient
# or table of scores needs (800 slices of 1024 x 1024 in 16 bits), and what every machine that trains a network has.
# Below that, a file may take what an honest one of its size can take, and no more.
NIFTI = Kind("truncated or damaged file", times=8 * DEFLATE)  # 8: scaled voxels are doubles
NUMPY = Kind("the array cannot be read", times=DEFLATE, least=MB, words=_numpy_words)
PNG = Kind("the image cannot be read", most=64 * MB, times=DEFLATE, least=MB, words=_image_words)
# run lengths shrink without a limit; 8 bytes a cell: 130 million cells, such as 3 million rows of scores
PARQUET = Kind("the table cannot be read", _AGAIN, most=GB)
# an empty shard takes nothing: the rows are compared with the table's; items: slices
SLICES = Kind("the slice set cannot be read", "write it again", most=256 * MB, items=1 << 31)  # of one slice
VOLUMES = Kind("the test volumes cannot be read", "prepare the cohort again", most=GB)  # labels of one, resampled
MODEL = Kind("the model cannot be loaded", "train it again, or restore the folder from a copy")
WEIGHTS = Kind("the weights cannot be read safely", "give a state dict (tensors only), safetensors, or TorchScript")
# a value in Python takes 30 to 200 bytes, in JSON two
JSON = Kind("not a JSON file", "restore it, or delete it", most=256 * MB, items=10_000_000)  # of text
READING = Kind("the reading study cannot be read", "prepare the study again")
DESCRIPTIONS = Kind(
    "the description of the images cannot be used", "restore it, or delete it: `understudy read --help`"
)
# a value takes PyYAML a tenth of a millisecond, and an alias repeats all that it stands for
YAML = Kind("not a valid YAML file", "give a UTF-8 text file of `name: value` lines", most=MB, items=100_000, depth=40)
# decoded values, their views as single precision, and the networks that are filled with them; items: operations
CHECKPOINT = Kind(
    "the file is damaged or not a checkpoint", "download it again and compare its size or checksum with the source",
    most=64 * GB, times=16, least=32 * MB, items=2_000_000,
)  # fmt: skip
TEXT = Kind("the table or list cannot be read", "save it as UTF-8 text, a line an entry, columns separated by tabs")
PARTICIPANT_TABLE = Kind(
    "the table of participants cannot be read", "save it as tab-separated UTF-8 text, or set `participants: null`"
)
TAR = Kind("the tar file cannot be read", "use an intact copy", most=256 * MB)  # of one member
MATLAB = Kind("not a readable MATLAB file", "give the authors' .mat file, or save the vector with save('-v7')")


class Budget:
    """What reading one file may still use."""

    def __init__(self, path: str | Path, kind: Kind, size: int | None = None) -> None:
        """`size`: bytes of the file; None: as it is on disk."""
        self.path, self.kind, self.items = path, kind, kind.items
        size = Path(path).stat().st_size if size is None else size
        self.memory = kind.most if kind.times is None else min(kind.most, kind.least + kind.times * size)
        self._words = f"{self.memory / GB:.2g} GB" if kind.times is None else f"its {size:,} bytes can need"

    def spend(self, memory: int = 0, items: int = 0, depth: int = 0) -> None:
        """Takes bytes and entries off, and looks at a depth; raises `OverBudget` before room for them is made."""
        self.memory -= memory
        self.items -= items
        if self.memory < 0:
            raise OverBudget(f"the file asks for more memory than {self._words}", self.path, _DOUBT)
        if self.items < 0:
            raise OverBudget(f"the file has more than {self.kind.items:,} entries or steps", self.path, _DOUBT)
        if depth > self.kind.depth:
            raise OverBudget(f"the file is nested too deep: more than {self.kind.depth} levels", self.path, _DOUBT)


def not_finite(values: NDArray[np.generic]) -> str | None:
    """E.g. "2 NaN or infinite values of 4,096, the first at [0, 3, 7]"; None if there is none."""
    if values.dtype.kind != "f" or not values.size or np.isfinite([values.min(), values.max()]).all():
        return None  # a NaN stays one in both
    bad = ~np.isfinite(values)
    place = ", ".join(map(str, np.unravel_index(int(bad.argmax()), values.shape)))
    return f"{np.count_nonzero(bad):,} NaN or infinite values of {values.size:,}, the first at [{place}]"
