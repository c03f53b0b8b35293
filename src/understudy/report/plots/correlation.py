"""A picture of metrics against Dice: a plot a metric, a mark a snapshot, a line along each training."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from understudy.names import display_name
from understudy.report.plots.style import QUIET, Panel, looks, panel_of, styled
from understudy.report.sections.quality import EXTRACTORS, METRICS

PLOTS = 6
COLUMNS = 4


def scatter(
    snapshots: pd.DataFrame, table: pd.DataFrame, metrics: Sequence[str] | None = None, correlations: bool = True
) -> Panel:
    """The picture as a panel.

    Args:
        snapshots: columns snapshot, run, kimg, dice, and the metrics.
        table: columns metric, spearman, low, high.
        metrics: which to draw; None: the first of the table that are defined, and kimg.
        correlations: whether to write them below the plots.
    """
    by_metric = table.set_index("metric")
    if metrics is None:
        named = [str(m) for m in table["metric"] if m != "kimg" and math.isfinite(by_metric.loc[m, "spearman"])]
        metrics = named[:PLOTS] + (["kimg"] if "kimg" in by_metric.index else [])
    columns = min(COLUMNS, max(1, len(metrics)))
    lines = max(1, -(-len(metrics) // columns))
    runs = list(dict.fromkeys(map(str, snapshots["run"])))
    look = looks(runs)
    with styled():
        figure = Figure(figsize=(2.8 * columns, 2.6 * lines + 0.3 * -(-len(runs) // 5)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        handles = {}
        for i, (place, metric) in enumerate(zip(grid, metrics, strict=False)):
            for run in runs:
                own = snapshots[snapshots["run"].astype(str) == run].sort_values("kimg", kind="stable")
                x, y = own[metric].to_numpy(float), own["dice"].to_numpy(float)
                some = np.isfinite(x) & np.isfinite(y)
                if not some.any():
                    continue
                place.plot(x[some], y[some], color=look[run].colour, linewidth=0.8, alpha=0.5)
                size = np.linspace(18, 58, len(own)) if len(own) > 1 else np.array([42.0])  # later ones are larger
                marks = place.scatter(x[some], y[some], s=size[some], color=look[run].colour, marker=look[run].marker,
                                      linewidths=0.6, edgecolors="white", alpha=0.9, zorder=3)  # fmt: skip
                handles[display_name(run.rpartition(":")[2])] = marks
            place.set_title(textwrap.fill(words(metric), 30), fontsize=8.5)
            if i % columns == 0:
                place.set_ylabel("Dice", color=QUIET)
            if correlations:
                row, defined = by_metric.loc[metric], int(np.isfinite(snapshots[metric].to_numpy(float)).sum())
                part = f", {defined} of {len(snapshots)}" if defined < len(snapshots) else ""
                rho = f"ρ = {row['spearman']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}){part}"
                place.set_xlabel(rho.replace("-", "−"))
        for place in grid[len(metrics) :]:
            place.set_visible(False)
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=min(5, max(1, len(runs))))
        alt = f"Mean Dice of {len(snapshots)} points against {'; '.join(map(words, metrics))}."
        return panel_of(figure, alt, wide=columns > 2, key="correlation")


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
        name = METRICS[parts[1]].name if parts[1] in METRICS else parts[1].replace("_", " ")
        return f"{name}, {EXTRACTORS.get(parts[0], parts[0])}"
    if group == "annotations" and parts:
        return ": ".join([f"Annotations, {parts[0].replace('_', ' ')}", *parts[1:]])
    return metric.replace("_", " ").replace(":", ", ")
