"""Do the metrics of image quality predict Dice? The section over the study's generators and their snapshots."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from understudy.io.files import read_json
from understudy.report.data import ReportData, count, number
from understudy.report.plots.correlation import PLOTS, scatter, words
from understudy.report.plots.style import Panel
from understudy.report.sections.quality import METRICS
from understudy.report.tables.base import Table

FEWEST = 6  # points below which no correlation is told: of 5, one swap of neighbours already makes p larger than 0.05
KEYS = ("snapshot", "run", "kimg", "dice")


@dataclass(frozen=True)
class CorrelationSection:
    """What the page shows.

    Attributes:
        sentences: what so many points can say, the most important first.
        caveats: how the numbers are to be read.
        panels: the picture; [] for a single point.
        table: correlations of the metrics of image quality; None below `FEWEST` points.
        others: those of the annotations' metrics.
        points: a row a generator with its Dice and metrics, for the files.
        numbers: for `report.json`.
    """

    sentences: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    table: Table | None = None
    others: Table | None = None
    points: Table | None = None
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def tables(self) -> list[Table]:
        """All of them, for the files."""
        return [t for t in (self.table, self.others, self.points) if t is not None]


def make_correlation_section(data: ReportData) -> CorrelationSection:
    """From `correlate.json`; empty without it."""
    path = data.correlation / "correlate.json" if data.correlation is not None else None
    if path is None or not path.is_file():
        return CorrelationSection()
    content = read_json(path)
    snapshots, table = pd.DataFrame(content["snapshots"]), pd.DataFrame(content["metrics"])
    for column in [c for c in snapshots if c not in ("snapshot", "run")]:
        snapshots[column] = pd.to_numeric(snapshots[column], errors="coerce")
    numeric = [str(c) for c in table if c != "metric"]
    table[numeric] = table[numeric].apply(pd.to_numeric, errors="coerce")
    told = len(snapshots) >= FEWEST
    chosen = _chosen(snapshots)
    quality = [m for m in map(str, table["metric"]) if m.startswith("quality:") or m == "kimg"]
    others = [m for m in map(str, table["metric"]) if m not in quality]
    return CorrelationSection(
        _sentences(snapshots, table),
        list(content["words"]) if told else [],
        [scatter(snapshots, table, chosen, told)] if len(snapshots) > 1 and chosen else [],
        _table("correlation", "Metrics of image quality and Dice", table, _ordered(quality)) if told else None,
        _table("correlation_annotations", "Metrics of the annotations and Dice", table, others)
        if told and others
        else None,
        _points(data, snapshots, chosen),
        {
            "words": content["words"],
            "metrics": content["metrics"],
            "snapshots": content["snapshots"],
            "points": len(snapshots),
            "generators": int(snapshots["run"].nunique()),
            "told": told,
        },
    )


def _ordered(metrics: list[str]) -> list[str]:
    """In the order of the page's other tables, not by what was found; the length of the training first."""
    order = list(METRICS)

    def place(metric: str) -> tuple[int, str, int]:
        extractor, _, name = metric.removeprefix("quality:").partition(":")
        return metric != "kimg", extractor, order.index(name) if name in order else len(order)

    return sorted(metrics, key=place)


def _chosen(snapshots: pd.DataFrame) -> list[str]:
    """What is drawn: the metrics of one extractor, whatever they gave, so that none is picked for its result."""
    quality = [str(c) for c in snapshots if str(c).startswith("quality:") and snapshots[c].notna().sum() > 1]
    named = [c for c in quality if c.split(":")[1].startswith("inception")] or quality
    first = named[0].split(":")[1] if named else ""
    mine = _ordered([c for c in quality if c.split(":")[1] == first])[:PLOTS]
    mine += [str(c) for c in snapshots if str(c) == "annotations:code_distance"]
    several = (snapshots.groupby("run")["kimg"].nunique() > 1).any()
    return mine + (["kimg"] if several else [])


def _sentences(snapshots: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    n, runs = len(snapshots), snapshots["run"].nunique()
    what = count(n, "generator") if n == runs else f"{count(n, 'state')} of {count(runs, 'generator')}"
    if n < FEWEST:
        return [
            f"{what[:1].upper() + what[1:]} {'is' if n == 1 else 'are'} too few to tell whether a metric predicts"
            f" Dice: it takes {FEWEST} points, better dozens. Set `snapshots` for the generators in the study file,"
            " or put several studies together with `understudy correlate`."
        ]
    asked = table[table["metric"] != "kimg"]
    low = int((asked["p_holm"] < 0.05).sum())
    rule = "(p < 0.05, adjusted for the number of metrics)"
    found = (
        f"{low} of {count(len(asked), 'metric')} {'has' if low == 1 else 'have'} a rank correlation with Dice that is"
        f" unlikely to be chance {rule}"
        if low
        else f"none of the {len(asked)} metrics has a rank correlation with Dice beyond chance {rule}"
    )
    few = f" With only {n} points the intervals are rough." if n < 20 else ""
    return [f"Over {what}, {found}.{few}"]


def _table(key: str, caption: str, table: pd.DataFrame, metrics: list[str]) -> Table:
    rows = table.set_index("metric").loc[metrics].reset_index()
    body = [
        [
            words(str(r["metric"])),
            _expected(str(r["metric"])),
            f"{int(r['n'])}",
            number(r["spearman"], 2).replace("-", "−"),
            _between(r["low"], r["high"]),
            number(r["kendall"], 2).replace("-", "−"),
            _between(r["kendall_low"], r["kendall_high"]),
            number(r["within"], 2).replace("-", "−"),
            _probability(r["p"]),
            _probability(r["p_holm"]),
        ]
        for r in rows.to_dict(orient="records")
    ]
    header = [
        "Metric", "Useful if", "n", "Spearman", "95\u00a0% interval", "Kendall", "95\u00a0% interval", "Within", "p",
        "p (Holm)",
    ]  # fmt: skip
    note = (
        "Rank correlation with the mean Dice of networks trained on synthetic slices alone. Useful if: the sign that a"
        " metric must have to predict Dice, − where less is better. Within: Spearman's mean within trainings."
        " Intervals draw trainings or snapshots, and test patients; p by permutation, adjusted for all metrics (Holm)."
    )
    return Table(key, caption, note, header, body, rows)


def _expected(metric: str) -> str:
    if metric == "kimg":
        return ""
    better = METRICS.get(metric.rpartition(":")[2], ("", 0, None))[2] if metric.startswith("quality:") else False
    return {True: "+", False: "−", None: ""}[better]


def _between(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{low:.2f} to {high:.2f}".replace("-", "−")


def _probability(p: float) -> str:
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _points(data: ReportData, snapshots: pd.DataFrame, chosen: list[str]) -> Table:
    """The points of the picture; the frame has every metric."""
    shown = [m for m in chosen if m != "kimg"]
    body = [
        [
            data.shown(str(r["snapshot"])),
            number(r["kimg"], 1),
            number(r["dice"], 3),
            *(f"{r[m]:.3g}" if math.isfinite(r[m]) else "–" for m in shown),
        ]
        for r in snapshots.to_dict(orient="records")
    ]
    frame = snapshots.assign(run=[str(r).rpartition(":")[2] for r in snapshots["run"]])
    header = ["Generator", "kimg", "Dice", *map(words, shown)]
    note = "Mean Dice of networks trained on synthetic slices alone, and metrics; the CSV has every metric."
    return Table("correlation_points", "What the correlation is made from", note, header, body, frame)
