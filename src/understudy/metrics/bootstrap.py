"""The bootstrap over patients and repeats, and tests of paired differences: arrays in, numbers out.

Scores are float64 [patients, repeats, classes]; NaN is a score that a policy for empty masks leaves undefined. A
resample is a weight per patient and a weight per repeat (how often each was drawn), so that 10,000 resampled means are
two matrix products. One draw of repeats serves all drawn patients, since a repeat is one trained model that scored
every patient; drawing repeats patient by patient would average the models' spread away.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.errors import UnderstudyError

Floats = NDArray[np.float64]

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `level` is the interval's coverage, e.g. 0.95."""

    value: float
    low: float
    high: float
    n_patients: int
    n_repeats: int
    level: float = 0.95


def mean_interval(values: ArrayLike, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean over patients, then classes, then repeats, with a bootstrap interval.

    Args:
        values: [patients], [patients, repeats] or [patients, repeats, classes].

    Raises:
        UnderstudyError: no values, or more than three axes.
    """
    data = np.asarray(values, np.float64)
    if not data.size or data.ndim > 3:
        raise UnderstudyError(f"no scores to average: shape {data.shape}", fix="give [patients, repeats, classes]")
    data = data.reshape((*data.shape, 1, 1, 1)[:3])
    n, r = len(data), data.shape[1]
    low, high = interval(weighted_means(data, *drawn_weights(n, r, resamples, seed)), level)
    return Estimate(whole_mean(data), low, high, n, r, level)


def whole_mean(data: Floats) -> float:
    """Mean of [patients, repeats, classes]: over patients, then classes, then repeats."""
    n, r = data.shape[:2]
    return float(weighted_means(data, np.ones((1, n)), np.ones((1, r)))[0])


def per_repeat(data: Floats) -> Floats:
    """Mean of each repeat, [repeats], over patients, then classes, of [patients, repeats, classes]."""
    r = data.shape[1]
    return weighted_means(data, np.ones((r, len(data))), np.eye(r))  # all patients, one repeat at a time


def per_patient(data: Floats) -> Floats:
    """Mean over repeats and classes of each patient, NaN left out: [patients] of [patients, repeats, classes]."""
    flat = data.reshape(len(data), -1)
    some = ~np.isnan(flat)
    total = np.where(some, flat, 0.0).sum(axis=1)
    return np.divide(total, some.sum(axis=1), out=np.full(len(data), np.nan), where=some.any(axis=1))


@lru_cache(maxsize=16)
def drawn_weights(patients: int, repeats: int, resamples: int, seed: int, stream: int = 1) -> tuple[Floats, Floats]:
    """How often each patient [resamples, patients] and each repeat [resamples, repeats] is drawn.

    Another `stream` draws other repeats and the same patients.
    """
    counts = []
    for number, n in ((0, patients), (stream, repeats)):
        rng = np.random.default_rng([seed, number])
        counts.append(rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64))
        counts[-1].flags.writeable = False  # shared by all callers
    return counts[0], counts[1]


def weighted_means(data: Floats, patients: Floats, repeats: Floats) -> Floats:
    """Weighted means [b] of data [n, r, c] under weights [b, n] and [b, r]: patients, then classes, then repeats."""
    n, r, c = data.shape
    per_class = weighted(data.reshape(n, r * c), patients).reshape(-1, r, c)  # [b, r, c]
    defined = ~np.isnan(per_class)
    some = defined.any(axis=2)  # [b, r]
    total = np.where(defined, per_class, 0.0).sum(axis=2)
    per_model = np.divide(total, defined.sum(axis=2), out=np.full(total.shape, np.nan), where=some)  # over classes
    weight = repeats * some  # a repeat without any defined score leaves the mean, like a patient
    total = np.where(weight > 0, per_model, 0.0)
    sums = np.einsum("br,br->b", np.where(np.isinf(total), 0.0, total), weight)  # inf * 0 would be NaN
    count = weight.sum(axis=1)
    out = np.divide(sums, count, out=np.full(len(sums), np.nan), where=count > 0)
    out[np.isinf(total).any(axis=1)] = np.inf
    return out


def weighted(data: Floats, weights: Floats) -> Floats:
    """Weighted means [b, k] over the first axis of data [n, k], weights [b, n]; NaN leave, an infinite score stays."""
    finite = np.isfinite(data)
    if finite.all():
        return weights @ data / weights.sum(axis=1, keepdims=True)
    counted = weights @ (~np.isnan(data)).astype(np.float64)  # [b, k], weight of the defined scores
    sums = weights @ np.where(finite, data, 0.0)
    out = np.divide(sums, counted, out=np.full(sums.shape, np.nan), where=counted > 0)
    out[weights @ np.isinf(data).astype(np.float64) > 0] = np.inf
    return out


def interval(drawn: Floats, level: float) -> tuple[float, float]:
    """Two order statistics (no interpolation, so that infinite scores are allowed); resamples without a value leave."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return float(low), float(high)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment of p values (family-wise error); NaN stay NaN and do not count as tests."""
    p = np.asarray(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def sign_flip(differences: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p of mean difference 0 when every sign was as likely: exact up to 13 values, else random."""
    d = np.asarray(differences, np.float64)
    n = len(d)
    if n == 0:
        return float("nan")
    observed = abs(d.sum()) * (1 - 1e-12)  # ties must count, whatever the order of summation
    if n <= 13:  # 2^13 = 8192 sign patterns are fewer than the random ones
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)  # [2^n, n], every pattern once
        return float(np.mean(np.abs(signs @ d) >= observed))
    signs = np.random.default_rng([seed, 3]).integers(0, 2, (resamples, n)) * 2.0 - 1.0
    return float((1 + np.count_nonzero(np.abs(signs @ d) >= observed)) / (resamples + 1))
