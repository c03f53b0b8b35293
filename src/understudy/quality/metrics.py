"""The metrics of synthetic against real slices, and their names for people.

To add one, write a function and a line of `METRICS`: it then has its floor, its row in quality.json and the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from understudy.quality import distances
from understudy.quality.config import QualityConfig

if TYPE_CHECKING:
    from understudy.quality.extractors import Extractor  # imports torch, which the report does without

NAN = float("nan")
Input = NDArray[Any]
Values = dict[str, tuple[float, float]]
"""Key of a number -> value, and its standard deviation or standard error (NaN if there is none)."""


@dataclass(frozen=True)
class Label:
    """How people read a number."""

    name: str
    better: bool | None = None  # whether more is better; None: neither
    digits: int = 2  # after the point


@dataclass(frozen=True)
class Setup:
    """What a metric may need to know: the extractor, the settings, its own random numbers."""

    extractor: Extractor
    config: QualityConfig
    rng: np.random.Generator
    floor: bool = False  # whether many floors are computed, where fewer subsets will do


@dataclass(frozen=True)
class Metric:
    """Numbers that are computed together, of one channel."""

    labels: dict[str, Label]  # key of each number in result files -> how people read it
    # of synthetic and of real slices: features float32 [m, d] and [n, d], or images uint8 [m, H, W] and [n, H, W]
    compute: Callable[[Input, Input, Setup], Values]
    of: Literal["features", "images"] = "features"  # images are measured once, features once an extractor
    applies: Callable[[Extractor, QualityConfig], bool] = lambda extractor, config: True
    stream: int = 0  # of random numbers: does not depend on what else is computed, and stays as it is


def frechet(synthetic: Input, real: Input, setup: Setup) -> Values:
    enough = min(len(synthetic), len(real)) >= setup.extractor.dimension
    return {"frechet_distance": (distances.between_features(synthetic, real) if enough else NAN, NAN)}


def frechet_infinity(synthetic: Input, real: Input, setup: Setup) -> Values:
    return {"frechet_distance_infinity": distances.extrapolated(synthetic, real, setup.rng)}


def kernel(synthetic: Input, real: Input, setup: Setup) -> Values:
    config = setup.config
    subsets = config.kernel_floor_subsets if setup.floor else config.kernel_subsets
    return {"kernel_distance": distances.kernel_distance(synthetic, real, setup.rng, subsets, config.kernel_size)}


def neighbours(synthetic: Input, real: Input, setup: Setup) -> Values:
    few_real, few_synthetic = (choice(x, setup.config.neighbours_slices, setup.rng) for x in (real, synthetic))
    found = distances.neighbourhoods(few_synthetic, few_real, setup.config.neighbours)
    return {key: (value, NAN) for key, value in found.items()}


def score(synthetic: Input, real: Input, setup: Setup) -> Values:
    logits = setup.extractor.logits(synthetic)  # type: ignore[attr-defined]  # a `Classifier`: see `applies`
    return {"inception_score": distances.inception_score(logits, setup.rng, setup.config.score_splits)}


def choice(slices: Input, most: int, rng: np.random.Generator) -> Input:
    """At most so many slices, without replacement, in order."""
    return slices if len(slices) <= most else slices[np.sort(rng.choice(len(slices), most, replace=False))]


METRICS = (
    Metric({"frechet_distance": Label("Frechet distance", better=False)}, frechet),
    Metric(
        {"frechet_distance_infinity": Label("Frechet distance, n → ∞", better=False)},
        frechet_infinity,
        applies=lambda extractor, config: config.extrapolate,
        stream=1,
    ),
    Metric({"kernel_distance": Label("Kernel distance", better=False, digits=3)}, kernel, stream=1),
    Metric(
        {k: Label(k.capitalize(), True) for k in ("precision", "recall", "density", "coverage")}, neighbours, stream=2
    ),
    Metric(
        {"inception_score": Label("Inception score")},
        score,
        applies=lambda extractor, config: hasattr(extractor, "logits"),
        stream=6,
    ),
)
LABELS = {key: label for metric in METRICS for key, label in metric.labels.items()}


def label_of(key: str) -> Label:
    """How people read a number of a result file, also of a metric that is not registered here."""
    return LABELS.get(key) or Label(key.replace("_", " "), digits=3)
