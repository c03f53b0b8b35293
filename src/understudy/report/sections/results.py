"""Results patient by patient, and all scores as tables, with the numbers behind them as frames."""

import textwrap
from itertools import product

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.bootstrap import holm
from understudy.metrics.overlap import FOREGROUND, EmptyPolicy
from understudy.metrics.scores import WHOLE
from understudy.metrics.statistics import MEAN, compare, ranks
from understudy.report.answer import Answer
from understudy.report.content import Block, Content, Details, Figure, Section, Text, missing, shown
from understudy.report.data import ReportData, Setting, between, count, number, p_value, percent
from understudy.report.plots import style
from understudy.report.plots.style import MOST_SETTINGS, NARROW, PANEL, Panel
from understudy.report.tables import (
    IDENTITY,
    INTERVAL,
    POLICIES,
    SCOPES,
    Summary,
    Table,
    class_columns,
    interval,
    main_entry,
    numbers_of,
    resampling,
    score_rows,
    spread,
    value,
)

FILES = (
    "The same numbers: report.json beside this page; each table is in tables/ (.csv, .tex, .html), each figure in"
    " figures/ (.svg, .png). Figures that show slices are in figures/private/ and are not for release."
)

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


def section(content: Content) -> Section:
    """Dots of patients and hospitals, differences from the real slices, ranks."""
    data, means, title = content.data, content.means, "Patient by patient"
    if means.empty:
        return Section("results", title, "Results", missing(["There are no scores to show."]))
    plots = len(data.class_names) + (len(data.class_names) > 1) + (means["site"].nunique() > 1)
    width = (NARROW if plots == 4 else PANEL)[0]
    panels = _patient_dots(data, means, content.summary, width) + _site_dots(data, means, width)
    caption = (
        "Each dot is a test patient (mean over trainings), grey lines join the same patient. Beside the dots: the mean"
        f" with its {INTERVAL} by patient. {'Whole volumes' if data.scope == WHOLE else 'Kept slices only'}, BraTS rule"
        " for empty masks."
    )
    blocks: list[Block] = [Figure(panels, caption)]
    if len(data.closest(MOST_SETTINGS)) < len(data.settings):
        words = "The plots show the settings that differ from the real slices with augmentation only in their slices."
        blocks.append(Text(words, "quiet"))
    if content.answer.comparisons:
        blocks.append(differences_table(data, content.scored, content.answer))
    blocks += shown(ranks_table(data, content.settings, content.scored))
    return Section("results", title, "Results", blocks)


def tables(content: Content) -> Section:
    """Dice, distances, misses, conventions, hospitals, patients."""
    data, settings, summary, means = content.data, content.settings, content.summary, content.means
    if not settings:
        return Section("tables", "Tables", "Tables", missing(["There are no scores to tabulate."]))
    most = int(summary.frame["n_repeats"].max())
    words = (
        f"Numbers are means over test patients ± the standard deviation over {most} trainings."
        if most > 1
        else "Numbers are means over test patients; each network was trained once, so there is no standard deviation."
    )
    words += (
        f" Unless said otherwise {SCOPES[data.scope]} count, on the original grid. BraTS rule: a class empty in both"
        " truth and prediction has Dice 1 and distance 0; empty in one of them, Dice 0 and the volume's diagonal as"
        " distance. Paper's rule: the former is left out of the means, the latter has no distance."
    )
    if broken := sum(data.collapsed_of(s)[0] for s in data.settings):
        words += f" {count(broken, 'training')} collapsed: the scores are part of every mean, and the means without"
        words += " them are given, too."
    present = summary.frame[summary.frame["scope"] == data.scope].groupby("class_name")["present"].max()
    words += "".join(f" No test patient has the class {n}." for n in data.class_names if present.get(n, 1) == 0)
    blocks = shown(
        words,
        dice_table(data, settings, summary, content.answer),
        regions_table(data, settings, summary) if data.regions else None,
        misses_table(data, settings, content.scored),
        conventions_table(data, settings, summary),
        *(distance_table(data, settings, summary, m) for m in DISTANCES if m in content.rows),
        matrix_table(data, settings, means, "site") if data.scores["site"].nunique() > 1 else None,
        Details("Every test patient", [matrix_table(data, settings, means, "subject")]),
        Text(FILES, "quiet"),
    )
    return Section("tables", "Tables", "Tables", blocks)


def dice_table(data: ReportData, settings: list[Setting], summary: Summary, answer: Answer) -> Table:
    """Dice of each class with intervals, relative Dice, and tumours that were missed altogether."""
    keys, names = class_columns(data, [FOREGROUND])
    relative = {c.setting.id: c.relative for c in answer.comparisons}
    extra, scores = score_rows(data, settings, summary, keys, "dice", 3, data.scope)
    rows = []
    for s, entries, cells, known in scores:
        other, tumour = relative.get(s.id), summary.pick(s.id, "dice", FOREGROUND, data.scope)
        missed, present = int(tumour["missed"]), int(tumour["present"])
        ratio = ["100\u00a0%" if data.baseline_of(s) == s else "–", ""]
        if other:
            ratio = [value(other), interval(other)]
        whole = main_entry(keys, entries)
        span = between(whole.get("low"), whole.get("high")).replace("–", "")
        cells = [*s.identity, *cells, span, number(whole.get("median")), *ratio, f"{missed} of {present}"]
        for (k, e), part in product(zip(keys, entries, strict=True), ("low", "high", "median")):
            known[f"{k}_{part}"] = e.get(part, np.nan)
        for name, part in (("relative_dice", "value"), ("relative_low", "low"), ("relative_high", "high")):
            known[name] = getattr(other, part) if other else np.nan
        rows.append((cells, known | {"missed": missed, "present": present}))
    of = "" if len(keys) == 1 else f", of the column {names[keys.index(MEAN)]}"
    note = (
        f"Interval and median: by patient (mean over trainings){of}. Relative: divided by the mean Dice of the same"
        " network trained on real slices with augmentation. Missed: segmentations of patients with a tumour, over all"
        " trainings, that found no voxel of it."
    )
    header = [*IDENTITY, *names, *extra, INTERVAL, "Median", "Relative", f"Its {INTERVAL}", "Missed"]
    return Table.of("dice", "Dice score", note, header, rows, len(IDENTITY))


def distance_table(data: ReportData, settings: list[Setting], summary: Summary, metric: str) -> Table:
    """A metric of `DISTANCES` by class, and by the paper's rule."""
    keys, names = class_columns(data, [FOREGROUND])
    extra, scores = score_rows(data, settings, summary, keys, metric, 1, data.scope)
    rows = []
    for s, _, cells, known in scores:
        paper = [summary.pick(s.id, metric, k, data.scope, "paper") for k in keys]
        known |= {f"{k}_value_paper_rule": e["value"] for k, e in zip(keys, paper, strict=True)}
        rows.append(([*s.identity, *cells, spread(main_entry(keys, paper), 1)], known))
    caption, definition = DISTANCES[metric]
    note = f"{definition} Lower is better. Last column: by the paper's rule, which rewards finding nothing."
    header = [*IDENTITY, *names, *extra, "Paper's rule"]
    return Table.of(metric, caption, note, header, rows, len(IDENTITY))


def misses_table(data: ReportData, settings: list[Setting], scored: pd.DataFrame) -> Table:
    """Misses, false alarms, recall and precision of each class."""
    rows = []
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
        cells = [
            data.marked(s), "All as one" if name == FOREGROUND else name,
            f"{found['missed']} of {found['present']}",
            f"{found['false_alarms']} of {found['absent']}" if empty.any() else "–",
            percent(found["recall"]), percent(found["precision"]),
        ]  # fmt: skip
        rows.append((cells, data.about(s) | {"class_name": name} | found))
    note = (
        "Missed: the class is there, and not one voxel of it was found, even if it was predicted elsewhere. False"
        " alarm: the class is not there, and was predicted. Both count segmentations over all trainings. Recall and"
        " precision (of voxels): means over patients."
    )
    header = ["Trained on", "Class", "Missed", "False alarms", "Recall", "Precision"]
    return Table.of("misses", "Misses and false alarms", note, header, rows, 2)


def conventions_table(data: ReportData, settings: list[Setting], summary: Summary) -> Table:
    """Mean Dice by every combination of scope and rule for empty masks."""
    name, rows = data.mean_name, []
    ways = [(scope, str(p)) for scope in SCOPES if scope in set(summary.frame["scope"]) for p in POLICIES]
    for s in settings:
        baseline, cells, known = data.baseline_of(s), [data.marked(s)], data.about(s)
        for scope, policy in ways:
            entry = summary.pick(s.id, "dice", name, scope, policy)
            reference = summary.pick(baseline.id, "dice", name, scope, policy)["value"] if baseline else np.nan
            share = float(entry["value"] / reference) if reference else np.nan
            cells.append(f"{spread(entry, 3)} ({percent(share)})")
            known |= {f"dice_{scope}_{policy}": entry["value"], f"relative_{scope}_{policy}": share}
        rows.append((cells, known))
    titles = [f"{SCOPES[scope].capitalize()}, {POLICIES[EmptyPolicy(policy)]}" for scope, policy in ways]
    note = "Mean Dice and, in brackets, relative Dice. Kept slices: only those that pass the slice rule are stacked and"
    note += " scored (the paper's code), so false alarms elsewhere go unseen."
    return Table.of("conventions", "The same results, counted in other ways", note, ["Trained on", *titles], rows)


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
    frame = pd.concat([compare(scored, baseline, ids, **resampling(data)) for baseline, ids in groups.items()])
    frame = frame.reset_index(drop=True).assign(p_holm=lambda f: holm(f["p"]))  # over all comparisons of the page
    body = []
    for r in frame.to_dict(orient="records"):
        difference, low, high = (number(r[k], sign="+") for k in ("difference", "low", "high"))
        sides = (data.marked(by_id[str(r[k])]) for k in ("setting", "baseline"))
        body.append([*sides, difference, f"{low} to {high}", *(p_value(float(r[k])) for k in ("p", "p_holm"))])
    note = (
        f"Mean Dice minus that of the same network trained on real slices, on the same patients, with its {INTERVAL};"
        " p of the sign-flip permutation test over patients, and adjusted for their number (Holm)."
        + (" All trainings count, also those that collapsed." if data.collapsed else "")
    )
    header = ["Trained on", "Minus", "Difference", INTERVAL, "p", "p (Holm)"]
    return Table("differences", "Differences from the real slices, patient by patient", note, header, body, frame, 2)


def matrix_table(data: ReportData, settings: list[Setting], means: pd.DataFrame, key: str) -> Table:
    """Mean Dice of each hospital (`key` "site") or patient ("subject")."""
    means = means[means["class_name"] == MEAN]
    table = means.pivot_table("dice", key, "setting", aggfunc="mean", observed=True)
    table = table.reindex(columns=[s.id for s in settings])
    named = data.patient_names if key == "subject" else {"": "unknown"}
    table.index = pd.Index([named.get(str(i), str(i)) for i in table.index], name=key)
    body = [[str(row), *(number(float(v)) for v in values)] for row, values in table.iterrows()]
    labels, frame = [data.marked(s) for s in settings], table.reset_index()
    if key == "subject":
        note = "Mean Dice over the classes (BraTS rule) and over the trainings of a setting."
        return Table("patients", "By patient", note, ["Patient", *labels], body, frame)
    patients = means.groupby("site")["subject"].nunique()
    body = [[row[0], str(n), *row[1:]] for row, n in zip(body, patients, strict=True)]
    note = "Mean Dice over the classes and the test patients of each hospital. Few patients a hospital: read with care."
    return Table("sites", "By hospital", note, ["Hospital", "Patients", *labels], body, frame)


def regions_table(data: ReportData, settings: list[Setting], summary: Summary) -> Table:
    """Dice and HD95 of the regions (WT, TC, ET), which overlap and are in no mean."""
    rows = []
    for s in settings:
        cells, known = s.identity, data.about(s)
        for metric, digits in (("dice", 3), ("hd95_pooled", 1)):
            entries = [summary.pick(s.id, metric, r, data.scope) for r in data.regions]
            cells += [spread(e, digits) for e in entries]
            known |= {f"{metric}_{k}": v for k, v in numbers_of(data.regions, entries).items()}
        rows.append((cells, known))
    header = [*IDENTITY, *(f"{title} {r}" for title, r in product(("Dice", "HD95"), data.regions))]
    note = (
        "Unions of classes that overlap, as the BraTS challenge scores them: WT whole tumour, TC its core, ET what"
        " enhances. They are in none of the means. HD95 in mm, pooled."
    )
    return Table.of("regions", "Regions", note, header, rows, len(IDENTITY))


def ranks_table(data: ReportData, settings: list[Setting], scored: pd.DataFrame) -> Table | None:
    """Ranks of the generators, for each way in which several are compared; None for fewer than two."""
    body, frames, most, left_out = list[list[str]](), [], 0, ""
    groups: dict[tuple[str, str, bool], list[Setting]] = {}
    for s in (s for s in settings if s.generator and s.plain):
        groups.setdefault((s.training, s.segmenter, s.augmentation), []).append(s)
    for group, (metric, digits) in product((g for g in groups.values() if len(g) > 1), (("dice", 3), ("hd", 1))):
        by_id = {s.id: s for s in group}
        try:
            found = ranks(scored, list(by_id), metric=metric, **resampling(data))
        except UnderstudyError as error:
            left_out = data.hide(f" Some are not ranked: {error.what}.")
            continue
        most = max(most, len(group))
        frames.append(found.assign(training=group[0].training, segmenter=group[0].segmenter))
        for r in found.to_dict(orient="records"):
            s = by_id[str(r["setting"])]
            body.append([
                f"{'Synthetic' if s.training == 'synthetic' else 'Real + synthetic'}, {s.way}",
                "Dice" if metric == "dice" else "Hausdorff, mm", s.shown + data.marked(s)[len(s.label) :],
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


def _patient_dots(data: ReportData, means: pd.DataFrame, summary: Summary, width: float) -> list[Panel]:
    """One panel a class: a dot for each patient and setting, lines join a patient's, the mean with its interval."""
    settings = [s for s in data.closest(MOST_SETTINGS) if s.id in set(means["setting"])]
    names = [MEAN, *data.class_names] if len(data.class_names) > 1 else list(data.class_names)
    wide, made = len(settings) > 4, []
    size = (min(max(9.0, 1.2 + 0.95 * len(settings)), 12) if wide else width, 3.2)
    for name in names:
        table = means[means["class_name"] == name].pivot_table("dice", "subject", "setting")
        table = table.reindex(columns=[s.id for s in settings])
        said, title = [], "Mean over the classes" if name == MEAN else name
        with style.one_plot(size) as (figure, axes):
            for values in table.to_numpy():
                axes.plot(np.arange(len(settings)), values, color="#C3C9D1", linewidth=0.7, zorder=1)
            for i, s in enumerate(settings):
                dots = table[s.id].to_numpy()
                axes.scatter(np.full(len(dots), i), dots, s=16, color=s.colour, alpha=0.55, linewidths=0, zorder=2)
                e = summary.pick(s.id, "dice", name, data.scope)
                if "low" not in e:
                    continue
                at = i + 0.24
                axes.plot([at, at], [e["low"], e["high"]], color=s.colour, linewidth=2, zorder=3, solid_capstyle="butt")
                axes.plot(at, e["value"], marker=s.marker, color=s.colour, markersize=7, markeredgecolor="white",
                          zorder=4)  # fmt: skip
                axes.annotate(f"{e['value']:.2f}", (at, e["value"]), (7, 0), textcoords="offset points", va="center",
                              fontsize=8.5, color=s.colour, fontweight="bold",
                              bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})  # fmt: skip
                said.append(f"{s.label} {e['value']:.3f}, interval {e['low']:.3f} to {e['high']:.3f}")
            axes.set_xticks(range(len(settings)), [textwrap.fill(s.label, 14) for s in settings])
            axes.set_xlim(-0.35, len(settings) - 1 + 0.75)
            axes.grid(axis="x", visible=False)
            axes.set(title=title, ylabel="Dice", ylim=(-0.03, 1.03))
            text = f"Dice of each test patient, {title}. Means: {'; '.join(said)}."
            made.append(style.panel_of(figure, text, wide, f"patients_{'mean' if name == MEAN else name}"))
    return made


def _site_dots(data: ReportData, means: pd.DataFrame, width: float) -> list[Panel]:
    """Dice by hospital: one column a site, every setting beside the others; [] for fewer than two sites."""
    mean = means[means["class_name"] == MEAN].astype({"site": str})
    sites = sorted(mean["site"].unique())
    settings = [s for s in data.closest(MOST_SETTINGS) if s.id in set(mean["setting"])]
    if len(sites) < 2:
        return []
    wide = len(sites) * len(settings) > 14
    across = min(max(9.0, 1.5 + 0.28 * len(sites) * len(settings)), 12) if wide else width
    with style.one_plot((across, 3.2 + 0.2 * (len(settings) // (4 if wide else 2)))) as (figure, axes):
        step = 0.72 / max(len(settings), 1)
        for i, s in enumerate(settings):
            offsets = np.arange(len(sites)) + (i - (len(settings) - 1) / 2) * step
            values = [mean.loc[(mean["setting"] == s.id) & (mean["site"] == site), "dice"].to_numpy() for site in sites]
            for at, dots in zip(offsets, values, strict=True):
                axes.scatter(np.full(len(dots), at), dots, s=12, color=s.colour, alpha=0.45, linewidths=0)
            centres = [float(np.mean(v)) if len(v) else np.nan for v in values]
            axes.plot(offsets, centres, linestyle="", marker=s.marker, markersize=7, color=s.colour,
                      markeredgecolor="white", label=s.label)  # fmt: skip
        counts = [mean.loc[mean["site"] == site, "subject"].nunique() for site in sites]
        named = [f"{site or 'unknown'}\n(n = {n})" for site, n in zip(sites, counts, strict=True)]
        axes.set_xticks(range(len(sites)), named)
        axes.set(title="By hospital", ylabel="Dice, mean over the classes", ylim=(-0.03, 1.03))
        axes.grid(axis="x", visible=False)
        style.legend_below(figure, axes, 3)
        said = f"Dice of the test patients by hospital ({', '.join(sites)}) and setting."
        return [style.panel_of(figure, said, wide, "hospitals")]
