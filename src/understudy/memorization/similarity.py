"""Exact nearest neighbours: for every query slice its most similar training slice, in several views.

`nearest` compares every query with *all* training slices. It streams both sets in tiles, so that memory does not grow
with them; it continues where it was interrupted; and its result does not depend on tiles, memory, threads, prefilter
or machine, because everything up to the last step is done in integers (see `products` and `views`).

Ties, and correlations that differ by less than the rounding of float64 (3e-16), go to the lowest training row, then to
the lowest transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, field_validator

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_json
from understudy.memorization import prefilter
from understudy.memorization.pairing import Pairing, plan_tiles
from understudy.memorization.search import Search
from understudy.memorization.views import ANNOTATION, CENTRED, CHANNEL, STACKED
from understudy.memorization.winners import Store
from understudy.runtime.devices import resolve_device
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.progress import track
from understudy.slices import SliceSet

VERSION = 1  # of the stored parts
CHANNELS = "channels"  # stands for the view "channel:<NAME>" of every channel


class SearchConfig(BaseModel):
    """How to search.

    Attributes:
        views: what to compare; "channels" means every channel for itself, "channel:<NAME>" one of them.
        transforms: of the query, tried beside each other (see `transforms`): (0,) is none; `FLIPS` and `ALL` fit a
            training with flips, or flips and quarter turns.
        memory_bytes: for pixels and products, beside the 0.5 GB of a process with torch.
        tile: (queries, training slices) a tile; None chooses them from `memory_bytes`.
        prefilter: "on" and "off" force it; "auto" is "off", which was faster wherever it was measured (see
            `prefilter`). The result is the same.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    views: tuple[str, ...] = (STACKED, CENTRED, CHANNELS, ANNOTATION)
    transforms: tuple[int, ...] = (0,)
    memory_bytes: int = Field(default=2 << 30, gt=0)
    tile: tuple[int, int] | None = None
    prefilter: Literal["auto", "on", "off"] = "auto"

    @field_validator("transforms")
    @classmethod
    def _known(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not set(value) <= set(range(8)):
            raise ValueError("transforms are numbers from 0 to 7, at least one")
        return tuple(sorted(set(value)))

    def expanded(self, channels: Sequence[str]) -> tuple[str, ...]:
        """The views by name for a set with these channels.

        Raises:
            UnderstudyError: a view that does not exist, or none at all.
        """
        every = [CHANNEL + name for name in channels]
        known = (STACKED, CENTRED, *every, ANNOTATION)
        names = [name for view in self.views for name in (every if view == CHANNELS else [view])]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise UnderstudyError(
                f"unknown view {unknown[0]!r}" if unknown else "no view to compare",
                where="views", fix=f"use some of: {CHANNELS}, {', '.join(known)}")  # fmt: skip
        return tuple(dict.fromkeys(names))


def nearest(
    queries: SliceSet,
    training: SliceSet,
    *,
    query_rows: ArrayLike | None = None,
    training_rows: ArrayLike | None = None,
    apart: tuple[ArrayLike, ArrayLike] | None = None,
    config: SearchConfig | None = None,
    work_dir: Path | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> pd.DataFrame:
    """The most similar training slice of every query.

    Args:
        queries, training: sets of the same resolution, channels and (for the annotation) classes, matched by name.
        query_rows, training_rows: which rows; None means all. The mean image is the mean of `training_rows`.
        apart: a code for every query row and one for every training row; pairs of equal codes are not compared, e.g.
            the rows themselves to search a set within itself, or the numbers of the patients.
        config: see `SearchConfig`.
        work_dir: keeps what is found, so that a killed search continues; None keeps nothing.
        device: where products are computed.
        progress: show it.

    Returns:
        One row a query, in order: `row`, and for every view V `V.score` (float64: Pearson correlation in -1..1, or Dice
        in 0..1; NaN where undefined: constant image, empty annotation, no partner), `V.row` (of the best training
        slice, -1 where undefined) and `V.transform` (of the query, 0 to 7; 0 where undefined).
        `attrs["compared"]` is the number of pairs whose image views were computed exactly by this call (the
        prefilter spares the others), `attrs["candidates"]` the number that its bounds alone left.

    Raises:
        UnderstudyError: the sets do not fit together, no rows, unknown view, memory too small.
    """
    config = config or SearchConfig()
    views = config.expanded(training.channels)
    annotation = ANNOTATION in views
    pair = Pairing.of(queries, training, query_rows, training_rows, apart, annotation, config.memory_bytes)
    tiles = plan_tiles(pair, config.memory_bytes, config.tile, annotation)
    store = Store(work_dir, sha256_json([VERSION, pair.identity(), views, config.transforms, tiles.queries]))
    filtered = _filtered(config, training)
    search = Search(pair, views, config.transforms, tiles, store, resolve_device(device), filtered)
    work = len(pair.query_rows) * len(pair.training_rows) * len(config.transforms)
    with track(work, "nearest neighbours", "pairs", search.pairs_done(), progress) as meter:
        table = search.run(meter)
    table.attrs.update(compared=search.compared, candidates=search.candidates)
    return table


def _filtered(config: SearchConfig, training: SliceSet) -> bool:
    """Whether the prefilter is used.

    Raises:
        UnderstudyError: it is wanted, but the resolution does not allow it.
    """
    if config.prefilter != "on":
        return False
    if not prefilter.cells_of(training.resolution):
        raise UnderstudyError(
            f"no prefilter for slices of {training.resolution} pixels", where="prefilter",
            fix=f"set it to auto, or use multiples of {prefilter.CELLS} from {2 * prefilter.CELLS} to"
            f" {prefilter.CELLS * 32} pixels")  # fmt: skip
    return True
