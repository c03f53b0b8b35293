"""Dice against the share of real slices in a set of constant size (the paper's Figure 2), and of real patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from understudy.metrics.empties import apply_policy
from understudy.metrics.statistics import MEAN, cube, per_repeat
from understudy.report import figures
from understudy.report.answer import Answer, interval, value
from understudy.report.data import TRAINING, ReportData, Setting, number, percent_of
from understudy.report.figures import INK, QUIET, Panel
from understudy.report.grid_tables import ratio_settings, share_of
from understudy.report.table import pick

COLOURS = ["#AA3377", "#2A7FB8", "#D55E00", "#009E73", "#7A6A00", "#5B4FBF"]
MARKERS = ["D", "s", "^", "o", "v", "P"]
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
    generators = list(dict.fromkeys(curve[0].generator for curve in curves))
    made = []
    for segmenter in dict.fromkeys(curve[0].segmenter for curve in curves):
        lines = []
        for curve in (c for c in curves if c[0].segmenter == segmenter):
            k = generators.index(curve[0].generator)
            augmented = curve[0].augmentation
            lines.append(
                Line(
                    curve[0].generator + ("" if augmented else ", no augmentation"),
                    [(share_of(s), s) for s in curve],
                    COLOURS[k % len(COLOURS)],
                    MARKERS[k % len(MARKERS)],
                    "-" if augmented else ":",
                )
            )
        made += _panels(
            data, rows, summary, lines, segmenter, "real slices in a training set of constant size, %"
        )
    return made


def fraction_panels(data: ReportData, rows: pd.DataFrame, summary: pd.DataFrame) -> list[Panel]:
    """One panel a network: mean Dice against the share of real patients, alone and with synthetic ones; or []."""
    mine = [s for s in data.settings if s.training in ("real", "both")]
    mine = [s for s in mine if s.real_share is None and s.real_patients is None]
    parts = {(s.segmenter, s.augmentation) for s in mine if s.real_fraction < 1}
    generators = list(dict.fromkeys(s.generator for s in mine if s.generator))
    made = []
    for segmenter in dict.fromkeys(s.segmenter for s in mine):
        lines = []
        for augmented in (True, False):
            for name in ("", *generators):
                points = sorted(
                    ((s.real_fraction, s) for s in mine
                     if (s.segmenter, s.augmentation, s.generator) == (segmenter, augmented, name)),
                    key=lambda point: point[0],
                )  # fmt: skip
                if (segmenter, augmented) not in parts or len(points) < 2:
                    continue
                k = generators.index(name) if name else 0
                lines.append(
                    Line(
                        (f"real + {name}" if name else "real only")
                        + ("" if augmented else ", no augmentation"),
                        points,
                        COLOURS[k % len(COLOURS)] if name else TRAINING["real"][0],
                        MARKERS[k % len(MARKERS)] if name else "o",
                        "-" if augmented else ":",
                    )
                )
        made += _panels(data, rows, summary, lines, segmenter, "real training patients, %")
    return made


def _panels(
    data: ReportData,
    rows: pd.DataFrame,
    summary: pd.DataFrame,
    lines: list[Line],
    segmenter: str,
    xlabel: str,
) -> list[Panel]:
    """The panel of one network; [] without lines."""
    if not lines:
        return []
    name = MEAN if len(data.class_names) > 1 else data.class_names[0]
    scored, several = apply_policy(rows), data.scores["segmenter"].nunique() > 1
    said, ends = [], []
    with figures._axes(SIZE) as (figure, axes):
        for i, line in enumerate(lines):
            found = [(100 * x, s, pick(summary, s.id, "dice", name, data.scope)) for x, s in line.points]
            found = [point for point in found if np.isfinite(point[2]["value"])]
            if not found:
                continue
            aside = 1.1 * (i - (len(lines) - 1) / 2)  # points of several lines do not cover each other
            x = [p[0] + aside for p in found]
            mid, low, high = (np.array([p[2][k] for p in found], float) for k in ("value", "low", "high"))
            axes.plot(x, mid, color=line.colour, linestyle=line.style, label=line.label, zorder=3)
            axes.errorbar(
                x, mid, [np.maximum(mid - low, 0), np.maximum(high - mid, 0)], color=line.colour, marker=line.marker,
                markersize=6.5, markeredgecolor="white", linestyle="", elinewidth=1.4, capsize=2.5, zorder=4,
            )  # fmt: skip
            for at, s, entry in found:
                if entry["n_repeats"] > 1:
                    each = per_repeat(cube(scored, s.id, "dice", data.scope, data.class_names).values)
                    axes.scatter(
                        np.full(len(each), at + aside + 1.6),
                        each,
                        s=9,
                        color=line.colour,
                        alpha=0.45,
                        linewidths=0,
                        zorder=2,
                    )
            ends += list(high)
            said.append(f"{line.label}: " + ", ".join(f"{p[0]:g} % {p[2]['value']:.3f}" for p in found))
        ends += _draw_baseline(data, summary, lines[0].points[0][1], name, axes)
        shares = sorted({round(100 * x, 2) for line in lines for x, _ in line.points})
        axes.set_xticks(shares, [f"{x:g}" for x in shares])
        axes.set(title=f"{segmenter}" if several else "", xlabel=xlabel, xlim=(-4, 106))
        axes.set(
            ylabel="Dice, mean over the classes" if name == MEAN else f"Dice, {name}",
            ylim=(0, min(1.03, max(ends) + 0.1)),
        )
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower right")
        return [figures._panel(figure, f"Mean Dice against the {xlabel} ({segmenter}). {'; '.join(said)}.")]


def _draw_baseline(
    data: ReportData, summary: pd.DataFrame, like: Setting, name: str, axes: object
) -> list[float]:
    """The yardstick as a dashed line; its height, [] without one."""
    base = data.baseline_of(like)
    if base is None:
        return [0.5]
    height = float(pick(summary, base.id, "dice", name, data.scope)["value"])
    if not np.isfinite(height):
        return [0.5]
    axes.axhline(height, color=INK, linestyle="--", linewidth=1.1, zorder=1)  # type: ignore[attr-defined]
    axes.annotate(  # type: ignore[attr-defined]
        f"all real slices {height:.2f}",
        (74, height),
        (0, 4),
        textcoords="offset points",
        horizontalalignment="center",
        fontsize=8.5,
        color=QUIET,
    )
    return [height]


def ratio_sentences(data: ReportData, answer: Answer) -> list[str]:
    """What the curves say, in words, for the yardstick's network and augmentation."""
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
            f"{value(r)} ({interval(r)}) with {percent_of(share_of(s))}"
            for s, r in rest
            if number(r.value) != "–"
        )
        said.append(
            f"{curve[0].generator}: with {percent_of(share_of(first))} real slices in the set a network reaches"
            f" {value(low)} of the yardstick's Dice ({interval(low)}); {grown}."
        )
    return said
