"""The headline as a figure: relative Dice of every setting with its interval."""

from __future__ import annotations

import math

import numpy as np

from understudy.report.data import percent
from understudy.report.plots.style import INK, Panel, one_plot, panel_of
from understudy.report.sections.answer import Answer, interval, value

ROW = 0.27  # inches
MOST = 44  # settings: the paper's tables of one cohort


def forest_panels(answer: Answer, margin: float) -> list[Panel]:
    """A row a setting, as on the page; [] without comparisons that say something."""
    shown = [
        c
        for c in answer.comparisons
        if math.isfinite(c.relative.value) and c.setting.training not in ("ratio", "finetune")
    ][:MOST]
    if not shown or answer.weak:
        return []
    at = np.arange(len(shown))[::-1]
    middle = np.array([c.relative.value for c in shown])
    low = np.array([c.relative.low if math.isfinite(c.relative.low) else c.relative.value for c in shown])
    high = np.array([c.relative.value if math.isnan(c.relative.high) else c.relative.high for c in shown])
    top = float(min(max(1.1, *middle, *high[np.isfinite(high)]) + 0.05, 2.5))
    with one_plot((7.2, 0.9 + ROW * len(shown))) as (figure, axes):
        axes.axvspan(1 - margin, top, color="#E7F3EC", zorder=0)
        axes.axvline(1, color=INK, linewidth=0.9)
        for y, m, a, b, c in zip(at, middle, low, high, shown, strict=True):
            axes.plot([a, min(b, top)], [y, y], color=c.setting.colour, linewidth=2, solid_capstyle="butt")
            axes.plot(m, y, marker=c.setting.marker, color=c.setting.colour, markersize=6.5, markeredgecolor="white")
            axes.annotate(f"{value(c.relative)} ({interval(c.relative)})", (1.01, y), va="center", fontsize=8,
                          xycoords=("axes fraction", "data"), annotation_clip=False)  # fmt: skip
        axes.set_yticks(at, [c.setting.label for c in shown])
        axes.set(xlim=(0, top), ylim=(-0.7, len(shown) - 0.3))
        axes.xaxis.set_major_formatter(lambda x, _: percent(x))
        axes.set_xlabel("Dice relative to real slices with augmentation, 95\u00a0% interval by patient")
        axes.grid(axis="y", visible=False)
        said = "; ".join(f"{c.setting.label} {value(c.relative)}" for c in shown)
        return [panel_of(figure, f"Relative Dice: {said}.", True, "relative_dice")]
