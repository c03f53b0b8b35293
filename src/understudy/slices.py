"""SliceSet: the one container that all rooms exchange, on disk or in memory.

On disk it is a folder with a Zarr v3 group (`images` uint8 [N, C, H, W], `labels` uint8 [N, H, W] of class indices) and
`index.parquet` (one row a slice). Channels and classes are named, never positional.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from html import escape as html_escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, BaseModel, Field

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, reading, refuse_special, sha256_json, writing
from understudy.io.foreign import SLICES, Budget
from understudy.io.readers import count_rows, read_table
from understudy.io.seals import Files, check_file, check_opened, check_seal, files_of, sealed
from understudy.io.shards import ShardReader, create_sharded, encode_chunk, write_shard
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.lazy import zarr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARD = 256  # slices a shard: 100,000 slices become 391 files, and a killed writer loses at most this many
FORMAT = "understudy-slices-1"
READ = 64  # slices that are read at a time: 21 MB of 256 x 256 pixels with four channels
CACHE_BYTES = 1 << 30
_NAMES = {"id", "subject", "split"}  # columns of an index in which no entry may be missing
_OWN = ("images", "labels", "index", "zarr", "parts", "identity")  # how names in the folder of a set begin
Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Rows = NDArray[np.int64] | Sequence[int] | slice


Distance = Annotated[float, Field(gt=0, lt=1000, allow_inf_nan=False)]  # mm
Spacing = tuple[Distance, Distance, Distance]


def _different(axes: tuple[str, str]) -> tuple[str, str]:
    if any(set(axes) <= set(along) for along in ("LR", "PA", "SI")):
        raise ValueError("rows and columns run along the same axis")
    return axes


Direction = Literal["L", "R", "P", "A", "S", "I"]
SliceAxes = Annotated[tuple[Direction, Direction], AfterValidator(_different)]  # of rows and columns


@dataclass(frozen=True)
class LabelClass:
    """A class of the annotation."""

    name: str  # e.g. "ET"
    source: int  # the value in the source label volumes, e.g. 4 (BraTS 2020)
    code: int  # the 8-bit intensity that stands for the class in a joint image, e.g. 204


class Described(BaseModel):
    """What sets, test volumes and trained generators say of themselves in their files, whatever else they say."""

    channels: list[str] = Field(min_length=1)
    classes: list[LabelClass] = Field(min_length=1, max_length=256)
    spacing: Spacing | None = None
    axes: SliceAxes | None


class _SetMeta(Described):
    attrs: dict[str, Any]
    content_hash: str
    files: dict[str, tuple[int, str]] = {}  # see `io.seals`; older sets have none


BACKGROUND = LabelClass("background", 0, 0)


def evenly_coded(named: Mapping[int, str]) -> tuple[LabelClass, ...]:
    """Classes with codes evenly spaced over 0..255, background first; {1: "lesion"} gives codes 0 and 255."""
    step = 255 / max(1, len(named))
    classes = [LabelClass(name, value, round(step * i)) for i, (value, name) in enumerate(sorted(named.items()), 1)]
    return BACKGROUND, *classes


class Slice(NamedTuple):
    """One slice of a set: image uint8 [C, H, W] and label uint8 [H, W] of class indices."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


# Where the pixels of a set come from: the shape [N, C, H, W], and `read` (`_Stored`: of sorted rows without repeats).
class _Stored:
    def __init__(self, path: Path, group: Any, classes: int = 256, files: Files | None = None) -> None:
        def check(array: str, name: str) -> None:
            if files:
                check_file(path, f"{array}/{name}", files)

        images, labels = group["images"], group["labels"]
        self.path, self.shape, self.classes = path, tuple(images.shape), classes
        if len(self.shape) != 4 or self.shape[2] != self.shape[3] or images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype} {list(self.shape)}, not uint8 [N, C, H, W] with H = W")
        if labels.shape != (self.shape[0], *self.shape[2:]) or labels.dtype != np.uint8:
            raise ValueError(f"labels are {labels.dtype} {list(labels.shape)} for images {list(self.shape)}")
        Budget(path, SLICES).spend(math.prod(self.shape[1:]), self.shape[0])
        arrays = {"images": images, "labels": labels}
        for name in arrays:
            check(name, "zarr.json")
        # zarr's own reading leaves some 200 MB behind in its threads' shares of the heap
        self.readers = [ShardReader(array, path / name, partial(check, name)) for name, array in arrays.items()]

    def read(self, rows: NDArray[np.int64]) -> Arrays:
        with reading(self.path, SLICES):
            images, labels = self.readers[0].read(rows), self.readers[1].read(rows)
            if labels.size and labels.max() >= self.classes:
                raise ValueError(f"there is a label {labels.max()}, but {self.classes} classes")
        return images, labels


class _InMemory:
    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        self.images, self.labels, self.shape = images, labels, images.shape

    def read(self, rows: NDArray[np.int64]) -> Arrays:
        return self.images[rows], self.labels[rows]


class _View:
    def __init__(self, whole: SliceSet, rows: NDArray[np.int64]) -> None:
        self.whole, self.rows = whole, rows
        self.shape: tuple[int, ...] = (len(rows), *whole._source.shape[1:])

    def read(self, rows: NDArray[np.int64]) -> Arrays:
        return self.whole.read(self.rows[rows])


class SliceSet:
    """Slices with their annotations: a set on disk (`open`), arrays (`from_arrays`), or some rows of another (`[]`).

    Attributes:
        path: its folder; None for a set in memory.
        channels: names of the image channels, e.g. ("T1w", "T1wGd", "T2w", "FLAIR").
        classes: `classes[k]` describes label value k; `classes[0]` is the background.
        spacing: (row, column, slice) distance in mm, of the slices as stored; None for sets without one.
        axes: directions of rows and columns as two of "LRAPSI", e.g. ("L", "P"); None where unknown.
        attrs: everything else that was recorded (software version, hashes of the sources, spec).
        cached: whether the pixels are held in memory after the first read.

    Example:
        >>> images, labels = np.zeros((6, 2, 8, 8), np.uint8), np.zeros((6, 8, 8), np.uint8)
        >>> slices = SliceSet.from_arrays(images, labels, patients=list("aabbcc"), channels=["T1w", "FLAIR"])
        >>> slices
        SliceSet(6 slices, 3 patients, T1w + FLAIR, 8 x 8 pixels, classes: lesion, in memory)
        >>> train, val, test = slices.split(seed=1)
        >>> slices[3].image.shape, len(slices[:4]), len(train)
        ((2, 8, 8), 4, 2)
    """

    path: Path | None

    def __init__(
        self, source: _Stored | _InMemory | _View, channels: Sequence[str], classes: Sequence[LabelClass],
        spacing: Sequence[float] | None = None, axes: Sequence[str] | None = None, path: Path | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:  # fmt: skip
        self._source, self.path = source, path
        self.channels, self.classes = tuple(channels), tuple(classes)
        self.spacing: tuple[float, float, float] | None = tuple(spacing) if spacing else None  # type: ignore
        self.axes: tuple[str, str] | None = tuple(axes) if axes else None  # type: ignore
        self.attrs: dict[str, Any] = {}
        self._files: Files = {}  # of a set on disk, see `io.seals`
        self._split: tuple[SliceSet, SliceSet, SliceSet] | None = None
        n, c, h, w = source.shape
        self._held: bool = isinstance(source, _InMemory) or (isinstance(source, _View) and source.whole.cached)
        self.cached: bool = self._held or n * (c + 1) * h * w <= cache_bytes

    @classmethod
    def open(cls, path: str | Path, cache_bytes: int = CACHE_BYTES) -> SliceSet:
        """Opens a set on disk; one of at most `cache_bytes` is held in memory after its first read."""
        path = Path(path)
        if not (path / "index.parquet").is_file():
            fix = "check the path; a folder of images becomes a slice set by us.read(folder, new), `understudy read`"
            if below := sets_below(path):
                fix = f"give one of the slice sets in it: {', '.join(below[:3])}"
            elif _partial(path).exists():
                fix = f"finish the job that writes {_partial(path)}"
            raise UnderstudyError("not a complete slice set", where=path, fix=fix)
        check_opened(path / "zarr.json")
        for name in ("zarr.json", "images/zarr.json", "labels/zarr.json"):  # which zarr opens whatever they are
            refuse_special(path / name)
        with reading(path, SLICES):
            group = zarr.open_group(str(path), mode="r")
            if group.attrs.get("format") != FORMAT:
                raise ValueError("written by another version, or another program")
            check_seal(dict(group.attrs), path / "zarr.json")
            meta = _SetMeta.model_validate(dict(group.attrs))
            if meta.files:
                check_file(path, "index.parquet", meta.files)
            source = _Stored(path, group, len(meta.classes), meta.files)
            if source.shape[1] != len(meta.channels):
                raise ValueError(f"{source.shape[1]} channels with {len(meta.channels)} names")
            if source.shape[0] != (rows := count_rows(path / "index.parquet")):  # before as many slices are believed
                raise ValueError(f"{source.shape[0]:,} slices, but {rows:,} rows of the index")
        opened = cls(source, meta.channels, meta.classes, meta.spacing, meta.axes, path, cache_bytes)
        opened.attrs, opened.content_hash, opened._files = meta.attrs, meta.content_hash, meta.files
        return opened

    @classmethod
    def from_arrays(
        cls, images: ArrayLike, labels: ArrayLike, *, patients: Sequence[Any] | None = None,
        channels: Sequence[str] | None = None, classes: Mapping[int, str] | Sequence[str | LabelClass] = ("lesion",),
        spacing: Sequence[float] | None = None, index: pd.DataFrame | None = None,
    ) -> SliceSet:  # fmt: skip
        """A set in memory.

        Args:
            images: uint8 [N, C, H, W], H = W.
            labels: integers [N, H, W]: 0 for the background, else a class.
            patients: of each slice; needed wherever real patients are split or compared.
            channels: C names; None: "channel1", "channel2", ...
            classes: {value in `labels`: name}, or the names of the values 1 ... K.
            spacing: (row, column, slice) distance, mm.
            index: further columns, one row a slice (e.g. `split`, `z`).
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if images.ndim != 4 or images.shape[2] != images.shape[3] or images.dtype != np.uint8:
            what = f"images are {images.dtype} {list(images.shape)}, not uint8 [N, C, H, W] with H = W"
            raise UnderstudyError(what, fix="scale each image to 0 ... 255, convert to uint8, pad to a square")
        shape = (len(images), *images.shape[2:])
        if labels.shape != shape or labels.dtype.kind not in "iub":
            what = f"labels are {labels.dtype} {list(labels.shape)}, not integers {list(shape)}"
            raise UnderstudyError(what, fix="give one label image of class values for each image")
        if isinstance(channels, str) or isinstance(classes, str):
            raise UnderstudyError("channels and classes are lists of names", fix='e.g. channels=["FLAIR"]')
        spaced = np.ones(3) if spacing is None else np.asarray(spacing)
        if spaced.shape != (3,) or spaced.dtype.kind not in "iuf" or not ((spaced > 0) & (spaced < 1000)).all():
            raise UnderstudyError(f"the spacing is {spacing}", fix="give (row, column, slice) distances below 1000 mm")
        if patients is not None and pd.isna(np.asarray(patients, object)).any():
            raise UnderstudyError("some slices have no patient (None or NaN)", fix="name the patient of every slice")
        coded: Any
        if not isinstance(classes, Mapping) and classes and isinstance(classes[0], LabelClass):
            coded, known = classes, np.arange(len(classes))  # of another set: the values are class indices already
        else:
            named: Any = classes if isinstance(classes, Mapping) else dict(enumerate(map(str, classes), 1))
            if wrong := [key for key in named if not isinstance(key, int | np.integer)]:
                fix = f'e.g. classes={{1: "{wrong[0]}"}}'
                raise UnderstudyError(f"the keys of `classes` are label values, not {wrong[0]!r}", fix=fix)
            if 0 in named:
                raise UnderstudyError("the value 0 is the background, not a class", fix="leave it out of `classes`")
            coded = evenly_coded(named)
            known = np.array([c.source for c in coded])
        if not np.isin(labels, known).all():
            unknown = np.setdiff1d(np.unique(labels), known)[:5].tolist()
            raise UnderstudyError(f"labels have the values {unknown}, which no class has", fix="name them in `classes`")
        columns: dict[str, Any] = {"id": [f"slice{i:06d}" for i in range(len(images))]}
        columns |= {} if patients is None else {"subject": [str(p) for p in patients]}
        columns |= {} if index is None else {str(name): index[name].to_numpy() for name in index}
        if wrong := [name for name, values in columns.items() if len(values) != len(images)]:
            raise UnderstudyError(f"{wrong[0]} has {len(columns[wrong[0]])} entries for {len(images)} slices")
        names = [f"channel{i + 1}" for i in range(images.shape[1])] if channels is None else list(channels)
        if len(names) != images.shape[1] or len(set(names)) != len(names):
            raise UnderstudyError(f"{images.shape[1]} channels need as many different names, not {names}")
        made = cls(_InMemory(images, np.searchsorted(known, labels).astype(np.uint8)), names, coded, spacing)
        made.index, made.attrs = pd.DataFrame(columns), {"software_version": __version__}
        return made

    def __len__(self) -> int:
        return self._source.shape[0]

    @overload
    def __getitem__(self, rows: int) -> Slice: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> SliceSet: ...
    def __getitem__(self, rows: Any) -> Slice | SliceSet:
        """A slice by its number (image, label), or the set of some rows: a slice, numbers or a mask."""
        if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"slice {rows} of {len(self)}")
            images, labels = self.read([int(rows) % len(self)])
            return Slice(images[0], labels[0])
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            mask = rows.dtype == bool and len(rows) == len(self) if rows.ndim == 1 else False
            if rows.ndim != 1 or not (mask or rows.dtype.kind in "iu" or not rows.size):
                what = f"no rows of {len(self)} slices: {rows.dtype} {list(rows.shape)}"
                raise UnderstudyError(what, fix=f"give row numbers, a slice, or a mask of {len(self)} values")
            rows = np.flatnonzero(rows) if mask else rows
        return self.subset(rows)

    def __repr__(self) -> str:
        patients = f", {self.index['subject'].nunique()} patients" if "subject" in self.index else ""
        return (
            f"SliceSet({len(self):,} slices{patients}, {' + '.join(self.channels)}, {self.resolution} x"
            f" {self.resolution} pixels, classes: {', '.join(self.class_names)}, {self.path or 'in memory'})"
        )

    def _repr_html_(self) -> str:
        facts: dict[str, Any] = {
            "slices": f"{len(self):,}", "channels": ", ".join(self.channels), "classes": ", ".join(self.class_names),
            "pixels": f"{self.resolution} x {self.resolution}",
            "patients": self.index["subject"].nunique() if "subject" in self.index else "",
            "spacing": " x ".join(f"{s:g}" for s in self.spacing) + " mm" if self.spacing else "",
        }  # fmt: skip
        rows = [f"<tr><th>{name}</th><td>{html_escape(str(fact))}</td></tr>" for name, fact in facts.items() if fact]
        return f"<table>{''.join(rows)}</table>"

    @property
    def resolution(self) -> int:
        """Height and width in pixels."""
        return int(self._source.shape[-1])

    @property
    def folder(self) -> Path:
        """Where the set is on disk; raises `UnderstudyError` if it is in memory."""
        if self.path is None:
            raise UnderstudyError("the set is only in memory", fix="write it to a folder first: slices.save(folder)")
        return self.path

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes without the background."""
        return tuple(c.name for c in self.classes[1:])

    @property
    def images(self) -> NDArray[np.uint8]:
        """All images, uint8 [N, C, H, W]; of a large set on disk read `blocks` instead."""
        return self.read(slice(None))[0]

    @property
    def labels(self) -> NDArray[np.uint8]:
        """All labels, uint8 [N, H, W] of class indices."""
        return self.read(slice(None))[1]

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row a slice, in the order of the arrays."""
        if self._files:
            check_file(self.folder, "index.parquet", self._files)
        index = read_table(self.folder / "index.parquet")
        for name in _NAMES.intersection(index):
            kind = pd.api.types.infer_dtype(index[name], skipna=False)
            if kind not in ("string", "integer", "categorical") or index[name].isna().any():
                raise SLICES.damaged(
                    self.folder, ValueError(f"the column {name} of its index has entries without a name")
                )
        return index

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of channels, classes, pixels, labels and index."""
        return self._hash()

    @cached_property
    def _pixels(self) -> _Stored | _InMemory | _View:
        if self._held or not self.cached:  # in memory already: in place, those of a view in its whole
            return self._source
        return _InMemory(*self._source.read(np.arange(len(self))))

    def rows(self, **where: Any) -> NDArray[np.int64]:
        """Row numbers whose index columns equal the given values (a list means: any of these)."""
        mask = np.ones(len(self), bool)
        for column, value in where.items():
            values = value if isinstance(value, list | tuple | set | frozenset) else [value]
            mask &= self.index[column].isin(list(values)).to_numpy()
        return np.flatnonzero(mask)

    def subset(self, rows: Rows) -> SliceSet:
        """The set of these rows, in the order given; nothing is copied before it is read."""
        rows = self._numbers(rows)
        part = SliceSet(_View(self, rows), self.channels, self.classes, self.spacing, self.axes)
        part.index, part.attrs = self.index.iloc[rows].reset_index(drop=True), dict(self.attrs)
        return part

    def split(
        self, test: float | None = None, val: float | None = None, seed: int | None = None
    ) -> tuple[SliceSet, SliceSet, SliceSet]:
        """Training, validation and test slices by patient: `test` and `val` of all patients, at least one each.

        None: 0.2, 0.2, seed 0. A split that the index records (column `split`, as `understudy prepare` writes it) is
        kept; asking for another one raises `UnderstudyError`.
        """
        if "split" in self.index:
            if (test, val, seed) != (None, None, None):
                fix = "call split() without arguments, or forget it: del slices.index['split']"
                raise UnderstudyError("the index records a split, which is kept", where=self.path, fix=fix)
            train, validation, tested = (self.subset(self.rows(split=part)) for part in ("train", "val", "test"))
            return train, validation, tested
        if "subject" not in self.index:
            what = "the set does not say which patient a slice is of, and slices of one patient are alike"
            fix = "name the patients: SliceSet.from_arrays(..., patients=...)"
            raise UnderstudyError(what, where=self.path, fix=fix)
        test, val = 0.2 if test is None else test, 0.2 if val is None else val
        patients = np.random.default_rng(seed or 0).permutation(np.unique(self.index["subject"].astype(str)))
        possible = test > 0 and val > 0 and test + val < 1
        counts = [max(1, round(part * len(patients))) for part in (test, val) if possible]
        if not possible or len(patients) <= sum(counts):
            what = f"no split of {len(patients)} patients into {test:g} for testing and {val:g} for validation"
            fix = "use at least three patients, and parts above 0 that leave some for training (together below 1)"
            raise UnderstudyError(what, where=self.path, fix=fix)
        of_test, of_val, of_train = np.split(patients, np.cumsum(counts))
        train, validation, tested = (self.subset(self.rows(subject=list(p))) for p in (of_train, of_val, of_test))
        self._split = train, validation, tested
        return self._split

    @property
    def last_split(self) -> tuple[SliceSet, SliceSet, SliceSet]:
        """The parts of the last `split` of this set, or of `split()`: all that follows has the same patients."""
        return self._split or self.split()

    def _numbers(self, rows: Rows) -> NDArray[np.int64]:
        """Row numbers 0 ... N - 1."""
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        numbers = np.asarray(rows, np.int64)
        if ((numbers < -len(self)) | (numbers >= len(self))).any():
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of {len(self)} slices in {self.path}")
        return numbers % max(1, len(self))

    def read(self, rows: Rows) -> Arrays:
        """Images uint8 [n, C, H, W] and labels uint8 [n, H, W] of the rows, in the order given (repeats allowed)."""
        numbers = self._numbers(rows)
        if not isinstance(self._pixels, _Stored):
            return self._pixels.read(numbers)
        unique, inverse = np.unique(numbers, return_inverse=True)
        images, labels = self._pixels.read(unique)
        if len(unique) == len(numbers) and (inverse[:-1] < inverse[1:]).all():
            return images, labels
        return images[inverse], labels[inverse]

    def blocks(
        self, rows: NDArray[np.int64] | None = None, size: int = READ
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]]:
        """Streams (rows, images, labels) in blocks of `size` slices; memory does not grow with the set."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            images, labels = self.read(block)
            yield block, images, labels

    def plot(self, count: int = 6, seed: int = 0) -> NDArray[Any]:
        """Draws `count` random slices with the outlines of their annotation; returns the axes [C, count]."""
        import matplotlib.pyplot as plt

        if count < 1 or not len(self):
            raise UnderstudyError(f"nothing to draw: {count} of {len(self)} slices", fix="draw at least one")
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        images, labels = self.read(chosen)
        shape = (len(self.channels), len(chosen))
        _, grid = plt.subplots(*shape, figsize=(1.6 * shape[1], 1.7 * shape[0]), squeeze=False)
        ax: Axes
        for (channel, column), ax in np.ndenumerate(grid):
            ax.imshow(images[column, channel], cmap="gray", vmin=0, vmax=255)
            for k in range(1, len(self.classes)):
                if (labels[column] == k).any():
                    ax.contour(labels[column] == k, [0.5], colors=[f"C{k}"], linewidths=1)
            ax.set(xticks=[], yticks=[], title=str(chosen[column]) if channel == 0 else "")
            ax.set_ylabel(self.channels[channel] if column == 0 else "")
        return grid

    def save(self, path: str | Path, replace: bool = False, **attrs: Any) -> SliceSet:
        """Writes the set, which must not be empty, to a folder and opens it there; `attrs` are recorded with it.

        Raises `UnderstudyError` for a folder that holds anything else, but for other slices with `replace`.
        """
        meta = self.channels, self.classes, self.resolution, self.spacing, self.axes
        replace = replace or (_is_set(Path(path)) and SliceSet.open(path).content_hash == self.content_hash)
        writer = SliceWriter(path, *meta, identity={"content": self.content_hash}, replace=replace)
        for rows, images, labels in self.blocks(np.arange(writer.done, len(self))):
            writer.append(images, labels, self.index.iloc[rows])
        return writer.close(**{k: v for k, v in self.attrs.items() if k != "software_version"}, **attrs)

    def verify(self) -> None:
        """Computes the content hash again; raises `UnderstudyError` if it is not what was written."""
        if self._hash() != self.content_hash:
            raise UnderstudyError("the slice set was changed or damaged", where=self.path, fix="write it again")

    def _hash(self) -> str:
        digest = _start_hash({"channels": list(self.channels), "classes": [asdict(c) for c in self.classes]})
        _add_to_hash(digest, self._source, len(self))
        return _end_hash(digest, self.index)


class SliceWriter:
    """Writes a SliceSet in whole shards; continues a partial set of the same identity.

    Args:
        path: the folder that the finished set will have.
        identity: what is being written (spec, seed, hashes of inputs); with another one a partial set is begun anew.
        seal: record a hash of each file, so that readers notice damage.
        replace: another slice set there when this one is finished, instead of refusing it.

    Example:
        >>> import tempfile
        >>> writer = SliceWriter(tempfile.mkdtemp() + "/set", ["FLAIR"], evenly_coded({1: "lesion"}), resolution=8)
        >>> images, labels = np.zeros((3, 1, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
        >>> writer.append(images, labels, [{"id": str(i)} for i in range(3)])
        >>> len(writer.close())
        3
    """

    def __init__(
        self, path: str | Path, channels: Sequence[str], classes: Sequence[LabelClass], resolution: int,
        spacing: Sequence[float] | None = None, axes: Sequence[str] | None = None,
        identity: dict[str, Any] | None = None, replace: bool = False, seal: bool = True,
    ) -> None:  # fmt: skip
        self.path, self._partial, self._seal = Path(path), _partial(Path(path)), seal
        self._meta = {
            "format": FORMAT, "channels": list(channels), "classes": [asdict(c) for c in classes],
            "spacing": [float(s) for s in spacing] if spacing else None, "axes": list(axes) if axes else None,
        }  # fmt: skip
        self._shape = (len(channels), resolution, resolution)
        self._identity = sha256_json({"meta": self._meta, "identity": identity or {}, "resolution": resolution})
        # Of the shard that is not full yet: slices compressed, labels as they are (hashed after the slices), rows.
        self._chunks: list[tuple[bytes | None, bytes | None]] = []
        self._labels_to_hash: list[NDArray[np.uint8]] = []
        self._rows: list[pd.DataFrame] = []
        self.done = 0  # slices that are safely on disk: after an interruption, append from this one on
        with writing(self.path):
            self._refuse_others(replace)
            self._open()

    def _refuse_others(self, replace: bool) -> None:
        """Raises for folders that hold anything but an earlier set, if it may be replaced, or a part of one."""
        earlier = _is_set(self.path)
        for folder, replaceable in ((self._partial, True), (self.path, replace and earlier)):
            names = [path.name for path in folder.iterdir()] if folder.exists() else []
            own = all(name.lstrip(".").startswith(_OWN) for name in names)  # nothing that somebody put beside the set
            if names and not (replaceable and own):
                fix = "use a new folder" + (", or save(folder, replace=True)" if earlier and own else "")
                raise UnderstudyError("the folder is not empty, and is not replaced", where=folder, fix=fix)

    def _open(self) -> None:
        stamp = self._partial / "identity"
        if stamp.is_file() and stamp.read_text() == self._identity:
            group = zarr.open_group(str(self._partial), mode="r+")
            self._images, self._labels = group["images"], group["labels"]
        else:
            shutil.rmtree(self._partial, ignore_errors=True)
            (self._partial / "parts").mkdir(parents=True)
            group = zarr.open_group(str(self._partial), mode="w")
            (self._partial / "parts").mkdir(exist_ok=True)
            self._images = create_sharded(group, "images", self._shape, SHARD)
            self._labels = create_sharded(group, "labels", self._shape[1:], SHARD)
            with atomic_path(stamp) as temporary:
                temporary.write_text(self._identity)
        for part in self._parts():
            if count_rows(part) == SHARD and part == self._part(self.done):
                self.done += SHARD
            else:  # shorter, of a writer that was killed while closing
                part.unlink()
        self._digest = _start_hash(self._meta)
        _add_to_hash(self._digest, _Stored(self._partial, group), self.done)

    def _part(self, start: int) -> Path:
        return self._partial / "parts" / f"{start:012d}.parquet"

    def _parts(self) -> list[Path]:
        return sorted((self._partial / "parts").glob("*.parquet"))

    def append(
        self, images: NDArray[np.uint8], labels: NDArray[np.uint8], rows: pd.DataFrame | Sequence[dict[str, Any]]
    ) -> None:
        """Adds images uint8 [n, C, H, W] with labels uint8 [n, H, W] and one index row each; raises for any other."""
        frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        n = len(frame)
        if (images.shape, labels.shape) != ((n, *self._shape), (n, *self._shape[1:])):
            what = f"{n} rows, slices {images.shape} and labels {labels.shape} do not fit a set of {self._shape}"
            raise UnderstudyError(what, where=self.path)
        if images.dtype != np.uint8 or labels.dtype != np.uint8:
            raise UnderstudyError(f"slices must be uint8, not {images.dtype}/{labels.dtype}", where=self.path)
        start = 0
        while start < n:
            stop = min(n, start + SHARD - len(self._chunks))
            block, marks = images[start:stop], labels[start:stop]
            with ThreadPoolExecutor(2) as pool:  # slices are compressed while they are hashed
                chunks = pool.map(lambda image, label: (encode_chunk(image), encode_chunk(label)), block, marks)
                self._digest.update(np.ascontiguousarray(block).data)
                self._chunks += chunks
            self._labels_to_hash.append(marks.copy())
            self._rows.append(frame.iloc[start:stop])
            start = stop
            if len(self._chunks) == SHARD:
                self._flush()

    def _flush(self) -> None:
        """Writes the slices taken so far as a shard."""
        stop = self.done + len(self._chunks)
        with writing(self.path):
            of_images, of_labels = zip(*self._chunks, strict=True)
            for name, array, chunks in (("images", self._images, of_images), ("labels", self._labels, of_labels)):
                array.resize((stop, *array.shape[1:]))
                write_shard(self._partial / name, self.done // SHARD, chunks, SHARD, array.ndim - 1)
            with atomic_path(self._part(self.done)) as temporary:
                pd.concat(self._rows, ignore_index=True).to_parquet(temporary, index=False)
        for labels in self._labels_to_hash:
            self._digest.update(labels.data)
        self.done = stop
        self._chunks, self._labels_to_hash, self._rows = [], [], []

    def close(self, **attrs: Any) -> SliceSet:
        """Writes what is pending, index, content hash and `attrs` (plain JSON), and names the set; raises if empty."""
        if self._chunks:
            self._flush()
        if not self.done:
            raise UnderstudyError("no slices to write", where=self.path, fix="check the slice rule and the cohort")
        with writing(self.path):
            self._images.resize((self.done, *self._shape))  # type: ignore[union-attr]
            self._labels.resize((self.done, *self._shape[1:]))  # type: ignore[union-attr]
            index = pd.concat([read_table(p) for p in self._parts()], ignore_index=True)
            digest = _end_hash(self._digest, index)
            recorded = {"content_hash": digest, "attrs": {"software_version": __version__, **attrs}}
            index.to_parquet(self._partial / "index.parquet", index=False)
            shutil.rmtree(self._partial / "parts")
            (self._partial / "identity").unlink()
            content = {**self._meta, **recorded}
            if self._seal:
                files = files_of(self._partial)
                del files["zarr.json"]  # which holds this list
                content = sealed({**content, "files": files})
            zarr.open_group(str(self._partial), mode="r+").attrs.update(content)
            if self.path.exists():  # out of the way in one step: a kill leaves no half of it
                os.replace(self.path, self._partial / "parts")
            os.replace(self._partial, self.path)
            shutil.rmtree(self.path / "parts", ignore_errors=True)
        return SliceSet.open(self.path)


def sets_below(path: Path) -> list[str]:
    """The slice sets in the folder of a study or of one of its jobs."""
    patterns = ("slices/index.parquet", "jobs/*/slices/index.parquet")
    return [str(found.parent) for pattern in patterns for found in sorted(path.glob(pattern))]


def _is_set(path: Path) -> bool:
    return (path / "index.parquet").is_file() and (path / "zarr.json").is_file()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _start_hash(meta: dict[str, Any]) -> Any:
    return hashlib.sha256(sha256_json({k: meta[k] for k in ("channels", "classes")}).encode())


def _add_to_hash(digest: Any, source: _Stored | _InMemory | _View, count: int) -> None:
    # the images of a shard, then its labels, then those of the next one
    for start in range(0, count, SHARD):
        rows = np.arange(start, min(start + SHARD, count))
        blocks = [source.read(rows[part : part + READ]) for part in range(0, len(rows), READ)]
        for array in (array for arrays in zip(*blocks, strict=True) for array in arrays):
            digest.update(np.ascontiguousarray(array).data)


def _end_hash(digest: Any, index: pd.DataFrame) -> str:
    digest.update(index.to_csv(index=False, lineterminator="\n").encode())
    return str(digest.hexdigest())
