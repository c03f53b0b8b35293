"""Which slices are read: real ones of held-out patients, by patient, and as many of each generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.slices import SliceSet


@dataclass(frozen=True)
class Case:
    """One slice to be read.

    Attributes:
        source: "real" or the generator's name.
        row: of its set.
        subject: patient of a real slice, "" of a synthetic one.
    """

    source: str
    row: int
    subject: str


def draw_real(slices: SliceSet, count: int, rng: np.random.Generator, splits: tuple[str, ...]) -> list[Case]:
    """Real slices, one patient after the other, so that none dominates.

    Raises:
        UnderstudyError: no patients named, or fewer slices than asked for.
    """
    index = slices.index
    if "subject" not in index:
        raise UnderstudyError(
            "the real slices do not say which patient they are of (no column `subject`)",
            where=slices.path,
            fix="give a set that `understudy prepare` or a study made",
        )
    wanted = index["split"].astype(str).isin(splits) if "split" in index else np.ones(len(index), bool)
    rows = np.flatnonzero(np.asarray(wanted))
    if len(rows) < count:
        raise UnderstudyError(
            f"{count} real slices are asked for, but there are {len(rows)} of held-out patients",
            where=slices.path,
            fix="ask for fewer (--real-count), or allow others (--splits test,val)",
        )
    subjects = index["subject"].astype(str).to_numpy()
    waiting = {s: list(rng.permutation(rows[subjects[rows] == s])) for s in rng.permutation(np.unique(subjects[rows]))}
    found: list[Case] = []
    while len(found) < count:
        for subject, left in waiting.items():
            if left and len(found) < count:
                found.append(Case("real", int(left.pop()), str(subject)))
    return found


def draw_synthetic(sets: Mapping[str, SliceSet], counts: Mapping[str, int], rng: np.random.Generator) -> list[Case]:
    """Synthetic slices of each generator.

    Raises:
        UnderstudyError: fewer than asked for.
    """
    found: list[Case] = []
    for name, slices in sets.items():
        if counts[name] > len(slices):
            raise UnderstudyError(
                f"{counts[name]} slices of {name} are asked for, but there are {len(slices)}",
                where=slices.path,
                fix="ask for fewer (--synthetic-count)",
            )
        rows = rng.choice(len(slices), counts[name], replace=False)
        found += [Case(name, int(row), "") for row in rows]
    return found


def shared_out(total: int, names: list[str]) -> dict[str, int]:
    """`total` in parts that differ by at most one: {name: count}."""
    return {name: total // len(names) + (i < total % len(names)) for i, name in enumerate(names)}


def check_alike(real: SliceSet, sets: Mapping[str, SliceSet]) -> None:
    """The sets have the same channels and size.

    Raises:
        UnderstudyError: otherwise: a reader would tell them by that.
    """
    for name, slices in sets.items():
        if set(slices.channels) != set(real.channels) or slices.resolution != real.resolution:
            raise UnderstudyError(
                f"{name} has {slices.resolution} pixels and {', '.join(slices.channels)}; the real slices have"
                f" {real.resolution} and {', '.join(real.channels)}",
                where=slices.path,
                fix="prepare the real slices at the resolution and with the channels of the synthetic ones",
            )


def windows(real: SliceSet, rows: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Channel -> (black, white), from real slices only and used for all: 0 to their 99.5th percentile."""
    from understudy.report.plots.slices import channel_window

    images, _ = real.read(rows)
    return {name: channel_window(images[:, k]) for k, name in enumerate(real.channels)}
