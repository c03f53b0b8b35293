"""The searches of an audit: for copies of every kind (`copies`), and in place, pixel by pixel.

In place are found dimmed copies among nearly empty slices, near-duplicates, and slices that are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.io.files import atomic_path, sha256_json
from understudy.io.readers import read_table
from understudy.memorization.chunks import in_chunks
from understudy.memorization.config import AuditConfig
from understudy.memorization.copies import DIGITS, Copies
from understudy.memorization.frames import FRAME, sized, unit
from understudy.memorization.views import IN_PLACE
from understudy.roles import Part
from understudy.runtime.lazy import pandas as pd

# a search's name, queries, training slices -> one row a query: `row`, and of each view score, row and transform
Search = Callable[[str, Part, Part], pd.DataFrame]
MANY = 256  # slices that are compared in place at a time
EQUAL = 0.9999  # correlation in place that equal slices have at least


def searching(config: AuditConfig, device: str, progress: bool, work_dir: Path | None = None) -> Search:
    """The search of an audit: faint slices in place, all others as copies as well.

    `work_dir` keeps what is found, so that a killed audit continues with the next search.
    """
    known: list[tuple[Part, Copies]] = []  # of the training slices, and of the held-out ones

    def copies_of(among: Part, shown: bool) -> Copies:
        if not any(part is among for part, _ in known):
            known.append((among, Copies(among, config.transforms == "dihedral", device, shown)))
        return next(copies for part, copies in known if part is among)

    def search(name: str, part: Part, among: Part) -> pd.DataFrame:
        sides = [[p.slices.content_hash, p.rows.tolist()] for p in (part, among)]
        stored = work_dir / f"{name}-{sha256_json([sides, config.transforms])[:16]}.parquet" if work_dir else None
        if stored and stored.is_file():
            return read_table(stored, "row")
        shown, tables = progress and name != "planted", [pd.DataFrame({"row": part.rows})]
        if not name.endswith("faint"):
            tables.append(copies_of(among, shown).search(part, shown))
        tables.append(in_place(part, among, device=device))
        found = pd.concat(tables, axis=1)
        if stored:
            with atomic_path(stored) as temporary:
                found.to_parquet(temporary, index=False)
        return found

    return search


def in_place(queries: Part, training: Part, device: str = "cpu", skip_itself: bool = False) -> pd.DataFrame:
    """The training slice of the highest correlation with each query, all channels as one image of at most 32 pixels.

    `skip_itself`: a query is not compared with the training slice of the same row, to search a set within itself.
    Columns: score (0 for constant slices), row, transform (0).
    """
    channels = training.slices.channels

    def flat(images: torch.Tensor) -> torch.Tensor:
        x = sized(images, FRAME).flatten(1)
        return unit(x - x.mean(1, keepdim=True))

    asked = torch.cat(list(in_chunks(queries, channels, MANY, lambda images, _, __: flat(images), device)))
    rows = torch.from_numpy(queries.rows).to(device)

    def compared(images: torch.Tensor, labels: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, own = flat(images), torch.from_numpy(training.rows[start : start + len(images)]).to(device)
        best, at = torch.empty(len(asked), device=device), torch.empty(len(asked), dtype=torch.long, device=device)
        for first in range(0, len(asked), MANY):  # always products of one size
            some = slice(first, first + MANY)
            product = asked[some] @ x.T
            if skip_itself:
                product.masked_fill_(rows[some, None] == own[None], -2.0)
            best[some], at[some] = product.max(1)
        return best, at + start

    best, at = torch.full((len(asked),), -2.0, device=device), torch.zeros(len(asked), dtype=torch.long, device=device)
    for score, where in in_chunks(training, channels, MANY, compared, device):
        at = torch.where(score > best, where, at)
        best = torch.maximum(score, best)
    return pd.DataFrame(
        {
            f"{IN_PLACE}.score": np.round(best.double().cpu().numpy(), DIGITS),
            f"{IN_PLACE}.row": np.asarray(training.rows)[at.cpu().numpy()],
            f"{IN_PLACE}.transform": 0,
        }
    )


def equal(queries: Part, training: Part, found: pd.DataFrame) -> NDArray[np.bool_]:
    """Which queries are the training slice that was `found` in place, to the last pixel."""
    same = np.zeros(len(queries.rows), bool)
    order = [queries.slices.channels.index(name) for name in training.slices.channels]
    for i in np.flatnonzero(found[f"{IN_PLACE}.score"].to_numpy() >= EQUAL):
        mine, theirs = queries.slices.read(queries.rows[[i]])[0], training.slices.read([found[f"{IN_PLACE}.row"][i]])[0]
        same[i] = np.array_equal(mine[:, order], theirs)
    return same
