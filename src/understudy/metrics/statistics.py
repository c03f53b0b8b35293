"""Statistics by patient: means with intervals, relative Dice, paired tests, ranks.

All functions take scored rows: `score_volume`'s with the columns setting, repeat and subject, and a policy applied
(`overlap.apply_policy`). A mean over classes is the paper's: per class the mean over patients, then the mean of these,
without regions and "foreground"; NaN scores leave the mean over patients. Runs marked in the optional column
`collapsed` count like others. `sd` is over repeats, with ddof 0, as the paper prints it. Intervals draw patients, then
repeats (`bootstrap`); with few repeats they are too narrow. Two settings of one call see the same drawn patients.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata, wilcoxon

from understudy.errors import UnderstudyError
from understudy.metrics import bootstrap
from understudy.metrics.bootstrap import RESAMPLES, Estimate, Floats
from understudy.metrics.overlap import DISTANCES
from understudy.metrics.scores import class_names, flag, region_names

Test = Literal["sign_flip", "wilcoxon"]

MEAN = "mean"
METRICS = ("dice", *DISTANCES)
HIGHER_IS_BETTER = ("dice", "precision", "recall")
TIE = 1e-9  # means closer than this are equal: the order of a summation must not decide a rank


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

    def drawn(self, resamples: int, seed: int, stream: int) -> Floats:
        """Resampled means [resamples]; the drawn patients are the same in all streams, the repeats are not."""
        weights = bootstrap.drawn_weights(len(self.patients), len(self.repeats), resamples, seed, stream)
        return bootstrap.weighted_means(self.values, *weights)


def cube(
    rows: pd.DataFrame, setting: str, metric: str = "dice", scope: str = "whole", classes: Sequence[str] | None = None
) -> Cube:
    """One metric of one setting as an array; patients and repeats sorted, classes as given (default: all single ones).

    Raises:
        UnderstudyError: no such rows or columns, a duplicate row, gaps (a failed run must not vanish from a table).
    """
    needed = {"setting", "repeat", "subject", "class_name", "scope", metric}
    if absent := sorted(needed - set(rows)):
        raise UnderstudyError(f"the results have no columns {absent}", fix="apply an empty-mask policy to raw rows")
    part = rows[(rows["setting"] == setting) & (rows["scope"] == scope)]
    names = class_names(part) if classes is None else list(classes)
    part = part[part["class_name"].isin(names)]
    if part.empty:
        what = f"no results of the setting '{setting}' (scope '{scope}', classes {names})"
        raise UnderstudyError(what, fix=f"one of the settings {sorted(map(str, rows['setting'].unique()))}")
    scores = part.set_index(["subject", "repeat", "class_name"])[metric]
    if doubled := int(scores.index.duplicated().sum()):
        what = f"the setting '{setting}' has {doubled} duplicate results"
        raise UnderstudyError(what, fix="keep one result file per repeat")
    patients, repeats = sorted(part["subject"].unique()), sorted(part["repeat"].unique())
    grid = pd.MultiIndex.from_product([patients, repeats, names])
    if len(missing := grid[~grid.isin(scores.index)]):
        what = f"the setting '{setting}' lacks {len(missing)} results, e.g. of (patient, repeat, class) {missing[0]}"
        raise UnderstudyError(what, fix="finish its evaluation, or leave the unfinished repeat out by name")
    values = scores.reindex(grid).to_numpy(np.float64).reshape(len(patients), len(repeats), len(names))
    return Cube(values, tuple(patients), tuple(repeats), tuple(names))


def summarise(
    rows: pd.DataFrame, metrics: Sequence[str] = METRICS, *, level: float = 0.95, resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """The table of results; errors as `cube`.

    Returns:
        One row per setting, scope, class (each class, "foreground", and "mean" over the classes) and metric, in the
        order of the rows: value (mean over patients, then repeats), sd (over repeats; NaN if one of them has no finite
        mean), low, high (interval), median (over patients, of their mean over repeats), n_patients, n_repeats,
        n_collapsed (of the repeats), value_without_collapsed, sd_without_collapsed (NaN if all collapsed), and over all
        patients and repeats: present (target not empty), missed, false_alarms, undefined (scores that the policy made
        NaN); region: whether the class is a union of others.
    """
    if absent := sorted({"setting", "scope", "class_name", "truth_empty", "missed", "false_alarm"} - set(rows)):
        raise UnderstudyError(f"the results have no columns {absent}", fix="apply an empty-mask policy to raw rows")
    table = []
    for (setting, scope), part in rows.groupby(["setting", "scope"], sort=False):
        names, single, regions = list(part["class_name"].unique()), class_names(part), region_names(part)
        runs = part[["repeat"]].assign(collapsed=flag(part, "collapsed"))
        healthy = ~runs.groupby("repeat", sort=True)["collapsed"].any().to_numpy(bool)  # [repeats]
        # the whole grid at once: a missing row is an error, not a smaller table
        cubes = {metric: cube(part, str(setting), metric, str(scope), names).values for metric in metrics}
        for name in [*names, MEAN]:
            members = single if name == MEAN else [name]
            mine = part[part["class_name"].isin(members)]
            for metric in metrics:
                data = cubes[metric][:, :, [names.index(n) for n in members]]
                mean = bootstrap.mean_interval(data, level=level, resamples=resamples, seed=seed)
                models, patients = bootstrap.per_repeat(data), bootstrap.per_patient(data)
                patients = patients[~np.isnan(patients)]
                stable = models[healthy & ~np.isnan(models)]  # of the runs that did not collapse
                table.append({
                    "setting": setting, "scope": scope, "class_name": name, "metric": metric,
                    "value": mean.value, "sd": _sd(models), "low": mean.low, "high": mean.high,
                    "median": float(np.median(patients)) if len(patients) else float("nan"),
                    "n_patients": mean.n_patients, "n_repeats": mean.n_repeats, "n_collapsed": int((~healthy).sum()),
                    "value_without_collapsed": float(stable.mean()) if len(stable) else float("nan"),
                    "sd_without_collapsed": _sd(stable), "present": int((~mine["truth_empty"].astype(bool)).sum()),
                    "missed": int(mine["missed"].sum()), "false_alarms": int(mine["false_alarm"].sum()),
                    "undefined": int(np.isnan(data).sum()), "region": name in regions,
                })  # fmt: skip
    return pd.DataFrame(table)


def _sd(models: Floats) -> float:
    """Spread over repeats, ddof 0 as the paper has it."""
    return float(np.std(models)) if len(models) and np.isfinite(models).all() else float("nan")


def relative_dice(
    rows: pd.DataFrame, setting: str, baseline: str, *, metric: str = "dice", scope: str = "whole",
    classes: Sequence[str] | None = None, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0,
) -> Estimate:  # fmt: skip
    """Mean Dice of a setting as a fraction of the baseline's, e.g. synthetic / real.

    The interval is a paired bootstrap: both means are taken over the same drawn patients, while the repeats of the
    two are drawn independently (they are different models). `n_repeats` is the smaller of the two. Errors as `cube`,
    and for patients or classes that differ between the two settings.
    """
    a, b = _same_patients(rows, [setting, baseline], metric, scope, classes)
    top, bottom = a.drawn(resamples, seed, stream=1), b.drawn(resamples, seed, stream=2)  # [b], same patients
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, drawn = np.float64(bootstrap.whole_mean(a.values)) / bootstrap.whole_mean(b.values), top / bottom
    low, high = bootstrap.interval(drawn, level)
    return Estimate(float(ratio), low, high, len(a.patients), min(len(a.repeats), len(b.repeats)), level)


def paired_difference(
    rows: pd.DataFrame, setting: str, baseline: str, *, metric: str = "dice", scope: str = "whole",
    classes: Sequence[str] | None = None, test: Test = "sign_flip", level: float = 0.95, resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:  # fmt: skip
    """Mean of a setting minus that of the baseline on the same patients, with the interval of `relative_dice`.

    The p value compares patients, each with the mean over repeats and classes: "sign_flip" is the permutation test of
    the mean difference (all patterns up to 13 patients, `resamples` random ones above), "wilcoxon" the signed-rank
    test. It says whether these models differ on other patients, not whether other repeats would. Patients without a
    finite score in both settings are left out of the test. Errors as `relative_dice`.
    """
    a, b = _same_patients(rows, [setting, baseline], metric, scope, classes)
    top, bottom = a.drawn(resamples, seed, stream=1), b.drawn(resamples, seed, stream=2)
    with np.errstate(invalid="ignore"):
        low, high = bootstrap.interval(top - bottom, level)
        by_patient = bootstrap.per_patient(a.values) - bootstrap.per_patient(b.values)
        difference = float(np.float64(bootstrap.whole_mean(a.values)) - bootstrap.whole_mean(b.values))
    by_patient = by_patient[np.isfinite(by_patient)]
    if test == "sign_flip":
        p = bootstrap.sign_flip(by_patient, resamples, seed)
    elif not by_patient.any():  # which SciPy has no answer to
        p = 1.0 if len(by_patient) else float("nan")
    else:
        p = float(wilcoxon(by_patient).pvalue)
    repeats = min(len(a.repeats), len(b.repeats))
    return Difference(difference, low, high, len(a.patients), repeats, level, p, test)


def compare(rows: pd.DataFrame, baseline: str, settings: Iterable[str] | None = None, **options: Any) -> pd.DataFrame:
    """`paired_difference` (and its options) of every setting (default: all others) from the baseline.

    Returns:
        setting, baseline, metric, scope, difference, low, high, p, p_holm (see `holm`), test, n_patients, n_repeats.
    """
    chosen = [s for s in rows["setting"].unique() if s != baseline] if settings is None else list(settings)
    found = [paired_difference(rows, s, baseline, **options) for s in chosen]
    adjusted = bootstrap.holm([d.p for d in found]).tolist()
    about = {"metric": options.get("metric", "dice"), "scope": options.get("scope", "whole")}
    table = [
        {"setting": s, "baseline": baseline, **about, "difference": d.value, "low": d.low, "high": d.high, "p": d.p,
         "p_holm": p, "test": d.test, "n_patients": d.n_patients, "n_repeats": d.n_repeats}
        for s, d, p in zip(chosen, found, adjusted, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(table)


def ranks(
    rows: pd.DataFrame, settings: Sequence[str], *, metric: str = "dice", scope: str = "whole",
    classes: Sequence[str] | None = None, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Ranks of two or more settings (e.g. one per generator) by their mean over patients, repeats and classes.

    In every resample the same patients are drawn for all settings and the repeats for each on its own (they are
    different models), the means are taken and the settings ranked: 1 is the best, the highest dice, precision or recall
    and the lowest of all else. The share of resamples in which a setting has a rank is the probability of that rank
    *given these patients and models*; settings that tie share their ranks evenly.

    Returns:
        One row a setting, the best first: setting, metric, scope, value (mean), rank (of the mean; ties share the
        average), expected_rank (mean over resamples), rank_low, rank_high (interval), p_rank_1 ... p_rank_K (each row
        and each column sums to 1), n_patients, n_repeats, resamples (those in which every setting has a mean).

    Raises:
        UnderstudyError: as `cube`; fewer than two settings or a duplicate; patients that differ.
    """
    if len(settings) < 2 or len(set(settings)) < len(settings):
        what = f"these settings cannot be ranked: {list(settings)}"
        raise UnderstudyError(what, fix="name two or more different settings")
    names = sorted(settings)  # the draws belong to a name's place: the order of the call must not matter
    cubes = _same_patients(rows, names, metric, scope, classes)
    means = np.array([bootstrap.whole_mean(c.values) for c in cubes])
    drawn = np.stack([c.drawn(resamples, seed, i) for i, c in enumerate(cubes, start=1)], axis=1)  # [b, k]
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    own = pd.Series(_costs(means, metric)).rank()  # NaN for NaN, which nobody competes with
    # first and last rank that a setting shares with its equals, [b, k] each
    lowest, highest = (rankdata(_costs(drawn, metric), method=which, axis=1) for which in ("min", "max"))
    place = (lowest + highest) / 2  # average rank of ties
    table = []
    for i, name in enumerate(names):
        low, high = bootstrap.interval(place[:, i], level)
        row = {"setting": name, "metric": metric, "scope": scope, "value": means[i], "rank": own[i]}
        row |= {"expected_rank": place[:, i].mean() if len(place) else np.nan, "rank_low": low, "rank_high": high}
        for k in range(1, len(names) + 1):
            here = (lowest[:, i] <= k) & (k <= highest[:, i])
            share = here / (highest[:, i] - lowest[:, i] + 1)  # ties share their ranks evenly
            row[f"p_rank_{k}"] = share.mean() if len(share) else np.nan
        row |= {"n_patients": len(cubes[i].patients), "n_repeats": len(cubes[i].repeats), "resamples": len(drawn)}
        table.append(row)
    return pd.DataFrame(table).sort_values(["rank", "setting"], ignore_index=True)


def _costs(values: Floats, metric: str) -> Floats:
    """Lower is better; nearly equal values are made equal."""
    costs = -values if metric in HIGHER_IS_BETTER else values
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(costs), np.round(costs / TIE) * TIE, costs)


def _same_patients(
    rows: pd.DataFrame, settings: Sequence[str], metric: str, scope: str, classes: Sequence[str] | None
) -> list[Cube]:
    first = cube(rows, settings[0], metric, scope, classes)
    cubes = [first] + [cube(rows, name, metric, scope, first.classes) for name in settings[1:]]
    for name, other in zip(settings, cubes, strict=True):
        if odd := sorted(set(first.patients) ^ set(other.patients)):
            what = f"'{settings[0]}' and '{name}' have not the same patients: {len(odd)} differ, e.g. {odd[0]}"
            raise UnderstudyError(what, fix="evaluate both on the same test patients")
    return cubes
