"""A picture of metrics against Dice: a plot a metric, a mark a snapshot, a line along each training."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from understudy.report.data import NAMES
from understudy.report.plots.style import QUIET, Look, Panel, looks, panel_of, styled
from understudy.report.sections.quality import EXTRACTORS, METRICS

PLOTS = 6
COLUMNS = 4


def scatter(
    snapshots: pd.DataFrame, table: pd.DataFrame, metrics: Sequence[str] | None = None, told: bool = True
) -> Panel:
    """The picture as a panel.

    Args:
        snapshots: columns snapshot, run, kimg, dice, and the metrics.
        table: columns metric, spearman, low, high.
        metrics: which to draw; None: the first of the table that are defined, and kimg.
        told: False writes no correlation, where there are too few points for one.
    """
    chosen = _first(table) if metrics is None else list(metrics)
    columns = min(COLUMNS, max(1, len(chosen)))
    lines = max(1, -(-len(chosen) // columns))
    runs = list(dict.fromkeys(map(str, snapshots["run"])))
    look = looks(runs)
    with styled():
        figure = Figure(figsize=(2.8 * columns, 2.6 * lines + 0.3 * -(-len(runs) // 5)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for place, metric in zip(grid, chosen, strict=False):
            for run in runs:
                _draw_run(place, snapshots[snapshots["run"].astype(str) == run], metric, look[run], run)
            place.set_title(textwrap.fill(words(metric), 30), fontsize=8.5)
            if told:
                row = _of(table, metric)
                defined = int(np.isfinite(snapshots[metric].to_numpy(float)).sum())
                some_of = f", {defined} of {len(snapshots)}" if defined < len(snapshots) else ""
                told_so = f"ρ = {row['spearman']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}){some_of}"
                place.set_xlabel(told_so.replace("-", "−"))
        for place in grid[len(chosen) :]:
            place.set_visible(False)
        for i in range(0, len(chosen), columns):
            grid[i].set_ylabel("Dice", color=QUIET)
        handles = {
            label: handle for place in grid for handle, label in zip(*place.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=min(5, max(1, len(runs))))
        drawn = "; ".join(words(metric) for metric in chosen)
        alt = f"Mean Dice of {len(snapshots)} points against {drawn}."
        return panel_of(figure, alt, wide=columns > 2, key="correlation")


def _draw_run(axes: Axes, own: pd.DataFrame, metric: str, look: Look, run: str) -> None:
    """The snapshots of one training, joined; later ones are larger."""
    own = own.sort_values("kimg", kind="stable")
    x, y = own[metric].to_numpy(float), own["dice"].to_numpy(float)
    some = np.isfinite(x) & np.isfinite(y)
    if not some.any():
        return
    axes.plot(x[some], y[some], color=look.colour, linewidth=0.8, alpha=0.5)
    size = (np.linspace(18, 58, len(own)) if len(own) > 1 else np.array([42.0]))[some]
    name = run.rpartition(":")[2]
    axes.scatter(x[some], y[some], s=size, color=look.colour, marker=look.marker, linewidths=0.6,
                 edgecolors="white", alpha=0.9, label=NAMES.get(name, name), zorder=3)  # fmt: skip


def _first(table: pd.DataFrame) -> list[str]:
    defined = [str(m) for m in table["metric"] if m != "kimg" and math.isfinite(_of(table, str(m))["spearman"])]
    return defined[:PLOTS] + (["kimg"] if (table["metric"] == "kimg").any() else [])


def _of(table: pd.DataFrame, metric: str) -> pd.Series:
    row: pd.Series = table[table["metric"] == metric].iloc[0]
    return row


def words(metric: str) -> str:
    """A metric's name for people.

    Example:
        >>> words("quality:random:frechet_distance"), words("annotations:area_ks:ED")
        ('Frechet distance, random network', 'Annotations, area ks: ED')
    """
    if metric == "kimg":
        return "Length of the training, kimg"
    group, *parts = metric.split(":")
    if group == "quality" and len(parts) == 2:
        name = METRICS[parts[1]][0] if parts[1] in METRICS else parts[1].replace("_", " ")
        return f"{name}, {EXTRACTORS.get(parts[0], parts[0])}"
    if group == "annotations" and parts:
        return ": ".join([f"Annotations, {parts[0].replace('_', ' ')}", *parts[1:]])
    return metric.replace("_", " ").replace(":", ", ")
