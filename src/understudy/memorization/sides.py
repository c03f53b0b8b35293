"""The three sets of an audit, checked before anything expensive: training, held-out and synthetic slices."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.memorization.config import AuditConfig
from understudy.roles import HELD_OUT, TRAINING, Part, UnfitSets, check_alike, check_other_patients, part_of
from understudy.slices import SliceSet

Sides = tuple[Part, Part, Part]
"""Training, held-out, synthetic."""


def sides(
    training: SliceSet, heldout: SliceSet, synthetic: SliceSet, training_rows: NDArray[np.int64] | None = None
) -> Sides:
    """The three parts, checked.

    A set with a column `split` gives its "train" rows as training and its validation and test rows as held-out slices;
    other sets give all their rows.

    Args:
        training_rows: train on these rows only (a generator that saw fewer patients).

    Raises:
        UnfitSets: an empty part, other sizes or channels, a patient on both sides.
    """
    if heldout is training and "split" not in training.index:
        raise UnfitSets(
            "there are no held-out slices: the set has no column `split`",
            where=training.path,
            fix="give slices of patients never trained on (--heldout)",
        )
    first = part_of("training", training, TRAINING)
    if training_rows is not None:
        first = Part(first.name, training, np.asarray(training_rows, np.int64))
    parts = first, part_of("held-out", heldout, HELD_OUT), part_of("synthetic", synthetic)
    check_alike(parts)
    check_other_patients(parts[0], parts[1])
    return parts


def judged_of(parts: Sides, config: AuditConfig) -> Sides:
    """The rows with enough contrast to be judged: neither constant nor nearly empty.

    Raises:
        UnfitSets: a part has none.
    """
    training = parts[0].contrast
    if not training.any():
        raise UnfitSets(
            "all training slices are constant", where=parts[0].slices.path, fix="check how they were prepared"
        )
    # contrast (s.d., grey values) below which a slice is nearly empty; a constant one always is
    least = max(1e-9, config.least_content * float(np.median(training[training > 0])))
    kept = [part.kept(part.contrast >= least) for part in parts]
    for part in kept:
        if not len(part.rows):
            raise UnfitSets(
                f"all {part.name} slices are constant or nearly empty",
                where=part.slices.path,
                fix="look at some of them, and check how they were made",
            )
    return kept[0], kept[1], kept[2]


def faint_of(part: Part, judged: Part) -> Part:
    """The rows that are neither judged nor constant: with so little contrast that they may be dimmed copies.

    They are compared with the judged training slices only, since nearly empty slices are all alike.
    """
    return part.kept(~np.isin(part.rows, judged.rows) & (part.contrast > 0))


def refuse_training_slices(of_heldout: pd.DataFrame, heldout: SliceSet) -> None:
    """A held-out slice that is a training slice, pixel by pixel, means a patient under two names.

    Args:
        of_heldout: nearest training slices of the held-out ones (`similarity.nearest`).

    Raises:
        UnfitSets: there is one.
    """
    same = int((of_heldout["stacked.score"] >= 1).sum())
    if same:
        raise UnfitSets(
            f"{same} of the held-out slices are training slices under another name of their patient",
            where=heldout.path,
            fix="hold out whole patients who were never trained on",
        )
