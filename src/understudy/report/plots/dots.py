"""Plots of patients, hospitals, settings and slices as points, intervals and cumulative shares."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import pandas as pd

from understudy.metrics.statistics import MEAN
from understudy.report.answer import Answer, Comparison
from understudy.report.data import ReportData, percent
from understudy.report.plots import style
from understudy.report.plots.curves import MOST_SETTINGS
from understudy.report.plots.style import INK, NARROW, PANEL, Panel
from understudy.report.tables.base import Summary, interval, value

MOST_ROWS = 44  # settings of a forest plot: the paper's tables of one cohort


def forest_rows(answer: Answer) -> tuple[list[tuple[Comparison, float, float]], float]:
    """(comparison, low, high) of each relative Dice, and the end of the axis; [] if they would say nothing.

    Ratios and fine-tuning have curves of their own.
    """
    found = []
    for c in answer.comparisons:
        mid, low, high = c.relative.value, c.relative.low, c.relative.high
        if not answer.weak and math.isfinite(mid) and c.setting.training not in ("ratio", "finetune"):
            found.append((c, low if math.isfinite(low) else mid, mid if math.isnan(high) else high))
    ends = [end for c, _, high in found for end in (c.relative.value, high) if math.isfinite(end)]
    return found, min(max([1.1, *ends]) + 0.05, 2.5)


def forest_plot(answer: Answer, margin: float) -> list[Panel]:
    """Relative Dice of every setting with its interval; [] without comparisons that say something."""
    shown, top = forest_rows(answer)
    shown = shown[:MOST_ROWS]
    if not shown:
        return []
    with style.one_plot((7.2, 0.9 + 0.27 * len(shown))) as (figure, axes):
        axes.axvspan(1 - margin, top, color="#E7F3EC", zorder=0)
        axes.axvline(1, color=INK, linewidth=0.9)
        for y, (c, low, high) in enumerate(reversed(shown)):
            r, colour = c.relative, c.setting.colour
            axes.plot([low, min(high, top)], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(r.value, y, marker=c.setting.marker, color=colour, markersize=6.5, markeredgecolor="white")
            axes.annotate(f"{value(r)} ({interval(r)})", (1.01, y), va="center", fontsize=8,
                          xycoords=("axes fraction", "data"), annotation_clip=False)  # fmt: skip
        axes.set_yticks(range(len(shown)), [c.setting.label for c, _, _ in reversed(shown)])
        axes.set(xlim=(0, top), ylim=(-0.7, len(shown) - 0.3))
        axes.xaxis.set_major_formatter(lambda x, _: percent(x))
        axes.set_xlabel("Dice relative to real slices with augmentation, 95\u00a0% interval by patient")
        axes.grid(axis="y", visible=False)
        said = "; ".join(f"{c.setting.label} {value(c.relative)}" for c, _, _ in shown)
        return [style.panel_of(figure, f"Relative Dice: {said}.", True, "relative_dice")]


def patient_dots(data: ReportData, means: pd.DataFrame, summary: Summary, width: float = PANEL[0]) -> list[Panel]:
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


def site_dots(data: ReportData, means: pd.DataFrame, width: float = PANEL[0]) -> list[Panel]:
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


def distribution(
    title: str, xlabel: str, values_of: dict[str, np.ndarray], kinds: dict[str, str], narrow: bool = False,
    key: str = "",
) -> Panel | None:  # fmt: skip
    """Cumulative shares of slices, real against synthetic; None if there is nothing to draw.

    Args:
        values_of: name of the set -> one value a slice.
        kinds: name of the set -> "real", "held-out" or "synthetic", in the order of the study.
        narrow: four panels stand beside each other instead of three.
    """
    curves = {name: np.sort(values) for name, values in values_of.items() if len(values)}
    if not curves:
        return None
    look = style.looks([name for name, kind in kinds.items() if kind == "synthetic"])
    low, high = (f([f(v) for v in curves.values()]) for f in (min, max))
    with style.one_plot(NARROW if narrow else PANEL) as (figure, axes):
        for name, values in curves.items():
            share = np.arange(1, len(values) + 1) / len(values)
            colour, dashes = "#8A8A8A" if kinds[name] == "held-out" else style.REAL_COLOUR, "-"
            if name in look:
                colour, dashes = look[name].colour, look[name].dashes
            axes.plot(*style.thinned(values, share), label=name, drawstyle="steps-post", color=colour, linestyle=dashes)
        if low > 0 and high > 20 * low:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        axes.set(title=title, xlabel=xlabel, ylabel="share of slices", ylim=(0, 1.02))
        if len(curves) > 1:
            style.legend_below(figure, axes, 3)
        said = ", ".join(f"median {np.median(v):.3g} ({name})" for name, v in curves.items())
        return style.panel_of(figure, f"{title}, cumulative share of slices: {said}.", key=key)
