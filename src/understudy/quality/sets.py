"""The three sets of a measurement: real training slices, real slices of other patients, synthetic slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.slices import SliceSet

HELD_OUT = ("val", "validation", "test")


@dataclass(frozen=True)
class Part:
    """Rows of a set that play one part.

    Attributes:
        name: "real", "held-out" or "synthetic".
        slices: the set.
        rows: of it.
    """

    name: str
    slices: SliceSet
    rows: NDArray[np.int64]

    @property
    def patients(self) -> NDArray[np.str_]:
        """Patient of each row.

        Raises:
            UnderstudyError: the set does not say whose slices they are.
        """
        if "subject" not in self.slices.index:
            raise UnderstudyError(
                f"the {self.name} slices do not say which patient they are of (no column `subject`)",
                where=self.slices.path,
                fix="name the patients: a floor from neighbouring slices of the same people would be far too low",
            )
        return self.slices.index["subject"].to_numpy()[self.rows].astype(str)


@dataclass(frozen=True)
class Parts:
    """What is compared; `heldout` is None if no patients were held out."""

    real: Part
    synthetic: Part
    heldout: Part | None
    channels: tuple[str, ...]


def make_parts(
    real: SliceSet,
    synthetic: SliceSet,
    heldout: SliceSet | None = None,
    channels: Sequence[str] | None = None,
) -> Parts:
    """The parts, checked before anything expensive.

    A set with a column `split` gives its "train" rows as real and its validation and test rows as held-out slices,
    also without a held-out set of its own; other sets give all their rows.

    Args:
        real, synthetic, heldout: the sets.
        channels: to compare, by name; None: all, which then must be the same in every set.

    Raises:
        UnderstudyError: an empty part, other channels or another resolution, a patient on both sides, real slices that
            are all alike.
    """
    parts = [
        Part("real", real, _rows(real, ("train",))),
        Part("synthetic", synthetic, np.arange(len(synthetic))),
    ]
    if heldout is not None:
        parts.append(Part("held-out", heldout, _rows(heldout, HELD_OUT)))
    elif "split" in real.index and len(rows := _rows(real, HELD_OUT)):
        parts.append(Part("held-out", real, rows))
    for part in parts:
        _check(part, parts[0], channels)
    if len(parts) > 2:
        shared = set(parts[0].patients) & set(parts[2].patients)
        if shared:
            raise UnderstudyError(
                f"{len(shared)} of the held-out patients are also among the real ones, so they are no floor",
                where=parts[2].slices.path,
                fix="hold out whole patients",
            )
    names = tuple(channels) if channels is not None else real.channels
    return Parts(parts[0], parts[1], parts[2] if len(parts) > 2 else None, names)


def _rows(slices: SliceSet, wanted: tuple[str, ...]) -> NDArray[np.int64]:
    if "split" not in slices.index:
        return np.arange(len(slices))
    return np.flatnonzero(slices.index["split"].astype(str).isin(wanted).to_numpy())


def _check(part: Part, first: Part, channels: Sequence[str] | None) -> None:
    mine, real = part.slices, first.slices
    if not len(part.rows):
        raise UnderstudyError(
            f"there are no {part.name} slices",
            where=mine.path,
            fix="check the set and its column `split` (train, val, test)",
        )
    wanted = set(channels) if channels is not None else set(real.channels)
    if (channels is None and set(mine.channels) != wanted) or not wanted <= set(mine.channels):
        raise UnderstudyError(
            f"the {part.name} slices have the channels {', '.join(mine.channels)}, not {', '.join(sorted(wanted))}",
            where=mine.path,
            fix="compare sets with the same channels, or name those to compare (--channels)",
        )
    if mine.resolution != real.resolution:
        raise UnderstudyError(
            f"the {part.name} slices have {mine.resolution} pixels on an edge, the real ones {real.resolution}",
            where=mine.path,
            fix="prepare both at the same resolution: resizing changes every distance",
        )
