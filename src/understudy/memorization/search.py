"""The exact search itself: one tile of queries after the other against the whole training set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from understudy.memorization import prefilter
from understudy.memorization import views as formulas
from understudy.memorization.pairing import Pairing, Tiles
from understudy.memorization.products import signed
from understudy.memorization.transforms import inverse, transform
from understudy.memorization.views import ANNOTATION, Annotated, Ints, Side, Sums
from understudy.memorization.winners import Floats, Store, Winners, overall
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.progress import Meter

SAVE_EVERY = 60.0  # seconds between two times that an unfinished tile is stored
SPREAD = 16  # with the prefilter every 16th training slice, at most a tile of them, comes first


class Tile(NamedTuple):
    """Queries under one transform beside some training slices.

    Attributes:
        turn: position of the transform.
        queries, training: the sides; the training is turned back instead of the queries.
        sizes: int64 [V, n] cov(y, y) of every image view.
        rows: int64 [n] of the training slices.
        barred: bool [q, n] pairs that are not compared, or None.
    """

    turn: int
    queries: Side
    training: Side
    sizes: Ints
    rows: Ints
    barred: torch.Tensor | None


class Queries:
    """A tile of queries, held in memory.

    Attributes:
        pixels: int8 [C, q, P].
        labels: uint8 [q, P].
        sums: of the queries.
        annotated: what the annotation view needs, None without it.
        shift, variances: int64 [T, q] cov(x, m) and [V, T, q] cov(x, x), of every transform and image view.
        scales: float64 [V, T, q] 1 / sqrt(cov(x, x)), 0 for constant ones.
        low: float32 [C, q, K] vectors of the prefilter, empty without it.
    """

    def __init__(self, search: Search, start: int, stop: int) -> None:
        pair, count = search.pair, stop - start
        self.start, self.stop = start, stop
        pixels = torch.empty((len(pair.channels), count, pair.pixels), dtype=torch.int8)
        labels = torch.empty((count, pair.pixels), dtype=torch.uint8)
        parts, low = [], []
        for first, last, (images, annotation) in pair.query_blocks(start, stop):
            parts.append(formulas.sums_of(images, annotation))
            place = slice(first - start, last - start)
            pixels[:, place] = signed(torch.from_numpy(images)).flatten(2).transpose(0, 1)
            labels[place] = torch.from_numpy(annotation).flatten(1)
            if search.filtered:
                whole = signed(torch.from_numpy(images))
                low.append(prefilter.vectors(prefilter.grids(whole, torch.from_numpy(parts[-1].linear))))
        self.sums = formulas.join(parts)
        self.pixels = pixels.to(search.device)
        self.low = torch.cat(low, 1).to(search.device) if low else torch.empty(0)
        self.annotated: Annotated | None = None
        if search.annotation is not None:
            self.annotated = formulas.annotated(labels.to(search.device), len(pair.classes))
        self.shift = np.stack([formulas.covariance_with(m, self.pixels, self.sums.linear) for m in search.means])
        self.variances = np.stack([search.variances(self.sums, shift) for shift in self.shift], 1)
        self.scales = formulas.scales_of(self.variances)

    def side(self, turn: int) -> Side:
        """As the formulas need it under a transform."""
        return formulas.side(self.pixels, self.sums.linear, self.shift[turn], self.variances[:, turn])


class Search:
    """One search.

    Args:
        pair: the sets.
        views, transforms: what is compared, and how the queries are turned.
        tiles: how many at a time.
        store: where parts are kept.
        device: where products are computed.
        filtered: use the prefilter.

    Attributes:
        compared: pairs (and transforms of them) that were compared exactly by this process.
        candidates: pairs that the bounds could not rule out; more are compared, in blocks.
    """

    def __init__(self, pair: Pairing, views: Sequence[str], transforms: Sequence[int], tiles: Tiles, store: Store,
                 device: torch.device, filtered: bool) -> None:  # fmt: skip
        self.pair, self.views, self.tiles, self.store, self.device = pair, views, tiles, store, device
        self.filtered, self.compared, self.candidates = filtered, 0, 0
        self.image_views = [v for v in views if v != ANNOTATION]
        self.image_places = [i for i, v in enumerate(views) if v != ANNOTATION]
        self.annotation = views.index(ANNOTATION) if ANNOTATION in views else None
        self.transforms = tuple(transforms)
        self.training = self._training_sums()
        mean = formulas.mean_image(self.training).to(device)
        square = mean.view(len(pair.channels), pair.training.resolution, -1)
        # cov(Tx, m) = cov(x, T^-1 m): the mean is turned back instead of every query.
        self.means = [transform(square, inverse(k)).flatten(1).contiguous() for k in self.transforms]
        self.mean, self.of_mean = mean, formulas.variance_of(mean)

    def _training_sums(self) -> Sums:
        stored = self.store.load("training")
        if stored is not None:
            return Sums(**stored)
        sums = formulas.join([formulas.sums_of(*block) for block in self.pair.training_blocks()])
        self.store.save("training", **sums._asdict())
        return sums

    def variances(self, sums: Sums, shift: Ints) -> Ints:
        """cov(y, y) of every image view, int64 [V, n]; `shift` = cov(y, m)."""
        return formulas.variances(sums, self.pair.pixels, shift, self.of_mean, self.image_views, self.pair.channels)

    def run(self, meter: Meter) -> pd.DataFrame:
        """The whole table."""
        tiles = self.tiles.of_queries(len(self.pair.query_rows))
        return pd.concat([self._tile(start, stop, meter) for start, stop in tiles], ignore_index=True)

    def pairs_done(self) -> int:
        """Pairs that an earlier run has compared."""
        done = 0
        for start, stop in self.tiles.of_queries(len(self.pair.query_rows)):
            part = self.store.load(_name(start))
            done += (stop - start) * int(part["done"]) if part else 0
        return done * len(self.transforms)

    def _tile(self, start: int, stop: int, meter: Meter) -> pd.DataFrame:
        """The table of the queries start..stop, from what is stored or by comparing."""
        count, part = len(self.pair.training_rows), self.store.load(_name(start))
        if part is not None and int(part["done"]) == count:
            return self._frame(start, stop, part["table"])
        if part is None:
            done, best = 0, Winners.none(len(self.views), len(self.transforms), stop - start)
        else:
            done, best = int(part["done"]), Winners(*(part[field] for field in Winners._fields))
        queries, saved = Queries(self, start, stop), time.monotonic()
        if self.filtered and done == 0:  # from everywhere in the set, so that bounds soon have something to beat
            spread = np.unique(np.linspace(0, count - 1, min(self.tiles.training, -(-count // SPREAD))).astype(int))
            self._compare(queries, spread, best, filtered=False)
        for first in range(done, count, self.tiles.training):
            last = min(count, first + self.tiles.training)
            self._compare(queries, np.arange(first, last), best, self.filtered)
            meter.advance((stop - start) * (last - first) * len(self.transforms))
            if last < count and time.monotonic() - saved > SAVE_EVERY:
                self.store.save(_name(start), done=np.int64(last), **best._asdict())
                saved = time.monotonic()
        table = self._table(queries, best)
        self.store.save(_name(start), done=np.int64(count), table=table)
        return self._frame(start, stop, table)

    def _compare(self, queries: Queries, positions: Ints, best: Winners, filtered: bool) -> None:
        """Compares a tile: all queries, under every transform, with the training slices at `positions`."""
        images, labels = self.pair.training.read(self.pair.training_rows[positions])
        pixels = signed(torch.from_numpy(images).to(self.device))
        annotation = torch.from_numpy(labels).to(self.device)
        linear, square, area, total = self.training
        sums = Sums(linear[positions], square[positions], area[positions], total)
        flat = pixels.transpose(0, 1).flatten(2).contiguous()
        shift = formulas.covariance_with(self.mean, flat, sums.linear)
        sizes = self.variances(sums, shift)
        rows, barred = self.pair.training_rows[positions], self._barred(queries, positions)
        grid = prefilter.grids(pixels, torch.from_numpy(sums.linear).to(self.device)) if filtered else None
        for turn, k in enumerate(self.transforms):
            if self.image_views:
                turned = flat if k == 0 else transform(pixels, inverse(k)).transpose(0, 1).flatten(2).contiguous()
                training = formulas.side(turned, sums.linear, shift - self.of_mean, sizes)
                tile = Tile(turn, queries.side(turn), training, sizes, rows, barred)
                if grid is None:
                    self._exactly(tile, np.arange(queries.stop - queries.start), slice(0, len(rows)), best)
                else:
                    self._where_it_may_win(tile, queries, transform(grid, inverse(k)), best)
            if self.annotation is not None and queries.annotated is not None and len(queries.annotated.members):
                members = queries.annotated.members
                found = formulas.best_annotations(
                    queries.annotated,
                    transform(annotation, inverse(k)).flatten(1),
                    None if barred is None else barred[members],
                )
                best.improve(self.annotation, turn, members.cpu().numpy(), found, sums.area, rows)

    def _exactly(self, tile: Tile, members: Ints, columns: slice, best: Winners) -> None:
        """Compares some queries of a tile with some of its training slices, in every image view."""
        queries = tile.queries
        if len(members) < len(queries.linear):
            queries = queries.take(torch.from_numpy(members).to(self.device))
        barred = None if tile.barred is None else tile.barred[members][:, columns]
        found = formulas.best_images(queries, tile.training.span(columns), self.image_views, self.pair.channels, barred)
        self.compared += len(members) * (columns.stop - columns.start)
        for v, (place, of_view) in enumerate(zip(self.image_places, found, strict=True)):
            best.improve(place, tile.turn, members, of_view, tile.sizes[v, columns], tile.rows[columns])

    def _where_it_may_win(self, tile: Tile, queries: Queries, grid: torch.Tensor, best: Winners) -> None:
        """Compares, block after block of training slices, the queries whose bound is not below what they reached."""
        low = queries.low, prefilter.vectors(grid)
        bounds = prefilter.bounds(low, tile.queries, tile.training, self.image_views, self.pair.channels)
        if tile.barred is not None:
            bounds.masked_fill_(tile.barred, -torch.inf)
        for start in range(0, len(tile.rows), prefilter.BLOCK):
            columns = slice(start, min(len(tile.rows), start + prefilter.BLOCK))
            reached = torch.from_numpy(self._reached(queries, best, tile.turn)).to(self.device, torch.float32)
            may = (bounds[:, :, columns] >= reached[:, :, None] - prefilter.MARGIN).any(0)
            self.candidates += int(may.sum())
            members = may.any(1).nonzero()[:, 0].cpu().numpy()
            if len(members):
                self._exactly(tile, members, columns, best)

    def _reached(self, queries: Queries, best: Winners, turn: int) -> Floats:
        """The best correlation so far under any transform [V, q]; infinite where the query is constant."""
        scale, key = queries.scales, best.key[self.image_places]
        score = np.full(key.shape, -np.inf)
        np.multiply(key, scale, out=score, where=scale > 0)
        return np.where(scale[:, turn] > 0, score.max(1), np.inf)

    def _barred(self, queries: Queries, positions: Ints) -> torch.Tensor | None:
        """bool [q, n] pairs that are not compared; None where there are none."""
        if self.pair.apart is None:
            return None
        of_queries, of_training = self.pair.apart
        equal = of_queries[queries.start : queries.stop, None] == of_training[None, positions]
        return torch.from_numpy(equal).to(self.device) if equal.any() else None

    def _table(self, queries: Queries, best: Winners) -> Floats:
        """[V, 3, q] score, row and transform."""
        table = np.empty((len(self.views), 3, queries.stop - queries.start))
        transforms = np.array(self.transforms, np.int64)
        for v, place in enumerate(self.image_places):
            table[place] = overall(best.scores(place, queries.variances[v]), best.row[place], transforms)
        if self.annotation is not None:
            place = self.annotation
            table[place] = overall(best.dice(place), best.row[place], transforms)
        return table

    def _frame(self, start: int, stop: int, table: Floats) -> pd.DataFrame:
        columns: dict[str, np.ndarray] = {"row": self.pair.query_rows[start:stop]}
        for v, view in enumerate(self.views):
            columns[f"{view}.score"] = table[v, 0]
            columns[f"{view}.row"] = table[v, 1].astype(np.int64)
            columns[f"{view}.transform"] = table[v, 2].astype(np.int64)
        return pd.DataFrame(columns)


def _name(start: int) -> str:
    return f"queries-{start:09d}"
