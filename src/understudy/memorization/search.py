"""Exact nearest neighbours: for every query slice its most similar training slice, in several views.

Both sets are read in tiles, so that memory does not grow with them, and a killed search continues where it was. Up to
the last step everything is an integer: the result does not depend on tiles, memory, threads or machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, sha256_json, write_text
from understudy.memorization.views import (
    ANNOTATION,
    SHOWN,
    TESTED,
    Pixels,
    Terms,
    View,
    inverse,
    named_views,
    product,
    signed,
    transform,
)
from understudy.runtime.devices import resolve_device
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.progress import Meter, track
from understudy.slices import SliceSet

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SAVE_EVERY = 60.0  # seconds between two times that an unfinished tile is stored
READ = 64  # slices that are read at a time where they go into an array of their own
TILE_BYTES = 48 << 20  # pixels of the training slices of a tile
LEAST = 16  # queries and training slices of the smallest tile
CHUNK = 1 << 15  # pairs that a thread scores at a time: 256 KiB of float64, and torch opens no threads of its own
FLOAT_PIXELS = 370_727  # floor(2^18.5): covariances of at most n^2 2^16 <= 2^53 are computed in float64,
MAX_PIXELS = 11_863_283  # up to floor(2^23.5) in int64


def nearest(
    queries: SliceSet,
    training: SliceSet,
    *,
    query_rows: ArrayLike | None = None,
    training_rows: ArrayLike | None = None,
    apart: tuple[ArrayLike, ArrayLike] | None = None,
    views: Sequence[str] = TESTED + SHOWN,
    transforms: Sequence[int] = (0,),
    memory_bytes: int = 2 << 30,
    tile: tuple[int, int] | None = None,
    work_dir: Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> pd.DataFrame:
    """The most similar training slice of every query.

    Args:
        queries, training: sets of the same resolution, channels and (for the annotation) classes, matched by name.
        query_rows, training_rows: which rows; None means all. The mean image is the mean of `training_rows`.
        apart: a code for every query row and one for every training row; pairs of equal codes are not compared, e.g.
            the rows themselves to search a set within itself.
        views, transforms: of the query, tried beside each other, see `views.named_views` and `views.transform`.
        memory_bytes: for pixels and products, beside the 0.5 GB of a process with torch.
        tile: (queries, training slices) a tile; None chooses them from `memory_bytes`.
        work_dir: keeps what is found, so that a killed search continues; None keeps nothing.

    Returns:
        One row a query, in order: `row`, and for every view V `V.score` (Pearson correlation in -1..1, or Dice in
        0..1; NaN where undefined: constant image, empty annotation, no partner), `V.row` (of the best training slice,
        -1 where undefined) and `V.transform` (of the query; 0 where undefined). Ties, and correlations that differ by
        less than the rounding of float64, go to the lowest training row, then transform. `attrs["compared"]` is the
        number of pairs (and transforms of them) that this call compared.

    Raises:
        UnderstudyError: the sets do not fit together, no rows, unknown view, memory too small.
    """
    named = named_views(views, training.channels)
    transforms = tuple(sorted(set(transforms)))
    pair = _paired(queries, training, query_rows, training_rows, apart, ANNOTATION in named, memory_bytes)
    tiles = tile or _tiles(pair, memory_bytes, ANNOTATION in named)
    groups: dict[Callable[[Pixels], Pixels] | None, dict[str, View]] = {}
    for name, view in named.items():  # views of the same pixels share their products
        groups.setdefault(view.pixels, {})[name] = view
    tables = []
    for number, (pixels, own) in enumerate(groups.items()):
        folder = work_dir / str(number) if work_dir and number else work_dir
        store = _Store(folder, sha256_json([1, pair.identity(), tuple(own), transforms, tiles[0]]))
        search = _Search(pair._replace(pixels=pixels), own, transforms, tiles, store, resolve_device(device))
        work = len(pair.query_rows) * len(pair.training_rows) * len(transforms)
        with track(work, "nearest neighbours", "pairs", search.pairs_done(), progress) as meter:
            tables.append(search.run(meter))
        tables[-1].attrs["compared"] = search.compared
    columns = ["row", *(f"{name}.{field}" for name in named for field in ("score", "row", "transform"))]
    found = pd.concat([tables[0], *(t.drop(columns="row") for t in tables[1:])], axis=1)[columns]
    found.attrs["compared"] = sum(t.attrs["compared"] for t in tables)
    return found


class _Pair(NamedTuple):
    """Queries and training slices, matched by the names of channels and classes."""

    queries: SliceSet
    training: SliceSet
    query_rows: Ints
    training_rows: Ints  # ascending, without repeats
    channel_order: list[int]  # position of each training channel in the queries
    class_values: NDArray[np.uint8]  # training label of every label of the queries
    apart: tuple[Ints, Ints] | None  # codes of query and training rows; pairs of equal codes are not compared
    pixels: Callable[[Pixels], Pixels] | None = None  # what is compared in place of the slices, see `View`

    def identity(self) -> list[object]:
        """What the result depends on, beside views and transforms."""
        arrays = [self.query_rows, self.training_rows, *(self.apart or ())]
        return [self.queries.content_hash, self.training.content_hash, *(a.tolist() for a in arrays)]

    def read_queries(self, start: int, stop: int) -> tuple[Pixels, Pixels]:
        """Images [n, C, H, W] and labels [n, H, W] of positions among the query rows."""
        images, labels = self.queries.read(self.query_rows[start:stop])
        images = images[:, self.channel_order]
        return (images if self.pixels is None else self.pixels(images)), self.class_values[labels]

    def read_training(self, start: int, stop: int) -> tuple[Pixels, Pixels]:
        """The same of the training rows."""
        images, labels = self.training.read(self.training_rows[start:stop])
        return (images if self.pixels is None else self.pixels(images)), labels


def _paired(
    queries: SliceSet, training: SliceSet, query_rows: ArrayLike | None, training_rows: ArrayLike | None,
    apart: tuple[ArrayLike, ArrayLike] | None, annotation: bool, memory_bytes: int,
) -> _Pair:  # fmt: skip
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
        what, fix = f"a slice may have at most {MAX_PIXELS:,} pixels in all channels", "prepare at a lower resolution"
        raise UnderstudyError(what, where=training.path, fix=fix)
    chosen = []
    for slices, wanted in ((queries, query_rows), (training, training_rows)):
        rows = np.arange(len(slices)) if wanted is None else np.asarray(wanted, np.int64)
        if not len(rows):
            raise UnderstudyError("no slices to compare", where=slices.path, fix="check the rows that were chosen")
        if rows.min() < 0 or rows.max() >= len(slices):
            what = f"rows {rows.min()}..{rows.max()} of a set of {len(slices)} slices"
            raise UnderstudyError(what, where=slices.path, fix="choose rows of this set")
        chosen.append(rows)
    unique, first = np.unique(chosen[1], return_index=True)
    codes = None
    if apart is not None:
        of_queries, of_training = (np.asarray(a, np.int64) for a in apart)
        if len(of_queries) != len(chosen[0]) or len(of_training) != len(chosen[1]):
            raise UnderstudyError("apart must hold one code for every row", fix="give codes for the chosen rows only")
        codes = of_queries, of_training[first]

    def bounded(slices: SliceSet) -> SliceSet:  # without its cache, if that took more than a third of the memory
        size = len(slices) * slices.resolution**2 * (len(slices.channels) + 1)
        return slices if size <= memory_bytes // 3 or slices.path is None else SliceSet.open(slices.path, cache_bytes=0)

    names = list(training.class_names)
    values = [0, *(names.index(n) + 1 if n in names else 0 for n in queries.class_names)]
    order = [queries.channels.index(c) for c in training.channels]
    pair = bounded(queries), bounded(training)
    return _Pair(*pair, chosen[0], unique, order, np.array(values, np.uint8), codes)


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


class _Side(NamedTuple):
    """Slices of one side of a tile."""

    pixels: torch.Tensor  # int8 [C, n, P]
    sums: torch.Tensor  # of each channel [C, n]
    with_mean: torch.Tensor  # covariance with the mean training image [n]
    variances: Ints  # of every image view [V, n]
    scale: torch.Tensor  # 1 / standard deviation [V, n], 0 for constant ones


class _Best(NamedTuple):
    """The best partner of every query within one tile."""

    key: torch.Tensor  # cov / sd(y) or Dice; -inf without a partner
    value: torch.Tensor  # the exact covariance, or the number of agreeing pixels
    column: torch.Tensor  # in the tile

    @classmethod
    def of(cls, key: torch.Tensor, value: torch.Tensor) -> _Best:
        """The largest key [m, n] of every row; the first column on ties, as `torch.max` documents."""
        largest, column = key.max(1)
        return cls(largest, value.gather(1, column[:, None])[:, 0].to(torch.int64), column)


class _Winners(NamedTuple):
    """The best partners so far of a tile's queries, for every view V and transform T: [V, T, q] each."""

    key: Floats  # what is compared; -inf without a partner
    value: Ints  # covariance, or the number of agreeing pixels
    size: Ints  # the partner's cov(y, y), or its annotated pixels
    row: Ints  # the partner's row, -1 without one

    def improve(self, view: int, turn: int, queries: Ints, best: _Best, sizes: Ints, rows: Ints) -> None:
        """Takes over what is better, or as good and of a lower row.

        Of queries at these positions [m]; sizes and rows [n] of the training slices of the tile.
        """
        key, value, column = (field.cpu().numpy() for field in best)
        row = rows[column]
        old_key, old_row = self.key[view, turn, queries], self.row[view, turn, queries]
        better = (key > old_key) | ((key == old_key) & (row < old_row) & np.isfinite(key))
        where = queries[better]
        self.key[view, turn, where] = key[better]
        self.value[view, turn, where] = value[better]
        self.size[view, turn, where] = sizes[column][better]
        self.row[view, turn, where] = row[better]


class _Queries:
    """A tile of queries under every transform; of annotated ones a layer a class, of the pixels that occur."""

    def __init__(self, search: _Search, start: int, stop: int) -> None:
        pair, count = search.pair, stop - start
        self.start, self.stop = start, stop
        pixels = torch.empty((search.channels, count, search.pixels), dtype=torch.int8)
        labels = torch.empty((count, search.pixels), dtype=torch.uint8)
        for first in range(start, stop, READ):
            here = slice(first - start, min(stop, first + READ) - start)
            images, annotation = pair.read_queries(first, min(stop, first + READ))
            pixels[:, here] = signed(torch.from_numpy(images)).flatten(2).transpose(0, 1)
            labels[here] = torch.from_numpy(annotation).flatten(1)
        pixels = pixels.to(search.device)
        # cov(Tx, m) = cov(x, T^-1 m): the mean is turned back instead of every query
        self.sides = [search.side(pixels, mean) for mean in search.means]
        self.members: Ints = np.zeros(0, np.int64)
        if search.annotation is not None:
            labels = labels.to(search.device)
            members = (labels != 0).any(1).nonzero()[:, 0]
            kept = labels[members]
            self.members, self.area = members.cpu().numpy(), (kept != 0).sum(1).double()
            masks = [kept == k for k in range(1, len(pair.training.class_names) + 1)]
            self.columns = [mask.any(0).nonzero()[:, 0] for mask in masks]
            self.layers = [mask[:, c].to(torch.int8) for mask, c in zip(masks, self.columns, strict=True)]


class _Search:
    def __init__(
        self, pair: _Pair, views: dict[str, View], transforms: Sequence[int], tiles: tuple[int, int], store: _Store,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.pair, self.views, self.tiles, self.store, self.device = pair, tuple(views), tiles, store, device
        self.transforms, self.compared = tuple(transforms), 0
        self.image_views = {i: view.covariance for i, (name, view) in enumerate(views.items()) if name != ANNOTATION}
        self.annotation = self.views.index(ANNOTATION) if ANNOTATION in views else None
        self.channels, self.pixels = len(pair.channel_order), pair.training.resolution**2
        count = len(pair.training_rows)
        if (stored := store.load("training")) is not None:
            total = stored["total"]
        else:
            blocks = (pair.read_training(first, first + READ)[0] for first in range(0, count, READ))
            total = sum(images.sum(0, dtype=np.int64) for images in blocks)
            store.save("training", total=total)
        mean = (2 * total + count) // (2 * count)  # rounded to 8 bits, halves up
        square = signed(torch.from_numpy(mean.astype(np.uint8))).to(device)  # [C, H, W]
        self.means = [transform(square, inverse(k)).flatten(1).contiguous() for k in self.transforms]
        wide = square.long()
        self.mean_mean = wide.numel() * int((wide * wide).sum()) - int(wide.sum()) ** 2

    def side(self, pixels: torch.Tensor, mean: torch.Tensor) -> _Side:
        """Slices, int8 [C, n, P], with all that covariances are made of; `mean` int8 [C, P]."""

        def dots(other: torch.Tensor) -> torch.Tensor:  # of each channel with an image [C, P]
            return torch.stack([product(c, o[None])[:, 0].long() for c, o in zip(pixels, other, strict=True)])

        sums, squares = dots(torch.ones_like(mean)), [_squares(channel) for channel in pixels]
        with_mean = dots(mean).sum(0) * (self.channels * self.pixels) - sums.sum(0) * mean.long().sum()
        terms = Terms(self.pixels, squares, sums, sums, with_mean, with_mean, self.mean_mean)
        found = [covariance(terms) for covariance in self.image_views.values()]
        variances = torch.stack(found) if found else sums[:0]
        scale = torch.where(variances > 0, 1 / variances.clamp(min=1).double().sqrt(), 0.0)
        dtype = torch.float64 if self.channels * self.pixels <= FLOAT_PIXELS else torch.int64
        return _Side(pixels, sums.to(dtype), with_mean.to(dtype), variances.cpu().numpy(), scale)

    def query_tiles(self) -> list[tuple[int, int, str]]:
        """(start, stop, name of the stored part) of every tile of queries."""
        count, size = len(self.pair.query_rows), self.tiles[0]
        return [(start, min(count, start + size), f"queries-{start:09d}") for start in range(0, count, size)]

    def pairs_done(self) -> int:
        """Pairs that an earlier run has compared."""
        parts = [(stop - start, self.store.load(name)) for start, stop, name in self.query_tiles()]
        return sum(count * int(part["done"]) for count, part in parts if part) * len(self.transforms)

    def run(self, meter: Meter) -> pd.DataFrame:
        """The whole table, tile after tile, from what is stored or by comparing."""
        frames = []
        for start, stop, name in self.query_tiles():
            part = self.store.load(name) or {"done": np.int64(0)}
            table = part["table"] if "table" in part else self._tile(start, stop, name, part, meter)
            columns: dict[str, Any] = {"row": self.pair.query_rows[start:stop]}
            for v, view in enumerate(self.views):
                columns[f"{view}.score"] = table[v, 0]
                columns[f"{view}.row"] = table[v, 1].astype(np.int64)
                columns[f"{view}.transform"] = table[v, 2].astype(np.int64)
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _tile(self, start: int, stop: int, name: str, part: dict[str, Any], meter: Meter) -> Floats:
        """Score, row and transform [V, 3, q] of queries start..stop; `part`: how far an earlier run came."""
        count, done = len(self.pair.training_rows), int(part["done"])
        shape = len(self.views), len(self.transforms), stop - start
        zeros = np.zeros(shape, np.int64)
        best = _Winners(np.full(shape, -np.inf), zeros, zeros.copy(), zeros - 1)
        if done:
            best = _Winners(*(part[field] for field in _Winners._fields))
        queries, saved = _Queries(self, start, stop), time.monotonic()
        for first in range(done, count, self.tiles[1]):
            last = min(count, first + self.tiles[1])
            self._compare(queries, first, last, best)
            meter.advance((stop - start) * (last - first) * len(self.transforms))
            if last < count and time.monotonic() - saved > SAVE_EVERY:
                self.store.save(name, done=np.int64(last), **best._asdict())
                saved = time.monotonic()
        table = np.empty((len(self.views), 3, stop - start))
        for v, place in enumerate(self.image_views):
            # for equal images the square root is exact, and so is the score: 1
            own = np.stack([side.variances[v] for side in queries.sides])  # [T, q]
            size = own.astype(np.float64) * best.size[place].astype(np.float64)
            defined = (best.row[place] >= 0) & (size > 0)
            scores = np.where(defined, best.value[place] / np.sqrt(np.where(defined, size, 1.0)), np.nan)
            table[place] = self._overall(scores, best.row[place])
        if self.annotation is not None:
            rows, dice = best.row[self.annotation], best.key[self.annotation]
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

    def _compare(self, queries: _Queries, first: int, last: int, best: _Winners) -> None:
        """Compares all queries, under every transform, with the training slices at first..last."""
        images, labels = self.pair.read_training(first, last)
        pixels, marks = (torch.from_numpy(x).to(self.device) for x in (images, labels))
        rows, everyone, barred = self.pair.training_rows[first:last], np.arange(queries.stop - queries.start), None
        if self.pair.apart is not None:
            of_queries, of_training = self.pair.apart
            equal = of_queries[queries.start : queries.stop, None] == of_training[None, first:last]
            barred = torch.from_numpy(equal).to(self.device)
        for turn, (k, x) in enumerate(zip(self.transforms, queries.sides, strict=True)):
            # corr(Tx, y) = corr(x, T^-1 y): the training slices are turned back instead of the queries
            if self.image_views:
                turned = transform(signed(pixels), inverse(k)).transpose(0, 1).flatten(2).contiguous()
                y = self.side(turned, self.means[turn])
                for v, (place, found) in enumerate(zip(self.image_views, self._best(x, y, barred), strict=True)):
                    best.improve(place, turn, everyone, found, y.variances[v], rows)
                self.compared += len(everyone) * len(rows)
            if self.annotation is not None and len(queries.members):
                flat = transform(marks, inverse(k)).flatten(1)
                dice = _best_dice(queries, flat, None if barred is None else barred[queries.members])
                area = np.count_nonzero(labels.reshape(len(labels), -1), axis=1).astype(np.int64)
                best.improve(self.annotation, turn, queries.members, dice, area, rows)

    def _best(self, x: _Side, y: _Side, barred: torch.Tensor | None) -> list[_Best]:
        """The best of y for every one of x, in each image view; `barred` bool [m, n] must not be matched."""
        dots = [product(a, b) for a, b in zip(x.pixels, y.pixels, strict=True)]  # of each channel, [m, n]
        m, n = dots[0].shape
        step = max(1, CHUNK // n)

        def score(start: int) -> list[_Best]:
            rows = slice(start, start + step)
            part = [dot[rows].to(x.sums.dtype) for dot in dots]
            terms = Terms(
                self.pixels, part, x.sums[:, rows, None], y.sums[:, None], x.with_mean[rows, None], y.with_mean,
                self.mean_mean,
            )  # fmt: skip
            found = []
            for covariance, scale in zip(self.image_views.values(), y.scale, strict=True):
                value = covariance(terms)
                key = value * scale
                key[:, scale == 0] = -torch.inf  # constant training slices
                if barred is not None:
                    key.masked_fill_(barred[rows], -torch.inf)
                found.append(_Best.of(key, value))
            return found

        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        with ThreadPoolExecutor(threads) as pool:
            pieces = list(pool.map(score, range(0, m, step)))
        return [_Best(*(torch.cat(field) for field in zip(*piece, strict=True))) for piece in zip(*pieces, strict=True)]


def _best_dice(queries: _Queries, labels: torch.Tensor, barred: torch.Tensor | None) -> _Best:
    """The best Dice of every annotated query with labels uint8 [n, P]: 2 sum_k |x = k and y = k| / (|x| + |y|)."""
    agreeing = torch.zeros((len(queries.members), len(labels)), dtype=torch.int64, device=labels.device)
    for k, (columns, layer) in enumerate(zip(queries.columns, queries.layers, strict=True), start=1):
        if len(columns):
            agreeing += product(layer, (labels[:, columns] == k).to(torch.int8))
    area = (labels != 0).sum(1).double()
    key = 2 * agreeing / (queries.area[:, None] + area)
    key[:, area == 0] = -torch.inf  # empty ones never match
    if barred is not None:
        key.masked_fill_(barred, -torch.inf)
    return _Best.of(key, agreeing)


def _squares(pixels: torch.Tensor) -> torch.Tensor:
    if pixels.device.type != "cpu":
        return pixels.int().square().sum(1)
    values = pixels.numpy()  # 14 times as fast as torch on a CPU
    return torch.from_numpy(np.einsum("np,np->n", values, values, dtype=np.int64))


class _Store:
    """The parts of a search in a folder, if there is one; parts of another search are removed."""

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._folder = folder
        if folder is not None and not ((stamp := folder / "search.sha256").is_file() and stamp.read_text() == identity):
            for old in folder.glob("*.search.npz"):
                old.unlink()
            write_text(stamp, identity)

    def load(self, name: str) -> dict[str, Any] | None:
        """The arrays of a part, or None where it was not stored."""
        if self._folder is None or not (path := self._folder / f"{name}.search.npz").is_file():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def save(self, name: str, **arrays: Any) -> None:
        if self._folder is not None:
            with atomic_path(self._folder / f"{name}.search.npz") as temporary, open(temporary, "wb") as handle:
                np.savez(handle, **arrays)
