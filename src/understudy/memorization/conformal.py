"""Is a slice nearer to the training set than a new patient's would be? Ranks, p-values and their bootstrap: arrays in.

A score is a slice's highest similarity to any training slice, one column a view; larger is nearer. Held-out slices
face the same training set as synthetic ones, so that under "a synthetic slice behaves like a slice of a new patient"
they are drawn alike, whatever the similarity is. p-values by slice would be exact if held-out slices were independent.
Those of one patient are not, so that with few held-out patients new slices are flagged more often than promised (all
slices of one new patient in P + 1, where a patient's slices score the same). Hence the p-values by patient, the
bootstrap over patients and the false alarms that each audit measures on patients left out (`controls`).

Several views are one test, not several: among the held-out slices and one synthetic slice, each slice's rank is taken
in every view and its best rank counts. The p-value is the share of slices whose best rank is as good (Westfall &
Young's minimum-rank permutation test), so looking at two views costs no false alarms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_BLOCK = 1 << 24  # elements of a temporary array
_LEAST = -0.999  # of correlations whose logarithm is taken
_TAIL = 0.9  # quantile of held-out scores from which on their tail is extrapolated


@dataclass(frozen=True)
class Null:
    """What held-out patients' slices score against the training set.

    Attributes:
        scores: float64 [n, V]; NaN (constant slice, empty annotation) is below every number.
        patients: [n], 0 ... P - 1.
    """

    scores: Floats
    patients: Ints

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or len(self.scores) != len(self.patients) or not len(self.scores):
            raise UnderstudyError(
                f"held-out scores of shape {self.scores.shape} for {len(self.patients)} slices",
                fix="give at least one held-out slice, one column a view",
            )

    @property
    def slices(self) -> int:
        """Held-out slices, n."""
        return len(self.scores)

    @property
    def count(self) -> int:
        """Held-out patients, P."""
        return int(self.patients.max()) + 1

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that any slice can have."""
        return 1 / (self.slices + 1)

    def without(self, patients: NDArray[np.bool_]) -> Null:
        """The null without the patients marked in [P]."""
        kept = ~patients[self.patients]
        codes = np.unique(self.patients[kept], return_inverse=True)[1]
        return Null(self.scores[kept], codes.astype(np.int64))

    def view(self, column: int) -> Null:
        """The null of a single view."""
        return Null(self.scores[:, [column]], self.patients)


@dataclass(frozen=True)
class PValues:
    """Slices compared with a null.

    Attributes:
        pattern: [m], which row of `above` belongs to a slice.
        above: [u, P], held-out slices of each patient that are at least as extreme.
        null: what they were compared with.
    """

    pattern: Ints
    above: Floats
    null: Null

    @property
    def slice(self) -> Floats:
        """p-values [m]: (1 + held-out slices at least as extreme) / (n + 1)."""
        return ((1 + self.above.sum(axis=1)) / (self.null.slices + 1))[self.pattern]

    @property
    def patient(self) -> Floats:
        """Stricter p-values [m] by patient: (1 + held-out patients with such a slice) / (P + 1)."""
        return ((1 + (self.above > 0).sum(axis=1)) / (self.null.count + 1))[self.pattern]

    def flagged(self, quantile: float) -> NDArray[np.bool_]:
        """Slices [m] nearer to the training set than the quantile of held-out slices."""
        return np.asarray(self.slice <= 1 - quantile + 1e-12)

    def resampled_rates(self, quantile: float, resamples: int, seed: int) -> Floats:
        """Rates of flags [resamples] when other held-out patients, and other synthetic slices, had been drawn.

        Patients are drawn with replacement (their slices together), which moves the threshold; then the number of
        flags among m slices.
        """
        rng = np.random.default_rng([seed, 11])
        patients, m = self.null.count, len(self.pattern)
        drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.float64)
        sizes = np.bincount(self.null.patients, minlength=patients).astype(np.float64)
        total = drawn @ sizes + 1
        weight = np.bincount(self.pattern, minlength=len(self.above)) / m
        rates = np.zeros(resamples)
        step = max(1, _BLOCK // resamples)
        for start in range(0, len(self.above), step):
            part = slice(start, start + step)
            p = (1 + self.above[part] @ drawn.T) / total
            rates += weight[part] @ (p <= 1 - quantile + 1e-12)
        return np.asarray(rng.binomial(m, np.clip(rates, 0, 1)) / m, np.float64)


def p_values(scores: Floats, null: Null) -> PValues:
    """Compares slices with held-out ones; exact for one view, and for several never too small.

    With a_v(x) held-out slices at or above x in view v, slice s has the best rank k = 1 + min_v a_v(s) among the
    held-out slices and itself. A held-out slice h is as extreme if a_v(h), plus 1 where s is above it, is at most k in
    some view; that is if a_v(h) <= min(k, a_v(s)). (With ties more held-out slices count: p is larger.)

    Args:
        scores: float64 [m, V].
        null: its scores have the same V views.
    """
    if scores.ndim != 2 or scores.shape[1] != null.scores.shape[1]:
        raise UnderstudyError(f"scores of shape {scores.shape} for {null.scores.shape[1]} views")
    ranks = own_ranks(null)
    above = np.stack([_at_or_above(scores[:, v], null.scores[:, v]) for v in range(scores.shape[1])], 1)
    limit = np.minimum(above, 1 + above.min(axis=1, keepdims=True))
    limits, pattern = np.unique(limit, axis=0, return_inverse=True)
    own = np.zeros((null.slices, null.count), np.float32)
    own[np.arange(null.slices), null.patients] = 1
    counts = np.empty((len(limits), null.count))
    step = max(1, _BLOCK // (null.slices * scores.shape[1]))
    for start in range(0, len(limits), step):
        extreme = (ranks[None] <= limits[start : start + step, None]).any(axis=2)
        counts[start : start + step] = extreme.astype(np.float32) @ own
    return PValues(pattern.reshape(-1).astype(np.int64), counts, null)


def own_ranks(null: Null) -> Ints:
    """How many held-out slices are at or above each one, itself included: [n, V]."""
    return np.stack([_at_or_above(column, column) for column in null.scores.T], axis=1)


def tail_p_values(scores: Floats, null: Null, resamples: int, seed: int) -> Floats:
    """p-values [m] beyond the nearest held-out slice, where ranks say no more: an extrapolation, on the safe side.

    In each view the held-out scores above their 90 % quantile, as Fisher's z = atanh(r), are taken to fall off
    exponentially (correlations of images that are bounded away from 1 fall off faster, so that p is too large rather
    than too small), at the slowest rate that 97.5 % of resamples of the patients stay below. Times the number of views.
    """
    best = np.ones(len(scores))
    for v in range(scores.shape[1]):
        held = np.arctanh(np.clip(_numbers(null.scores[:, v]), _LEAST, 1 - 1e-15))
        start = float(np.quantile(held, _TAIL))
        scale = _slowest(held - start, null, resamples, seed)
        excess = np.arctanh(np.clip(_numbers(scores[:, v]), _LEAST, 1 - 1e-15)) - start
        with np.errstate(over="ignore"):
            p = np.where(excess > 0, (1 - _TAIL) * np.exp(-excess / scale), 1.0)
        best = np.minimum(best, p)
    return np.minimum(1.0, best * scores.shape[1])


def beyond_chance(
    scores: Floats, compared: PValues, tests: int, level: float, resamples: int, seed: int
) -> NDArray[np.bool_]:
    """Slices [m] beyond every held-out one whose extrapolated p-value times `tests` is below `level`.

    Args:
        scores: [m, V], of which `compared` are the p-values.
        tests: slices that are judged together.
    """
    beyond = compared.slice <= compared.null.smallest_p + 1e-12
    if not beyond.any():
        return np.asarray(beyond)
    return np.asarray(beyond & (tail_p_values(scores, compared.null, resamples, seed) * tests < level))


def _slowest(excess: Floats, null: Null, resamples: int, seed: int) -> float:
    """Upper 97.5 % bound of the mean excess over the start of the tail, patients drawn with replacement."""
    in_tail = excess > 0
    sums = np.bincount(null.patients, weights=np.where(in_tail, excess, 0.0), minlength=null.count)
    counts = np.bincount(null.patients, weights=in_tail, minlength=null.count)
    rng = np.random.default_rng([seed, 13])
    drawn = rng.multinomial(null.count, np.full(null.count, 1 / null.count), size=resamples)
    total, n = drawn @ sums, drawn @ counts
    means = total[n > 0] / n[n > 0]
    return max(1e-6, float(np.quantile(means, 0.975)) if len(means) else 1.0)


def threshold(scores: Floats, quantile: float) -> float:
    """What a slice must exceed to be flagged in one view: the held-out score with floor((1 - q)(n + 1)) - 1 above it.

    NaN if no slice can be flagged: too few held-out slices.
    """
    allowed = int(np.floor((1 - quantile) * (len(scores) + 1) + 1e-9))
    ordered = np.sort(_numbers(scores))[::-1]
    return float(ordered[allowed - 1]) if allowed else float("nan")


def slices_needed(quantile: float) -> int:
    """Held-out slices below which nothing can be flagged at a quantile: 99 at 0.99."""
    return int(np.ceil(1 / (1 - quantile) - 1e-9)) - 1


def _at_or_above(scores: Floats, reference: Floats) -> Ints:
    """Reference scores at or above each score."""
    ordered = np.sort(_numbers(reference))
    return np.asarray(len(ordered) - np.searchsorted(ordered, _numbers(scores), side="left"), np.int64)


def _numbers(scores: Floats) -> Floats:
    return np.where(np.isnan(scores), -np.inf, scores)
