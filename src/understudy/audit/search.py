"""The exact search itself: one tile of queries after the other against the whole training set."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from understudy.audit import views as formulas
from understudy.audit.pairing import READ, Pairing, Tiles
from understudy.audit.products import signed
from understudy.audit.transforms import inverse, transform
from understudy.audit.views import ANNOTATION, Annotated, Ints, Side, Sums
from understudy.audit.winners import Floats, Store, Winners, overall
from understudy.progress import Meter

SAVE_EVERY = 60.0  # seconds between two times that an unfinished tile is stored


class Queries:
    """A tile of queries, held in memory.

    Attributes:
        pixels: int8 [C, q, P].
        labels: uint8 [q, P].
        sums: of the queries.
        annotated: what the annotation view needs, None without it.
    """

    def __init__(self, search: Search, start: int, stop: int) -> None:
        pair, count = search.pair, stop - start
        self.start, self.stop = start, stop
        pixels = torch.empty((len(pair.channels), count, pair.pixels), dtype=torch.int8)
        labels = torch.empty((count, pair.pixels), dtype=torch.uint8)
        parts = []
        for first, last, (images, annotation) in pair.blocks("queries", start, stop, READ):
            parts.append(formulas.sums_of(images, annotation))
            place = slice(first - start, last - start)
            pixels[:, place] = signed(torch.from_numpy(images)).flatten(2).transpose(0, 1)
            labels[place] = torch.from_numpy(annotation).flatten(1)
        self.sums = formulas.join(parts)
        self.pixels = pixels.to(search.device)
        self.annotated: Annotated | None = None
        if search.annotation is not None:
            self.annotated = formulas.annotated(labels.to(search.device), len(pair.classes))
        self.shift = np.stack(
            [formulas.covariance_with(m, self.pixels, self.sums.linear) for m in search.means]
        )
        self.variances = np.stack(
            [search.variances(self.sums, shift) for shift in self.shift], 1
        )  # [V, T, q]

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
    """

    def __init__(self, pair: Pairing, views: Sequence[str], transforms: Sequence[int], tiles: Tiles, store: Store,
                 device: torch.device) -> None:  # fmt: skip
        self.pair, self.views, self.tiles, self.store, self.device = pair, views, tiles, store, device
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
        blocks = self.pair.blocks("training", 0, len(self.pair.training_rows), READ)
        sums = formulas.join([formulas.sums_of(images, labels) for _, _, (images, labels) in blocks])
        self.store.save("training", **sums._asdict())
        return sums

    def variances(self, sums: Sums, shift: Ints) -> Ints:
        """cov(y, y) of every image view, int64 [V, n]; `shift` = cov(y, m)."""
        return formulas.variances(
            sums, self.pair.pixels, shift, self.of_mean, self.image_views, self.pair.channels
        )

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
        for first, last, (images, labels) in self.pair.blocks("training", done, count, self.tiles.training):
            self._compare(queries, images, labels, first, last, best)
            meter.advance((stop - start) * (last - first) * len(self.transforms))
            if last < count and time.monotonic() - saved > SAVE_EVERY:
                self.store.save(_name(start), done=np.int64(last), **best._asdict())
                saved = time.monotonic()
        table = self._table(queries, best)
        self.store.save(_name(start), done=np.int64(count), table=table)
        return self._frame(start, stop, table)

    def _compare(self, queries: Queries, images: np.ndarray, labels: np.ndarray, first: int, last: int,
                 best: Winners) -> None:  # fmt: skip
        """Compares a tile: all queries, under every transform, with the training slices first..last."""
        pixels = signed(torch.from_numpy(images).to(self.device))
        annotation = torch.from_numpy(labels).to(self.device)
        linear, square, area, total = self.training
        sums = Sums(linear[first:last], square[first:last], area[first:last], total)
        flat = pixels.transpose(0, 1).flatten(2).contiguous()
        shift = formulas.covariance_with(self.mean, flat, sums.linear)
        variances = self.variances(sums, shift)
        rows, barred = self.pair.training_rows[first:last], self._barred(queries, first, last)
        everyone = np.arange(queries.stop - queries.start)
        for turn, k in enumerate(self.transforms):
            if self.image_views:
                turned = (
                    flat if k == 0 else transform(pixels, inverse(k)).transpose(0, 1).flatten(2).contiguous()
                )
                training = formulas.side(turned, sums.linear, shift - self.of_mean, variances)
                found = formulas.best_images(
                    queries.side(turn), training, self.image_views, self.pair.channels, barred
                )
                for v, (place, of_view) in enumerate(zip(self.image_places, found, strict=True)):
                    best.improve(place, turn, everyone, of_view, variances[v], rows)
            if (
                self.annotation is not None
                and queries.annotated is not None
                and len(queries.annotated.members)
            ):
                members = queries.annotated.members
                turned = transform(annotation, inverse(k)).flatten(1)
                of_labels = formulas.best_annotations(
                    queries.annotated, turned, None if barred is None else barred[members]
                )
                best.improve(self.annotation, turn, members.cpu().numpy(), of_labels, sums.area, rows)

    def _barred(self, queries: Queries, first: int, last: int) -> torch.Tensor | None:
        """bool [q, n] pairs that are not compared; None where there are none."""
        if self.pair.apart is None:
            return None
        of_queries, of_training = self.pair.apart
        equal = of_queries[queries.start : queries.stop, None] == of_training[None, first:last]
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
