"""Rank correlations of a metric with Dice over snapshots of trainings, with bootstrap intervals and permutation tests.

Snapshots of one training resemble each other and tend to improve together: where there are enough trainings, these are
drawn, not snapshots. The Dice is itself an estimate over few patients, who are drawn too.
"""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from understudy.metrics.bootstrap import Floats, weighted

FEWEST_RUNS = 5  # trainings that are drawn as wholes; fewer say nothing about others
FEWEST = 4  # snapshots with both numbers
PAIRS_AT_ONCE = 4_000_000  # pairs of snapshots over resamples, bounds the memory


@dataclass(frozen=True)
class Association:
    """One metric's correlation with the Dice; NaN where undefined."""

    n: int  # snapshots with both numbers
    runs: int  # their trainings
    spearman: float = math.nan  # rank correlation, with a bootstrap interval
    low: float = math.nan
    high: float = math.nan
    kendall: float = math.nan  # tau-b, with its interval
    kendall_low: float = math.nan
    kendall_high: float = math.nan
    within: float = math.nan  # Spearman within each training, averaged by its snapshots; NaN if none has three
    p: float = math.nan  # two-sided permutation p of |Spearman|
    p_within: float = math.nan  # of `within`, snapshots permuted within each training


class Draws(NamedTuple):
    """Resamples that all metrics share."""

    rows: NDArray[np.int64]  # of snapshots [b, n], -1 beyond a resample's end
    dice: Floats  # [b, n]


def draw(scores: Floats, runs: NDArray[np.int64], resamples: int = 2000, seed: int = 0) -> Draws:
    """Draws trainings (if there are enough), snapshots within each, and patients; for arguments see `associate`."""
    rng = np.random.default_rng([seed, 7])
    order = np.argsort(runs, kind="stable")
    _, starts, sizes = np.unique(runs[order], return_index=True, return_counts=True)
    drawn = []
    for _ in range(resamples):
        of = np.arange(len(sizes))  # trainings
        if len(sizes) >= FEWEST_RUNS:
            of = rng.integers(0, len(sizes), len(sizes))
        first, span = np.repeat(starts[of], sizes[of]), np.repeat(sizes[of], sizes[of])
        drawn.append(order[first + (rng.random(len(first)) * span).astype(np.int64)])  # snapshots within each
    rows = np.full((resamples, max(map(len, drawn))), -1)  # trainings differ in their number of snapshots
    for i, own in enumerate(drawn):
        rows[i, : len(own)] = own
    patients = scores.shape[1]
    weights = rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.float64)
    # each resample has its own Dice of every snapshot: that of its patients
    dice = np.take_along_axis(weighted(scores.T, weights), np.maximum(rows, 0), axis=1)
    return Draws(rows, np.where(rows >= 0, dice, np.nan))


def associate(
    metric: Floats, scores: Floats, runs: NDArray[np.int64], draws: Draws, orders: int = 2000, seed: int = 0
) -> Association:
    """Rank correlations of a metric with the mean score.

    Args:
        metric: [snapshots], NaN where undefined.
        scores: [snapshots, patients], the same patients everywhere, or [snapshots, 1] where there are only means; NaN
            for a patient that a snapshot was not tested on.
        runs: number of the training of each snapshot.
        draws: from `draw`, of the same scores and runs.
        orders, seed: random orders of the p values.
    """
    dice = weighted(scores.T, np.ones((1, scores.shape[1])))[0]
    some = np.isfinite(metric) & np.isfinite(dice)
    n, count = int(some.sum()), len(np.unique(runs[some]))
    if n < FEWEST or np.ptp(metric[some]) == 0 or np.ptp(dice[some]) == 0:
        return Association(n, count)
    drawn = np.where(draws.rows >= 0, metric[np.maximum(draws.rows, 0)], np.nan)
    bounds = []
    for values in correlations(drawn, draws.dice):  # Spearman, Kendall
        defined = values[np.isfinite(values)]
        bounds.append(np.quantile(defined, [0.025, 0.975]).tolist() if len(defined) else [math.nan, math.nan])
    (low, high), (tau_low, tau_high) = bounds
    x, y, rng = metric[some], dice[some], np.random.default_rng([seed, 8])
    p = permutation_p(x, y, orders, rng)
    within, p_within = _within(x, y, runs[some], orders, rng)
    return Association(n, count, spearman(x, y), low, high, kendall(x, y), tau_low, tau_high, within, p, p_within)


def spearman(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation with average ranks for ties; NaN if either is constant."""
    return float(correlations(x[None], y[None])[0][0])


def kendall(x: Floats, y: Floats) -> float:
    """Kendall's tau-b; NaN if either is constant."""
    return float(correlations(x[None], y[None])[1][0])


def correlations(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Spearman and Kendall [b] of the rows of x and y [b, n], pairs without both numbers left out."""
    found = []
    step = max(1, PAIRS_AT_ONCE // x.shape[1] ** 2)
    for start in range(0, len(x), step):
        a, b = x[start : start + step], y[start : start + step]
        missing = np.isnan(a) | np.isnan(b)
        signs = []  # of all differences, [b, n, n]
        for v in (np.where(missing, np.nan, a), np.where(missing, np.nan, b)):
            with np.errstate(invalid="ignore"):
                signs.append(np.nan_to_num(np.sign(v[:, :, None] - v[:, None, :])))
        # a value's sum of signs is, up to a factor, its average rank about the mean rank
        of_ranks, of_pairs = [s.sum(2) for s in signs], [s.reshape(len(s), -1) for s in signs]
        found.append([_cosine(*of_ranks), _cosine(*of_pairs)])
    rank, tau = zip(*found, strict=True)
    return np.concatenate(rank), np.concatenate(tau)


def _cosine(a: Floats, b: Floats) -> Floats:
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def permutation_p(x: Floats, y: Floats, orders: int, rng: np.random.Generator) -> float:
    """Two-sided p of |Spearman|: exact up to 7 values, else from random orders."""
    a, b = _ranks(x), _ranks(y)
    reached = abs(float(a @ b)) * (1 - 1e-12)
    if len(a) <= 7:
        every = np.array(list(permutations(range(len(a)))))  # [n!, n], at most 5,040
        return float(np.mean(np.abs(b[every] @ a) >= reached))
    random = rng.permuted(np.tile(b, (orders, 1)), axis=1)
    return float((1 + np.count_nonzero(np.abs(random @ a) >= reached)) / (orders + 1))


def _ranks(values: Floats) -> Floats:
    """About their mean, average ranks for ties."""
    ranks = rankdata(values)
    return np.asarray(ranks - ranks.mean(), np.float64)


def _within(
    x: Floats, y: Floats, runs: NDArray[np.int64], orders: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Mean of Spearman over trainings, by their snapshots, and its two-sided p, snapshots reordered within each."""
    reached, total, drawn = 0.0, 0, np.zeros(orders)
    for run in np.unique(runs):
        a, b = _ranks(x[runs == run]), _ranks(y[runs == run])
        scale = math.sqrt(float(a @ a) * float(b @ b))
        if len(a) >= 3 and scale > 0:
            reached += len(a) * (float(a @ b) / scale)
            total += len(a)
            drawn += len(a) * (rng.permuted(np.tile(b, (orders, 1)), axis=1) @ a) / scale
    if not total:
        return math.nan, math.nan
    return reached / total, float((1 + np.count_nonzero(np.abs(drawn) >= abs(reached) - 1e-9)) / (orders + 1))


def smallest_p(n: int) -> float:
    """The smallest two-sided p that n snapshots without ties can reach: 2 of n! orders are perfect."""
    return min(1.0, 2 / math.factorial(n)) if n > 1 else 1.0
