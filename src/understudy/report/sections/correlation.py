"""Do the metrics of image quality predict Dice? Over the study's generators and their snapshots."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd

from understudy.io.files import read_json
from understudy.names import display_name
from understudy.quality.metrics import LABELS, label_of
from understudy.report.content import Block, Bullets, Content, Details, Figure, Section
from understudy.report.data import between, count, number, p_value
from understudy.report.plots.style import QUIET, Panel, figure_of, looks, panel_of
from understudy.report.sections.quality import EXTRACTORS
from understudy.report.tables import INTERVAL, Table

FEWEST = 6  # points below which no correlation is given: of 5, one swap of neighbours already makes p larger than 0.05
PLOTS, COLUMNS = 6, 4  # plots of the picture at most, and in a row


def section(content: Content) -> Section | None:
    """From `correlate.json`; None without it."""
    data = content.data
    if data.correlation is None or not (path := data.correlation / "correlate.json").is_file():
        return None
    found = read_json(path)
    snapshots, table = (pd.DataFrame(found[key]) for key in ("snapshots", "metrics"))
    for frame in (snapshots, table):
        numeric = frame.columns.difference(["snapshot", "run", "metric"])
        frame[numeric] = frame[numeric].apply(pd.to_numeric, errors="coerce")
    told, several = len(snapshots) >= FEWEST, len(snapshots) > snapshots["run"].nunique()
    chosen = _chosen(snapshots)
    # the points of the picture; the frame has every metric
    metrics = [m for m in chosen if m != "kimg"]
    body = []
    for r in snapshots.to_dict(orient="records"):
        values = (f"{r[m]:.3g}" if math.isfinite(r[m]) else "–" for m in metrics)
        body.append([data.shown(str(r["snapshot"])), number(r["kimg"], 1), number(r["dice"], 3), *values])
    frame = snapshots.assign(run=[str(r).rpartition(":")[2] for r in snapshots["run"]])
    header = ["Generator", "kimg", "Dice", *map(words, metrics)]
    note = "Mean Dice of networks trained on synthetic slices alone, and metrics; the CSV has every metric."
    points = Table("correlation_points", "Points of the correlation", note, header, body, frame)
    quality = [m for m in map(str, table["metric"]) if m.startswith("quality:") or m == "kimg"]
    others = [m for m in map(str, table["metric"]) if m not in quality]
    blocks: list[Block] = [_sentence(snapshots, table)]
    if len(snapshots) > 1 and chosen:
        caption = (
            "Mean Dice of networks trained on synthetic slices alone against what is measured of these slices, a mark a"
            f" generator{'; states of one training are joined, later ones are larger' if several else ''}. All metrics"
            " of one extractor: none is picked for its result."
        )
        blocks.append(Figure([scatter(snapshots, table, chosen, told)], caption))
    if told:
        blocks.append(_table("correlation", "Metrics of image quality and Dice", table, _ordered(quality)))
        if others:
            more = _table("correlation_annotations", "Metrics of the annotations and Dice", table, others)
            blocks.append(Details("Metrics of the annotations", [more]))
        blocks.append(Details("How to read this", [Bullets(found["words"])]))
    else:
        blocks.append(points)
    numbers = {key: found[key] for key in ("words", "metrics", "snapshots")}
    numbers |= {"points": len(snapshots), "generators": int(snapshots["run"].nunique()), "told": told}
    return Section("correlation", "Do the metrics predict Dice?", "Metrics and Dice", blocks,
                   {"correlation": data.hide(numbers)}, tables=[points] if told else [])  # fmt: skip


def _ordered(metrics: list[str]) -> list[str]:
    """In the order of the page's other tables, not by what was found; the length of the training first."""
    order = list(LABELS)

    def place(metric: str) -> tuple[bool, str, int]:
        extractor, _, name = metric.removeprefix("quality:").partition(":")
        return metric != "kimg", extractor, order.index(name) if name in order else len(order)

    return sorted(metrics, key=place)


def _chosen(snapshots: pd.DataFrame) -> list[str]:
    """What is drawn: all metrics of one extractor, so that none is picked for its result."""
    quality = [str(c) for c in snapshots if str(c).startswith("quality:") and snapshots[c].notna().sum() > 1]
    named = [c for c in quality if c.split(":")[1].startswith("inception")] or quality
    first = named[0].split(":")[1] if named else ""
    mine = _ordered([c for c in quality if c.split(":")[1] == first])[:PLOTS]
    mine += [str(c) for c in snapshots if str(c) == "annotations:code_distance"]
    several = (snapshots.groupby("run")["kimg"].nunique() > 1).any()
    return mine + (["kimg"] if several else [])


def _sentence(snapshots: pd.DataFrame, table: pd.DataFrame) -> str:
    n, runs = len(snapshots), snapshots["run"].nunique()
    what = count(n, "generator") if n == runs else f"{count(n, 'state')} of {count(runs, 'generator')}"
    if n < FEWEST:
        return (
            f"{what[:1].upper() + what[1:]} {'is' if n == 1 else 'are'} too few to tell whether a metric predicts Dice:"
            f" it takes {FEWEST} points, better dozens. Set `snapshots` for the generators in the study file, or put"
            " several studies together with `understudy correlate`."
        )
    asked = table[table["metric"] != "kimg"]
    low = int((asked["p_holm"] < 0.05).sum())
    found = f"{low} of {count(len(asked), 'metric')} {'has' if low == 1 else 'have'}"
    found = found if low else f"none of the {len(asked)} metrics has"
    few = f" With only {n} points the intervals are rough." if n < 20 else ""
    chance = "beyond chance (p < 0.05, adjusted for the number of metrics)"
    return f"Over {what}, {found} a rank correlation with Dice {chance}.{few}"


def _table(key: str, caption: str, table: pd.DataFrame, metrics: list[str]) -> Table:
    rows, body = table.set_index("metric").loc[metrics].reset_index(), []
    for r in rows.to_dict(orient="records"):
        metric = str(r["metric"])
        # the sign of a useful correlation; less is better of all metrics of the annotations
        better = label_of(metric.rpartition(":")[2]).better if metric.startswith("quality:") else False
        sign = "" if metric == "kimg" else {True: "+", False: "−", None: ""}[better]
        body.append([
            words(metric), sign, f"{int(r['n'])}",
            number(r["spearman"], 2), between(r["low"], r["high"], 2),
            number(r["kendall"], 2), between(r["kendall_low"], r["kendall_high"], 2),
            number(r["within"], 2), p_value(r["p"]), p_value(r["p_holm"]),
        ])  # fmt: skip
    header = ["Metric", "Useful if", "n", "Spearman", INTERVAL, "Kendall", INTERVAL, "Within", "p", "p (Holm)"]
    note = (
        "Rank correlation with the mean Dice of networks trained on synthetic slices alone. Useful if: the sign that a"
        " metric must have to predict Dice, − where less is better. Within: Spearman's mean within trainings."
        " Intervals draw trainings or snapshots, and test patients; p by permutation, adjusted for all metrics (Holm)."
    )
    return Table(key, caption, note, header, body, rows)


def scatter(
    snapshots: pd.DataFrame, table: pd.DataFrame, metrics: Sequence[str] | None = None, correlations: bool = True
) -> Panel:
    """The picture as a panel.

    Args:
        snapshots: columns snapshot, run, kimg, dice, and the metrics.
        table: columns metric, spearman, low, high; written below the plots if `correlations`.
        metrics: which to draw; None: the first of the table that are defined, and kimg.
    """
    by_metric = table.set_index("metric")
    if metrics is None:
        named = [str(m) for m in table["metric"] if m != "kimg" and math.isfinite(by_metric.loc[m, "spearman"])]
        metrics = named[:PLOTS] + (["kimg"] if "kimg" in by_metric.index else [])
    columns = min(COLUMNS, max(1, len(metrics)))
    lines = max(1, -(-len(metrics) // columns))
    runs = list(dict.fromkeys(map(str, snapshots["run"])))
    look, handles = looks(runs), {}
    with figure_of((2.8 * columns, 2.6 * lines + 0.3 * -(-len(runs) // 5))) as figure:
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
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
    """A metric for people: "Frechet distance, random network" for "quality:random:frechet_distance"."""
    if metric == "kimg":
        return "Length of the training, kimg"
    group, *parts = metric.split(":")
    if group == "quality" and len(parts) == 2:
        return f"{label_of(parts[1]).name}, {EXTRACTORS.get(parts[0], parts[0])}"
    if group == "annotations" and parts:
        return ": ".join([f"Annotations, {parts[0].replace('_', ' ')}", *parts[1:]])
    return metric.replace("_", " ").replace(":", ", ")
