"""Exact nearest neighbours: for every query slice its most similar training slice, in several views.

Both sets are read in tiles, so that memory does not grow with them, and a killed search continues where it was. Up to
the last step everything is an integer: the result does not depend on tiles, memory, threads or machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, sha256_json, write_text
from understudy.io.readers import read_arrays
from understudy.memorization.exact import MAX_PIXELS, Annotations, Best, Correlations, Ints, Side, signed
from understudy.memorization.views import ANNOTATION, SHOWN, Pixels, View, inverse, named_views, transform
from understudy.roles import Part
from understudy.runtime.devices import resolve_device
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.progress import Meter, track
from understudy.slices import SliceSet

Floats = NDArray[np.float64]

SAVE_EVERY = 60.0  # seconds between two times that an unfinished tile is stored
READ = 64  # slices that are read at a time where they go into an array of their own
TILE_BYTES = 48 << 20  # pixels of the training slices of a tile
LEAST = 16  # queries and training slices of the smallest tile

# the best partner so far of a query in one view under one transform: what is compared (-inf without a partner), the
# covariance or the number of agreeing pixels, the partner's variance or annotated pixels, its row (-1 without one)
WINNER = np.dtype([("key", np.float64), ("value", np.int64), ("size", np.int64), ("row", np.int64)])


def nearest(
    queries: Part, training: Part, *, skip_itself: bool = False, views: Sequence[str] = SHOWN,
    transforms: Sequence[int] = (0,), memory_bytes: int = 2 << 30, tile: tuple[int, int] | None = None,
    work_dir: Path | None = None, device: str = "cpu", progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """The most similar training slice of every query.

    Args:
        queries, training: rows of sets of the same resolution, channels and (for the annotation) classes, matched by
            name. The mean image is the mean of the training rows.
        skip_itself: a query is not compared with the training slice of the same row, to search a set within itself.
        transforms: of the query, tried beside each other, see `views.transform`.
        memory_bytes: for pixels and products, beside the 0.5 GB of a process with torch.
        tile: (queries, training slices) a tile; None chooses them from `memory_bytes`.
        work_dir: keeps what is found, so that a killed search continues.

    Returns:
        One row a query, in order: `row`, and for every view V `V.score` (Pearson correlation in -1..1, or Dice in
        0..1; NaN where undefined: constant image, empty annotation, no partner), `V.row` (of the best training slice,
        else -1) and `V.transform` (of the query, else 0). Ties, and correlations that differ by less than the rounding
        of float64, go to the lowest training row, then transform. `attrs["compared"]`: pairs compared by this call.
    """
    named = named_views(views, training.slices.channels)
    transforms = tuple(sorted(set(transforms)))
    pair = _Pair(queries, training, skip_itself, ANNOTATION in named, memory_bytes)
    tiles = tile or _tiles(pair, memory_bytes, ANNOTATION in named)
    groups: dict[Callable[[Pixels], Pixels] | None, dict[str, View]] = {}
    for name, view in named.items():  # views of the same pixels share their products
        groups.setdefault(view.pixels, {})[name] = view
    tables, compared = [], 0
    for number, own in enumerate(groups.values()):
        folder = work_dir / str(number) if work_dir and number else work_dir
        store = _Store(folder, sha256_json([2, pair.identity, tuple(own), transforms, tiles[0]]))
        search = _Search(pair, own, transforms, tiles, store, resolve_device(device))
        tables.append(search.run(progress))
        compared += search.compared
    columns = ["row", *(f"{name}.{field}" for name in named for field in ("score", "row", "transform"))]
    found = pd.concat([tables[0], *(t.drop(columns="row") for t in tables[1:])], axis=1)[columns]
    found.attrs["compared"] = compared
    return found


class _Pair:
    """Queries and training slices, matched by the names of channels and classes."""

    def __init__(self, asked: Part, known: Part, skip_itself: bool, annotation: bool, memory_bytes: int) -> None:
        queries, training, self.skip_itself = asked.slices, known.slices, skip_itself
        kinds = {
            "channels": (queries.channels, training.channels),
            "sizes": ((f"{queries.resolution} pixels",), (f"{training.resolution} pixels",)),
            "classes": (queries.class_names, training.class_names),
        }
        for kind, (mine, theirs) in kinds.items():
            if set(mine) != set(theirs) and (annotation or kind != "classes"):
                what = f"the sets have different {kind}: {', '.join(mine) or 'none'} and {', '.join(theirs) or 'none'}"
                where = f"{queries.path} and {training.path}"
                raise UnderstudyError(what, where=where, fix=f"prepare both with the same {kind}")
        if len(training.channels) * training.resolution**2 > MAX_PIXELS:
            what = f"a slice may have at most {MAX_PIXELS:,} pixels in all channels"
            raise UnderstudyError(what, where=training.path, fix="prepare at a lower resolution")
        self.query_rows, self.training_rows = asked.rows, np.unique(known.rows)
        names = list(training.class_names)
        self.channel_order = [queries.channels.index(c) for c in training.channels]
        # training label of every label of the queries
        values = [0, *(names.index(n) + 1 if n in names else 0 for n in queries.class_names)]
        self.class_values = np.array(values, np.uint8)
        self.queries, self.training = (
            # without its cache, if that took more than a third of the memory
            SliceSet.open(slices.path, cache_bytes=0)
            if slices.path and len(slices) * slices.resolution**2 * (len(slices.channels) + 1) > memory_bytes // 3
            else slices
            for slices in (queries, training)
        )
        rows = self.query_rows.tolist(), self.training_rows.tolist()
        # what the result depends on, beside views and transforms
        self.identity = [self.queries.content_hash, self.training.content_hash, *rows, skip_itself]


def _tiles(pair: _Pair, memory_bytes: int, annotation: bool) -> tuple[int, int]:
    """(queries, training slices) a tile: as many queries as fit, since the training set is read once a tile of them."""
    channels, pixels = len(pair.training.channels), pair.training.resolution**2
    image = channels * pixels
    query = image + pixels * (1 + (len(pair.training.class_names) if annotation else 0))  # int8, layers of the classes
    training = 6 * (image + pixels)  # raw, decoded, as int8 and transformed
    product = 8 * channels + 8 + (16 if annotation else 0)  # of a pair
    held = {id(s): s for s in (pair.queries, pair.training)}.values()
    free = memory_bytes - sum(len(s) * (image + pixels) for s in held if s.cached)
    wide = int(np.clip(min(TILE_BYTES // image, free // 3 // training), LEAST, 2048))
    tall = (free - 2 * READ * query - wide * training) // (query + wide * product)
    if tall < LEAST:
        # small sets are held in memory: up to two thirds of what is allowed
        least = 3 * (2 * READ * query + LEAST * (training + query + LEAST * product))
        what = f"{memory_bytes / 2**20:,.0f} MiB of memory do not hold the smallest tile"
        raise UnderstudyError(what, where="memory_bytes", fix=f"allow at least {-(-least // 2**20):,.0f} MiB")
    return int(min(tall, len(pair.query_rows))), min(wide, len(pair.training_rows))


class _Search:
    """One search in views of the same pixels, tile after tile."""

    def __init__(
        self, pair: _Pair, views: dict[str, View], transforms: Sequence[int], tiles: tuple[int, int], store: _Store,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.pair, self.views, self.tiles, self.store, self.device = pair, tuple(views), tiles, store, device
        self.transforms, self.compared = tuple(transforms), 0
        self.change = next(iter(views.values())).pixels  # the same for all views of a search
        self.image_views = [v for v, name in enumerate(self.views) if name != ANNOTATION]
        self.annotation = self.views.index(ANNOTATION) if ANNOTATION in views else None
        count = len(pair.training_rows)
        if (stored := store.load("training")) is not None:
            total = stored["total"]
        else:
            blocks = (self._training(first, first + READ)[0] for first in range(0, count, READ))
            total = sum(images.sum(0, dtype=np.int64) for images in blocks)
            store.save("training", total=total)
        mean = ((2 * total + count) // (2 * count)).astype(np.uint8)  # rounded to 8 bits, halves up
        self.correlations = Correlations([views[self.views[v]] for v in self.image_views], mean, device)

    def _training(self, start: int, stop: int) -> tuple[Pixels, Pixels]:
        """Images [n, C, H, W] and labels [n, H, W] of positions among the training rows."""
        images, labels = self.pair.training.read(self.pair.training_rows[start:stop])
        return (images if self.change is None else self.change(images)), labels

    def _queries(self, start: int, stop: int) -> tuple[list[Side], Annotations | None]:
        """A tile of queries, for every transform."""
        pair, size = self.pair, self.pair.training.resolution**2
        pixels = torch.empty((len(pair.channel_order), stop - start, size), dtype=torch.int8)
        labels = torch.empty((stop - start, size), dtype=torch.uint8)
        for first in range(start, stop, READ):
            here = slice(first - start, min(stop, first + READ) - start)
            images, annotation = pair.queries.read(pair.query_rows[first : min(stop, first + READ)])
            images = images[:, pair.channel_order]
            changed = images if self.change is None else self.change(images)
            pixels[:, here] = signed(torch.from_numpy(changed)).flatten(2).transpose(0, 1)
            labels[here] = torch.from_numpy(pair.class_values[annotation]).flatten(1)
        pixels = pixels.to(self.device)
        # cov(Tx, m) = cov(x, T^-1 m): the mean is turned back instead of every query
        sides = [self.correlations.side(pixels, k) for k in self.transforms]
        if self.annotation is None:
            return sides, None
        return sides, Annotations(labels.to(self.device), len(pair.training.class_names))

    def run(self, progress: bool) -> pd.DataFrame:
        """The whole table, tile after tile, from what an earlier run has stored or by comparing."""
        count, size = len(self.pair.query_rows), self.tiles[0]
        tiles = [(start, min(count, start + size)) for start in range(0, count, size)]
        parts = [self.store.load(f"queries-{start:09d}") or {"done": np.int64(0)} for start, _ in tiles]
        done = sum((stop - start) * int(part["done"]) for (start, stop), part in zip(tiles, parts, strict=True))
        work, frames = count * len(self.pair.training_rows) * len(self.transforms), []
        with track(work, "nearest neighbours", "pairs", done * len(self.transforms), progress) as meter:
            for (start, stop), part in zip(tiles, parts, strict=True):
                table = part["table"] if "table" in part else self._tile(start, stop, part, meter)
                columns: dict[str, Any] = {"row": self.pair.query_rows[start:stop]}
                for v, view in enumerate(self.views):
                    columns[f"{view}.score"] = table[v, 0]
                    columns[f"{view}.row"], columns[f"{view}.transform"] = table[v, 1:].astype(np.int64)
                frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _tile(self, start: int, stop: int, part: dict[str, Any], meter: Meter) -> Floats:
        """Score, row and transform [V, 3, q] of queries start..stop; `part`: how far an earlier run came."""
        count, done, name = len(self.pair.training_rows), int(part["done"]), f"queries-{start:09d}"
        best = np.zeros((len(self.views), len(self.transforms), stop - start), WINNER)
        best["key"], best["row"] = -np.inf, -1
        best = part.get("best", best)
        (sides, annotated), saved = self._queries(start, stop), time.monotonic()
        for first in range(done, count, self.tiles[1]):
            last = min(count, first + self.tiles[1])
            self._compare(sides, annotated, self.pair.query_rows[start:stop], first, last, best)
            meter.advance((stop - start) * (last - first) * len(self.transforms))
            if last < count and time.monotonic() - saved > SAVE_EVERY:
                self.store.save(name, done=np.int64(last), best=best)
                saved = time.monotonic()
        table = np.empty((len(self.views), 3, stop - start))
        for i, v in enumerate(self.image_views):
            # for equal images the square root is exact, and so is the score: 1
            own = np.stack([side.variances[i] for side in sides])  # [T, q]
            size = own.astype(np.float64) * best[v]["size"].astype(np.float64)
            defined = (best[v]["row"] >= 0) & (size > 0)
            scores = np.where(defined, best[v]["value"] / np.sqrt(np.where(defined, size, 1.0)), np.nan)
            table[v] = self._overall(scores, best[v]["row"])
        if self.annotation is not None:
            rows, dice = best[self.annotation]["row"], best[self.annotation]["key"]
            table[self.annotation] = self._overall(np.where(rows >= 0, dice, np.nan), rows)
        self.store.save(name, done=np.int64(count), table=table)
        return table

    def _overall(self, scores: Floats, rows: Ints) -> Floats:
        """The best over the transforms, [3, q], of scores and rows [T, q]."""
        turns = np.broadcast_to(np.array(self.transforms, np.int64)[:, None], rows.shape)
        ranked = np.where(np.isnan(scores), -np.inf, scores)
        best = np.lexsort((turns, rows, -ranked), axis=0)[0], np.arange(scores.shape[1])
        undefined = np.isnan(scores[best])
        row, turn = np.where(undefined, -1, rows[best]), np.where(undefined, 0, turns[best])
        return np.stack([scores[best], row, turn])

    def _compare(
        self, sides: list[Side], annotated: Annotations | None, query_rows: Ints, first: int, last: int,
        best: NDArray[np.void],
    ) -> None:  # fmt: skip
        """Compares a tile's queries, under every transform, with the training slices at first..last."""
        images, labels = self._training(first, last)
        pixels, marks = (torch.from_numpy(x).to(self.device) for x in (images, labels))
        rows, everyone, barred = self.pair.training_rows[first:last], np.arange(len(query_rows)), None
        if self.pair.skip_itself:
            barred = torch.from_numpy(query_rows[:, None] == rows[None]).to(self.device)
        for turn, (k, x) in enumerate(zip(self.transforms, sides, strict=True)):
            # corr(Tx, y) = corr(x, T^-1 y): the training slices are turned back instead of the queries
            if self.image_views:
                turned = transform(signed(pixels), inverse(k)).transpose(0, 1).flatten(2).contiguous()
                y = self.correlations.side(turned, k)
                for i, found in enumerate(self.correlations.best(x, y, barred)):
                    _improve(best[self.image_views[i], turn], everyone, found, y.variances[i], rows)
                self.compared += len(everyone) * len(rows)
            if annotated is not None and len(annotated.members):
                dice = annotated.best(transform(marks, inverse(k)).flatten(1), barred)
                area = np.count_nonzero(labels.reshape(len(labels), -1), axis=1).astype(np.int64)
                _improve(best[self.annotation, turn], annotated.members, dice, area, rows)


def _improve(best: NDArray[np.void], queries: Ints, found: Best, sizes: Ints, rows: Ints) -> None:
    """Takes over what is better, or as good and of a lower row: `best` [q], queries [m], training slices [n]."""
    key, value, column = (field.cpu().numpy() for field in found)
    new = np.empty(len(queries), WINNER)
    new["key"], new["value"], new["size"], new["row"] = key, value, sizes[column], rows[column]
    old = best[queries]
    better = (key > old["key"]) | ((key == old["key"]) & (new["row"] < old["row"]) & np.isfinite(key))
    best[queries[better]] = new[better]


class _Store:
    """The parts of a search in a folder, if there is one; parts of another search are removed."""

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._folder = folder
        if folder is not None and not ((stamp := folder / "search.sha256").is_file() and stamp.read_text() == identity):
            for old in folder.glob("*.search.npz"):
                old.unlink()
            write_text(stamp, identity)

    def load(self, name: str) -> dict[str, Any] | None:
        if self._folder is None or not (path := self._folder / f"{name}.search.npz").is_file():
            return None
        return read_arrays(path)

    def save(self, name: str, **arrays: Any) -> None:
        if self._folder is not None:
            with atomic_path(self._folder / f"{name}.search.npz") as temporary, open(temporary, "wb") as handle:
                np.savez(handle, **arrays)
