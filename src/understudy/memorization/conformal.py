"""Is a slice nearer to the training set than a new patient's would be? Ranks, p-values, bootstrap, intervals.

A score is a slice's highest similarity to any training slice, one column a view; larger is nearer. Held-out slices face
the same training set as synthetic ones, so that p-values are valid whatever the similarity is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from understudy.errors import UnderstudyError
from understudy.memorization.config import CERTAIN

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
_BLOCK = 1 << 24  # elements of a temporary array
_ROUNDING = 1e-12  # by which a p-value may miss the level


@dataclass(frozen=True)
class Null:
    """What held-out patients' slices score against the training set."""

    scores: Floats  # float64 [n, V]; NaN (constant slice, empty annotation) is below every number
    patients: Ints  # [n], 0 ... P - 1

    @property
    def slices(self) -> int:
        return len(self.scores)

    @property
    def count(self) -> int:
        """Held-out patients, P."""
        return int(self.patients.max()) + 1

    @property
    def smallest_p(self) -> float:
        return 1 / (self.slices + 1)

    def without(self, patients: Mask) -> Null:
        """Without the patients marked in [P]."""
        kept = ~patients[self.patients]
        return Null(self.scores[kept], np.unique(self.patients[kept], return_inverse=True)[1].astype(np.int64))

    def view(self, column: int) -> Null:
        return Null(self.scores[:, [column]], self.patients)

    def ranks(self) -> Ints:
        """How many held-out slices are at or above each one, itself included: [n, V]."""
        return np.stack([_at_or_above(column, column) for column in self.scores.T], axis=1)

    def drawn(self, rng: np.random.Generator, resamples: int) -> Ints:
        """How often each patient is drawn, with replacement: [resamples, P]."""
        return rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=resamples)


@dataclass(frozen=True)
class PValues:
    """Slices compared with a null. Slices of the same ranks share a row of `as_extreme`."""

    row: Ints  # [m], which row of `as_extreme` is a slice's
    as_extreme: Floats  # [u, P], held-out slices of each patient that are at least as extreme
    scores: Floats  # [m, V] that were compared
    null: Null

    @property
    def by_slice(self) -> Floats:
        """p-values [m]: (1 + held-out slices at least as extreme) / (n + 1)."""
        return ((1 + self.as_extreme.sum(axis=1)) / (self.null.slices + 1))[self.row]

    @property
    def by_patient(self) -> Floats:
        """Stricter p-values [m]: (1 + held-out patients with such a slice) / (P + 1)."""
        return ((1 + (self.as_extreme > 0).sum(axis=1)) / (self.null.count + 1))[self.row]

    @property
    def beyond(self) -> Mask:
        """Slices [m] nearer than every slice of every held-out patient."""
        return np.asarray(self.by_slice <= self.null.smallest_p + _ROUNDING)

    def flagged(self, quantile: float) -> Mask:
        """Slices [m] nearer to the training set than the quantile of held-out slices."""
        return np.asarray(self.by_slice <= 1 - quantile + _ROUNDING)

    def certain(self, tests: int, resamples: int, seed: int) -> Mask:
        """Slices [m] beyond every held-out one whose extrapolated p-value times `tests` (slices judged) is small."""
        beyond = self.beyond
        if not beyond.any():
            return beyond
        return beyond & (tail_p_values(self.scores, self.null, resamples, seed) * tests < CERTAIN)

    def resampled_rates(self, quantile: float, resamples: int, seed: int) -> Floats:
        """Rates of flags [resamples] when other held-out patients, and other synthetic slices, had been drawn."""
        rng = np.random.default_rng([seed, 11])
        m = len(self.row)
        drawn = self.null.drawn(rng, resamples).astype(np.float64)  # moves the threshold; all slices of a patient
        total = drawn @ np.bincount(self.null.patients, minlength=self.null.count).astype(np.float64) + 1
        weight = np.bincount(self.row, minlength=len(self.as_extreme)) / m
        rates, step = np.zeros(resamples), max(1, _BLOCK // resamples)
        for part in (slice(start, start + step) for start in range(0, len(self.as_extreme), step)):
            p = (1 + self.as_extreme[part] @ drawn.T) / total
            rates += weight[part] @ (p <= 1 - quantile + _ROUNDING)
        return np.asarray(rng.binomial(m, np.clip(rates, 0, 1)) / m, np.float64)  # the flags among m slices


def p_values(scores: Floats, null: Null) -> PValues:
    """Compares slices with held-out ones, all views as one test (minimum-rank permutation test, Westfall & Young 1993).

    Among the held-out slices and one slice s each slice's best rank over the views counts; the p-value is the share
    with a best rank as good. With ties more held-out slices count, so that p is never too small. `scores` [m, V].
    """
    if scores.shape[1] != null.scores.shape[1]:
        raise UnderstudyError(f"scores of shape {scores.shape} for {null.scores.shape[1]} views")
    # With a_v(x) held-out slices at or above x in view v, s has the best rank k = 1 + min_v a_v(s). A held-out slice h
    # is as extreme if a_v(h), plus 1 where s is above it, is at most k in some view: if a_v(h) <= min(k, a_v(s)).
    above = np.stack([_at_or_above(scores[:, v], null.scores[:, v]) for v in range(scores.shape[1])], 1)
    limit = np.minimum(above, 1 + above.min(axis=1, keepdims=True))
    limits, row = np.unique(limit, axis=0, return_inverse=True)
    own = np.zeros((null.slices, null.count), np.float32)
    own[np.arange(null.slices), null.patients] = 1
    counts, ranks = np.empty((len(limits), null.count)), null.ranks()
    step = max(1, _BLOCK // (null.slices * scores.shape[1]))
    for start in range(0, len(limits), step):
        extreme = (ranks[None] <= limits[start : start + step, None]).any(axis=2)
        counts[start : start + step] = extreme.astype(np.float32) @ own
    return PValues(row.reshape(-1).astype(np.int64), counts, scores, null)


def tail_p_values(scores: Floats, null: Null, resamples: int, seed: int) -> Floats:
    """p-values [m] beyond the nearest held-out slice, where ranks say no more: an extrapolation, on the safe side.

    In each view the held-out scores above their 90 % quantile, as Fisher's z = atanh(r), are taken to fall off
    exponentially (correlations bounded away from 1 fall off faster, so that p is too large rather than too small), at
    the slowest rate that 97.5 % of resamples of the patients stay below. Times the number of views.
    """

    def fisher(values: Floats) -> Floats:
        return np.arctanh(np.clip(_numbers(values), -0.999, 1 - 1e-15))

    best = np.ones(len(scores))
    for v in range(scores.shape[1]):
        held = fisher(null.scores[:, v])
        start = float(np.quantile(held, 0.9))
        in_tail = held > start
        sums = np.bincount(null.patients, weights=np.where(in_tail, held - start, 0.0), minlength=null.count)
        counts = np.bincount(null.patients, weights=in_tail, minlength=null.count)
        drawn = null.drawn(np.random.default_rng([seed, 13]), resamples)
        total, n = drawn @ sums, drawn @ counts
        means = total[n > 0] / n[n > 0]  # mean excess over the start of the tail
        scale = max(1e-6, float(np.quantile(means, 0.975)) if len(means) else 1.0)
        excess = fisher(scores[:, v]) - start
        with np.errstate(over="ignore"):
            p = np.where(excess > 0, (1 - 0.9) * np.exp(-excess / scale), 1.0)
        best = np.minimum(best, p)
    return np.minimum(1.0, best * scores.shape[1])


def threshold(scores: Floats, quantile: float) -> float:
    """What a slice must exceed to be flagged in one view: the held-out score with floor((1 - q)(n + 1)) - 1 above it.

    NaN if no slice can be flagged: too few held-out slices.
    """
    allowed = int(np.floor((1 - quantile) * (len(scores) + 1) + 1e-9))
    return float(np.sort(_numbers(scores))[::-1][allowed - 1]) if allowed else float("nan")


def slices_needed(quantile: float) -> int:
    """Held-out slices below which nothing can be flagged at a quantile: 99 at 0.99."""
    return int(np.ceil(1 / (1 - quantile) - 1e-9)) - 1


def _at_or_above(scores: Floats, reference: Floats) -> Ints:
    """Reference scores at or above each score."""
    ordered = np.sort(_numbers(reference))
    return np.asarray(len(ordered) - np.searchsorted(ordered, _numbers(scores), side="left"), np.int64)


def _numbers(scores: Floats) -> Floats:
    return np.where(np.isnan(scores), -np.inf, scores)


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of hits of n (Wilson 1927); n may be an effective number. (0, 1) for n = 0."""
    if n <= 0:
        return 0.0, 1.0
    z, share = float(norm.ppf(0.975)), hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return (0.0 if hits <= 0 else low), (1.0 if hits >= n else high)


def clustered_wilson(hits: Mask, clusters: Ints) -> tuple[float, float]:
    """Wilson's interval with the effective number of independent draws when they come in clusters (patients).

    The variance of the share is estimated between clusters; where all or none hit there is nothing to estimate, and
    the number of clusters counts.
    """
    n, share = len(hits), float(np.mean(hits))
    groups = int(clusters.max()) + 1
    if share in (0.0, 1.0):
        return wilson(share * groups, groups)
    size = np.bincount(clusters, minlength=groups)
    off = np.bincount(clusters, weights=hits - share, minlength=groups)
    used = int((size > 0).sum())
    variance = (off**2).sum() / n**2 * used / max(1, used - 1)
    effective = min(float(n), max(1.0, share * (1 - share) / variance)) if variance > 0 else float(n)
    return wilson(share * effective, effective)


def upper_bound(hits: int, n: int, level: float = 0.95) -> float:
    """One-sided exact upper bound of a share (Clopper & Pearson 1934): at 95 % 3 / n for no hit of many."""
    return 1.0 if hits >= n else float(beta.ppf(level, hits + 1, n - hits))


def percentiles(drawn: Floats) -> tuple[float, float]:
    """The 95 % interval of resampled numbers."""
    low, high = np.quantile(drawn, [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return float(low), float(high)
