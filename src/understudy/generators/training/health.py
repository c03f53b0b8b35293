"""Whether a training has gone wrong: a loss that is NaN, samples that are all alike, annotations left empty.

Divergence ends a training, because it cannot recover. Collapse is recognised from the history and marked, in the
history and in the run's config.json, so that no table averages a broken generator away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.joint import Annotation, decode, encode
from understudy.slices import LabelClass, SliceSet

ALIKE = 0.1  # diversity, relative to real slices, below which samples count as all alike
RARE = 0.25  # part of samples with an annotation, relative to real slices, below which they count as too few
LINES, PART = 3, 0.1  # a fault lasts if at least so many lines and this last part of the training have it
MOST_REAL = 512  # slices that the reference is taken from, evenly spread


@dataclass(frozen=True)
class Reference:
    """What is normal, from real slices.

    Attributes:
        spread: mean over pixels and channels of the standard deviation between slices, in units of [-1, 1].
        annotated: part of the slices with any annotation.
    """

    spread: float
    annotated: float

    @classmethod
    def of(cls, slices: SliceSet, rows: NDArray[np.int64], annotation: Annotation) -> Reference:
        """The reference of the rows."""
        chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_REAL)).round().astype(np.int64)]
        images, labels = slices.read(chosen)
        joint = encode(images, labels, slices.classes, annotation)
        return cls(spread(joint), float(labels.any(axis=(1, 2)).mean()))


def spread(images: Tensor) -> float:
    """Mean over pixels and channels of the standard deviation between images [N, C, H, W]; 0 for a single one."""
    if len(images) < 2:
        return 0.0
    squares = (images - images.mean(dim=0)).square().sum(dim=0)  # `std` along the batch is 10 times slower
    return float((squares / (len(images) - 1)).sqrt().mean())


def sample_stats(
    joint: Tensor, classes: Sequence[LabelClass], annotation: Annotation, real: Reference
) -> dict[str, float]:
    """Figures of samples [N, C, H, W]: diversity (1: as diverse as real slices), annotated, the part of the samples
    with any annotation, and share_<class>, the part with a pixel or more of that class."""
    labels = decode(joint, classes, annotation)[1]
    stats = {"diversity": spread(joint) / max(real.spread, 1e-8), "annotated": float(labels.any(axis=(1, 2)).mean())}
    for number, entry in enumerate(classes[1:], 1):
        stats[f"share_{entry.name}"] = float((labels == number).any(axis=(1, 2)).mean())
    return stats


def faults(lines: Sequence[Mapping[str, Any]], real: Reference) -> list[str]:
    """What has been wrong throughout the last tenth of a history, and for three lines or more: "collapsed" (samples
    all alike), "empty annotation" (no sample has any, though real slices do), "rare annotation" (on the average over
    these lines, less than a quarter as many samples have any as real slices do)."""
    measured = [line for line in lines if line.get("diversity") is not None]
    if len(measured) < LINES:
        return []
    since = measured[-1]["kimg"] * (1 - PART)
    last = [line for line in measured if line["kimg"] >= since]
    last = last if len(last) >= LINES else measured[-LINES:]
    found = ["collapsed"] if all(line["diversity"] < ALIKE for line in last) else []
    shares = [line["annotated"] for line in last]
    if sum(shares) / len(shares) < RARE * real.annotated:  # never, if real slices have none
        found.append("rare annotation" if any(shares) else "empty annotation")
    return found


def summary(lines: Sequence[Mapping[str, Any]], real: Reference) -> dict[str, Any]:
    """How a finished training was: ok; faults at the end, name -> kimg since when without a break; diversity and
    annotated at the end, None if never measured; repaired_gradients, updates in which NaN gradients were set to 0."""
    since: dict[str, float] = {}
    for end in range(len(lines), 0, -1):
        present = faults(lines[:end], real)
        since |= {name: lines[end - 1]["kimg"] for name in present if end == len(lines) or name in since}
        if not present:
            break
    last: Mapping[str, Any] = next((line for line in reversed(lines) if line.get("diversity") is not None), {})
    return {
        "ok": not since,
        "faults": since,
        "diversity": last.get("diversity"),
        "annotated": last.get("annotated"),
        "repaired_gradients": sum(line.get("repaired_gradients") or 0 for line in lines),
    }


class Diverged(UnderstudyError, FloatingPointError):
    """A training whose loss is NaN: the same seed would lead there again."""


def check_divergence(stats: Mapping[str, float | None], kimg: float, where: Path) -> None:
    """Raises `Diverged` if a loss is NaN or infinite."""
    if any(value is None for name, value in stats.items() if name.startswith("loss")):
        raise Diverged(
            f"the training diverged (loss is NaN) at {kimg:.1f} kimg",
            where=where,
            fix="lower the learning rates or raise r1_gamma, and train in a new folder",
        )
