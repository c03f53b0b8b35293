"""Sets that were read from a folder of somebody else's images: how well their annotations fitted, what was noted."""

from __future__ import annotations

from typing import Any

from understudy.report.data import percent
from understudy.slices import SliceSet


def reading_of(slices: SliceSet) -> dict[str, Any]:
    """{"reading": {"annotation": ..., "notes": ...}} as the reading recorded it; {} of a set that we generated."""
    if slices.attrs.get("source") != "folder":
        return {}
    return {"reading": {"annotation": slices.attrs["annotation"], "notes": slices.attrs["notes"]}}


def how_it_was_read(name: str, annotation: dict[str, Any], notes: list[str]) -> str:
    """The same in words."""
    codes = annotation["codes"]
    meant = ", ".join(f"{c} {v:g}" for c, v in codes.items()) if codes else "one channel a class, 0 or 255"
    said = (
        f"{name} were read from a folder. Their annotation ({meant}) is {annotation['mean_code_distance']:.2f} grey"
        f" levels from the nearest code on average, {annotation['largest_code_distance']:.2f} in the worst slice"
    )
    if codes:
        said += (
            f"; {percent(annotation['far_fraction'], 1)} of the annotated pixels are farther than"
            f" {annotation['tolerance']:g} from every code"
        )
    return ". ".join([said, *(f"Note: {note}" for note in notes)]) + "."
