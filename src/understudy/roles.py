"""The roles of slice sets in a comparison: training, held-out (of other patients), synthetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.slices import SliceSet

TRAINING = ("train",)
HELD_OUT = ("val", "validation", "test")
"""Values of the column `split`."""


_NO_ROWS = "give the whole prepared set, or slices of other patients without a column `split`"
_ONE_SIZE = "prepare the real slices at the resolution of the synthetic ones: resizing changes every number"


class UnfitSets(UnderstudyError):
    """The sets themselves do not allow the comparison: a finding about them, not a failure of this run."""


@dataclass(frozen=True)
class Part:
    """Rows of a set in one role; `name` ("training", "held-out", "synthetic") stands in messages."""

    name: str
    slices: SliceSet
    rows: NDArray[np.int64]

    @cached_property
    def patients(self) -> NDArray[np.str_]:
        """Patient of each row; raises `UnfitSets` if the set does not name them."""
        if "subject" not in self.slices.index:
            what = f"the {self.name} slices do not say which patient they are of (no column `subject`)"
            fix = "name the patients: slices of one are alike (of image folders: `understudy read --pattern {subject}`)"
            raise UnfitSets(what, where=self.slices.path, fix=fix)
        return self.slices.index["subject"].to_numpy()[self.rows].astype(str)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """Number of the patient of each row, 0 ... P - 1."""
        return np.unique(self.patients, return_inverse=True)[1].astype(np.int64)

    @property
    def count(self) -> int:
        """Patients."""
        return len(set(self.patients))

    @cached_property
    def contrast(self) -> NDArray[np.float64]:
        """Standard deviation of all pixels of each row's slice, grey values; 0 for a constant one."""
        blocks = self.slices.blocks(self.rows, size=8)  # few: they are held as float64
        stds = [images.reshape(len(images), -1).std(axis=1, dtype=np.float64) for _, images, _ in blocks]
        return np.concatenate([np.zeros(0), *stds])

    def kept(self, mask: NDArray[np.bool_]) -> "Part":
        """The rows that are marked."""
        return Part(self.name, self.slices, self.rows[mask])

    def at(self, positions: NDArray[np.int64]) -> "Part":
        """The rows at these positions."""
        return Part(self.name, self.slices, self.rows[positions])


def part_of(name: str, slices: SliceSet, splits: Sequence[str] | None = None) -> Part:
    """The rows of these splits; all, if the set has no column `split` or `splits` is None."""
    if splits is None or "split" not in slices.index:
        return Part(name, slices, np.arange(len(slices)))
    return Part(name, slices, np.flatnonzero(slices.index["split"].astype(str).isin(splits).to_numpy()))


def only_parts(slices: SliceSet) -> str:
    """Which parts of a split a set holds: ": the set given holds only the part train"; "" without a split."""
    held = sorted(set(slices.index["split"].astype(str))) if "split" in slices.index else []
    return f": the set given holds only the part {', '.join(held)}" if held else ""


def check_alike(parts: Sequence[Part], channels: Sequence[str] | None = None) -> None:
    """Raises `UnfitSets` for parts that are empty, or of other channels or another resolution than the first.

    `channels`: that all must have; None: all of them, the same in every part.
    """
    first = parts[0]
    for part in parts:
        mine, theirs, where = part.slices.channels, first.slices.channels, part.slices.path
        if not len(part.rows):
            raise UnfitSets(f"there are no {part.name} slices{only_parts(part.slices)}", where, _NO_ROWS)
        missing = [c for c in (theirs if channels is None else channels) if c not in mine]
        if missing or (channels is None and len(mine) > len(theirs)):
            other = f"the {first.name} slices {', '.join(theirs)}" if channels is None else f"not {', '.join(missing)}"
            fix = "compare sets of the same channels; `understudy quality --channels` compares some of them"
            what = f"the {part.name} slices have the channels {', '.join(mine)}, but {other}"
            raise UnfitSets(what, where=where, fix=fix)
        if part.slices.resolution != first.slices.resolution:
            sizes = part.slices.resolution, first.slices.resolution
            raise UnfitSets(f"{part.name} slices of {sizes[0]} pixels, {first.name}: {sizes[1]}", where, _ONE_SIZE)


def check_other_patients(training: Part, heldout: Part) -> None:
    """Raises `UnfitSets` if a patient is on both sides, or a set does not name its patients."""
    shared = len(set(training.patients) & set(heldout.patients))
    if shared:
        raise UnfitSets(f"{shared} patients are on both sides", heldout.slices.path, "hold out whole patients")
