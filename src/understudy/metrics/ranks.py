"""Which setting is best, and how sure is that: ranks with the probability of each, by paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from understudy.errors import UnderstudyError
from understudy.metrics.bootstrap import RESAMPLES, Floats, drawn_weights, quantiles, weighted_means
from understudy.metrics.rows import Collapsed
from understudy.metrics.statistics import Cube, cube, same_patients

HIGHER_IS_BETTER = ("dice", "precision", "recall")
TIE = 1e-9  # means closer than this are equal: the order of a summation must not decide a rank


def ranks(
    rows: pd.DataFrame,
    settings: Sequence[str],
    *,
    metric: str = "dice",
    scope: str = "whole",
    classes: Sequence[str] | None = None,
    collapsed: Collapsed = "in",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Ranks of settings (e.g. one per generator) by their mean over patients, repeats and classes; 1 is the best.

    In every resample the same patients are drawn for all settings and the repeats for each on its own (they are
    different models), the means are taken and the settings ranked. The share of resamples in which a setting has a
    rank is the probability of that rank *given these patients and models*; settings that tie share their ranks evenly.

    Args:
        rows: scored rows, as for `statistics.cube`; higher is better for dice, precision and recall, else lower.
        settings: at least two, all tested on the same patients.
        collapsed: "out" leaves collapsed runs out.

    Returns:
        One row a setting, the best first: setting, metric, scope, value (mean), rank (of the mean; ties share the
        average), expected_rank (mean over resamples), rank_low, rank_high (interval), p_rank_1 ... p_rank_K (each row
        and each column sums to 1), n_patients, n_repeats, resamples (those in which every setting has a mean).

    Raises:
        UnderstudyError: as `cube`; fewer than two settings or one twice; patients that differ.
    """
    if len(settings) < 2 or len(set(settings)) < len(settings):
        raise UnderstudyError(
            f"these settings cannot be ranked: {list(settings)}", fix="name two or more different settings"
        )
    names = sorted(settings)  # the draws belong to a name's place: the order of the call must not matter
    cubes = [cube(rows, names[0], metric, scope, classes, collapsed)]
    for name in names[1:]:
        cubes.append(cube(rows, name, metric, scope, cubes[0].classes, collapsed))
        same_patients(names[0], cubes[0], name, cubes[-1])
    sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
    values = np.array([_whole_mean(c) for c in cubes])
    drawn = np.stack([_drawn(c, i, resamples, seed) for i, c in enumerate(cubes, start=1)], axis=1)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    lowest, highest = _tied(sign * drawn)
    place = (lowest + highest) / 2
    own = _ranked(sign * values)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    table = []
    for i, name in enumerate(names):
        low, high = quantiles(place[:, i], tails)
        about = {"setting": name, "metric": metric, "scope": scope, "value": values[i], "rank": own[i]}
        about |= {"expected_rank": place[:, i].mean() if len(place) else np.nan}
        about |= {"rank_low": low, "rank_high": high}
        for k in range(1, len(names) + 1):
            here = (lowest[:, i] <= k) & (k <= highest[:, i])
            share = here / (highest[:, i] - lowest[:, i] + 1)
            about[f"p_rank_{k}"] = share.mean() if len(share) else np.nan
        about |= {"n_patients": len(cubes[i].patients), "n_repeats": len(cubes[i].repeats)}
        table.append(about | {"resamples": len(drawn)})
    return pd.DataFrame(table).sort_values(["rank", "setting"], ignore_index=True)


def _whole_mean(c: Cube) -> float:
    n, r = c.values.shape[:2]
    return float(weighted_means(c.values, np.ones((1, n)), np.ones((1, r)))[0])


def _drawn(c: Cube, stream: int, resamples: int, seed: int) -> Floats:
    """Resampled means [resamples]; the patients' draws are the same in all streams."""
    patients, repeats = drawn_weights(len(c.patients), len(c.repeats), resamples, seed, stream=stream)
    return weighted_means(c.values, patients, repeats)


def _tied(costs: Floats) -> tuple[Floats, Floats]:
    """First and last rank [b, k] that each of the costs [b, k] (lower is better) shares with its equals."""
    with np.errstate(invalid="ignore"):
        steps = np.where(np.isfinite(costs), np.round(costs / TIE) * TIE, costs)
    return rankdata(steps, method="min", axis=1), rankdata(steps, method="max", axis=1)


def _ranked(costs: Floats) -> Floats:
    """Average ranks of the costs [k]; NaN for NaN, which nobody competes with."""
    found = np.full(len(costs), np.nan)
    some = ~np.isnan(costs)
    if some.any():
        low, high = _tied(costs[some][None])
        found[some] = (low[0] + high[0]) / 2
    return found
