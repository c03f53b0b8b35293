"""The section on copies: verdicts, controls and histograms of each generator's audit. No training pixel, no patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.report.data import ReportData, listed, percent, percent_of
from understudy.report.plots.style import INK, NARROW, SYNTHETIC_COLOUR, Panel, legend_below, one_plot, panel_of
from understudy.report.tables.results import Table

GROUPS = {"held-out": ("#8A8A8A", "new patients"), "synthetic": (SYNTHETIC_COLOUR, "synthetic")}
PLANTED = "#D55E00"
VIEWS = {"stacked": "All channels together", "centred": "Mean training image removed"}
CARD = {
    "copies_found": ("no", "Are they copies of patients? Copies were found."),
    "cannot_tell": ("open", "Are they copies of patients? This search cannot tell."),
    "no_sign": ("yes", "Are they copies of patients? No sign of copies."),
}
NOT_AUDITED = (
    "A generator can memorize. No search for copies of training images was made here, so this page says nothing about"
    " privacy. Run understudy audit before you release slices or weights."
)


@dataclass(frozen=True)
class Entry:
    """The audit of one generator: its name, verdict and pictures, and what its weights give away.

    Attributes:
        limited: a picture shows the quantile that a copy must exceed; with few held-out slices there is none.
    """

    name: str
    kind: str
    headline: str
    sentences: list[str]
    limits: list[str]
    panels: list[Panel]
    membership: str
    within: str
    limited: bool


@dataclass(frozen=True)
class AuditSection:
    """What the page says on copies.

    Attributes:
        kind: the worst verdict of all generators, "" without audits.
        title, text, css: of the card beside the answer.
        entries: by generator. tables: all audits, and the planted copies. numbers: for report.json.
    """

    kind: str
    title: str
    text: str
    css: str
    entries: list[Entry]
    tables: list[Table]
    numbers: dict[str, Any]


def make_audit_section(data: ReportData) -> AuditSection:
    """The section from the audits' folders.

    Raises:
        UnderstudyError: an audit without its controls.
    """
    found = {name: read_json(Path(folder) / "audit.json") for name, folder in data.audits.items()}
    for name, numbers in found.items():
        if not numbers.get("controls") and not numbers.get("refusal"):
            raise UnderstudyError(
                "an audit without its controls is not shown", where=data.audits[name], fix="run the audit again"
            )
    if not found:
        return AuditSection("", "Are they copies of patients? Not examined.", NOT_AUDITED, "warn", [], [], {})
    entries = [_entry(data, name, numbers) for name, numbers in found.items()]
    kinds = [entry.kind for entry in entries]
    worst = next(kind for kind in CARD if kind in kinds)
    css, title = CARD[worst]
    mine = [entry for entry in entries if entry.kind == worst]
    text = f"{mine[0].name}: {mine[0].headline}" if len(entries) > 1 else mine[0].headline
    if len(mine) > 1:
        text = f"The same for {listed([entry.name for entry in mine])}; the table above and the section below say why."
    full = {name: numbers for name, numbers in found.items() if numbers.get("controls")}
    tables = [_summary(data, full), _controls(data, full)] if full else []
    kept = {name: {k: v for k, v in n.items() if k != "histograms"} for name, n in found.items()}
    return AuditSection(worst, title, text, css, entries, tables, kept)


def too_few_to_flag(numbers: dict[str, Any]) -> bool:
    """Whether an audit has too few held-out slices to flag anything, so that its zeros say nothing."""
    null = numbers.get("null") or {}
    return bool(null.get("slices", 0) < null.get("slices_needed", 0))


def _entry(data: ReportData, name: str, numbers: dict[str, Any]) -> Entry:
    said, within = numbers["verdict"], numbers.get("within")
    repeated = ""
    if within:
        repeated = (
            f"Repeats within the set: {percent(within['rate'], 1)} of {within['compared']:,} synthetic slices are"
            f" nearer to another synthetic slice than {percent_of(1 - within['expected'])} of new patients' slices"
            f" are to another patient's (by chance {percent_of(within['expected'])}). Many such slices are a sign of"
            " mode collapse."
        )
    shown = numbers.get("histograms", {})
    panels = [_histogram(data, name, view, numbers) for view in sorted(shown, key=list(VIEWS).index)]
    weights = (numbers.get("membership") or {}).get("words", "")
    limited = any(numbers["null"]["thresholds"][view] is not None for view in shown)
    return Entry(
        data.shown(name),
        said["kind"],
        said["headline"],
        said["sentences"],
        said["limits"],
        panels,
        weights,
        repeated,
        limited,
    )


def _histogram(data: ReportData, name: str, view: str, numbers: dict[str, Any]) -> Panel:
    shown, limit = numbers["histograms"][view], numbers["null"]["thresholds"][view]
    edges = np.array(shown["edges"])
    with one_plot((4.4, NARROW[1])) as (figure, axes):
        for group, counts in shown["counts"].items():
            colour, label = GROUPS.get(group, (PLANTED, f"planted copies ({group})"))
            share = 100 * np.array(counts) / max(1, sum(counts))
            axes.stairs(
                share, edges, color=colour, label=label, fill=group in GROUPS, alpha=0.55 if group in GROUPS else 1
            )
        if limit is not None:
            axes.axvline(limit, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set_title(VIEWS.get(view, view))
        axes.set_xlabel("highest correlation with a training slice")
        axes.set_ylabel("slices, %")
        legend_below(figure, axes, 3)
        medians = ", ".join(f"{GROUPS.get(n, ('', n))[1]} {_median(c, edges):.2f}" for n, c in shown["counts"].items())
        where = (
            ""
            if limit is None
            else f" {percent_of(numbers['rule']['quantile'])} of new patients' slices lie left of the dashed line at"
            f" {limit:.3f}."
        )
        said = f"{data.shown(name)}: highest correlation with a training slice, median: {medians}.{where}"
        return panel_of(figure, said, key=f"memorization_{name}_{view}")


def _median(counts: list[int], edges: np.ndarray) -> float:
    middles = (edges[1:] + edges[:-1]) / 2
    total = np.cumsum(counts)
    return float(middles[int(np.searchsorted(total, total[-1] / 2))])


def _summary(data: ReportData, found: dict[str, dict[str, Any]]) -> Table:
    rows: list[dict[str, Any]] = []
    body: list[list[str]] = []
    unsure: list[str] = []
    for name, numbers in found.items():
        flags, patients, asked = numbers["flags"], numbers["patients"], numbers.get("membership") or {}
        alarms = numbers["controls"]["false_alarms"]
        worst, heaped = patients["worst"], numbers.get("concentration") or {}
        rows.append(
            {"generator": name, "verdict": numbers["verdict"]["kind"], "judged": flags["judged"],
             "flagged": flags["count"], "rate": flags["rate"], "low": flags["low"], "high": flags["high"],
             "residual": flags["residual"], "certain": flags["certain"],
             "patients_hit": patients["hit"], "patients": patients["of"], "worst_hit": worst[1] if worst else 0,
             "concentrated": heaped.get("found"), "concentration_p": heaped.get("p"),
             "false_alarms": alarms["rate"], "membership_auc": asked.get("auc")}
        )  # fmt: skip
        told = [
            f"{flags['count']:,} of {flags['judged']:,}",
            f"{percent(flags['rate'], 1)} ({100 * flags['low']:.1f} to {percent(flags['high'], 1)})",
            percent(alarms["rate"], 1), f"{flags['certain']:,}", f"{patients['hit']} of {patients['of']}",
            _worst(worst, heaped),
        ]  # fmt: skip
        if too_few_to_flag(numbers):
            unsure.append(data.shown(name))
            told = ["–"] * len(told)
        body.append([data.shown(name), *told, "–" if asked.get("auc") is None else f"{asked['auc']:.2f}"])
    header = [
        "Generator", "Slices too near", "Share (95\u00a0% interval)", "New patients' slices too near",
        "Nearer than chance explains", "Training patients with such slices", "Most at one patient", "Weights: AUC",
    ]  # fmt: skip
    parts = sorted({numbers["rule"]["quantile"] for numbers in found.values()})
    note = (
        f"Too near: nearer to a training slice than {' or '.join(percent_of(q) for q in parts)} of the slices of new"
        " patients, whom the generator never saw; that happens by chance to"
        f" {' or '.join(percent_of(1 - q) for q in parts)}. New patients' slices too near: the same rule on each new"
        " patient against the others; it should be about as many. Nearer than chance explains: even in a set of this"
        " size. Most at one patient: slices next to the training patient with the most; “concentrated” where more of"
        " them lie beside so few patients than slices of new patients do (p at most 1\u00a0%). Weights: how well"
        " they tell training patients from new ones, 0.5 not at all, 1 always."
        + (
            f" –: too few slices of new patients to judge {listed(unsure)}, so nothing could be flagged."
            if unsure
            else ""
        )
    )
    return Table("audit", "Copies of training patients", note, header, body, pd.DataFrame(rows))


def _worst(worst: list[Any] | None, heaped: dict[str, Any]) -> str:
    """Slices next to the worst hit patient, and whether the flags heap up."""
    if not worst:
        return "0"
    few = heaped.get("patients", 1)
    beside = "" if few == 1 else f" on {few}"
    return f"{worst[1]:,}{f', concentrated{beside}' if heaped.get('found') else ''}"


def _controls(data: ReportData, found: dict[str, dict[str, Any]]) -> Table:
    """Planted copies; generators of a study share patients and seeds, so that mostly one column tells all."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for name, numbers in found.items():
        detections = numbers["controls"]["detection"]
        if detections not in columns.values():
            columns[name] = detections
    single = len(columns) == 1
    body, rows = [], []
    for i, first in enumerate(next(iter(columns.values()))):
        cells = [first["name"]]
        for name, detections in columns.items():
            d = detections[i]
            cells.append(f"{percent(d['rate'])} ({100 * d['low']:.0f} to {percent(d['high'])})")
            rows.append(
                {
                    "generator": "" if single else name,
                    **{k: d[k] for k in ("name", "must", "copies", "rate", "low", "high")},
                }
            )
        body.append(cells)
    header = ["Planted copy", *(["Found (95\u00a0% interval)"] if single else map(data.shown, columns))]
    planted = sorted({d["copies"] for detections in columns.values() for d in detections})
    note = (
        f"A test of this search: {' or '.join(f'{n:,}' for n in planted)} training slices were changed as named and"
        " put among the slices to be searched; a copy of that kind is found as often as the table says. Noise in"
        " percent of the intensity of a channel's bright tissue; gamma changes the contrast."
        + " With too few slices of new patients nothing can be flagged, and every share is 0\u00a0%."
        * any(map(too_few_to_flag, found.values()))
    )
    return Table("audit_controls", "What the audit would find", note, header, body, pd.DataFrame(rows))
