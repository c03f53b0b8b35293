"""The three sets of a measurement: real training slices, real slices of other patients, synthetic slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from understudy.roles import HELD_OUT, TRAINING, Part, check_alike, check_other_patients, part_of
from understudy.slices import SliceSet

__all__ = ["Part", "Parts", "make_parts"]


@dataclass(frozen=True)
class Parts:
    """What is compared; `heldout` is None if no patients were held out."""

    real: Part
    synthetic: Part
    heldout: Part | None
    channels: tuple[str, ...]


def make_parts(
    real: SliceSet, synthetic: SliceSet, heldout: SliceSet | None = None, channels: Sequence[str] | None = None
) -> Parts:
    """The parts, checked before anything expensive.

    A set with a column `split` gives its "train" rows as real and its validation and test rows as held-out slices,
    also without a held-out set of its own; other sets give all their rows.

    Args:
        real, synthetic, heldout: the sets.
        channels: to compare, by name; None: all, which then must be the same in every set.

    Raises:
        UnfitSets: an empty part, other channels or another resolution, a patient on both sides.
    """
    first, made, held = part_of("real", real, TRAINING), part_of("synthetic", synthetic), None
    if heldout is not None:
        held = part_of("held-out", heldout, HELD_OUT)
    elif "split" in real.index and len((others := part_of("held-out", real, HELD_OUT)).rows):
        held = others
    check_alike([first, made, *([] if held is None else [held])], channels)
    if held is not None:
        check_other_patients(first, held)
    return Parts(first, made, held, tuple(channels) if channels is not None else real.channels)
