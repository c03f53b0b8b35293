"""Statistics of slices that come in units (patients, or blocks of synthetic slices), as functions of units' weights.

A bootstrap over patients, or a division of them into two groups, is then nothing but other weights.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Units = NDArray[np.int64]


def drawn(units: int, resamples: int, rng: np.random.Generator) -> Floats:
    """How often each unit is drawn in each resample, [resamples, units]."""
    return rng.multinomial(units, np.full(units, 1 / units), size=resamples).astype(np.float64)


def interval(values: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of resampled numbers, undefined ones left out. NaN if nothing is left."""
    defined = values[np.isfinite(values)]
    low, high = np.quantile(defined, [(1 - 0.95) / 2, (1 + 0.95) / 2]) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)


def ratio(numerator: Floats, denominator: Floats, weights: Floats) -> Floats:
    """Ratios of weighted sums [b] of units' sums [u] under weights [b, u]; NaN where the denominator is 0."""
    below = weights @ denominator
    return np.divide(weights @ numerator, below, out=np.full(len(weights), np.nan), where=below > 0)


class Sorted:
    """Values of slices [n] in order, NaN left out, for quantiles and distances under any weights of their units [n].

    Example:
        >>> both = Sorted(np.array([0.0, 2.0]), np.array([0, 1]))
        >>> both.gap(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
        (2.0, 1.0)
    """

    def __init__(self, values: Floats, units: Units) -> None:
        some = ~np.isnan(values)
        order = np.argsort(values[some], kind="stable")
        self.values, self.units = values[some][order], units[some][order]
        self.steps = np.diff(self.values)

    def quantiles(self, weights: Floats, shares: Floats) -> Floats:
        """The smallest values that reach the shares under weights [u]; NaN without any weight."""
        reached = np.cumsum(weights[self.units])
        if not len(reached) or reached[-1] <= 0:
            return np.full(len(shares), np.nan)
        places = np.searchsorted(reached, shares * reached[-1] - 1e-9 * reached[-1])
        return np.asarray(self.values[np.minimum(places, len(reached) - 1)], np.float64)

    def gap(self, first: Floats, second: Floats) -> tuple[float, float]:
        """Area between the cumulative shares (Wasserstein), and their largest difference (Kolmogorov-Smirnov).

        Of two groups of units, given as weights [u]; NaN if one has no weight.
        """
        one, other = (np.cumsum(weights[self.units]) for weights in (first, second))
        if not len(one) or one[-1] <= 0 or other[-1] <= 0:
            return float("nan"), float("nan")
        apart = np.abs(one / one[-1] - other / other[-1])[:-1]
        largest = apart[self.steps > 0].max(initial=0.0)  # within ties the order means nothing
        return float(apart @ self.steps), float(largest)


def variation(first: Floats, second: Floats) -> float:
    """Total variation of two distributions given as counts: 0 the same, 1 nothing in common; NaN if one is empty."""
    if first.sum() <= 0 or second.sum() <= 0:
        return float("nan")
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)
