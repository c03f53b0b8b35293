"""How many real slices does it take? Ratio studies, parts of the real patients, fine-tuning on a few of them."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

from understudy.metrics.bootstrap import per_repeat
from understudy.metrics.statistics import MEAN, cube
from understudy.report.answer import Answer
from understudy.report.content import Content, Figure, Section, shown
from understudy.report.data import TRAINING, ReportData, Setting, between, percent, percent_of
from understudy.report.plots.style import INK, Look, Panel, legend_below, looks, one_plot, panel_of
from understudy.report.tables import INTERVAL, Summary, Table, interval, span, spread, value

Line = tuple[str, list[tuple[float, Setting]], Look]  # a curve's label, points (place on the axis, setting) and look


def section(content: Content) -> Section | None:
    """None if the study varies neither share nor number of real slices."""
    data, answer, summary = content.data, content.answer, content.summary
    scored = {s.id for s in content.settings}
    some = any(curve[0].id in scored for curve in ratio_settings(data))
    captions = (
        "Training sets of constant size, from synthetic slices only (left) to real ones only (right), as in the paper's"
        f" Figure 2. Point and line: mean over test patients and trainings with its {INTERVAL} by patient. Small dots:"
        " single trainings. Dashed: all real slices.",
        "The same real patients in every curve and training, smaller parts within larger ones. The generators were"
        " trained on all training patients: what do synthetic slices add for someone with few patients?",
        "Trained on synthetic slices first, then on a few real patients, against the same patients from scratch.",
    )
    panels = ratio_panels(content), fraction_panels(content), finetune_panels(content)
    ratio = _ratio_table(data, scored, summary, answer) if some else None
    figures = map(Figure, panels, captions)
    blocks = shown(*ratio_sentences(data, answer), *figures, ratio, finetune_table(data, summary))
    return Section("ratio", "How many real slices does it take?", "How many real", blocks) if blocks else None


def ratio_settings(data: ReportData) -> list[list[Setting]]:
    """The settings of each curve of a ratio study (one network, augmentation and generator), by rising share.

    A share of 1 has no generator and ends every curve of its network; it is the training `real` where the constant
    total is that of all real slices.
    """
    mine = [s for s in data.settings if s.training == "ratio"]
    ends = [s for s in mine if not s.generator]
    ratios = data.study.get("ratios") or {}
    if ratios.get("total") is None and 1 in ratios.get("shares", []):
        ends += [s for s in data.settings if s.training == "real" and s.plain]
    curves: dict[tuple[str, bool, str], list[Setting]] = {}
    for s in sorted((s for s in mine if s.generator), key=_share_of):
        curves.setdefault((s.segmenter, s.augmentation, s.generator), []).append(s)
    for (segmenter, augmentation, _), curve in curves.items():
        curve += [e for e in ends if (e.segmenter, e.augmentation) == (segmenter, augmentation)]
    return list(curves.values())


def _share_of(setting: Setting) -> float:
    """Place of a setting on a ratio curve."""
    return 1.0 if setting.real_share is None else setting.real_share


def ratio_sentences(data: ReportData, answer: Answer) -> list[str]:
    """The curves in words, for the baseline's network and augmentation."""
    base, relative = data.baseline_setting, {c.setting.id: c.relative for c in answer.comparisons}
    said = []
    for curve in ratio_settings(data):
        found = [(percent_of(_share_of(s)), relative[s.id]) for s in curve if s.id in relative and _share_of(s) < 1]
        like = base is not None and (curve[0].segmenter, curve[0].augmentation) == (base.segmenter, base.augmentation)
        if not like or len(found) < 2:
            continue
        (first, low), *rest = found
        grown = ", ".join(f"{value(r)} ({interval(r)}) with {x}" for x, r in rest if not math.isnan(r.value))
        said.append(
            f"{curve[0].shown}: with {first} real slices in the set a network reaches {value(low)} of the Dice of all"
            f" real slices ({interval(low)}); {grown}."
        )
    return said


def _ratio_table(data: ReportData, scored: set[str], summary: Summary, answer: Answer) -> Table:
    """The numbers behind the ratio curves; `scored` are the settings with complete rows."""
    relative, rows = {c.setting.id: c.relative for c in answer.comparisons}, []
    for first, s in ((curve[0], s) for curve in ratio_settings(data) for s in curve if s.id in scored):
        entry, other, share = summary.pick(s.id, "dice", data.mean_name, data.scope), relative.get(s.id), _share_of(s)
        counts = [data.recorded(s, "sources", "real", key) for key in ("slices", "patients")]
        cells = [
            s.way, first.shown, percent(share, 0 if float(100 * share).is_integer() else 2),
            *(span(c) if c else "0" if share == 0 else "–" for c in counts), spread(entry, 3),
            between(entry.get("low"), entry.get("high")), value(other) if other else "100\u00a0%",
            interval(other) if other else "",
        ]  # fmt: skip
        columns = ("value", "sd", "low", "high", "value_without_collapsed")
        known = {"generator": first.generator, "real_share": share} | {k: entry.get(k) for k in columns}
        rows.append((cells, data.about(s) | known))
    note = (
        "Real and synthetic slices in a training set of constant size, as in the paper's Figure 2. Relative: divided by"
        " the mean Dice of all real slices with augmentation."
    )
    header = ["Network", "Generator", "Real", "Slices", "Patients", "Mean Dice", INTERVAL, "Relative", INTERVAL]
    return Table.of("ratio", "Share of real slices", note, header, rows, 3)


def ratio_panels(content: Content) -> list[Panel]:
    """One panel a network: Dice against the share of real slices, a line for each generator; [] without any."""
    data, curves = content.data, ratio_settings(content.data)
    made = []
    for segmenter in dict.fromkeys(curve[0].segmenter for curve in curves):
        mine = [(c[0], [(100 * _share_of(s), s) for s in c]) for c in curves if c[0].segmenter == segmenter]
        lines = [_line_of(data, s.generator, s.augmentation, points, s.shown) for s, points in mine]
        xlabel = "real slices in a training set of constant size, %"
        title = data.shown(segmenter) if data.scores["segmenter"].nunique() > 1 else ""
        made.append(_dice_curves(content, lines, title, xlabel, f"figure2_ratio_{segmenter}"))
    return made


def fraction_panels(content: Content) -> list[Panel]:
    """One panel a network: Dice against the share of real patients, alone and with synthetic slices; or []."""
    data, made = content.data, []
    mine = [s for s in data.settings if s.training in ("real", "both")]
    mine = [s for s in mine if s.real_share is None and s.real_patients is None]
    parts = {(s.segmenter, s.augmentation) for s in mine if s.real_fraction < 1}
    for segmenter in dict.fromkeys(s.segmenter for s in mine):
        lines = []
        for augmented, name in product((True, False), dict.fromkeys(s.generator for s in mine)):
            same = [s for s in mine if (s.segmenter, s.augmentation, s.generator) == (segmenter, augmented, name)]
            points = sorted(((100 * s.real_fraction, s) for s in same), key=lambda point: point[0])
            if (segmenter, augmented) in parts and len(points) > 1:
                label = f"real + {data.shown(name)}" if name else "real only"
                lines.append(_line_of(data, name, augmented, points, label))
        if lines:
            key, title = f"real_patients_{segmenter}", data.shown(segmenter)
            title = title if data.scores["segmenter"].nunique() > 1 else ""
            made.append(_dice_curves(content, lines, title, "real training patients, %", key))
    return made


def _finetune_lines(data: ReportData) -> dict[tuple[str, bool], dict[str, list[Setting]]]:
    """(network, augmentation) -> name of a line -> its settings by rising number of patients; {} without any."""
    found: dict[tuple[str, bool], dict[str, list[Setting]]] = {}
    few = [s for s in data.settings if s.real_patients is not None and s.training in ("real", "finetune")]
    few = few if any(s.training == "finetune" for s in few) else []
    for s in sorted(few, key=lambda s: (s.training != "real", s.real_patients or 0)):
        name = "from scratch" if s.training == "real" else f"after {s.shown}"
        found.setdefault((s.segmenter, s.augmentation), {}).setdefault(name, []).append(s)
    return found


def finetune_table(data: ReportData, summary: Summary) -> Table | None:
    """The numbers behind the curves; None without fine-tuning."""
    rows, lines = [], [line for lines in _finetune_lines(data).values() for line in lines.items()]
    for line, s in ((line, s) for line, settings in lines for s in settings):
        e = summary.pick(s.id, "dice", data.mean_name, data.scope)
        cells = [s.way, line, str(s.real_patients), spread(e, 3), between(e.get("low"), e.get("high"))]
        known = {"generator": s.generator, "real_patients": s.real_patients}
        rows.append((cells, data.about(s) | known | {k: e.get(k) for k in ("value", "sd", "low", "high")}))
    note = "The same real patients with and without training on synthetic slices before."
    header = ["Network", "Trained", "Real patients", "Mean Dice", INTERVAL]
    return Table.of("finetune", "Fine-tuning on few real patients", note, header, rows, 2) if rows else None


def finetune_panels(content: Content) -> list[Panel]:
    """A panel for each network and augmentation; [] without fine-tuning."""
    data, made = content.data, []
    for (segmenter, augmented), lines in _finetune_lines(data).items():
        counts = sorted({s.real_patients or 0 for settings in lines.values() for s in settings})
        drawn = []
        for line, settings in lines.items():
            points = [(float(counts.index(s.real_patients or 0)), s) for s in settings]
            drawn.append(_line_of(data, settings[0].generator, True, points, line))
        title = data.shown(segmenter) + ("" if augmented else ", no augmentation")
        key = f"finetune_{segmenter}" + ("" if augmented else "_noaug")
        ticks = {float(i): f"{k}" for i, k in enumerate(counts)}
        made.append(_dice_curves(content, drawn, title, "real patients", key, ticks))
    return made


def _line_of(
    data: ReportData, generator: str, augmented: bool, points: list[tuple[float, Setting]], label: str
) -> Line:
    """With the look of the generator, or of real slices where there is none."""
    look = looks(data.generators).get(generator) or Look(TRAINING["real"][1], "-", "o")
    look = Look(look.colour, "-" if augmented else ":", look.marker)
    return label + ("" if augmented else ", no augmentation"), points, look


def _dice_curves(
    content: Content, lines: Sequence[Line], title: str, xlabel: str, key: str, ticks: dict[float, str] | None = None
) -> Panel:
    """Mean Dice with its interval by patient along each line, dots for single trainings, the real slices dashed.

    `ticks`: place on the axis -> number of patients that is written there; None: places are per cent.
    """
    data, summary, scored = content.data, content.summary, content.scored
    name, said, tops, unit = data.mean_name, [], [0.0], " patients" if ticks else " %"
    ticks = ticks or {x: f"{round(x, 2):g}" for x in sorted({x for _, points, _ in lines for x, _ in points})}
    width = max(ticks) - min(ticks) or 1.0
    with one_plot((4.7, 3.1)) as (figure, axes):
        for i, (label, places, look) in enumerate(lines):
            # points of several lines do not cover each other
            aside = 0.011 * width * (i - (len(lines) - 1) / 2)
            found = [(x, s, summary.pick(s.id, "dice", name, data.scope)) for x, s in places]
            found = [point for point in found if np.isfinite(point[2]["value"])]
            if not found:
                continue
            x = np.array([p[0] for p in found]) + aside
            mid, low, high = (np.array([p[2][k] for p in found], float) for k in ("value", "low", "high"))
            around = [np.maximum(mid - low, 0), np.maximum(high - mid, 0)]
            axes.errorbar(x, mid, around, color=look.colour, linestyle=look.dashes, label=label, marker=look.marker,
                          markersize=6.5, markeredgecolor="white", elinewidth=1.4, capsize=2.5, zorder=4)  # fmt: skip
            tops += list(high[np.isfinite(high)])
            for at, (_, s, entry) in zip(x + 0.016 * width, found, strict=True):
                if entry["n_repeats"] > 1:
                    each = per_repeat(cube(scored, s.id, "dice", data.scope, data.class_names).values)
                    at_each = np.full(len(each), at)
                    axes.scatter(at_each, each, s=9, color=look.colour, alpha=0.45, linewidths=0, zorder=2)
            points = ", ".join(f"{ticks[x]}{unit} {entry['value']:.3f}" for x, _, entry in found)
            said.append(f"{label}: {points}")
        base = data.baseline_of(lines[0][1][0][1])
        height = float(summary.pick(base.id, "dice", name, data.scope)["value"]) if base else np.nan
        if np.isfinite(height):
            # named in the legend: a curve near it would run through words beside the line
            label = f"all real slices {height:.2f}"
            axes.axhline(height, color=INK, linestyle="--", linewidth=1.1, label=label, zorder=1)
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set(title=title, xlabel=xlabel, xlim=(min(ticks) - 0.06 * width, max(ticks) + 0.06 * width))
        top = max([*tops, height if np.isfinite(height) else 0.5])
        axes.set(ylabel="Dice, mean over the classes" if name == MEAN else f"Dice, {name}")
        axes.set_ylim(0, min(1.03, 1.12 * top + 0.02))
        axes.grid(axis="x", visible=False)
        legend_below(figure, axes, 3)
        return panel_of(figure, f"Mean Dice against {xlabel}. {'; '.join(said)}.", key=key)
