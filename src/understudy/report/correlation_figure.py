"""A picture of metrics against Dice: a panel a metric, a mark a snapshot, a line along each training."""

from __future__ import annotations

import io
import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from understudy.report.plots import QUIET, styled

COLOURS = ("#3569A8", "#AA3377", "#1B7A6B", "#D55E00", "#222222", "#8A6D00")
MARKERS = ("o", "s", "^", "D", "v", "P")
PANELS = 6


def scatter(snapshots: pd.DataFrame, table: pd.DataFrame, panels: int = PANELS) -> str:
    """SVG text.

    Args:
        snapshots: columns snapshot, run, kimg, dice, and the metrics.
        table: columns metric, spearman, low, high; the first `panels` metrics are drawn, and kimg if it is there.
    """
    chosen = [m for m in table["metric"] if m != "kimg" and math.isfinite(_of(table, m)["spearman"])][:panels]
    chosen += ["kimg"] if (table["metric"] == "kimg").any() else []
    columns = min(4, max(1, len(chosen)))
    lines = max(1, -(-len(chosen) // columns))
    with styled():
        figure = Figure(figsize=(2.9 * columns, 2.75 * lines + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        runs = list(dict.fromkeys(snapshots["run"]))
        for place, metric in zip(grid, chosen, strict=False):
            for i, run in enumerate(runs):
                own = snapshots[snapshots["run"] == run].sort_values("kimg", kind="stable")
                x, y = own[metric].to_numpy(float), own["dice"].to_numpy(float)
                some = np.isfinite(x) & np.isfinite(y)
                if not some.any():
                    continue
                colour = COLOURS[i % len(COLOURS)]
                place.plot(x[some], y[some], color=colour, linewidth=0.7, alpha=0.5)
                size = 14 + 40 * np.linspace(0, 1, len(own))[some]  # later snapshots are larger
                place.scatter(x[some], y[some], s=size, color=colour, marker=MARKERS[i % len(MARKERS)], linewidths=0,
                              alpha=0.85, label=run.rpartition(":")[2])  # fmt: skip
            row = _of(table, metric)
            place.set_title(textwrap.fill(_words(metric), 32), fontsize=8.5)
            place.set_xlabel(f"ρ = {row['spearman']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})")
        for place in grid[len(chosen) :]:
            place.set_visible(False)
        for i in range(0, len(chosen), columns):
            grid[i].set_ylabel("Dice", color=QUIET)
        handles = grid[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower left", ncols=min(6, max(1, len(runs))))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _of(table: pd.DataFrame, metric: str) -> pd.Series:
    row: pd.Series = table[table["metric"] == metric].iloc[0]
    return row


def _words(metric: str) -> str:
    """E.g. "quality, radiomics: frechet distance"."""
    if metric == "kimg":
        return "length of the training, kimg"
    parts = metric.replace("_", " ").split(":")
    return f"{', '.join(parts[:-1])}: {parts[-1]}" if len(parts) > 1 else metric
