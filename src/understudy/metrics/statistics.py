"""Statistics by patient: means with intervals, relative Dice, paired tests.

All functions take scored rows: `score_volume`'s, with the columns setting, repeat and subject added by the study and a
policy applied (`empties.apply_policy`). Conventions:

- A *mean over classes* is the paper's: per class the mean over patients, then the mean of these. The row "foreground"
  is never part of it. NaN scores (some policies) leave the mean over patients.
- The spread `sd` is over repeats of the mean over patients, with ddof 0, as the paper prints it.
- Intervals come from a hierarchical bootstrap (`bootstrap`): patients are drawn with replacement, then repeats. With
  few repeats the latter part of the interval is too narrow.
- Everything random follows `seed`; two settings of one call see the same drawn patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import wilcoxon

from understudy.errors import UnderstudyError
from understudy.metrics.bootstrap import (
    RESAMPLES,
    Estimate,
    Floats,
    drawn_weights,
    mean_interval,
    per_patient,
    per_repeat,
    quantiles,
    weighted_means,
)
from understudy.metrics.scores import FOREGROUND

__all__ = [
    "Cube",
    "Difference",
    "Estimate",
    "compare",
    "cube",
    "holm",
    "mean_interval",
    "paired_difference",
    "per_repeat",
    "relative_dice",
    "sign_flip",
    "summarise",
]

Test = Literal["sign_flip", "wilcoxon"]

MEAN = "mean"
METRICS = ("dice", "hd", "hd95_pooled", "hd95_directed")
EXACT_UP_TO = 13  # patients: 2^13 = 8192 sign patterns are fewer than the random ones


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference with the two-sided p value of "no difference" and the test that gave it."""

    p: float = float("nan")
    test: Test = "sign_flip"


@dataclass(frozen=True)
class Cube:
    """One metric of one setting: float64 [patients, repeats, classes] and the names along its axes."""

    values: Floats
    patients: tuple[str, ...]
    repeats: tuple[int, ...]
    classes: tuple[str, ...]


def cube(
    rows: pd.DataFrame,
    setting: str,
    metric: str = "dice",
    scope: str = "whole",
    classes: Sequence[str] | None = None,
) -> Cube:
    """Arranges one metric of one setting; patients and repeats sorted, classes as given (default: all but foreground).

    Raises:
        UnderstudyError: no such rows or columns, a row twice, or a patient, repeat or class missing from a part of
            the rows - a failed run must not vanish from a table.
    """
    needed = {"setting", "repeat", "subject", "class_name", "scope", metric}
    if absent := sorted(needed - set(rows)):
        raise UnderstudyError(
            f"the results have no columns {absent}", fix="apply an empty-mask policy to raw rows"
        )
    part = rows[(rows["setting"] == setting) & (rows["scope"] == scope)]
    if classes is None:
        classes = [c for c in part["class_name"].unique() if c != FOREGROUND]
    part = part[part["class_name"].isin(list(classes))]
    if part.empty:
        raise UnderstudyError(
            f"no results of the setting '{setting}' (scope '{scope}', classes {list(classes)})",
            fix=f"one of the settings {sorted(map(str, rows['setting'].unique()))}",
        )
    keys = ["subject", "repeat", "class_name"]
    if (doubled := part.duplicated(keys)).any():
        raise UnderstudyError(
            f"the setting '{setting}' has {int(doubled.sum())} results twice",
            fix="keep one result file per repeat",
        )
    patients, repeats = sorted(part["subject"].unique()), sorted(part["repeat"].unique())
    grid = pd.MultiIndex.from_product([patients, repeats, classes], names=keys)
    present = pd.MultiIndex.from_frame(part[keys])
    if len(missing := grid.difference(present)):
        raise UnderstudyError(
            f"the setting '{setting}' lacks {len(missing)} results, e.g. of (patient, repeat, class) {missing[0]}",
            fix="finish its evaluation, or leave the unfinished repeat out of the table by name",
        )
    ordered = part[metric].to_numpy(np.float64)[present.get_indexer(grid)]
    values = ordered.reshape(len(patients), len(repeats), len(classes))
    return Cube(values, tuple(patients), tuple(repeats), tuple(classes))


def summarise(
    rows: pd.DataFrame,
    metrics: Sequence[str] = METRICS,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """The table of results.

    Returns:
        One row per setting, scope, class (each class, "foreground", and "mean" over the classes) and metric, in the
        order of the rows: value (mean over patients, then repeats), sd (over repeats; NaN if
        one of them has no finite mean), low, high (interval), median
        (over patients, of their mean over repeats), n_patients, n_repeats, and over all patients and repeats: present
        (truth not empty), missed, false_alarms, undefined (scores that the policy made NaN).

    Raises:
        UnderstudyError: as `cube`.
    """
    if absent := sorted(
        {"setting", "scope", "class_name", "truth_empty", "missed", "false_alarm"} - set(rows)
    ):
        raise UnderstudyError(
            f"the results have no columns {absent}", fix="apply an empty-mask policy to raw rows"
        )
    table = []
    for (setting, scope), part in rows.groupby(["setting", "scope"], sort=False):
        names = list(part["class_name"].unique())
        cubes = {metric: cube(part, str(setting), metric, str(scope), names).values for metric in metrics}
        for name in [*names, MEAN]:
            members = [n for n in names if n != FOREGROUND] if name == MEAN else [name]
            mine = part[part["class_name"].isin(members)]
            totals = {
                "present": int((~mine["truth_empty"].astype(bool)).sum()),
                "missed": int(mine["missed"].sum()),
                "false_alarms": int(mine["false_alarm"].sum()),
            }
            for metric in metrics:
                data = cubes[metric][:, :, [names.index(n) for n in members]]
                about = {"setting": setting, "scope": scope, "class_name": name, "metric": metric}
                e = mean_interval(data, level=level, resamples=resamples, seed=seed)
                table.append(about | _summary(data, e) | totals | {"undefined": int(np.isnan(data).sum())})
    return pd.DataFrame(table)


def _summary(data: Floats, mean: Estimate) -> dict[str, float | int]:
    models, patients = per_repeat(data), per_patient(data)
    patients = patients[~np.isnan(patients)]
    return {
        "value": mean.value,
        "sd": float(np.std(models)) if np.isfinite(models).all() else float("nan"),
        "low": mean.low,
        "high": mean.high,
        "median": float(np.median(patients)) if len(patients) else float("nan"),
        "n_patients": mean.n_patients,
        "n_repeats": mean.n_repeats,
    }


def relative_dice(
    rows: pd.DataFrame,
    setting: str,
    baseline: str,
    *,
    metric: str = "dice",
    scope: str = "whole",
    classes: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean Dice of a setting as a fraction of the baseline's, e.g. synthetic / real.

    The interval is a paired bootstrap: both means are taken over the same drawn patients, while the repeats of the
    two are drawn independently (they are different models). `n_repeats` is the smaller of the two.

    Raises:
        UnderstudyError: as `cube`; patients or classes that differ between the two settings.
    """
    a, b = _pair(rows, setting, baseline, metric, scope, classes)
    (value,), (base,) = (
        weighted_means(c.values, *(np.ones((1, k)) for k in c.values.shape[:2])) for c in (a, b)
    )
    top, bottom = _paired_draws(a, b, resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, drawn = value / base, top / bottom
    low, high = quantiles(drawn, np.array([(1 - level) / 2, (1 + level) / 2]))
    return Estimate(float(ratio), low, high, len(a.patients), min(len(a.repeats), len(b.repeats)), level)


def paired_difference(
    rows: pd.DataFrame,
    setting: str,
    baseline: str,
    *,
    metric: str = "dice",
    scope: str = "whole",
    classes: Sequence[str] | None = None,
    test: Test = "sign_flip",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean of a setting minus that of the baseline on the same patients, with the interval of `relative_dice`.

    The p value compares patients, each with the mean over repeats and classes: "sign_flip" is the permutation test of
    the mean difference (all patterns up to 13 patients, `resamples` random ones above), "wilcoxon" the signed-rank
    test. It says whether these models differ on other patients, not whether other repeats would. Patients without a
    finite score in both settings are left out of the test.

    Raises:
        UnderstudyError: as `relative_dice`.
    """
    a, b = _pair(rows, setting, baseline, metric, scope, classes)
    (value,), (base,) = (
        weighted_means(c.values, *(np.ones((1, k)) for k in c.values.shape[:2])) for c in (a, b)
    )
    top, bottom = _paired_draws(a, b, resamples, seed)
    with np.errstate(invalid="ignore"):
        low, high = quantiles(top - bottom, np.array([(1 - level) / 2, (1 + level) / 2]))
        by_patient = per_patient(a.values) - per_patient(b.values)
        difference = float(value - base)
    by_patient = by_patient[np.isfinite(by_patient)]
    p = sign_flip(by_patient, resamples, seed) if test == "sign_flip" else _signed_rank(by_patient)
    repeats = min(len(a.repeats), len(b.repeats))
    return Difference(difference, low, high, len(a.patients), repeats, level, p, test)


def compare(
    rows: pd.DataFrame,
    baseline: str,
    settings: Iterable[str] | None = None,
    *,
    metric: str = "dice",
    scope: str = "whole",
    test: Test = "sign_flip",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """`paired_difference` of every setting (default: all others) from the baseline, p values adjusted by `holm`.

    Returns:
        setting, baseline, metric, scope, difference, low, high, p, p_holm, test, n_patients, n_repeats.
    """
    chosen = [s for s in rows["setting"].unique() if s != baseline] if settings is None else list(settings)
    found = [
        paired_difference(
            rows,
            s,
            baseline,
            metric=metric,
            scope=scope,
            test=test,
            level=level,
            resamples=resamples,
            seed=seed,
        )
        for s in chosen
    ]
    adjusted = holm([d.p for d in found])
    return pd.DataFrame(
        [
            {
                "setting": s,
                "baseline": baseline,
                "metric": metric,
                "scope": scope,
                "difference": d.value,
                "low": d.low,
                "high": d.high,
                "p": d.p,
                "p_holm": p,
                "test": d.test,
                "n_patients": d.n_patients,
                "n_repeats": d.n_repeats,
            }
            for s, d, p in zip(chosen, found, adjusted.tolist(), strict=True)
        ]
    )


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment of p values (family-wise error); NaN stay NaN and do not count as tests."""
    p = np.asarray(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def sign_flip(differences: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p value of mean difference 0 when every sign was as likely: exact for up to 13 values, else random.

    NaN for no values.
    """
    d = np.asarray(differences, np.float64)
    n = len(d)
    if n == 0:
        return float("nan")
    observed = abs(d.sum()) * (1 - 1e-12)  # ties must count, whatever the order of summation
    if n <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ d) >= observed))
    signs = np.random.default_rng([seed, 3]).integers(0, 2, (resamples, n)) * 2.0 - 1.0
    return float((1 + np.count_nonzero(np.abs(signs @ d) >= observed)) / (resamples + 1))


def _signed_rank(differences: Floats) -> float:
    if not len(differences):
        return float("nan")
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _pair(
    rows: pd.DataFrame, setting: str, baseline: str, metric: str, scope: str, classes: Sequence[str] | None
) -> tuple[Cube, Cube]:
    a = cube(rows, setting, metric, scope, classes)
    b = cube(rows, baseline, metric, scope, a.classes)
    if a.patients != b.patients:
        odd = sorted(set(a.patients) ^ set(b.patients))
        raise UnderstudyError(
            f"'{setting}' and '{baseline}' were not tested on the same patients: {len(odd)} differ, e.g. {odd[0]}",
            fix="evaluate both on the same test patients",
        )
    return a, b


def _paired_draws(a: Cube, b: Cube, resamples: int, seed: int) -> tuple[Floats, Floats]:
    patients, of_a = drawn_weights(len(a.patients), len(a.repeats), resamples, seed)
    of_b = drawn_weights(len(a.patients), len(b.repeats), resamples, seed, stream=2)[1]
    return weighted_means(a.values, patients, of_a), weighted_means(b.values, patients, of_b)
