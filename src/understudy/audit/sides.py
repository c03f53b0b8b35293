"""The three sets of an audit, checked before anything expensive: training, held-out and synthetic slices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.slices import SliceSet


class NotAuditable(UnderstudyError):
    """The sets themselves do not allow an audit: a finding about them, not a failure of this run."""


HELD_OUT = ("val", "validation", "test")
_BLOCK = 256


@dataclass(frozen=True)
class Side:
    """Rows of a set that play one part.

    Attributes:
        name: "training", "held-out" or "synthetic".
        slices: the set.
        rows: of it.
    """

    name: str
    slices: SliceSet
    rows: NDArray[np.int64]

    @cached_property
    def patients(self) -> NDArray[np.str_]:
        """Patient of each row.

        Raises:
            NotAuditable: the set does not say whose slices they are.
        """
        if "subject" not in self.slices.index:
            raise NotAuditable(
                f"the {self.name} slices do not say which patient they are of (no column `subject`)",
                where=self.slices.path,
                fix="an audit needs patients, since slices of one patient are alike; of image folders"
                " `understudy read --pattern` takes {subject}",
            )
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
        found = [
            images.reshape(len(images), -1).std(axis=1, dtype=np.float64)
            for _, images, _ in self.slices.blocks(self.rows, _BLOCK)
        ]
        return np.concatenate(found) if found else np.zeros(0)

    def kept(self, mask: NDArray[np.bool_]) -> Side:
        """The rows that are marked."""
        return Side(self.name, self.slices, self.rows[mask])


def sides(
    training: SliceSet, heldout: SliceSet, synthetic: SliceSet, training_rows: NDArray[np.int64] | None = None
) -> tuple[Side, Side, Side]:
    """The three parts, checked.

    A set with a column `split` gives its "train" rows as training and its validation and test rows as held-out slices;
    other sets give all their rows.

    Args:
        training_rows: train on these rows only (a generator that saw fewer patients).

    Raises:
        NotAuditable: an empty part, other sizes or channels, a patient on both sides.
    """
    if heldout is training and "split" not in training.index:
        raise NotAuditable(
            "there are no held-out slices: the set has no column `split`",
            where=training.path,
            fix="give slices of patients never trained on (--heldout)",
        )
    rows = _rows(training, ("train",)) if training_rows is None else np.asarray(training_rows, np.int64)
    parts = (
        Side("training", training, rows),
        Side("held-out", heldout, _rows(heldout, HELD_OUT)),
        Side("synthetic", synthetic, np.arange(len(synthetic))),
    )
    for part in parts:
        if not len(part.rows):
            raise NotAuditable(
                f"there are no {part.name} slices",
                where=part.slices.path,
                fix="check the set and its column `split` (train, val, test)",
            )
        _check_alike(parts[0], part)
    shared = sorted(set(parts[0].patients) & set(parts[1].patients))
    if shared:
        raise NotAuditable(
            f"{len(shared)} of the held-out patients are also training patients, so nothing can be learned from them",
            where=heldout.path,
            fix="hold out whole patients who were never trained on",
        )
    return parts


def _rows(slices: SliceSet, wanted: tuple[str, ...]) -> NDArray[np.int64]:
    if "split" not in slices.index:
        return np.arange(len(slices))
    split = slices.index["split"].to_numpy().astype(str)
    return np.flatnonzero(np.isin(split, wanted))


def _check_alike(first: Side, other: Side) -> None:
    a, b = first.slices, other.slices
    if set(a.channels) != set(b.channels):
        raise NotAuditable(
            f"the {other.name} slices have the channels {', '.join(b.channels)}, the training slices"
            f" {', '.join(a.channels)}",
            where=b.path,
            fix="compare sets of the same channels, by name",
        )
    if a.resolution != b.resolution:
        raise NotAuditable(
            f"the {other.name} slices are {b.resolution} pixels wide, the training slices {a.resolution}",
            where=b.path,
            fix="prepare the real slices at the resolution of the synthetic ones",
        )
