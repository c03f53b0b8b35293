"""Statistics of a reading study: rates, signal detection, equivalence, agreement; for one reader and for several.

Intervals are for independent cases (Wilson, Newcombe, DeLong), or a bootstrap over readers and cases (by patient).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """`count` of `n`, with a Wilson interval; all NaN if n is 0."""

    count: int
    n: int
    value: float
    low: float
    high: float


def rate(count: int, n: int, level: float = 0.95) -> Rate:
    """A rate with Wilson's score interval; ValueError for a count outside 0 ... n."""
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is no rate")
    if n == 0:
        return Rate(0, 0, math.nan, math.nan, math.nan)
    found = stats.binomtest(count, n).proportion_ci(confidence_level=level, method="wilson")
    return Rate(count, n, count / n, float(found.low), float(found.high))


def difference(first: Rate, second: Rate) -> tuple[float, float, float]:
    """(first - second, low, high) of independent rates, at the level of the two rates (Newcombe 1998, method 10)."""
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return value, low, high


def signal_detection(hits: int, positives: int, alarms: int, negatives: int) -> tuple[float, float]:
    """(d', criterion) with the log-linear correction (Hautus 1995), so that rates of 0 and 1 stay finite.

    A hit is a synthetic case called synthetic, an alarm a real one called synthetic: a negative criterion is a reader
    who prefers to say "synthetic".
    """
    if not positives or not negatives:
        return math.nan, math.nan
    hit = stats.norm.ppf((hits + 0.5) / (positives + 1))
    alarm = stats.norm.ppf((alarms + 0.5) / (negatives + 1))
    return float(hit - alarm), float(-(hit + alarm) / 2)


def detection_errors(hits: int, positives: int, alarms: int, negatives: int) -> tuple[float, float]:
    """Standard errors of (d', criterion) for independent cases (Gourevitch and Galanter 1967), with Hautus' rates."""
    if not positives or not negatives:
        return math.nan, math.nan
    variance = 0.0
    for count, n in ((hits, positives), (alarms, negatives)):
        share = (count + 0.5) / (n + 1)
        variance += share * (1 - share) / (n * float(stats.norm.pdf(stats.norm.ppf(share))) ** 2)
    return math.sqrt(variance), math.sqrt(variance) / 2


def auc(real: ArrayLike, synthetic: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Chance that a synthetic case is scored above a real one (ties one half), with DeLong's interval (1988) or NaN."""
    x, y = np.asarray(synthetic, float), np.asarray(real, float)
    if not len(x) or not len(y):
        return math.nan, math.nan, math.nan
    above = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    value = float(above.mean())
    if min(len(x), len(y)) < 2:
        return value, math.nan, math.nan
    variance = above.mean(1).var(ddof=1) / len(x) + above.mean(0).var(ddof=1) / len(y)
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(variance)
    return value, max(0.0, value - half), min(1.0, value + half)


def cohen_kappa(first: Sequence[object], second: Sequence[object]) -> float:
    """Agreement of two readings beyond chance (Cohen 1960); NaN if only one word was said."""
    a, b = np.asarray(first), np.asarray(second)
    if not len(a):
        return math.nan
    chance = sum(float((a == word).mean() * (b == word).mean()) for word in dict.fromkeys([*first, *second]))
    return math.nan if chance == 1 else (float((a == b).mean()) - chance) / (1 - chance)


def fleiss_kappa(counts: ArrayLike) -> float:
    """Agreement of equally many readers beyond chance (Fleiss 1971). `counts` [cases, words]: how many said which."""
    table = np.asarray(counts, float)
    n = table[0].sum()  # readers
    observed = float(((table**2).sum(1) - n).mean() / (n * (n - 1)))
    chance = float((table.mean(0) / n) @ (table.mean(0) / n))
    return math.nan if chance == 1 else (observed - chance) / (1 - chance)


def bootstrap(
    called_real: Floats, scores: Floats, is_real: NDArray[np.bool_], group: Sequence[object], seed: int = 0,
    resamples: int = 2000,
) -> Floats:  # fmt: skip
    """Draws over readers and over cases: slices of a patient are alike, so they are drawn together.

    Args:
        called_real: [readers, cases] of 1, 0 or NaN (not read).
        scores: [readers, cases], how surely synthetic; NaN where not read.
        is_real: [cases].
        group: [cases], what is drawn together: the patient of a real case, the case itself of a synthetic one.

    Returns:
        [n, 3]: P("real" | real), P("real" | synthetic), mean AUC of the readers; draws without one side are left out.
    """
    rng = np.random.default_rng(seed)
    names = np.array([str(g) for g in group])
    who = _times_drawn(rng, len(called_real), resamples)  # [n, readers]
    drawn, sides = np.full((resamples, 3), math.nan), []
    for column, truth in enumerate((True, False)):
        rows = np.flatnonzero(is_real == truth)
        known, place = np.unique(names[rows], return_inverse=True)
        often = _times_drawn(rng, len(known), resamples)[:, place]  # [n, cases]
        read = ~np.isnan(called_real[:, rows])
        yes = np.where(read, called_real[:, rows], 0.0)
        drawn[:, column] = _ratio((who * (often @ yes.T)).sum(1), (who * (often @ read.T)).sum(1))
        sides.append((rows, often))
    (real, often_real), (made, often_made) = sides
    areas = np.empty((resamples, len(scores)))  # AUC of each reader in each sample
    for reader, own in enumerate(scores):
        x, y = own[made], own[real]
        above = (x[:, None] > y) + 0.5 * (x[:, None] == y)  # [made, real]; NaN is neither above nor equal
        pairs = (often_made @ ~np.isnan(x)) * (often_real @ ~np.isnan(y))
        areas[:, reader] = _ratio(((often_made @ above) * often_real).sum(1), pairs)
    found = ~np.isnan(areas)
    drawn[:, 2] = _ratio((who * np.where(found, areas, 0.0)).sum(1), (who * found).sum(1))
    return drawn[~np.isnan(drawn).any(axis=1)]


def _times_drawn(rng: np.random.Generator, count: int, resamples: int) -> Floats:
    """[n, count]: how often each of `count` is in a sample of `count` with replacement."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full(len(top), math.nan), where=bottom > 0)


def tails(drawn: Any, level: float) -> tuple[float, float]:
    """The percentile interval of draws."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: ArrayLike, level: float, seed: int) -> dict[str, float]:
    """The mean of at least one value and its percentile bootstrap interval."""
    known = np.asarray(values, float)
    low, high = tails(known[np.random.default_rng(seed).integers(len(known), size=(4000, len(known)))].mean(1), level)
    return {"value": float(known.mean()), "low": low, "high": high}


def equivalence(low: float, high: float, margin: float, method: str) -> dict[str, Any]:
    """Two one-sided tests at 5 % each: it holds if the 90 % interval of a difference lies inside -margin ... margin."""
    return {"low": low, "high": high, "margin": margin, "holds": -margin < low and high < margin, "method": method}
