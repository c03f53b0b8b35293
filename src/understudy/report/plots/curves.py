"""Dice against the share of real slices in a set of constant size (the paper's Figure 2), and of real patients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from understudy.metrics.bootstrap import per_repeat
from understudy.metrics.overlap import apply_policy
from understudy.metrics.statistics import MEAN, cube
from understudy.report.data import TRAINING, ReportData, Setting, number, percent_of
from understudy.report.plots.panels import data_looks
from understudy.report.plots.style import INK, Look, Panel, legend_below, one_plot, panel_of
from understudy.report.sections.answer import Answer, interval, value
from understudy.report.tables.base import pick
from understudy.report.tables.grid import ratio_settings, share_of

SIZE = (4.7, 3.1)


@dataclass(frozen=True)
class Line:
    """A curve: its name, and for each point the share (0 to 1) and the setting."""

    label: str
    points: list[tuple[float, Setting]]
    colour: str
    marker: str
    style: str = "-"


def ratio_panels(data: ReportData, rows: pd.DataFrame, summary: pd.DataFrame) -> list[Panel]:
    """One panel a network: mean Dice against the share of real slices, a line for each generator; [] without any."""
    curves = ratio_settings(data)
    made = []
    for segmenter in dict.fromkeys(curve[0].segmenter for curve in curves):
        lines = [
            _line(data, curve[0].generator, curve[0].augmentation, [(share_of(s), s) for s in curve])
            for curve in curves
            if curve[0].segmenter == segmenter
        ]
        xlabel = "real slices in a training set of constant size, %"
        made += _panels(data, rows, summary, lines, segmenter, xlabel, "figure2_ratio")
    return made


def _line(data: ReportData, generator: str, augmented: bool, points: list[tuple[float, Setting]]) -> Line:
    """A generator's curve, or that of real slices alone, with its name and look."""
    look = data_looks(data).get(generator) or Look(TRAINING["real"][0], "-", "o")
    label = (data.shown(generator) or "real only") + ("" if augmented else ", no augmentation")
    return Line(label, points, look.colour, look.marker, "-" if augmented else ":")


def fraction_panels(data: ReportData, rows: pd.DataFrame, summary: pd.DataFrame) -> list[Panel]:
    """One panel a network: mean Dice against the share of real patients, alone and with synthetic ones; or []."""
    mine = [s for s in data.settings if s.training in ("real", "both")]
    mine = [s for s in mine if s.real_share is None and s.real_patients is None]
    parts = {(s.segmenter, s.augmentation) for s in mine if s.real_fraction < 1}
    made = []
    for segmenter in dict.fromkeys(s.segmenter for s in mine):
        lines = []
        for augmented, name in product((True, False), dict.fromkeys(s.generator for s in mine)):
            points = [
                (s.real_fraction, s)
                for s in mine
                if (s.segmenter, s.augmentation, s.generator) == (segmenter, augmented, name)
            ]
            if (segmenter, augmented) in parts and len(points) > 1:
                line = _line(data, name, augmented, sorted(points, key=lambda point: point[0]))
                lines.append(replace(line, label=f"real + {line.label}") if name else line)
        made += _panels(data, rows, summary, lines, segmenter, "real training patients, %", "real_patients")
    return made


def _panels(
    data: ReportData,
    rows: pd.DataFrame,
    summary: pd.DataFrame,
    lines: list[Line],
    segmenter: str,
    xlabel: str,
    key: str,
) -> list[Panel]:
    """The panel of one network; [] without lines."""
    if not lines:
        return []
    name = MEAN if len(data.class_names) > 1 else data.class_names[0]
    scored, several = apply_policy(rows), data.scores["segmenter"].nunique() > 1
    said, ends = [], []
    with one_plot(SIZE) as (figure, axes):
        for i, line in enumerate(lines):
            found = [(100 * x, s, pick(summary, s.id, "dice", name, data.scope)) for x, s in line.points]
            found = [point for point in found if np.isfinite(point[2]["value"])]
            if not found:
                continue
            aside = 1.1 * (i - (len(lines) - 1) / 2)  # points of several lines do not cover each other
            ends += _draw_line(axes, line, found, aside)
            _draw_trainings(axes, data, scored, line, found, aside + 1.6)
            said.append(f"{line.label}: " + ", ".join(f"{p[0]:g} % {p[2]['value']:.3f}" for p in found))
        ends += _draw_baseline(data, summary, lines[0].points[0][1], name, axes)
        shares = sorted({round(100 * x, 2) for line in lines for x, _ in line.points})
        axes.set_xticks(shares, [f"{x:g}" for x in shares])
        axes.set(title=data.shown(segmenter) if several else "", xlabel=xlabel, xlim=(-4, 106))
        axes.set(
            ylabel="Dice, mean over the classes" if name == MEAN else f"Dice, {name}",
            ylim=(0, min(1.03, 1.12 * max(ends) + 0.02)),
        )
        axes.grid(axis="x", visible=False)
        legend_below(figure, axes, 3)
        text = f"Mean Dice against the {xlabel} ({data.shown(segmenter)}). {'; '.join(said)}."
        return [panel_of(figure, text, key=f"{key}_{segmenter}")]


Found = list[tuple[float, Setting, pd.Series]]  # points of a curve: place in percent, setting, summary


def _draw_line(axes: Axes, line: Line, found: Found, aside: float) -> list[float]:
    """Means with their intervals, joined; the upper ends of these."""
    x = [p[0] + aside for p in found]
    mid, low, high = (np.array([p[2][k] for p in found], float) for k in ("value", "low", "high"))
    axes.plot(x, mid, color=line.colour, linestyle=line.style, label=line.label, marker=line.marker,
              markersize=6.5, markeredgecolor="white", zorder=4)  # fmt: skip
    around = [np.maximum(mid - low, 0), np.maximum(high - mid, 0)]
    axes.errorbar(x, mid, around, color=line.colour, linestyle="", elinewidth=1.4, capsize=2.5, zorder=3)
    return [float(v) for v in high if np.isfinite(v)]


def _draw_trainings(axes: Axes, data: ReportData, scored: pd.DataFrame, line: Line, found: Found, aside: float) -> None:
    """A small dot for each training, where there are several."""
    for at, s, entry in found:
        if entry["n_repeats"] > 1:
            each = per_repeat(cube(scored, s.id, "dice", data.scope, data.class_names).values)
            place = np.full(len(each), at + aside)
            axes.scatter(place, each, s=9, color=line.colour, alpha=0.45, linewidths=0, zorder=2)


def _draw_baseline(data: ReportData, summary: pd.DataFrame, like: Setting, name: str, axes: Axes) -> list[float]:
    """The real slices as a dashed line; its height, [] without one."""
    base = data.baseline_of(like)
    if base is None:
        return [0.5]
    height = float(pick(summary, base.id, "dice", name, data.scope)["value"])
    if not np.isfinite(height):
        return [0.5]
    # named in the legend: a curve near it would run through words beside the line
    label = f"all real slices {height:.2f}"
    axes.axhline(height, color=INK, linestyle="--", linewidth=1.1, label=label, zorder=1)
    return [height]


def ratio_sentences(data: ReportData, answer: Answer) -> list[str]:
    """What the curves say, in words, for the baseline's network and augmentation."""
    base, relative = data.baseline_setting, {c.setting.id: c.relative for c in answer.comparisons}
    said = []
    for curve in ratio_settings(data):
        if base is None or (curve[0].segmenter, curve[0].augmentation) != (base.segmenter, base.augmentation):
            continue
        found = [(s, relative[s.id]) for s in curve if s.id in relative and share_of(s) < 1]
        if len(found) < 2:
            continue
        (first, low), *rest = found
        grown = ", ".join(
            f"{value(r)} ({interval(r)}) with {percent_of(share_of(s))}" for s, r in rest if number(r.value) != "–"
        )
        said.append(
            f"{curve[0].shown}: with {percent_of(share_of(first))} real slices in the set a network reaches"
            f" {value(low)} of the Dice of all real slices ({interval(low)}); {grown}."
        )
    return said
