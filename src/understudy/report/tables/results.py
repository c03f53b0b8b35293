"""Tables in the paper's layout, with the numbers behind them as frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.bootstrap import holm
from understudy.metrics.overlap import FOREGROUND, LATER, EmptyPolicy, apply_policy
from understudy.metrics.statistics import MEAN, METRICS, compare, cube, summarise
from understudy.report.data import ReportData, Setting, count, number, percent
from understudy.report.sections.answer import Answer, interval, value
from understudy.report.tables.base import (
    IDENTITY,
    POLICIES,
    RESAMPLES,
    SCOPES,
    Table,
    about,
    class_columns,
    collapsed_of,
    identity,
    main_entry,
    marked,
    numbers_of,
    pick,
    spread,
    without_collapsed,
)
from understudy.report.tables.grid import ranking, ratio_table, regions, training_sets
from understudy.report.tables.paper import score_tables

DEFINED = {
    "hd": "Largest distance between the two borders.",
    "hd95_pooled": "95th percentile of both borders' distances thrown together (MedPy's definition; MONAI, DeepMind and"
    " the BraTS script define it otherwise and get other numbers).",
    "hd95_surfel": "The larger of the two directions' 95th percentiles, border elements counted by their area"
    " (DeepMind's definition and the BraTS script's).",
}

_PARTS = ("low", "high", "median")

__all__ = ["Table", "patient_means", "reading_note", "result_tables", "summaries", "usable_rows"]


def usable_rows(data: ReportData) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the settings that are complete, with the column `collapsed`, and a sentence for each that is not.

    Nothing vanishes unsaid.
    """
    rows, left_out = data.scores, []
    if len(rows):
        runs = zip(rows["setting"], rows["repeat"], strict=True)
        rows = rows.assign(collapsed=[(str(s), int(r)) in data.collapsed for s, r in runs])
    for setting in data.settings:
        mine = rows[rows["setting"] == setting.id]
        scored = apply_policy(mine)
        try:
            for scope in mine["scope"].unique():
                cube(scored, setting.id, "dice", str(scope))
        except UnderstudyError as error:
            rows = rows[rows["setting"] != setting.id]
            left_out.append(data.hide(f"“{setting.label}” is not in the tables: {error.what}."))
    return rows, left_out


def summaries(data: ReportData, rows: pd.DataFrame) -> pd.DataFrame:
    """`metrics.statistics.summarise` for both policies, with the column `policy`."""
    if rows.empty:
        return pd.DataFrame()
    metrics = [*METRICS, *(name for name in LATER if name in rows)]
    parts = [
        summarise(apply_policy(rows, policy), metrics, seed=data.seed, resamples=RESAMPLES).assign(policy=str(policy))
        for policy in POLICIES
    ]
    return pd.concat(parts, ignore_index=True)


def result_tables(data: ReportData, rows: pd.DataFrame, summary: pd.DataFrame, answer: Answer) -> list[Table]:
    """All tables of results, the headline first; [] without rows."""
    if rows.empty:
        return []
    settings = [s for s in data.settings if s.id in set(rows["setting"])]
    made = [_dice(data, settings, summary, answer)]
    made += [_distances(data, settings, summary, "hd", "Maximum Hausdorff distance, mm")]
    made += [_distances(data, settings, summary, "hd95_pooled", "95th percentile Hausdorff distance (HD95), mm")]
    if "hd95_surfel" in rows:
        made += [_distances(data, settings, summary, "hd95_surfel", "HD95 by area of the border, mm")]
    made += [_misses(data, settings, rows), _conventions(data, settings, summary)]
    made += [ratio_table(data, settings, summary, answer)] if any(s.training == "ratio" for s in settings) else []
    made += [regions(data, settings, summary)] if data.regions else []
    made += score_tables(data, rows, summary)
    made += ranking(data, settings, rows)
    made += [training_sets(data, settings)] if data.runs else []
    made += [_differences(data, rows, answer)] if answer.comparisons else []
    made += [_by_site(data, settings, rows)] if data.scores["site"].nunique() > 1 else []
    made.append(_by_patient(data, settings, rows))
    return made


def reading_note(data: ReportData, summary: pd.DataFrame) -> str:
    """How to read all tables, once."""
    if summary.empty:
        return ""
    most = int(summary["n_repeats"].max())
    broken = sum(collapsed_of(data, s)[0] for s in data.settings)
    single = summary[summary["class_name"].isin(data.class_names) & (summary["scope"] == data.scope)]
    present = single.groupby("class_name")["present"].max()
    absent = [name for name in data.class_names if present.get(name, 1) == 0]
    words = (
        f"Numbers are means over test patients ± the standard deviation over {most} trainings."
        if most > 1
        else "Numbers are means over test patients; each network was trained once, so there is no standard deviation."
    )
    return (
        f"{words} Unless said otherwise {SCOPES[data.scope]} count, on the original grid. BraTS rule: where a class"
        " is empty in both truth and prediction, Dice is 1 and the distance 0; where it is empty in one of them,"
        " Dice is 0 and the distance the volume's diagonal. Paper's rule: the former is left out of the means, the"
        " latter has no distance."
        + (
            f" {count(broken, 'training')} collapsed: the scores are part of every mean, and the means without them"
            " stand beside it."
            if broken
            else ""
        )
        + "".join(f" No test patient has the class {name}." for name in absent)
    )


def _missed(data: ReportData, summary: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Setting -> segmentations that found no voxel of the tumour, of how many of patients with one."""
    mine = summary[(summary["class_name"] == FOREGROUND) & (summary["scope"] == data.scope)]
    mine = mine.drop_duplicates("setting")
    return {str(s): (int(m), int(p)) for s, m, p in zip(mine["setting"], mine["missed"], mine["present"], strict=True)}


def _dice(data: ReportData, settings: list[Setting], summary: pd.DataFrame, answer: Answer) -> Table:
    keys, names = class_columns(data, [FOREGROUND])
    relative, misses = {c.setting.id: c for c in answer.comparisons}, _missed(data, summary)
    rows = [[pick(summary, s.id, "dice", k, data.scope) for k in keys] for s in settings]
    extra, cells = without_collapsed(data, settings, [main_entry(keys, row) for row in rows], 3)
    body, numbers = [], []
    for s, entries, more in zip(settings, rows, cells, strict=True):
        other, missed = relative.get(s.id), misses[s.id]
        own = data.baseline_of(s) == s
        ratio = [value(other.relative), interval(other.relative)] if other else ["100\u00a0%" if own else "–", ""]
        whole = main_entry(keys, entries)
        spans = [_span(whole, 3), number(whole.get("median", np.nan), 3)]
        body.append(
            [*identity(s), *(spread(e, 3) for e in entries), *more, *spans, *ratio, f"{missed[0]} of {missed[1]}"]
        )
        numbers.append(
            about(data, s)
            | numbers_of(keys, entries)
            | {f"{k}_{part}": e.get(part, np.nan) for k, e in zip(keys, entries, strict=True) for part in _PARTS}
            | {
                "relative_dice": other.relative.value if other else np.nan,
                "relative_low": other.relative.low if other else np.nan,
                "relative_high": other.relative.high if other else np.nan,
                "missed": missed[0],
                "present": missed[1],
            }
        )
    of = "" if len(keys) == 1 else f", of the column {names[keys.index(MEAN)]}"
    note = (
        f"Interval and median: by patient (the mean over trainings of each){of}. Relative: mean Dice divided by that of"
        " the same network trained on real slices with augmentation, with its interval by patient. Missed: of the"
        " segmentations of patients with a tumour, over all trainings, those that found no voxel of it."
    )
    header = [
        *IDENTITY, *names, *extra, "95\u00a0% interval", "Median", "Relative", "Its 95\u00a0% interval", "Missed",
    ]  # fmt: skip
    return Table("dice", "Dice score", note, header, body, pd.DataFrame(numbers), len(IDENTITY))


def _span(entry: pd.Series, digits: int) -> str:
    """The interval of a mean; "" without one."""
    low, high = entry.get("low", np.nan), entry.get("high", np.nan)
    return "" if np.isnan(low) else f"{number(low, digits)} to {number(high, digits)}"


def _distances(data: ReportData, settings: list[Setting], summary: pd.DataFrame, metric: str, caption: str) -> Table:
    keys, names = class_columns(data, [FOREGROUND])
    rows = [[pick(summary, s.id, metric, k, data.scope) for k in keys] for s in settings]
    extra, cells = without_collapsed(data, settings, [main_entry(keys, row) for row in rows], 1)
    body, numbers = [], []
    for s, entries, more in zip(settings, rows, cells, strict=True):
        kept = [pick(summary, s.id, metric, k, data.scope, "paper") for k in keys]
        body.append([*identity(s), *(spread(e, 1) for e in entries), *more, spread(main_entry(keys, kept), 1)])
        numbers.append(
            about(data, s)
            | numbers_of(keys, entries)
            | {f"{k}_value_paper_rule": e["value"] for k, e in zip(keys, kept, strict=True)}
        )
    note = f"{DEFINED[metric]} Lower is better. Last column: by the paper's rule, which rewards finding nothing."
    header = [*IDENTITY, *names, *extra, "Paper's rule"]
    return Table(metric, caption, note, header, body, pd.DataFrame(numbers), len(IDENTITY))


def _misses(data: ReportData, settings: list[Setting], rows: pd.DataFrame) -> Table:
    scored = apply_policy(rows[rows["scope"] == data.scope])
    body, numbers = [], []
    names = [*data.class_names, FOREGROUND] if len(data.class_names) > 1 else data.class_names
    for s in settings:
        for name in names:
            mine = scored[(scored["setting"] == s.id) & (scored["class_name"] == name)]
            empty = mine["truth_empty"].astype(bool)
            recall, precision = (
                mine.loc[~empty, "recall"].mean(),
                mine.loc[~mine["predicted_empty"].astype(bool), "precision"].mean(),
            )
            missed, alarms = int(mine["missed"].sum()), int(mine["false_alarm"].sum())
            body.append(
                [
                    marked(data, s),
                    "All as one" if name == FOREGROUND else name,
                    f"{missed} of {int((~empty).sum())}",
                    f"{alarms} of {int(empty.sum())}" if empty.any() else "–",
                    percent(recall),
                    percent(precision),
                ]
            )
            numbers.append(
                about(data, s)
                | {
                    "class_name": name,
                    "missed": missed,
                    "present": int((~empty).sum()),
                    "false_alarms": alarms,
                    "absent": int(empty.sum()),
                    "recall": recall,
                    "precision": precision,
                }
            )
    note = (
        "Missed: the class is there, and not one voxel of it was found, even if it was predicted elsewhere. False"
        " alarm: the class is not there, and was predicted. Both count segmentations over all trainings. Recall:"
        " share of the true voxels that were predicted. Precision: share of the predicted voxels that are true. Both"
        " are means over patients."
    )
    header = ["Trained on", "Class", "Missed", "False alarms", "Recall", "Precision"]
    return Table("misses", "Misses and false alarms", note, header, body, pd.DataFrame(numbers), 2)


def _conventions(data: ReportData, settings: list[Setting], summary: pd.DataFrame) -> Table:
    name = MEAN if len(data.class_names) > 1 else data.class_names[0]
    scopes = [s for s in SCOPES if s in set(summary["scope"])]
    ways = [(scope, str(policy)) for scope in scopes for policy in POLICIES]
    titles = [f"{SCOPES[scope].capitalize()}, {POLICIES[EmptyPolicy(policy)]}" for scope, policy in ways]
    body: list[list[str]] = []
    numbers: list[dict[str, object]] = []
    for s in settings:
        base = data.baseline_of(s)
        entries = [pick(summary, s.id, "dice", name, scope, policy) for scope, policy in ways]
        body.append([marked(data, s)])
        numbers.append(about(data, s))
        for (scope, policy), entry in zip(ways, entries, strict=True):
            reference = pick(summary, base.id, "dice", name, scope, policy)["value"] if base else np.nan
            share = float(entry["value"] / reference) if reference else np.nan
            body[-1].append(f"{spread(entry, 3)} ({percent(share)})")
            numbers[-1] |= {f"dice_{scope}_{policy}": entry["value"], f"relative_{scope}_{policy}": share}
    note = (
        "Mean Dice and, in brackets, relative Dice. Kept slices: only those that pass the slice rule are stacked and"
        " scored (the paper's code), so false alarms elsewhere go unseen."
    )
    return Table(
        "conventions",
        "The same results, counted in other ways",
        note,
        ["Trained on", *titles],
        body,
        pd.DataFrame(numbers),
    )


def _differences(data: ReportData, rows: pd.DataFrame, answer: Answer) -> Table:
    by_id = {s.id: s for s in data.settings}
    scored = apply_policy(rows)
    groups: dict[str, list[str]] = {}
    for c in answer.comparisons:
        groups.setdefault(c.base.id, []).append(c.setting.id)
        if (same := _same_patients(data, c.setting)) and same.id in set(rows["setting"]):
            groups.setdefault(same.id, []).append(c.setting.id)
    parts = [
        compare(scored, base, ids, scope=data.scope, seed=data.seed, resamples=RESAMPLES)
        for base, ids in groups.items()
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame["p_holm"] = holm(frame["p"])  # over all comparisons of the page
    body = [
        [
            marked(data, by_id[str(r["setting"])]),
            marked(data, by_id[str(r["baseline"])]),
            _signed(r["difference"]),
            f"{_signed(r['low'])} to {_signed(r['high'])}",
            _probability(float(r["p"])),
            _probability(float(r["p_holm"])),
        ]
        for r in frame.to_dict(orient="records")
    ]
    note = (
        "Mean Dice minus that of the same network trained on real slices, on the same patients, with its"
        " 95\u00a0% interval; p of the sign-flip permutation test over patients, and adjusted for their number (Holm)."
        + (" All trainings count, also those that collapsed." if data.collapsed else "")
    )
    header = ["Trained on", "Minus", "Difference", "95\u00a0% interval", "p", "p (Holm)"]
    return Table("differences", "Differences from the real slices, patient by patient", note, header, body, frame, 2)


def _same_patients(data: ReportData, setting: Setting) -> Setting | None:
    """The same network trained on real slices of the same part of the patients, if it is a part."""
    if setting.training != "both" or setting.real_fraction == 1:
        return None
    alike = (setting.segmenter, setting.augmentation, setting.real_fraction)
    same = (s for s in data.settings if (s.segmenter, s.augmentation, s.real_fraction) == alike)
    return next((s for s in same if s.training == "real"), None)


def _probability(p: float) -> str:
    """ "0.012", or "< 0.001" for what would be printed as zero."""
    return "< 0.001" if p < 0.0005 else number(p)


def _signed(value: float) -> str:
    """ "+0.012" or "−0.012" with a real minus sign; a dash for what is not there."""
    return "–" if np.isnan(value) else f"{value:+.3f}".replace("-", "−")


def patient_means(data: ReportData, rows: pd.DataFrame) -> pd.DataFrame:
    """Dice of every setting, class ("mean" over classes too), subject and site: mean over trainings, BraTS rule."""
    scored = apply_policy(rows[rows["scope"] == data.scope])
    keys = ["setting", "class_name", "subject", "site"]
    by_class = scored.groupby(keys, sort=False)["dice"].mean().reset_index()
    singles = by_class[by_class["class_name"].isin(data.class_names)]
    mean = singles.groupby(["setting", "subject", "site"], sort=False)["dice"].mean().reset_index()
    return pd.concat([mean.assign(class_name=MEAN), by_class], ignore_index=True)


def _matrix(
    data: ReportData, settings: list[Setting], means: pd.DataFrame, key: str, name: Callable[[str], str]
) -> tuple[list[str], list[list[str]], pd.DataFrame]:
    table = means[means["class_name"] == MEAN].pivot_table("dice", key, "setting", aggfunc="mean", observed=True)
    table = table.reindex(columns=[s.id for s in settings])
    counts = means[means["class_name"] == MEAN].groupby(key)["subject"].nunique().to_dict()
    body = []
    for row, values in table.iterrows():
        cells = [name(str(row)), *(number(float(v)) for v in values)]
        body.append([cells[0], str(counts.get(row, 0)), *cells[1:]] if key == "site" else cells)
    table.index = pd.Index([name(str(i)) for i in table.index], name=key)
    return [marked(data, s) for s in settings], body, table.reset_index()


def _by_site(data: ReportData, settings: list[Setting], rows: pd.DataFrame) -> Table:
    labels, body, frame = _matrix(data, settings, patient_means(data, rows), "site", lambda s: s or "unknown")
    note = "Mean Dice over the classes and the test patients of each hospital. Few patients a hospital: read with care."
    return Table("sites", "By hospital", note, ["Hospital", "Patients", *labels], body, frame)


def _by_patient(data: ReportData, settings: list[Setting], rows: pd.DataFrame) -> Table:
    labels, body, frame = _matrix(
        data, settings, patient_means(data, rows), "subject", lambda s: data.patient_names.get(s, s)
    )
    note = "Mean Dice over the classes (BraTS rule) and over the trainings of a setting."
    return Table("patients", "By patient", note, ["Patient", *labels], body, frame)
