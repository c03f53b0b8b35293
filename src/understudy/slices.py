"""SliceSet: the one container that all rooms exchange.

A folder that holds a Zarr v3 group (`images` uint8 [N, C, H, W], `labels` uint8 [N, H, W] of class indices) and
`index.parquet` (one row a slice). Channels and classes are named, never positional. A set is written under
`<path>.partial` in whole shards and takes its name only when it is complete, so an interrupted writer continues
where its last shard ended and no reader ever sees half a set.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, sha256_json, writing
from understudy.io.shards import ShardReader, create_sharded, encode_chunk, write_shard
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.lazy import zarr

SHARD = 256  # slices a shard: 100,000 slices become 391 files, and a killed writer loses at most this many
FORMAT = "understudy-slices-1"
READ = 64  # slices that are read at a time: 21 MB of 256 x 256 pixels with four channels
_THREADS = 2  # that compress slices while they are hashed


@dataclass(frozen=True)
class LabelClass:
    """A class of the annotation.

    Attributes:
        name: e.g. "ET".
        source: the value in the source label volumes, e.g. 4 (BraTS 2020).
        code: the 8-bit intensity that stands for the class in a joint image, e.g. 204.
    """

    name: str
    source: int
    code: int


BACKGROUND = LabelClass("background", 0, 0)


def evenly_coded(named: dict[int, str]) -> tuple[LabelClass, ...]:
    """Classes with codes evenly spaced over 0..255, background first; {1: "lesion"} gives codes 0 and 255."""
    step = 255 / max(1, len(named))
    return BACKGROUND, *(
        LabelClass(name, value, round(step * (i + 1))) for i, (value, name) in enumerate(sorted(named.items()))
    )


class SliceSet:
    """A complete set of slices on disk, opened for reading.

    Attributes:
        path: the folder.
        channels: names of the image channels, e.g. ("T1w", "T1wGd", "T2w", "FLAIR").
        classes: `classes[k]` describes label value k; `classes[0]` is the background.
        spacing: (row, column, slice) distance in mm, of the slices as stored; None for sets without one.
        axes: directions of rows and columns as two of "LRAPSI", e.g. ("L", "P"); None where unknown.
        attrs: everything else that was recorded (software version, hashes of the sources, spec).
    """

    def __init__(self, path: str | Path, cache_bytes: int = 1 << 30) -> None:
        self.path = Path(path)
        if not (self.path / "index.parquet").is_file():
            partial = _partial(self.path)
            below = sets_below(self.path)
            fix = (
                f"finish the job that writes {partial}"
                if partial.exists()
                else ("check the path; a folder of images becomes a slice set by `understudy read FOLDER NEW`")
            )
            fix = f"give one of the slice sets in it: {', '.join(below[:3])}" if below else fix
            raise UnderstudyError("not a complete slice set", where=self.path, fix=fix)
        group = zarr.open_group(str(self.path), mode="r")
        meta = dict(group.attrs)
        if meta.get("format") != FORMAT:
            raise UnderstudyError("unknown slice set format", where=self.path, fix="write it again with this version")
        self._images, self._labels = group["images"], group["labels"]
        try:
            self._readers = _readers(self.path, group)
        except ValueError as error:
            raise UnderstudyError(
                f"unknown layout of a slice set: {error}", where=self.path, fix="write it again"
            ) from error
        self.channels: tuple[str, ...] = tuple(meta["channels"])  # type: ignore[arg-type]
        self.classes: tuple[LabelClass, ...] = tuple(LabelClass(**c) for c in meta["classes"])  # type: ignore[union-attr,arg-type]
        self.spacing: tuple[float, float, float] | None = tuple(meta["spacing"]) if meta["spacing"] else None  # type: ignore
        self.axes: tuple[str, str] | None = tuple(meta["axes"]) if meta["axes"] else None  # type: ignore
        self.content_hash: str = str(meta["content_hash"])
        self.attrs: dict[str, Any] = dict(meta["attrs"])  # type: ignore[call-overload]
        self._small = self._images.nbytes + self._labels.nbytes <= cache_bytes  # type: ignore[union-attr]

    @classmethod
    def open(cls, path: str | Path, cache_bytes: int = 1 << 30) -> SliceSet:
        """Opens a complete set; one of at most `cache_bytes` is held in memory after its first read.

        Raises:
            UnderstudyError: absent, incomplete or of another format.
        """
        return cls(path, cache_bytes)

    def __len__(self) -> int:
        return int(self._images.shape[0])  # type: ignore[union-attr]

    @property
    def resolution(self) -> int:
        """Height and width in pixels."""
        return int(self._images.shape[-1])  # type: ignore[union-attr]

    @property
    def cached(self) -> bool:
        """Whether the pixels are held in memory after the first read."""
        return bool(self._small)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes without the background."""
        return tuple(c.name for c in self.classes[1:])

    @cached_property
    def index(self) -> pd.DataFrame:
        """One row a slice, in the order of the arrays."""
        return pd.read_parquet(self.path / "index.parquet")

    @cached_property
    def _cache(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return self._decoded(np.arange(len(self)))

    def rows(self, **where: Any) -> NDArray[np.int64]:
        """Row numbers whose index columns equal the given values (a list means: any of these)."""
        mask = np.ones(len(self), bool)
        for column, value in where.items():
            values = value if isinstance(value, list | tuple | set | frozenset) else [value]
            mask &= self.index[column].isin(list(values)).to_numpy()
        return np.flatnonzero(mask)

    def read(self, rows: NDArray[np.int64] | Sequence[int] | slice) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images uint8 [n, C, H, W] and labels uint8 [n, H, W] of the rows, in the order given (repeats allowed)."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows, np.int64)
        if self._small:
            images, labels = self._cache
            return images[rows], labels[rows]
        if ((rows < -len(self)) | (rows >= len(self))).any():
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} slices in {self.path}")
        unique, inverse = np.unique(rows % len(self), return_inverse=True)
        images, labels = self._decoded(unique)
        if len(unique) == len(rows) and (inverse[:-1] < inverse[1:]).all():
            return images, labels
        return images[inverse], labels[inverse]

    def _decoded(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        with _reading(self.path):
            images, labels = (reader.read(rows) for reader in self._readers)
        return images, labels

    def blocks(
        self, rows: NDArray[np.int64] | None = None, size: int = READ
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]]:
        """Streams (rows, images, labels) in blocks of `size` slices; memory does not grow with the set."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            images, labels = self.read(block)
            yield block, images, labels

    def verify(self) -> None:
        """Computes the content hash again.

        Raises:
            UnderstudyError: the content is not what was written.
        """
        meta = {"channels": list(self.channels), "classes": [asdict(c) for c in self.classes]}
        digest = _start_hash(meta)
        with _reading(self.path):
            _add_to_hash(digest, self._readers, len(self))
        if _end_hash(digest, self.index) != self.content_hash:
            raise UnderstudyError("the slice set was changed or damaged", where=self.path, fix="write it again")


class SliceWriter:
    """Writes a SliceSet in whole shards; continues a partial set of the same identity.

    Args:
        path: the folder that the finished set will have.
        channels, classes, resolution, spacing, axes: as in `SliceSet`.
        identity: what is being written (spec, seed, hashes of inputs); a partial set with another identity is
            started anew.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> writer = SliceWriter(folder + "/set", ["FLAIR"], evenly_coded({1: "lesion"}), resolution=8)
        >>> images, labels = np.zeros((3, 1, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
        >>> writer.append(images, labels, [{"id": str(i)} for i in range(3)])
        >>> len(writer.close())
        3
    """

    def __init__(
        self,
        path: str | Path,
        channels: Sequence[str],
        classes: Sequence[LabelClass],
        resolution: int,
        spacing: Sequence[float] | None = None,
        axes: Sequence[str] | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        self.path, self._partial = Path(path), _partial(Path(path))
        self._meta = {
            "format": FORMAT,
            "channels": list(channels),
            "classes": [asdict(c) for c in classes],
            "spacing": [float(s) for s in spacing] if spacing else None,
            "axes": list(axes) if axes else None,
        }
        self._shape = (len(channels), resolution, resolution)
        self._identity = sha256_json({"meta": self._meta, "identity": identity or {}, "resolution": resolution})
        # Of the shard that is not full yet: slices compressed, labels as they are (hashed after the slices), rows.
        self._chunks: list[tuple[bytes | None, bytes | None]] = []
        self._labels_to_hash: list[NDArray[np.uint8]] = []
        self._rows: list[pd.DataFrame] = []
        with writing(self.path):
            self._open()

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
        self._written = self._whole_shards()
        self._digest = _start_hash(self._meta)
        _add_to_hash(self._digest, _readers(self._partial, group), self._written)

    def _whole_shards(self) -> int:
        """Slices in whole shards; a shorter one, of a writer that was killed while closing, is given up."""
        written = 0
        for part in self._parts():
            if len(pd.read_parquet(part)) == SHARD and part == self._part(written):
                written += SHARD
            else:
                part.unlink()
        return written

    def _part(self, start: int) -> Path:
        return self._partial / "parts" / f"{start:012d}.parquet"

    def _parts(self) -> list[Path]:
        return sorted((self._partial / "parts").glob("*.parquet"))

    @property
    def done(self) -> int:
        """Slices that are safely on disk: after an interruption, append from this one on."""
        return self._written

    def append(
        self, images: NDArray[np.uint8], labels: NDArray[np.uint8], rows: pd.DataFrame | Sequence[dict[str, Any]]
    ) -> None:
        """Adds slices: images uint8 [n, C, H, W], labels uint8 [n, H, W], one index row each.

        Raises:
            UnderstudyError: wrong shape or dtype, disk full, no permission.
        """
        frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        n = len(frame)
        if images.shape != (n, *self._shape) or labels.shape != (n, *self._shape[1:]):
            raise UnderstudyError(
                f"slices of shape {images.shape} and labels of shape {labels.shape} for {n} index rows do not fit a set"
                f" of {self._shape}", where=self.path)  # fmt: skip
        if images.dtype != np.uint8 or labels.dtype != np.uint8:
            raise UnderstudyError(f"slices must be uint8, not {images.dtype}/{labels.dtype}", where=self.path)
        start = 0
        while start < n:
            stop = min(n, start + SHARD - len(self._chunks))
            self._take(images[start:stop], labels[start:stop], frame.iloc[start:stop])
            start = stop
            if len(self._chunks) == SHARD:
                self._flush()

    def _take(self, images: NDArray[np.uint8], labels: NDArray[np.uint8], rows: pd.DataFrame) -> None:
        """Compresses and hashes slices of one shard."""
        with ThreadPoolExecutor(_THREADS) as pool:
            chunks = pool.map(lambda image, label: (encode_chunk(image), encode_chunk(label)), images, labels)
            self._digest.update(np.ascontiguousarray(images).data)
            self._chunks += chunks
        self._labels_to_hash.append(labels.copy())
        self._rows.append(rows)

    def _flush(self) -> None:
        """Writes the slices taken so far as a shard."""
        stop = self._written + len(self._chunks)
        with writing(self.path):
            of_images, of_labels = zip(*self._chunks, strict=True)
            for name, array, chunks in (("images", self._images, of_images), ("labels", self._labels, of_labels)):
                array.resize((stop, *array.shape[1:]))
                write_shard(self._partial / name, self._written // SHARD, chunks, SHARD, array.ndim - 1)
            with atomic_path(self._part(self._written)) as temporary:
                pd.concat(self._rows, ignore_index=True).to_parquet(temporary, index=False)
        for labels in self._labels_to_hash:
            self._digest.update(labels.data)
        self._written = stop
        self._chunks, self._labels_to_hash, self._rows = [], [], []

    def close(self, **attrs: Any) -> SliceSet:
        """Writes what is pending, the index, the content hash and `attrs` (plain JSON values), and names the set.

        Raises:
            UnderstudyError: the set is empty, disk full, no permission.
        """
        if self._chunks:
            self._flush()
        if not self._written:
            raise UnderstudyError("no slices to write", where=self.path, fix="check the slice rule and the cohort")
        with writing(self.path):
            self._images.resize((self._written, *self._shape))  # type: ignore[union-attr]
            self._labels.resize((self._written, *self._shape[1:]))  # type: ignore[union-attr]
            index = pd.concat([pd.read_parquet(p) for p in self._parts()], ignore_index=True)
            digest = _end_hash(self._digest, index)
            group = zarr.open_group(str(self._partial), mode="r+")
            group.attrs.update(
                {**self._meta, "content_hash": digest, "attrs": {"software_version": __version__, **attrs}}
            )
            index.to_parquet(self._partial / "index.parquet", index=False)
            shutil.rmtree(self._partial / "parts")
            (self._partial / "identity").unlink()
            shutil.rmtree(self.path, ignore_errors=True)
            os.replace(self._partial, self.path)
        return SliceSet.open(self.path)


def _readers(path: Path, group: Any) -> list[ShardReader]:
    """Of images and labels. zarr's own reading leaves some 200 MB behind in its threads' shares of the heap."""
    return [ShardReader(group[name], path / name) for name in ("images", "labels")]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise UnderstudyError(f"the slices cannot be read ({error})", where=path, fix="write the set again") from error


def sets_below(path: Path) -> list[str]:
    """The slice sets in the folder of a study or of one of its jobs."""
    patterns = ("slices/index.parquet", "jobs/*/slices/index.parquet")
    return [str(found.parent) for pattern in patterns for found in sorted(path.glob(pattern))]


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _start_hash(meta: dict[str, Any]) -> Any:
    return hashlib.sha256(sha256_json({k: meta[k] for k in ("channels", "classes")}).encode())


def _add_to_hash(digest: Any, readers: Sequence[ShardReader], count: int) -> None:
    """The images of a shard, then its labels, then those of the next one."""
    for start in range(0, count, SHARD):
        rows = np.arange(start, min(start + SHARD, count))
        for reader in readers:
            for part in range(0, len(rows), READ):
                digest.update(reader.read(rows[part : part + READ]).data)


def _end_hash(digest: Any, index: pd.DataFrame) -> str:
    digest.update(index.to_csv(index=False, lineterminator="\n").encode())
    return str(digest.hexdigest())
