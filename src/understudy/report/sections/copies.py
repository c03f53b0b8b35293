"""Copies of patients: verdicts, controls and histograms of each generator's audit. No training pixel, no patient."""

from typing import Any

import numpy as np
import pandas as pd

from understudy.report.content import Block, Bullets, Content, Details, Figure, Heading, Section, Text, missing, shown
from understudy.report.data import ReportData, listed, percent, percent_of
from understudy.report.plots.style import INK, NARROW, SYNTHETIC_COLOUR, Panel, legend_below, one_plot, panel_of
from understudy.report.tables import INTERVAL, Table

GROUPS = {"held-out": ("#8A8A8A", "new patients"), "synthetic": (SYNTHETIC_COLOUR, "synthetic")}
PLANTED = "#D55E00"
VIEWS = {"copy": "Any kind of copy", "stacked": "Correlation in place"}
# The worst first: kind of verdict -> class and title of the card beside the answer.
CARD = {
    "copies_found": ("no", "Copies of patients? Copies were found."),
    "cannot_tell": ("open", "Copies of patients? This search cannot tell."),
    "no_sign": ("yes", "Copies of patients? No sign of copies."),
}
NOT_AUDITED = (
    "A generator can memorize. No search for copies of training images was made, so this page says nothing about"
    " privacy. Run understudy audit before you release slices or weights."
)


def section(content: Content) -> Section:
    """Of all audits of the study."""
    return copies(content.data, content.audits)


def card(data: ReportData, audits: dict[str, dict[str, Any]]) -> tuple[str, str, str]:
    """The worst verdict of all generators: title, text, class."""
    said = {name: (numbers["verdict"]["kind"], numbers["verdict"]["headline"]) for name, numbers in audits.items()}
    said |= {name: ("copies_found", leak["words"]) for name, leak in data.leaks.items() if leak["parts"]}
    if not said:
        return "Copies of patients? Not examined.", NOT_AUDITED, "warn"
    kinds = {name: kind for name, (kind, _) in said.items()}
    worst = next(kind for kind in CARD if kind in kinds.values())
    css, title = CARD[worst]
    mine = [name for name, kind in kinds.items() if kind == worst]
    text = ("" if len(said) == 1 else f"{data.shown(mine[0])}: ") + said[mine[0]][1]
    return title, text if len(mine) == 1 else f"In the slices of {listed([data.shown(name) for name in mine])}.", css


def copies(data: ReportData, audits: dict[str, dict[str, Any]]) -> Section:
    """The section from the content of each generator's audit.json."""
    blocks: list[Block] = [*missing([] if audits else [NOT_AUDITED])]
    full = {name: numbers for name, numbers in audits.items() if numbers.get("controls")}
    blocks += [_summary(data, full), _controls(data, full)] if full else []
    for i, (name, numbers) in enumerate(audits.items()):
        said, words = numbers["verdict"], [*numbers["verdict"]["sentences"]]
        blocks += [Heading(f"Generator {data.shown(name)}")] if len(audits) > 1 else []
        blocks.append(Text(said["headline"], f"verdict {said['kind']}"))
        words += numbers.get("readers") or [(numbers.get("membership") or {}).get("words", "")]
        if within := numbers.get("within"):
            words.append(
                f"Repeats within the set: {percent(within['rate'], 1)} of {within['compared']:,} synthetic slices are"
                f" nearer to another synthetic slice than {percent_of(1 - within['expected'])} of new patients' slices"
                f" are to another patient's (by chance {percent_of(within['expected'])}). Many such slices are a sign"
                " of mode collapse."
            )
        # of three and more only what is not clean is open
        words = [w for w in words if w]
        blocks += [Details("In words", words, said["kind"] != "no_sign")] if len(audits) > 2 else words
        histograms = numbers.get("histograms", {})
        ordered = sorted(histograms, key=lambda v: ([*VIEWS, v].index(v), v))
        panels = [_histogram(data, name, view, numbers) for view in ordered]
        caption = (
            "How near each slice is to its nearest training slice: by the search, which decides, and by correlation in"
        )
        caption += " place, as in Akbar et al. Grey: slices of new patients."
        if any(numbers["null"]["thresholds"][view] is not None for view in histograms):
            caption += " Slices right of the dashed line are too near."
        figures = shown(Figure(panels, "" if i else caption))
        snapshot = data.training_of(name)[0] != name  # of these there may be many
        blocks += [Details("Figures", figures)] if snapshot and figures else figures
    limits = next(iter(audits.values()))["verdict"]["limits"] if audits else []
    blocks += [Details("What the audit cannot say", [Bullets(limits)], True)] if limits else []
    kept = {name: {k: v for k, v in n.items() if k != "histograms"} for name, n in audits.items()}
    return Section("copies", "Copies of patients", "Copies", blocks,
                   {"memorization_audited": bool(audits), "memorization": kept})  # fmt: skip


def too_few_to_flag(numbers: dict[str, Any]) -> bool:
    """Whether an audit has too few held-out slices to flag anything, so that its zeros say nothing."""
    null = numbers.get("null") or {}
    return bool(null.get("slices", 0) < null.get("slices_needed", 0))


def _histogram(data: ReportData, name: str, view: str, numbers: dict[str, Any]) -> Panel:
    counts, limit = numbers["histograms"][view]["counts"], numbers["null"]["thresholds"][view]
    edges, medians = np.array(numbers["histograms"][view]["edges"]), []
    with one_plot((4.4, NARROW[1])) as (figure, axes):
        for group, of in counts.items():
            colour, label = GROUPS.get(group, (PLANTED, f"planted copies ({group})"))
            # sets as areas, planted copies as lines
            share, filled = 100 * np.array(of) / max(1, sum(of)), group in GROUPS
            axes.stairs(share, edges, color=colour, label=label, fill=filled, alpha=0.55 if filled else 1)
            total = np.cumsum(of)
            middle = ((edges[1:] + edges[:-1]) / 2)[int(np.searchsorted(total, total[-1] / 2))]
            medians.append(f"{label if filled else group} {middle:.2f}")
        axes.set(title=VIEWS.get(view, view), xlabel="nearness to a training slice", ylabel="slices, %")
        said = f"{data.shown(name)}: nearness to a training slice, median: {', '.join(medians)}."
        if limit is not None:
            axes.axvline(limit, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
            most = percent_of(numbers["rule"]["quantile"])
            said += f" {most} of new patients' slices lie left of the dashed line at {limit:.3f}."
        legend_below(figure, axes, 3)
        return panel_of(figure, said, key=f"memorization_{name}_{view}")


def _summary(data: ReportData, found: dict[str, dict[str, Any]]) -> Table:
    rows, unsure = [], []
    for name, numbers in found.items():
        flags, patients, alarms = numbers["flags"], numbers["patients"], numbers["controls"]["false_alarms"]
        auc, near = (numbers.get("membership") or {}).get("auc"), numbers.get("concentration") or {}
        most = patients["worst"][1] if patients["worst"] else 0  # slices next to the training patient with the most
        known = {
            "generator": name, "verdict": numbers["verdict"]["kind"], "judged": flags["judged"],
            "flagged": flags["count"], **{k: flags[k] for k in ("rate", "low", "high", "residual", "certain")},
            "patients_hit": patients["hit"], "patients": patients["of"], "worst_hit": most,
            "concentrated": near.get("found"), "concentration_p": near.get("p"), "false_alarms": alarms["rate"],
            "membership_auc": auc,
        }  # fmt: skip
        few = near.get("patients", 1)
        concentrated = f", concentrated{'' if few == 1 else f' on {few}'}" if most and near.get("found") else ""
        cells = [
            f"{flags['count']:,} of {flags['judged']:,}",
            f"{percent(flags['rate'], 1)} ({100 * flags['low']:.1f} to {percent(flags['high'], 1)})",
            percent(alarms["rate"], 1), f"{flags['certain']:,}", f"{patients['hit']} of {patients['of']}",
            f"{most:,}{concentrated}",
        ]  # fmt: skip
        if too_few_to_flag(numbers):
            unsure.append(data.shown(name))
            cells = ["–"] * len(cells)
        rows.append(([data.shown(name), *cells, "–" if auc is None else f"{auc:.2f}"], known))
    header = [
        "Generator", "Slices too near", f"Share ({INTERVAL})", "New patients' slices too near",
        "Nearer than chance explains", "Training patients with such slices", "Most at one patient", "Weights: AUC",
    ]  # fmt: skip
    parts = sorted({numbers["rule"]["quantile"] for numbers in found.values()})
    note = (
        f"Too near: nearer to a training slice than {' or '.join(percent_of(q) for q in parts)} of the slices of new"
        f" patients, whom the generator never saw; by chance that happens to"
        f" {' or '.join(percent_of(1 - q) for q in parts)}. New patients' slices too near: the same rule on each new"
        " patient against the others; it should be about as many. Nearer than chance explains: even in a set of this"
        " size. Most at one patient: slices next to the training patient with the most; “concentrated” where more of"
        " them are nearest to these few patients than slices of new patients are (p at most 1\u00a0%). Weights: how"
        " well they tell training patients from new ones, 0.5 not at all, 1 always."
    )
    note += f" –: too few slices of new patients to judge {listed(unsure)}." if unsure else ""
    return Table.of("audit", "Copies of training patients", note, header, rows)


def _controls(data: ReportData, found: dict[str, dict[str, Any]]) -> Table:
    """Planted copies; generators of a study share patients and seeds, so that mostly one column tells all."""
    columns: dict[str, list[dict[str, Any]]] = {}
    for name, numbers in found.items():
        if numbers["controls"]["detection"] not in columns.values():
            columns[name] = numbers["controls"]["detection"]
    single, body, rows = len(columns) == 1, [], []
    for i, first in enumerate(next(iter(columns.values()))):
        body.append([first["name"]])
        for name, detections in columns.items():
            d = detections[i]
            body[-1].append(f"{percent(d['rate'])} ({100 * d['low']:.0f} to {percent(d['high'])})")
            known = {k: d[k] for k in ("name", "must", "copies", "rate", "low", "high")}
            rows.append({"generator": "" if single else name, **known})
    header = ["Planted copy", *([f"Found ({INTERVAL})"] if single else map(data.shown, columns))]
    planted = sorted({d["copies"] for detections in columns.values() for d in detections})
    note = (
        f"A test of this search: {' or '.join(f'{n:,}' for n in planted)} training slices were changed as named and put"
        " among the slices to be searched; the table says how often such a copy is found. Noise in percent of the"
        " intensity of a channel's bright tissue; gamma changes the contrast."
    )
    if any(map(too_few_to_flag, found.values())):
        note += " With too few slices of new patients nothing can be flagged, and every share is 0\u00a0%."
    return Table("audit_controls", "What the audit would find", note, header, body, pd.DataFrame(rows))
