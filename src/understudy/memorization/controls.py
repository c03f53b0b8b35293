"""The two controls without which no audit is shown: does it find planted copies, and does it leave new patients alone?

Positive: training slices are changed (see `plant`) and searched for like synthetic ones. Negative: held-out patients
are audited against other held-out patients, left out one at a time and halved many times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.memorization.config import CERTAIN, TESTED, AuditConfig
from understudy.memorization.conformal import Null, beyond_chance, p_values, slices_needed
from understudy.memorization.intervals import clustered_wilson, percentiles
from understudy.memorization.plant import Severity, severities
from understudy.roles import Part
from understudy.slices import SliceSet, SliceWriter

Floats = NDArray[np.float64]
Search = Callable[[SliceSet], pd.DataFrame]
"""Nearest training slices of all slices of a set: what `similarity.nearest` returns."""

DETECTED = 0.9  # of the copies that must be found; below, an audit that finds nothing says nothing
COPY = "noise 5 %"  # planted copies that the histograms show


@dataclass(frozen=True)
class Detection:
    """How many planted copies of one kind are flagged.

    Attributes:
        name, must: of the severity.
        copies: planted.
        rate, low, high: share flagged by the rule, with its interval by patient.
        views: share that each view alone would flag.
        median: of each view's scores.
    """

    name: str
    must: bool
    copies: int
    rate: float
    low: float
    high: float
    views: dict[str, float]
    median: dict[str, float]


@dataclass(frozen=True)
class FalseAlarms:
    """How many slices of new patients are flagged; NaN where there are too few held-out slices to flag anything.

    Attributes:
        rate, low, high: each held-out patient against all others; interval by bootstrap over patients.
        half_rate, half_low, half_high: held-out patients split in two, one half against the other: mean, and the range
            of 95 % of the splits.
        splits: so many.
        nominal: what the rule promises, 1 - q.
        certain: slices of held-out patients that are "nearer than chance explains", each patient against all others.
    """

    rate: float
    low: float
    high: float
    half_rate: float
    half_low: float
    half_high: float
    splits: int
    nominal: float
    certain: int = 0


@dataclass(frozen=True)
class Controls:
    """Both controls, and what the pictures need.

    Attributes:
        detections: by severity.
        false_alarms: on new patients.
        scores: severity -> scores [n, V] of planted copies.
    """

    detections: tuple[Detection, ...]
    false_alarms: FalseAlarms
    scores: dict[str, Floats] = field(default_factory=dict)

    @property
    def missed(self) -> list[Detection]:
        """Copies that must be found and are not."""
        return [d for d in self.detections if d.must and d.rate < DETECTED]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the audit's JSON."""
        return {"detection": [asdict(d) for d in self.detections], "false_alarms": asdict(self.false_alarms)}


def run_controls(
    training: Part, null: Null, search: Search, config: AuditConfig, work_dir: Path | None = None
) -> Controls:
    """Plants copies and looks for them; halves the held-out patients.

    Args:
        training: judged rows (not nearly empty).
        null: scores of held-out slices in the `TESTED` views.
        search: finds the nearest training slices.
        work_dir: where planted copies, which are training slices, are kept meanwhile; None: the system's folder.
    """
    kinds = severities(config.transforms)
    rows = _spread(training, config.copies, config.seed)
    images, labels = training.slices.read(training.rows[rows])
    clusters = np.unique(training.codes[rows], return_inverse=True)[1].astype(np.int64)
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="planted-", dir=work_dir) as folder:
        planted = _plant(kinds, images, labels, training.slices, Path(folder), config.seed)
        found = scores_of(search(planted)).reshape(len(kinds), len(rows), len(TESTED))
    scores = {kind.name: found[k] for k, kind in enumerate(kinds)}
    detections = [_detection(kind, scores[kind.name], null, clusters, config.quantile) for kind in kinds]
    return Controls(tuple(detections), false_alarms(null, config), scores)


def scores_of(found: pd.DataFrame, views: Sequence[str] = TESTED) -> Floats:
    """Scores [n, V] of the views."""
    return found[[f"{view}.score" for view in views]].to_numpy(np.float64)


def false_alarms(null: Null, config: AuditConfig) -> FalseAlarms:
    """What the rule does to patients who were never trained on."""
    rng = np.random.default_rng([config.seed, 22])
    rates, sizes, certain = _left_out(null, config)
    if np.isnan(rates).any():
        rate = low = high = float("nan")
    else:
        drawn = rng.multinomial(null.count, np.full(null.count, 1 / null.count), size=config.resamples)
        rate = float((rates * sizes).sum() / sizes.sum())
        low, high = percentiles(drawn @ (rates * sizes) / (drawn @ sizes))
    halves = _halves(null, config, rng)
    half_low, half_high = percentiles(halves) if len(halves) else (float("nan"), float("nan"))
    half = float(halves.mean()) if len(halves) else float("nan")
    nominal = round(1 - config.quantile, 12)
    return FalseAlarms(rate, low, high, half, half_low, half_high, len(halves), nominal, certain)


def _left_out(null: Null, config: AuditConfig) -> tuple[Floats, Floats, int]:
    """Share of each patient's slices [P] that the others would flag (NaN: too few others), how many they are, and how
    many of all slices would be called nearer than chance explains (in a set of as many as are held out)."""
    quantile, certain = config.quantile, 0
    rates, sizes = np.full(null.count, np.nan), np.bincount(null.patients, minlength=null.count).astype(float)
    for patient in range(null.count):
        own = null.patients == patient
        if (~own).sum() >= slices_needed(quantile):
            others = null.without(np.arange(null.count) == patient)
            compared = p_values(null.scores[own], others)
            rates[patient] = compared.flagged(quantile).mean()
            certain += int(
                beyond_chance(
                    null.scores[own], compared, null.slices, CERTAIN, min(500, config.resamples), config.seed
                ).sum()
            )
    return rates, sizes, certain


def _halves(null: Null, config: AuditConfig, rng: np.random.Generator) -> Floats:
    """Share flagged in each split; splits whose reference half is too small to flag anything are left out."""
    rates: list[float] = []
    if null.count < 4:
        return np.array(rates)
    for _ in range(config.splits):
        first = np.isin(np.arange(null.count), rng.permutation(null.count)[: null.count // 2])
        tested = null.scores[first[null.patients]]
        others = null.without(first)
        if others.slices >= slices_needed(config.quantile):
            rates.append(float(p_values(tested, others).flagged(config.quantile).mean()))
    return np.array(rates)


def _spread(training: Part, count: int, seed: int) -> NDArray[np.int64]:
    """Positions of at most `count` rows, as evenly over the patients as there are slices."""
    rng = np.random.default_rng([seed, 23])
    order = rng.permutation(len(training.rows))
    turn = pd.Series(training.codes[order]).groupby(training.codes[order]).cumcount().to_numpy()
    return np.asarray(order[np.argsort(turn, kind="stable")][:count], np.int64)


def _plant(
    kinds: Sequence[Severity],
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    like: SliceSet,
    folder: Path,
    seed: int,
) -> SliceSet:
    """All copies as one set, kind after kind; the folder is deleted once they have been searched for."""
    writer = SliceWriter(folder / "slices", like.channels, like.classes, like.resolution)
    for number, kind in enumerate(kinds):
        changed = kind.change(images, labels, np.random.default_rng([seed, 21, number]))
        writer.append(*changed, [{"id": f"{number}-{i}"} for i in range(len(images))])
    return writer.close()


def _detection(kind: Severity, scores: Floats, null: Null, clusters: NDArray[np.int64], quantile: float) -> Detection:
    if kind.faint:
        flagged = p_values(scores[:, :1], null.view(0)).flagged(quantile)
    else:
        flagged = p_values(scores, null).flagged(quantile)
    low, high = clustered_wilson(flagged, clusters)
    alone = {
        view: float(p_values(scores[:, [v]], null.view(v)).flagged(quantile).mean()) for v, view in enumerate(TESTED)
    }
    median = {view: float(np.nanmedian(scores[:, v])) for v, view in enumerate(TESTED)}
    return Detection(kind.name, kind.must, len(scores), float(flagged.mean()), low, high, alone, median)
