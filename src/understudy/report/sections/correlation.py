"""Do the metrics of image quality predict Dice? Over the study's generators and their snapshots."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from understudy.io.files import read_json
from understudy.report.content import Content
from understudy.report.data import ReportData, between, count, number, p_value
from understudy.report.plots.correlation import PLOTS, scatter, words
from understudy.report.sections.base import Block, Bullets, Details, Figure, Section
from understudy.report.sections.quality import METRICS
from understudy.report.tables.base import INTERVAL, Table

FEWEST = 6  # points below which no correlation is given: of 5, one swap of neighbours already makes p larger than 0.05


def section(content: Content) -> Section | None:
    """From `correlate.json`; None without it."""
    data = content.data
    path = data.correlation / "correlate.json" if data.correlation is not None else None
    if path is None or not path.is_file():
        return None
    found = read_json(path)
    snapshots, table = (_numeric(pd.DataFrame(found[key])) for key in ("snapshots", "metrics"))
    told, several = len(snapshots) >= FEWEST, len(snapshots) > snapshots["run"].nunique()
    chosen = _chosen(snapshots)
    points = _points(data, snapshots, chosen)
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
    numbers = {
        "words": found["words"],
        "metrics": found["metrics"],
        "snapshots": found["snapshots"],
        "points": len(snapshots),
        "generators": int(snapshots["run"].nunique()),
        "told": told,
    }
    return Section("correlation", "Do the metrics predict Dice?", "Metrics and Dice", blocks,
                   {"correlation": data.hide(numbers)}, tables=[points] if told else [])  # fmt: skip


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """All columns but the names as numbers."""
    columns = [c for c in frame if c not in ("snapshot", "run", "metric")]
    return frame.assign(**{str(c): pd.to_numeric(frame[c], errors="coerce") for c in columns})


def _ordered(metrics: list[str]) -> list[str]:
    """In the order of the page's other tables, not by what was found; the length of the training first."""
    order = list(METRICS)

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
    found = (
        f"{low} of {count(len(asked), 'metric')} {'has' if low == 1 else 'have'} a rank correlation with Dice beyond"
    )
    found = found if low else f"none of the {len(asked)} metrics has a rank correlation with Dice beyond"
    few = f" With only {n} points the intervals are rough." if n < 20 else ""
    return f"Over {what}, {found} chance (p < 0.05, adjusted for the number of metrics).{few}"


def _table(key: str, caption: str, table: pd.DataFrame, metrics: list[str]) -> Table:
    rows = table.set_index("metric").loc[metrics].reset_index()
    body = [
        [
            words(str(r["metric"])), _expected(str(r["metric"])), f"{int(r['n'])}", number(r["spearman"], 2),
            between(r["low"], r["high"], 2), number(r["kendall"], 2), between(r["kendall_low"], r["kendall_high"], 2),
            number(r["within"], 2), p_value(r["p"]), p_value(r["p_holm"]),
        ]
        for r in rows.to_dict(orient="records")
    ]  # fmt: skip
    header = ["Metric", "Useful if", "n", "Spearman", INTERVAL, "Kendall", INTERVAL, "Within", "p", "p (Holm)"]
    note = (
        "Rank correlation with the mean Dice of networks trained on synthetic slices alone. Useful if: the sign that a"
        " metric must have to predict Dice, − where less is better. Within: Spearman's mean within trainings."
        " Intervals draw trainings or snapshots, and test patients; p by permutation, adjusted for all metrics (Holm)."
    )
    return Table(key, caption, note, header, body, rows)


def _expected(metric: str) -> str:
    """The sign of a useful correlation."""
    if metric == "kimg":
        return ""
    known: Any = METRICS.get(metric.rpartition(":")[2])
    better = (known.better if known else None) if metric.startswith("quality:") else False
    return {True: "+", False: "−", None: ""}[better]


def _points(data: ReportData, snapshots: pd.DataFrame, chosen: list[str]) -> Table:
    """The points of the picture; the frame has every metric."""
    metrics = [m for m in chosen if m != "kimg"]
    body = [
        [
            data.shown(str(r["snapshot"])), number(r["kimg"], 1), number(r["dice"], 3),
            *(f"{r[m]:.3g}" if math.isfinite(r[m]) else "–" for m in metrics),
        ]
        for r in snapshots.to_dict(orient="records")
    ]  # fmt: skip
    frame = snapshots.assign(run=[str(r).rpartition(":")[2] for r in snapshots["run"]])
    header = ["Generator", "kimg", "Dice", *map(words, metrics)]
    note = "Mean Dice of networks trained on synthetic slices alone, and metrics; the CSV has every metric."
    return Table("correlation_points", "Points of the correlation", note, header, body, frame)
