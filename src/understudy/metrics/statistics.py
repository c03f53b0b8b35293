"""Statistics by patient: means with intervals, relative Dice, paired tests.

All functions take scored rows: `score_volume`'s, with the columns setting, repeat and subject added by the study and a
policy applied (`empties.apply_policy`). Conventions:

- A *mean over classes* is the paper's: per class the mean over patients, then the mean of these. Regions and the row
  "foreground" are never part of it. NaN scores (some policies) leave the mean over patients.
- Runs marked in the optional column `collapsed` count like others ("in") unless a caller says "out"; a summary gives
  their number and both means.
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
from numpy.typing import NDArray

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
from understudy.metrics.rows import Collapsed, class_names, counted, flag, region_names
from understudy.metrics.significance import holm, sign_flip, signed_rank

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
METRICS = ("dice", "hd", "hd95_pooled", "hd95_directed")  # every version of raw rows has these


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
    collapsed: Collapsed = "in",
) -> Cube:
    """Arranges one metric of one setting; patients and repeats sorted, classes as given (default: all single ones).

    Raises:
        UnderstudyError: no such rows or columns, a row twice, a patient, repeat or class missing from a part of
            the rows (a failed run must not vanish from a table), or every run collapsed and none to count.
    """
    needed = {"setting", "repeat", "subject", "class_name", "scope", metric}
    if absent := sorted(needed - set(rows)):
        raise UnderstudyError(f"the results have no columns {absent}", fix="apply an empty-mask policy to raw rows")
    part = rows[(rows["setting"] == setting) & (rows["scope"] == scope)]
    if classes is None:
        classes = class_names(part)
    part = part[part["class_name"].isin(list(classes))]
    if len(part) and (part := counted(part, collapsed)).empty:
        raise UnderstudyError(
            f"every run of the setting '{setting}' collapsed", fix="count collapsed runs, or train again"
        )
    if part.empty:
        raise UnderstudyError(
            f"no results of the setting '{setting}' (scope '{scope}', classes {list(classes)})",
            fix=f"one of the settings {sorted(map(str, rows['setting'].unique()))}",
        )
    keys = ["subject", "repeat", "class_name"]
    if (doubled := part.duplicated(keys)).any():
        raise UnderstudyError(
            f"the setting '{setting}' has {int(doubled.sum())} results twice", fix="keep one result file per repeat"
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
        (over patients, of their mean over repeats), n_patients, n_repeats, n_collapsed (of the repeats),
        value_without_collapsed, sd_without_collapsed (NaN if all collapsed), and over all patients and repeats: present
        (truth not empty), missed, false_alarms, undefined (scores that the policy made NaN); region: whether the class
        is one, i.e. a union of others.

    Raises:
        UnderstudyError: as `cube`.
    """
    if absent := sorted({"setting", "scope", "class_name", "truth_empty", "missed", "false_alarm"} - set(rows)):
        raise UnderstudyError(f"the results have no columns {absent}", fix="apply an empty-mask policy to raw rows")
    table = []
    for (setting, scope), part in rows.groupby(["setting", "scope"], sort=False):
        names, single, regions = list(part["class_name"].unique()), class_names(part), region_names(part)
        healthy = _healthy(part)
        cubes = {metric: cube(part, str(setting), metric, str(scope), names).values for metric in metrics}
        for name in [*names, MEAN]:
            members = single if name == MEAN else [name]
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
                totals |= {"undefined": int(np.isnan(data).sum()), "region": name in regions}
                table.append(about | _summary(data, e) | _without_collapsed(data, healthy) | totals)
    return pd.DataFrame(table)


def _healthy(part: pd.DataFrame) -> NDArray[np.bool_]:
    """Which repeats of one setting, in their order, did not collapse."""
    runs = part[["repeat"]].assign(collapsed=flag(part, "collapsed"))
    return ~runs.groupby("repeat", sort=True)["collapsed"].any().to_numpy(bool)


def _without_collapsed(data: Floats, healthy: NDArray[np.bool_]) -> dict[str, float | int]:
    models = per_repeat(data)[healthy]
    models = models[~np.isnan(models)]
    return {
        "n_collapsed": int((~healthy).sum()),
        "value_without_collapsed": float(models.mean()) if len(models) else float("nan"),
        "sd_without_collapsed": _sd(models),
    }


def _sd(models: Floats) -> float:
    """Spread over repeats, ddof 0 as the paper has it."""
    return float(np.std(models)) if len(models) and np.isfinite(models).all() else float("nan")


def _summary(data: Floats, mean: Estimate) -> dict[str, float | int]:
    models, patients = per_repeat(data), per_patient(data)
    patients = patients[~np.isnan(patients)]
    return {
        "value": mean.value,
        "sd": _sd(models),
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
    collapsed: Collapsed = "in",
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
    a, b = _pair(rows, setting, baseline, metric, scope, classes, collapsed)
    (value,), (base,) = (weighted_means(c.values, *(np.ones((1, k)) for k in c.values.shape[:2])) for c in (a, b))
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
    collapsed: Collapsed = "in",
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
    a, b = _pair(rows, setting, baseline, metric, scope, classes, collapsed)
    (value,), (base,) = (weighted_means(c.values, *(np.ones((1, k)) for k in c.values.shape[:2])) for c in (a, b))
    top, bottom = _paired_draws(a, b, resamples, seed)
    with np.errstate(invalid="ignore"):
        low, high = quantiles(top - bottom, np.array([(1 - level) / 2, (1 + level) / 2]))
        by_patient = per_patient(a.values) - per_patient(b.values)
        difference = float(value - base)
    by_patient = by_patient[np.isfinite(by_patient)]
    p = sign_flip(by_patient, resamples, seed) if test == "sign_flip" else signed_rank(by_patient)
    repeats = min(len(a.repeats), len(b.repeats))
    return Difference(difference, low, high, len(a.patients), repeats, level, p, test)


def compare(
    rows: pd.DataFrame,
    baseline: str,
    settings: Iterable[str] | None = None,
    *,
    metric: str = "dice",
    scope: str = "whole",
    classes: Sequence[str] | None = None,
    collapsed: Collapsed = "in",
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
            classes=classes,
            collapsed=collapsed,
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


def _pair(
    rows: pd.DataFrame,
    setting: str,
    baseline: str,
    metric: str,
    scope: str,
    classes: Sequence[str] | None,
    collapsed: Collapsed,
) -> tuple[Cube, Cube]:
    a = cube(rows, setting, metric, scope, classes, collapsed)
    b = cube(rows, baseline, metric, scope, a.classes, collapsed)
    same_patients(setting, a, baseline, b)
    return a, b


def same_patients(setting: str, a: Cube, other: str, b: Cube) -> None:
    """Refuses a comparison of two settings by different patients.

    Raises:
        UnderstudyError: the patients differ.
    """
    if a.patients != b.patients:
        odd = sorted(set(a.patients) ^ set(b.patients))
        raise UnderstudyError(
            f"'{setting}' and '{other}' were not tested on the same patients: {len(odd)} differ, e.g. {odd[0]}",
            fix="evaluate both on the same test patients",
        )


def _paired_draws(a: Cube, b: Cube, resamples: int, seed: int) -> tuple[Floats, Floats]:
    patients, of_a = drawn_weights(len(a.patients), len(a.repeats), resamples, seed)
    of_b = drawn_weights(len(a.patients), len(b.repeats), resamples, seed, stream=2)[1]
    return weighted_means(a.values, patients, of_a), weighted_means(b.values, patients, of_b)
