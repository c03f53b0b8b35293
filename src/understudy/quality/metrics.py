"""The metrics of a measurement: one function and one line of `METRICS` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from understudy.quality.config import QualityConfig
from understudy.quality.distances import (
    between_features,
    extrapolated,
    inception_score,
    kernel_distance,
    neighbourhoods,
)
from understudy.quality.extractors import Classifier, Extractor, Features

NAN = float("nan")
Values = dict[str, tuple[float, float]]
"""Key of a number -> value, and its standard deviation or standard error (NaN if there is none)."""


@dataclass(frozen=True)
class Setup:
    """What a metric may need to know: the extractor, the settings, its own random numbers."""

    extractor: Extractor
    config: QualityConfig
    rng: np.random.Generator
    floor: bool = False  # whether many floors are computed, where fewer subsets will do


def frechet(synthetic: Features, real: Features, setup: Setup) -> Values:
    enough = min(len(synthetic), len(real)) >= setup.extractor.dimension
    return {"frechet_distance": (between_features(synthetic, real) if enough else NAN, NAN)}


def frechet_infinity(synthetic: Features, real: Features, setup: Setup) -> Values:
    found = extrapolated(synthetic, real, setup.rng)
    return {"frechet_distance_infinity": (found.value, found.error)}


def kernel(synthetic: Features, real: Features, setup: Setup) -> Values:
    config = setup.config
    subsets = config.kernel_floor_subsets if setup.floor else config.kernel_subsets
    return {"kernel_distance": kernel_distance(synthetic, real, setup.rng, subsets, config.kernel_size)}


def neighbours(synthetic: Features, real: Features, setup: Setup) -> Values:
    few_real, few_synthetic = (choice(x, setup.config.neighbours_slices, setup.rng) for x in (real, synthetic))
    found = neighbourhoods(few_synthetic, few_real, setup.config.neighbours)
    return {key: (value, NAN) for key, value in found._asdict().items()}


def score(synthetic: Features, real: Features, setup: Setup) -> Values:
    assert isinstance(setup.extractor, Classifier)
    logits = setup.extractor.logits(synthetic)
    return {"inception_score": inception_score(logits, setup.rng, setup.config.score_splits)}


def choice(features: Features, most: int, rng: np.random.Generator) -> Features:
    """At most so many rows, without replacement."""
    if len(features) <= most:
        return features
    return features[np.sort(rng.choice(len(features), most, replace=False))]


@dataclass(frozen=True)
class Metric:
    """Numbers that are computed together.

    Attributes:
        labels: key of each number in result files -> its name for people.
        compute: of features [m, d] of synthetic and [n, d] of real slices.
        applies: to an extractor and settings.
    """

    labels: dict[str, str]
    compute: Callable[[Features, Features, Setup], Values]
    applies: Callable[[Extractor, QualityConfig], bool] = lambda extractor, config: True


# New ones go to the end: the random numbers of a metric follow from its place.
METRICS = (
    Metric({"frechet_distance": "Frechet distance"}, frechet),
    Metric(
        {"frechet_distance_infinity": "Frechet distance, n → ∞"},
        frechet_infinity,
        lambda extractor, config: config.extrapolate,
    ),
    Metric({"kernel_distance": "Kernel distance"}, kernel),
    Metric({k: k.capitalize() for k in ("precision", "recall", "density", "coverage")}, neighbours),
    Metric({"inception_score": "Inception score"}, score, lambda extractor, config: isinstance(extractor, Classifier)),
)
LABELS = {key: label for metric in METRICS for key, label in metric.labels.items()}
