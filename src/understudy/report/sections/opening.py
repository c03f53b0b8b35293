"""The first screen: the answer, alarms, the verdict on each generator, and what was studied."""

from __future__ import annotations

import contextlib
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.statistics import MEAN
from understudy.report.answer import FEWEST_PATIENTS, POOREST_BASELINE, Answer, Comparison
from understudy.report.content import Content
from understudy.report.data import ReportData, count, listed, number, percent
from understudy.report.plots.dots import forest_plot, forest_rows
from understudy.report.sections.base import Html, Section
from understudy.report.sections.copies import card
from understudy.report.sections.run import failures
from understudy.report.sections.training import faults
from understudy.report.sections.verdicts import QUESTIONS, Verdict, make_verdicts
from understudy.report.tables.base import collapsed_of, interval, value
from understudy.slices import SliceSet

MOST_ROWS = 14  # of relative Dice shown at once; of a larger grid those that differ from the baseline in their slices


def section(content: Content) -> Section:
    """The answer."""
    data, answer = content.data, content.answer
    verdicts = make_verdicts(data, content.scored, answer, content.audits)
    warning = alarm(verdicts)
    copies_title, copies_text, copies_css = card(data, content.audits)
    strength = ""
    if answer.baseline and answer.comparisons:
        strength = f"Evidence: {answer.evidence}. {count(answer.patients, 'test patient')},"
        strength += f" {_trainings(answer.repeats)}; mean Dice with real slices {number(answer.baseline_dice, 2)}."
    notes = [*answer.left_out, *failures(data)[2], *collapsed(data), *faults(data)]
    values = {
        "answer": answer, "alarm": warning, "strength": strength, "verdicts": verdicts, "facts": facts(content),
        "notes": notes, "forest": forest(answer, data.margin), "limit": percent(1 - data.margin),
        "copies": {"title": copies_title, "text": copies_text, "css": copies_css, "audited": bool(content.audits)},
        "fewest": FEWEST_PATIENTS, "poorest": number(POOREST_BASELINE, 1), "questions": QUESTIONS,
    }  # fmt: skip
    baseline = answer.baseline.setting.id if answer.baseline else None
    comparisons = [_as_numbers(c) for c in answer.comparisons]
    own = {"alarm": warning, "baseline": baseline, "margin": data.margin, "comparisons": comparisons}
    numbers = {
        "verdicts": [v.as_numbers() for v in verdicts], "answer": vars(answer) | own,
        "settings": [vars(s) for s in data.settings],
        "collapsed": [{"setting": s, "repeat": r} for s, r in sorted(data.collapsed)],
        "mean_name": MEAN, "summary": content.summary.frame,
    }  # fmt: skip
    # A headline in green would hide copies that were found.
    css = f"answer {answer.verdict}{' copies' if copies_css == 'no' and answer.verdict == 'yes' else ''}"
    return Section("answer", "", "Answer", [Html("opening.html.j2", values)], numbers,
                   panels=forest_plot(answer, data.margin), css=css)  # fmt: skip


def limits(content: Content) -> Section:
    """What the page cannot say."""
    values = {"audited": bool(content.audits), "repeats": content.answer.repeats}
    return Section("limits", "What this page does not show", "Limits", [Html("limits.html.j2", values)])


def _as_numbers(c: Comparison) -> dict[str, Any]:
    counts = ("dice", "missed", "present", "false_alarms", "absent", "primary")
    relative = {"relative_dice": c.relative.value, "low": c.relative.low, "high": c.relative.high}
    named = {"setting": c.setting.id, "label": c.setting.label, "base": c.base.id}
    return named | relative | {key: getattr(c, key) for key in counts}


def alarm(verdicts: list[Verdict]) -> str:
    """What must be read together with the headline: copies that were found, or that nobody looked for them."""
    said = {
        "copies_found": "Copies of patients were found among the slices of {}: do not release them. Look at the pairs"
        " in private/gallery.png of the audit, then train again on more patients, or take the copies out with"
        " understudy screen.",
        "not_audited": "The slices of {} were not searched for copies of patients: run understudy audit before"
        " release.",
        "cannot_tell": "The search for copies of patients could not decide for {}: do not release these slices. The"
        " section on copies says what was missing.",
    }
    for kind, text in said.items():
        if names := [v.name for v in verdicts if v.copy.kind == kind]:
            return text.format(listed(names))
    return ""


def _trainings(repeats: int) -> str:
    return "each network trained once" if repeats == 1 else f"each network trained {repeats} times"


def collapsed(data: ReportData) -> list[str]:
    """Trainings that collapsed: they stay in every mean, and the reader must know."""
    said = []
    for setting in data.settings:
        broken = sorted(repeat for name, repeat in data.collapsed if name == setting.id)
        of = collapsed_of(data, setting)[1]
        reasons = {str(data.runs.get((setting.id, r), {}).get("collapse") or "it finds nothing") for r in broken}
        why = "; ".join(sorted(reasons))
        which = f"{'repeat' if len(broken) == 1 else 'repeats'} {', '.join(str(r + 1) for r in broken)}"
        if broken and of == 1:
            said.append(
                f"The only training of “{setting.label}” collapsed ({why}): its scores say nothing about the slices."
                " Train it longer or more often (`repeats`)."
            )
        elif broken:
            said.append(
                f"{len(broken)} of {of} trainings of “{setting.label}” collapsed ({which}: {why}). Their scores are"
                " part of every mean; the tables also give the means without them."
            )
    return said


def forest(answer: Answer, margin: float) -> dict[str, Any] | None:
    """Relative Dice with intervals as positions in percent of the axis; None without comparisons that say something."""
    found, top = forest_rows(answer)
    if not found:
        return None

    def place(share: float) -> float:
        return round(100 * min(max(share, 0.0), top) / top, 2)

    first = len(found)
    if first > MOST_ROWS:
        found = sorted(found, key=lambda row: not row[0].primary)
        first = sum(c.primary for c, _, _ in found)
    rows = [
        {
            "label": c.setting.label, "kind": c.setting.training, "colour": c.setting.colour, "low": place(low),
            "width": round(place(high) - place(low), 2), "beyond": high > top, "at": place(c.relative.value),
            "text": value(c.relative), "interval": interval(c.relative),
        }
        for c, low, high in found
    ]  # fmt: skip
    step = 0.25 if top <= 1.5 else 0.5
    ticks = [{"at": place(step * i), "text": percent(step * i)} for i in range(int(top / step) + 1)]
    ends = {"one": place(1.0), "zone": place(1 - margin)}
    return {"rows": rows[:first], "more": rows[first:], "ticks": ticks} | ends


def facts(content: Content) -> list[tuple[str, str]]:
    """The study in short: patients, slices, generators, networks."""
    data, found, slices = content.data, [], None
    with contextlib.suppress(UnderstudyError):
        slices = SliceSet.open(data.slices, cache_bytes=0) if data.slices else None
    if slices is not None:
        index = slices.index
        if "split" in index:
            parts = index.groupby("split")["subject"].nunique()
            shown = [f"{parts[s]} {w}" for s, w in (("train", "training"), ("val", "validation")) if parts.get(s)]
            if not data.scores.empty:
                shown.append(f"{data.scores['subject'].nunique()} test")
            found.append(("Patients", ", ".join(shown)))
            found.append(("Real training slices", f"{int((index['split'] == 'train').sum()):,}"))
        sites = index["site"].replace("", pd.NA).nunique() if "site" in index else 0
        found.append(("Hospitals", str(sites) if sites else "not known"))
        size = f"{slices.resolution} × {slices.resolution} pixels"
        if frame := slices.attrs.get("frame"):
            before = f"{frame['matrix']} × {frame['matrix']} of {frame['pixel']:g} mm"
            size = f"{frame['plane']}, {size} (from {before})"
        found.append(("Slices", f"{size}; {', '.join(slices.channels)}"))
        found.append(("Classes", ", ".join(slices.class_names)))
    made = [n for n in content.gallery.numbers if n["kind"] == "synthetic"]
    if made:
        found.append(("Synthetic slices", ", ".join(f"{n['slices']:,} ({n['short']})" for n in made)))
    networks = sorted(set(map(str, data.scores["segmenter"]))) if len(data.scores) else []
    if networks:
        repeats = int(data.scores.groupby("setting")["repeat"].nunique().max())
        found.append(("Segmentation", f"{', '.join(map(data.shown, networks))}; {_trainings(repeats)}"))
    return found
