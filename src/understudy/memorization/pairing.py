"""The two sets of a search, matched by the names of channels and classes, and how they are cut into tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.errors import UnderstudyError
from understudy.memorization.views import MAX_PIXELS
from understudy.slices import SliceSet

Block = tuple[NDArray[np.uint8], NDArray[np.uint8]]
READ = 64  # slices that are read at a time where they go into an array of their own
TILE_BYTES = 48 << 20  # pixels of the training slices of a tile
LEAST = 16  # queries and training slices of the smallest tile


class Pairing(NamedTuple):
    """Queries and training slices that fit together.

    Attributes:
        queries, training: the sets; not held in memory if that would take more than a third of what is allowed.
        query_rows, training_rows: int64; those of the training ascending, without repeats.
        channels, classes: names, in the order of the training set, classes without the background.
        channel_order: position of each of `channels` in the queries.
        class_values: uint8, training label of every label of the queries.
        apart: int64 codes of query and training rows; pairs of equal codes are not compared.
    """

    queries: SliceSet
    training: SliceSet
    query_rows: NDArray[np.int64]
    training_rows: NDArray[np.int64]
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    channel_order: list[int]
    class_values: NDArray[np.uint8]
    apart: tuple[NDArray[np.int64], NDArray[np.int64]] | None

    @classmethod
    def of(cls, queries: SliceSet, training: SliceSet, query_rows: ArrayLike | None,
           training_rows: ArrayLike | None, apart: tuple[ArrayLike, ArrayLike] | None, annotation: bool,
           memory_bytes: int) -> Pairing:  # fmt: skip
        """Matches the sets.

        Raises:
            UnderstudyError: other channels, other classes (if `annotation`), another resolution, no rows.
        """
        _check(queries, training, annotation)
        of_queries, of_training = _rows(queries, query_rows), _rows(training, training_rows)
        codes = None
        if apart is not None:
            codes = _codes(apart, of_queries, of_training)
        unique, first = np.unique(of_training, return_index=True)
        if codes is not None:
            codes = codes[0], codes[1][first]
        names = list(training.class_names)
        values = [0, *(names.index(n) + 1 if n in names else 0 for n in queries.class_names)]
        return cls(
            queries=_bounded(queries, memory_bytes // 3), training=_bounded(training, memory_bytes // 3),
            query_rows=of_queries, training_rows=unique, channels=training.channels, classes=training.class_names,
            channel_order=[queries.channels.index(c) for c in training.channels],
            class_values=np.array(values, np.uint8), apart=codes)  # fmt: skip

    @property
    def pixels(self) -> int:
        """Pixels of a channel."""
        return self.training.resolution**2

    def identity(self) -> list[object]:
        """What the result depends on, beside the views and transforms."""
        arrays = [self.query_rows, self.training_rows, *(self.apart or ())]
        return [self.queries.content_hash, self.training.content_hash, *(a.tolist() for a in arrays)]

    def query_blocks(self, start: int, stop: int) -> Iterator[tuple[int, int, Block]]:
        """Streams (start, stop, (images [n, C, H, W], labels [n, H, W])) of positions among the queries' rows."""
        for first in range(start, stop, READ):
            last = min(stop, first + READ)
            images, labels = self.queries.read(self.query_rows[first:last])
            yield first, last, (images[:, self.channel_order], self.class_values[labels])

    def training_blocks(self) -> Iterator[Block]:
        """Streams (images, labels) of the training rows."""
        for first in range(0, len(self.training_rows), READ):
            yield self.training.read(self.training_rows[first : first + READ])


def _check(queries: SliceSet, training: SliceSet, annotation: bool) -> None:
    where = f"{queries.path} and {training.path}"
    if set(queries.channels) != set(training.channels):
        raise UnderstudyError(
            f"the sets have different channels: {', '.join(queries.channels)} and {', '.join(training.channels)}",
            where=where, fix="prepare both from the same channels")  # fmt: skip
    if queries.resolution != training.resolution:
        raise UnderstudyError(
            f"the sets have different sizes: {queries.resolution} and {training.resolution} pixels",
            where=where, fix="prepare both with the same resolution")  # fmt: skip
    if annotation and set(queries.class_names) != set(training.class_names):
        raise UnderstudyError(
            f"the sets have different classes: {', '.join(queries.class_names) or 'none'} and"
            f" {', '.join(training.class_names) or 'none'}",
            where=where, fix="prepare both with the same classes, or leave the view 'annotation' out")  # fmt: skip
    if len(training.channels) * training.resolution**2 > MAX_PIXELS:
        raise UnderstudyError(
            f"a slice may have at most {MAX_PIXELS:,} pixels in all channels", where=training.path,
            fix="prepare the set with a lower resolution")  # fmt: skip


def _rows(slices: SliceSet, rows: ArrayLike | None) -> NDArray[np.int64]:
    found = np.arange(len(slices)) if rows is None else np.asarray(rows, np.int64)
    if not len(found):
        raise UnderstudyError("no slices to compare", where=slices.path, fix="check the rows that were chosen")
    if found.min() < 0 or found.max() >= len(slices):
        raise UnderstudyError(
            f"rows {found.min()}..{found.max()} of a set of {len(slices)} slices", where=slices.path,
            fix="choose rows of this set")  # fmt: skip
    return found


def _codes(apart: tuple[ArrayLike, ArrayLike], of_queries: NDArray[np.int64], of_training: NDArray[np.int64]
           ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    codes = tuple(np.asarray(a, np.int64) for a in apart)
    if len(codes[0]) != len(of_queries) or len(codes[1]) != len(of_training):
        raise UnderstudyError("apart must hold one code for every row", fix="give codes for the chosen rows only")
    return codes[0], codes[1]


def _bounded(slices: SliceSet, limit: int) -> SliceSet:
    """The set, opened anew without its cache if holding it would take more than `limit` bytes."""
    size = len(slices) * slices.resolution**2 * (len(slices.channels) + 1)
    return slices if size <= limit or slices.path is None else SliceSet.open(slices.path, cache_bytes=0)


class Tiles(NamedTuple):
    """Queries and training slices that are compared at a time."""

    queries: int
    training: int

    def of_queries(self, count: int) -> list[tuple[int, int]]:
        """(start, stop) of every tile of `count` queries."""
        return [(s, min(count, s + self.queries)) for s in range(0, count, self.queries)]


def plan_tiles(pair: Pairing, memory_bytes: int, tile: Sequence[int] | None, annotation: bool) -> Tiles:
    """As many queries a tile as fit: the training set is read once a tile of queries.

    A query takes its int8 pixels and the layers of its annotation; a training slice is held raw, decoded, as int8 and
    transformed, and as float32 for the prefilter (10 times its pixels); a pair takes an int32 product and a float32
    bound a view, and 16 bytes of the annotation's.

    Raises:
        UnderstudyError: not even the smallest tile fits.
    """
    image, classes = pair.pixels * len(pair.channels), len(pair.classes) if annotation else 0
    query = image + pair.pixels * (1 + classes) + image // 8  # the last for the prefilter
    training = 10 * (image + pair.pixels)
    product = 8 * len(pair.channels) + 8 + (16 if annotation else 0)  # and the prefilter's bounds
    if tile is not None:
        return Tiles(max(1, tile[0]), max(1, tile[1]))
    cached = sum(
        len(s) * (image + pair.pixels) for s in {id(s): s for s in (pair.queries, pair.training)}.values() if s.cached
    )
    free = memory_bytes - cached - 2 * READ * query
    wide = int(np.clip(min(TILE_BYTES // image, free // 3 // training), LEAST, 2048))
    tall = (free - wide * training) // (query + wide * product)
    if tall < LEAST:
        # Small sets are held in memory: up to two thirds of what is allowed.
        least = 3 * (2 * READ * query + LEAST * (training + query + LEAST * product))
        raise UnderstudyError(
            f"{memory_bytes / 2**20:,.0f} MiB of memory do not hold the smallest tile", where="memory_bytes",
            fix=f"allow at least {-(-least // 2**20):,.0f} MiB")  # fmt: skip
    return Tiles(int(min(tall, len(pair.query_rows))), min(wide, len(pair.training_rows)))
