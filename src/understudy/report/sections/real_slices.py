"""How many real slices does it take? Ratio studies, parts of the real patients, fine-tuning on a few of them."""

from __future__ import annotations

import math
from itertools import product

import pandas as pd

from understudy.report.answer import Answer
from understudy.report.content import Content
from understudy.report.data import ReportData, Setting, between, percent, percent_of
from understudy.report.plots.curves import Line, dice_curves, line_of
from understudy.report.plots.style import Panel
from understudy.report.sections.base import Figure, Section, shown
from understudy.report.tables.base import INTERVAL, Summary, Table, about, interval, mean_name, spread, value
from understudy.report.tables.results import recorded, span


def section(content: Content) -> Section | None:
    """None if the study varies neither share nor number of real slices."""
    data, answer, summary = content.data, content.answer, content.summary
    curves = ratio_settings(data)
    scored = {s.id for s in content.settings}
    ratio = ratio_table(data, scored, summary, answer) if any(c[0].id in scored for c in curves) else None
    captions = (
        "Training sets of constant size, from synthetic slices only (left) to real ones only (right), as in the paper's"
        f" Figure 2. Point and line: mean over test patients and trainings with its {INTERVAL} by patient. Small dots:"
        " single trainings. Dashed: all real slices.",
        "The same real patients in every curve and training, smaller parts within larger ones. The generators were"
        " trained on all training patients: what do synthetic slices add for someone with few patients?",
        "Trained on synthetic slices first, then on a few real patients, against the same patients from scratch.",
    )
    panels = ratio_panels(content), fraction_panels(content), finetune_panels(content)
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
    for s in sorted((s for s in mine if s.generator), key=share_of):
        curves.setdefault((s.segmenter, s.augmentation, s.generator), []).append(s)
    for (segmenter, augmentation, _), curve in curves.items():
        curve += [e for e in ends if (e.segmenter, e.augmentation) == (segmenter, augmentation)]
    return list(curves.values())


def share_of(setting: Setting) -> float:
    """Place of a setting on a ratio curve."""
    return 1.0 if setting.real_share is None else setting.real_share


def ratio_sentences(data: ReportData, answer: Answer) -> list[str]:
    """The curves in words, for the baseline's network and augmentation."""
    base, relative = data.baseline_setting, {c.setting.id: c.relative for c in answer.comparisons}
    said = []
    for curve in ratio_settings(data):
        if base is None or (curve[0].segmenter, curve[0].augmentation) != (base.segmenter, base.augmentation):
            continue
        found = [(s, relative[s.id]) for s in curve if s.id in relative and share_of(s) < 1]
        if len(found) < 2:
            continue
        (first, low), *rest = [(percent_of(share_of(s)), r) for s, r in found]
        grown = ", ".join(f"{value(r)} ({interval(r)}) with {x}" for x, r in rest if not math.isnan(r.value))
        said.append(
            f"{curve[0].shown}: with {first} real slices in the set a network reaches {value(low)} of the Dice of all"
            f" real slices ({interval(low)}); {grown}."
        )
    return said


def ratio_table(data: ReportData, scored: set[str], summary: Summary, answer: Answer) -> Table:
    """The numbers behind the ratio curves; `scored` are the settings with complete rows."""
    relative = {c.setting.id: c.relative for c in answer.comparisons}
    body, numbers = [], []
    points = [(curve[0], s) for curve in ratio_settings(data) for s in curve if s.id in scored]
    for first, s in points:
        entry, other, share = summary.pick(s.id, "dice", mean_name(data), data.scope), relative.get(s.id), share_of(s)
        counts = [recorded(data, s, "sources", "real", key) for key in ("slices", "patients")]
        body.append([
            s.way, first.shown, percent(share, 0 if float(100 * share).is_integer() else 2),
            *(span(c) if c else "0" if share == 0 else "–" for c in counts), spread(entry, 3),
            between(entry.get("low"), entry.get("high")), value(other) if other else "100\u00a0%",
            interval(other) if other else "",
        ])  # fmt: skip
        columns = ("value", "sd", "low", "high", "value_without_collapsed")
        known = {"generator": first.generator, "real_share": share} | {k: entry.get(k) for k in columns}
        numbers.append(about(data, s) | known)
    note = (
        "Real and synthetic slices in a training set of constant size, as in the paper's Figure 2. Relative: divided by"
        " the mean Dice of all real slices with augmentation."
    )
    header = ["Network", "Generator", "Real", "Slices", "Patients", "Mean Dice", INTERVAL, "Relative", INTERVAL]
    return Table("ratio", "Share of real slices", note, header, body, pd.DataFrame(numbers), 3)


def ratio_panels(content: Content) -> list[Panel]:
    """One panel a network: Dice against the share of real slices, a line for each generator; [] without any."""
    data, curves = content.data, ratio_settings(content.data)
    made = []
    for segmenter in dict.fromkeys(curve[0].segmenter for curve in curves):
        mine = [(c[0], [(100 * share_of(s), s) for s in c]) for c in curves if c[0].segmenter == segmenter]
        lines = [line_of(data, s.generator, s.augmentation, points, s.shown) for s, points in mine]
        xlabel = "real slices in a training set of constant size, %"
        made.append(_share_panel(content, lines, segmenter, xlabel, f"figure2_ratio_{segmenter}"))
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
                lines.append(line_of(data, name, augmented, points, label))
        if lines:
            key = f"real_patients_{segmenter}"
            made.append(_share_panel(content, lines, segmenter, "real training patients, %", key))
    return made


def _share_panel(content: Content, lines: list[Line], segmenter: str, xlabel: str, key: str) -> Panel:
    data = content.data
    ticks = {x: f"{round(x, 2):g}" for x in sorted({x for _, points, _ in lines for x, _ in points})}
    title = data.shown(segmenter) if data.scores["segmenter"].nunique() > 1 else ""
    return dice_curves(data, content.scored, content.summary, lines, title, xlabel, key, ticks)


def finetune_lines(data: ReportData) -> dict[tuple[str, bool], dict[str, list[Setting]]]:
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
    body, numbers = [], []
    for lines in finetune_lines(data).values():
        for line, s in ((line, s) for line, settings in lines.items() for s in settings):
            e = summary.pick(s.id, "dice", mean_name(data), data.scope)
            body.append([s.way, line, str(s.real_patients), spread(e, 3), between(e.get("low"), e.get("high"))])
            known = {"generator": s.generator, "real_patients": s.real_patients}
            numbers.append(about(data, s) | known | {k: e.get(k) for k in ("value", "sd", "low", "high")})
    if not body:
        return None
    note = "The same real patients with and without training on synthetic slices before."
    header = ["Network", "Trained", "Real patients", "Mean Dice", INTERVAL]
    return Table("finetune", "Fine-tuning on few real patients", note, header, body, pd.DataFrame(numbers), 2)


def finetune_panels(content: Content) -> list[Panel]:
    """A panel for each network and augmentation; [] without fine-tuning."""
    data, made = content.data, []
    for (segmenter, augmented), lines in finetune_lines(data).items():
        counts = sorted({s.real_patients or 0 for settings in lines.values() for s in settings})
        drawn = []
        for line, settings in lines.items():
            points = [(float(counts.index(s.real_patients or 0)), s) for s in settings]
            drawn.append(line_of(data, settings[0].generator, True, points, line))
        title = data.shown(segmenter) + ("" if augmented else ", no augmentation")
        key = f"finetune_{segmenter}" + ("" if augmented else "_noaug")
        ticks = {float(i): str(k) for i, k in enumerate(counts)}
        words = title, "real patients", key, ticks, " patients"
        made.append(dice_curves(data, content.scored, content.summary, drawn, *words))
    return made
