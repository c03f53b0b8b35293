"""Tables of scores, with the numbers behind them as frames."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.bootstrap import holm
from understudy.metrics.overlap import FOREGROUND, EmptyPolicy
from understudy.metrics.statistics import MEAN, compare, ranks
from understudy.report.answer import Answer
from understudy.report.data import ReportData, Setting, between, number, p_value, percent, signed
from understudy.report.tables import base
from understudy.report.tables.base import INTERVAL, Summary, Table

# Column of the rows -> caption and definition; each metric that a study's rows have gets a table of its own.
DISTANCES = {
    "hd": ("Maximum Hausdorff distance, mm", "Largest distance between the two borders."),
    "hd95_pooled": (
        "95th percentile Hausdorff distance (HD95), mm",
        "95th percentile of both borders' distances pooled (MedPy's definition; MONAI, DeepMind and the BraTS script"
        " define it otherwise and get other numbers).",
    ),
    "hd95_surfel": (
        "HD95 by area of the border, mm",
        "The larger of the two directions' 95th percentiles, border elements weighted by their area (DeepMind's"
        " definition and the BraTS script's).",
    ),
}


def dice_table(data: ReportData, settings: list[Setting], summary: Summary, answer: Answer) -> Table:
    """Dice of each class with intervals, relative Dice, and tumours that were missed altogether."""
    keys, names = base.class_columns(data, [FOREGROUND])
    relative = {c.setting.id: c.relative for c in answer.comparisons}
    extra, rows = base.score_rows(data, settings, summary, keys, "dice", 3, data.scope)
    body, numbers = [], []
    for s, entries, cells, known in rows:
        other, tumour = relative.get(s.id), summary.pick(s.id, "dice", FOREGROUND, data.scope)
        missed, present = int(tumour["missed"]), int(tumour["present"])
        ratio = ["100\u00a0%" if data.baseline_of(s) == s else "–", ""]
        if other:
            ratio = [base.value(other), base.interval(other)]
        whole = base.main_entry(keys, entries)
        span = between(whole.get("low"), whole.get("high")).replace("–", "")
        body.append([*base.identity(s), *cells, span, number(whole.get("median")), *ratio, f"{missed} of {present}"])
        for (k, e), part in product(zip(keys, entries, strict=True), ("low", "high", "median")):
            known[f"{k}_{part}"] = e.get(part, np.nan)
        ends = {f"relative_{k}": getattr(other, k) if other else np.nan for k in ("low", "high")}
        share = {"relative_dice": other.value if other else np.nan}
        numbers.append(known | share | ends | {"missed": missed, "present": present})
    of = "" if len(keys) == 1 else f", of the column {names[keys.index(MEAN)]}"
    note = (
        f"Interval and median: by patient (mean over trainings){of}. Relative: divided by the mean Dice of the same"
        " network trained on real slices with augmentation. Missed: segmentations of patients with a tumour, over all"
        " trainings, that found no voxel of it."
    )
    header = [*base.IDENTITY, *names, *extra, INTERVAL, "Median", "Relative", f"Its {INTERVAL}", "Missed"]
    return Table("dice", "Dice score", note, header, body, pd.DataFrame(numbers), len(base.IDENTITY))


def distance_table(data: ReportData, settings: list[Setting], summary: Summary, metric: str) -> Table:
    """A metric of `DISTANCES` by class, and by the paper's rule."""
    keys, names = base.class_columns(data, [FOREGROUND])
    extra, rows = base.score_rows(data, settings, summary, keys, metric, 1, data.scope)
    body, numbers = [], []
    for s, _, cells, known in rows:
        paper = [summary.pick(s.id, metric, k, data.scope, "paper") for k in keys]
        body.append([*base.identity(s), *cells, base.spread(base.main_entry(keys, paper), 1)])
        numbers.append(known | {f"{k}_value_paper_rule": e["value"] for k, e in zip(keys, paper, strict=True)})
    caption, definition = DISTANCES[metric]
    note = f"{definition} Lower is better. Last column: by the paper's rule, which rewards finding nothing."
    header = [*base.IDENTITY, *names, *extra, "Paper's rule"]
    return Table(metric, caption, note, header, body, pd.DataFrame(numbers), len(base.IDENTITY))


def misses_table(data: ReportData, settings: list[Setting], scored: pd.DataFrame) -> Table:
    """Misses, false alarms, recall and precision of each class."""
    body, numbers = [], []
    names = [*data.class_names, FOREGROUND] if len(data.class_names) > 1 else data.class_names
    for s, name in product(settings, names):
        mine = scored.query("scope == @data.scope and setting == @s.id and class_name == @name")
        empty = mine["truth_empty"].astype(bool)
        found = {
            "missed": int(mine["missed"].sum()), "present": int((~empty).sum()),
            "false_alarms": int(mine["false_alarm"].sum()), "absent": int(empty.sum()),
            "recall": mine.loc[~empty, "recall"].mean(),
            "precision": mine.loc[~mine["predicted_empty"].astype(bool), "precision"].mean(),
        }  # fmt: skip
        alarms = f"{found['false_alarms']} of {found['absent']}" if empty.any() else "–"
        cells = [f"{found['missed']} of {found['present']}", alarms, percent(found["recall"])]
        label = "All as one" if name == FOREGROUND else name
        body.append([base.marked(data, s), label, *cells, percent(found["precision"])])
        numbers.append(base.about(data, s) | {"class_name": name} | found)
    note = (
        "Missed: the class is there, and not one voxel of it was found, even if it was predicted elsewhere. False"
        " alarm: the class is not there, and was predicted. Both count segmentations over all trainings. Recall and"
        " precision (of voxels): means over patients."
    )
    header = ["Trained on", "Class", "Missed", "False alarms", "Recall", "Precision"]
    return Table("misses", "Misses and false alarms", note, header, body, pd.DataFrame(numbers), 2)


def conventions_table(data: ReportData, settings: list[Setting], summary: Summary) -> Table:
    """Mean Dice by every combination of scope and rule for empty masks."""
    name = base.mean_name(data)
    ways = [(scope, str(p)) for scope in base.SCOPES if scope in set(summary.frame["scope"]) for p in base.POLICIES]
    body, numbers = [], []
    for s in settings:
        baseline, cells, known = data.baseline_of(s), [base.marked(data, s)], base.about(data, s)
        for scope, policy in ways:
            entry = summary.pick(s.id, "dice", name, scope, policy)
            reference = summary.pick(baseline.id, "dice", name, scope, policy)["value"] if baseline else np.nan
            share = float(entry["value"] / reference) if reference else np.nan
            cells.append(f"{base.spread(entry, 3)} ({percent(share)})")
            known |= {f"dice_{scope}_{policy}": entry["value"], f"relative_{scope}_{policy}": share}
        body.append(cells)
        numbers.append(known)
    titles = [f"{base.SCOPES[scope].capitalize()}, {base.POLICIES[EmptyPolicy(policy)]}" for scope, policy in ways]
    header = ["Trained on", *titles]
    note = "Mean Dice and, in brackets, relative Dice. Kept slices: only those that pass the slice rule are stacked and"
    note += " scored (the paper's code), so false alarms elsewhere go unseen."
    return Table("conventions", "The same results, counted in other ways", note, header, body, pd.DataFrame(numbers))


def differences_table(data: ReportData, scored: pd.DataFrame, answer: Answer) -> Table:
    """Paired differences from the real slices, and of parts of the patients from real slices of the same part."""
    by_id, present = {s.id: s for s in data.settings}, set(scored["setting"])
    groups: dict[str, list[str]] = {}
    for c in answer.comparisons:
        groups.setdefault(c.base.id, []).append(c.setting.id)
        # a part of the patients with synthetic slices against the same part without
        if c.setting.training == "both" and c.setting.real_fraction != 1:
            like = (c.setting.segmenter, c.setting.augmentation, c.setting.real_fraction, "real")
            same = (s.id for s in data.settings if (s.segmenter, s.augmentation, s.real_fraction, s.training) == like)
            if (part := next(same, "")) in present:
                groups.setdefault(part, []).append(c.setting.id)
    frame = pd.concat([compare(scored, baseline, ids, **base.resampling(data)) for baseline, ids in groups.items()])
    frame = frame.reset_index(drop=True).assign(p_holm=lambda f: holm(f["p"]))  # over all comparisons of the page
    body = [
        [
            *(base.marked(data, by_id[str(r[k])]) for k in ("setting", "baseline")), signed(r["difference"]),
            f"{signed(r['low'])} to {signed(r['high'])}", *(p_value(float(r[k])) for k in ("p", "p_holm")),
        ]
        for r in frame.to_dict(orient="records")
    ]  # fmt: skip
    note = (
        f"Mean Dice minus that of the same network trained on real slices, on the same patients, with its {INTERVAL};"
        " p of the sign-flip permutation test over patients, and adjusted for their number (Holm)."
        + (" All trainings count, also those that collapsed." if data.collapsed else "")
    )
    header = ["Trained on", "Minus", "Difference", INTERVAL, "p", "p (Holm)"]
    return Table("differences", "Differences from the real slices, patient by patient", note, header, body, frame, 2)


def patient_means(data: ReportData, scored: pd.DataFrame) -> pd.DataFrame:
    """Dice of every setting, class ("mean" over classes too), subject and site: mean over trainings, BraTS rule."""
    if scored.empty:
        return pd.DataFrame(columns=["setting", "class_name"])
    scored = scored[scored["scope"] == data.scope]
    by_class = scored.groupby(["setting", "class_name", "subject", "site"], sort=False)["dice"].mean().reset_index()
    singles = by_class[by_class["class_name"].isin(data.class_names)]
    mean = singles.groupby(["setting", "subject", "site"], sort=False)["dice"].mean().reset_index()
    return pd.concat([mean.assign(class_name=MEAN), by_class], ignore_index=True)


def matrix_table(data: ReportData, settings: list[Setting], means: pd.DataFrame, key: str) -> Table:
    """Mean Dice of each hospital (`key` "site") or patient ("subject")."""
    means = means[means["class_name"] == MEAN]
    table = means.pivot_table("dice", key, "setting", aggfunc="mean", observed=True)
    table = table.reindex(columns=[s.id for s in settings])
    named = data.patient_names if key == "subject" else {"": "unknown"}
    table.index = pd.Index([named.get(str(i), str(i)) for i in table.index], name=key)
    body = [[str(row), *(number(float(v)) for v in values)] for row, values in table.iterrows()]
    labels, frame = [base.marked(data, s) for s in settings], table.reset_index()
    if key == "subject":
        note = "Mean Dice over the classes (BraTS rule) and over the trainings of a setting."
        return Table("patients", "By patient", note, ["Patient", *labels], body, frame)
    patients = means.groupby("site")["subject"].nunique()
    body = [[row[0], str(n), *row[1:]] for row, n in zip(body, patients, strict=True)]
    note = "Mean Dice over the classes and the test patients of each hospital. Few patients a hospital: read with care."
    return Table("sites", "By hospital", note, ["Hospital", "Patients", *labels], body, frame)


def regions_table(data: ReportData, settings: list[Setting], summary: Summary) -> Table:
    """Dice and HD95 of the regions (WT, TC, ET), which overlap and are in no mean."""
    body, numbers = [], []
    for s in settings:
        cells, known = base.identity(s), base.about(data, s)
        for metric, digits in (("dice", 3), ("hd95_pooled", 1)):
            entries = [summary.pick(s.id, metric, r, data.scope) for r in data.regions]
            cells += [base.spread(e, digits) for e in entries]
            known |= {f"{metric}_{k}": v for k, v in base.numbers_of(data.regions, entries).items()}
        body.append(cells)
        numbers.append(known)
    header = [*base.IDENTITY, *(f"{title} {r}" for title, r in product(("Dice", "HD95"), data.regions))]
    note = (
        "Unions of classes that overlap, as the BraTS challenge scores them: WT whole tumour, TC its core, ET what"
        " enhances. They are in none of the means. HD95 in mm, pooled."
    )
    return Table("regions", "Regions", note, header, body, pd.DataFrame(numbers), len(base.IDENTITY))


def ranks_table(data: ReportData, settings: list[Setting], scored: pd.DataFrame) -> Table | None:
    """Ranks of the generators, for each way in which several are compared; None for fewer than two."""
    body, frames, most, left_out = list[list[str]](), [], 0, ""
    groups: dict[tuple[str, str, bool], list[Setting]] = {}
    for s in (s for s in settings if s.generator and s.plain):
        groups.setdefault((s.training, s.segmenter, s.augmentation), []).append(s)
    for group, (metric, digits) in product((g for g in groups.values() if len(g) > 1), (("dice", 3), ("hd", 1))):
        by_id = {s.id: s for s in group}
        try:
            found = ranks(scored, list(by_id), metric=metric, **base.resampling(data))
        except UnderstudyError as error:
            left_out = data.hide(f" Some are not ranked: {error.what}.")
            continue
        most = max(most, len(group))
        frames.append(found.assign(training=group[0].training, segmenter=group[0].segmenter))
        for r in found.to_dict(orient="records"):
            s = by_id[str(r["setting"])]
            body.append([
                f"{'Synthetic' if s.training == 'synthetic' else 'Real + synthetic'}, {s.way}",
                "Dice" if metric == "dice" else "Hausdorff, mm", s.shown + base.marked(data, s)[len(s.label) :],
                number(float(r["value"]), digits), f"{r['rank']:g}", f"{r['rank_low']:g} to {r['rank_high']:g}",
                *(percent(float(r[f"p_rank_{k}"])) for k in range(1, len(group) + 1)),
            ])  # fmt: skip
    if not body:
        return None
    body = [row + [""] * (6 + most - len(row)) for row in body]
    note = (
        "Rank 1 is the best. The interval of a rank and P(k), the share of resamples with rank k, come from resampling"
        " test patients and trainings: how sure the order of these trained generators is, not how the same generators"
        f" would rank if they were trained again.{left_out}"
    )
    header = ["Trained on", "By", "Generator", "Value", "Rank", INTERVAL, *(f"P({k})" for k in range(1, most + 1))]
    return Table("ranks", "Ranks of the generators", note, header, body, pd.concat(frames, ignore_index=True), 3)


def trainings_table(data: ReportData, settings: list[Setting]) -> Table:
    """What each setting was trained on and selected by, from the records of its networks."""
    words = {"real": "real patients", "synthetic": "synthetic slices", "none": "nothing"}
    body, numbers = [], []
    for s in settings:
        real, patients, synthetic, seen, chosen = (
            span(recorded(data, s, *keys.split()))
            for keys in ("sources real slices", "sources real patients", "sources synthetic slices", "samples",
                         "best_samples")
        )  # fmt: skip
        kinds = sorted({str(kind or "unknown") for kind in recorded(data, s, "validated_on", "kind", all_values=True)})
        validation = ", ".join(words.get(kind, kind) for kind in kinds) or "unknown"
        broken, of = base.collapsed_of(data, s)
        body.append([s.label, real, patients, synthetic, seen, validation, chosen, f"{broken} of {of}"])
        known = {"real_slices": real, "real_patients": patients, "synthetic_slices": synthetic, "samples": seen}
        numbers.append(base.about(data, s) | known | {"validation": ", ".join(kinds)})
    note = (
        "Different slices in the training set, patients that the real ones come from, and slices shown in training."
        " Chosen by: what the validation Dice that picks the weights is measured on; chosen at: after how many slices."
        " A training has collapsed if it finds nothing or its loss became NaN."
    )
    header = ["Trained on", "Real slices", "Patients", "Synthetic slices", "Slices shown", "Chosen by", "Chosen at",
              "Collapsed"]  # fmt: skip
    return Table("trainings", "Training sets and runs", note, header, body, pd.DataFrame(numbers))


def recorded(data: ReportData, setting: Setting, *keys: str, all_values: bool = False) -> list[Any]:
    """A nested value of the record of each of a setting's trainings; only numbers unless `all_values`."""
    found: list[Any] = [run for (name, _), run in data.runs.items() if name == setting.id]
    for key in keys:
        found = [inner.get(key) if isinstance(inner, dict) else None for inner in found]
    return found if all_values else [int(v) for v in found if isinstance(v, int | float)]


def span(values: Iterable[int]) -> str:
    """ "784", or "32 to 39" where repeats differ; a dash for none."""
    ends = sorted(set(values))
    return " to ".join(f"{end:,}" for end in dict.fromkeys(ends[:1] + ends[-1:])) or "–"
