"""What the page says first, beside the verdicts: alarms, the numbers behind the answer, and what was studied."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.report.data import ReportData, count, listed, number, percent
from understudy.report.sections.answer import Answer, Comparison, best, interval, primary, value
from understudy.report.sections.gallery import Gallery
from understudy.report.sections.verdicts import Verdict
from understudy.report.tables.base import collapsed_of
from understudy.slices import SliceSet

MOST_ROWS = 14  # of relative Dice shown at once; of a larger grid those that differ from the baseline in their slices


def alarm(verdicts: list[Verdict]) -> str:
    """What must be read together with the headline: copies that were found, or that nobody looked for them."""
    copies = [v.name for v in verdicts if v.copy.kind == "copies_found"]
    if copies:
        return (
            f"Copies of patients were found among the slices of {listed(copies)}: do not release them. Look at the"
            " pairs in private/gallery.png of the audit, then train again on more patients, or take the copies out"
            " with understudy screen."
        )
    unseen = [v.name for v in verdicts if v.copy.kind == "not_audited"]
    if unseen:
        return (
            f"The slices of {listed(unseen)} were not searched for copies of patients: do not release them before"
            " understudy audit has."
        )
    untold = [v.name for v in verdicts if v.copy.kind == "cannot_tell"]
    if untold:
        return (
            f"The search for copies of patients could not decide for {listed(untold)}: do not release these slices. The"
            " section on copies says what was missing."
        )
    return ""


def strength(answer: Answer) -> str:
    """How much the verdicts rest on, in one line below the headline; "" without a comparison."""
    if answer.baseline is None or not answer.comparisons:
        return ""
    return (
        f"Evidence: {answer.evidence}. {count(answer.patients, 'test patient')}, {_trainings(answer.repeats)}; mean"
        f" Dice with real slices {number(answer.baseline_dice, 2)}."
    )


def _trainings(repeats: int) -> str:
    return "each network trained once" if repeats == 1 else f"each network trained {repeats} times"


def collapsed(data: ReportData) -> list[str]:
    """Trainings that collapsed: they stay in every mean, and the reader must know."""
    said = []
    for setting in data.settings:
        broken = sorted(repeat for name, repeat in data.collapsed if name == setting.id)
        if not broken:
            continue
        of = collapsed_of(data, setting)[1]
        reasons = {str(data.runs.get((setting.id, r), {}).get("collapse") or "it finds nothing") for r in broken}
        why = "; ".join(sorted(reasons))
        if of == 1:
            said.append(
                f"The only training of “{setting.label}” collapsed ({why}): its scores say nothing about the slices."
                " Train it longer or more often (`repeats`)."
            )
        else:
            said.append(
                f"{len(broken)} of {of} trainings of “{setting.label}” collapsed"
                f" ({count(len(broken), 'repeat').split()[1]} {', '.join(str(r + 1) for r in broken)}: {why}). Their"
                " scores are part of every mean; the tables also give the means without them."
            )
    return said


def key_figures(answer: Answer) -> list[dict[str, str]]:
    """The four numbers beside the verdict; Dice itself where a share of the real slices' would say nothing."""
    top = best(primary(answer.comparisons, "synthetic"))
    both = best(primary(answer.comparisons, "both"))
    found = []
    for comparison, words in ((top, "Synthetic only"), (both, "Real + synthetic")):
        if comparison is not None:
            share = {
                "value": value(comparison.relative),
                "name": f"{words}: relative Dice",
                "more": f"95\u00a0% interval {interval(comparison.relative)}",
            }
            own = {"value": number(comparison.dice, 2), "name": f"{words}: mean Dice", "more": "no share of it given"}
            found.append(own if answer.weak else share)
    if top is not None and answer.baseline is not None and top.present:
        base = answer.baseline
        found.append(
            {
                "value": f"{top.missed} of {top.present}",
                "name": "Synthetic only: segmentations that found no voxel of the tumour",
                "more": f"real slices: {base.missed} of {base.present}",
            }
        )
    if not math.isnan(answer.baseline_dice):
        found.append(
            {
                "value": number(answer.baseline_dice, 2),
                "name": "Real slices: mean Dice",
                "more": f"{count(answer.patients, 'test patient')}, {_trainings(answer.repeats)}",
            }
        )
    return found


def forest(answer: Answer, margin: float) -> dict[str, Any] | None:
    """Relative Dice with intervals as positions in percent of the axis; None without comparisons that say something."""
    if answer.weak:
        return None
    shown: list[Comparison] = [
        c
        for c in answer.comparisons
        if not math.isnan(c.relative.value) and c.setting.training != "ratio"  # these have curves of their own
    ]
    if not shown:
        return None
    ends = [v for c in shown for v in (c.relative.value, c.relative.high) if math.isfinite(v)]
    top = min(max([1.1, *ends]) + 0.05, 2.5)

    def place(share: float) -> float:
        return round(100 * min(max(share, 0.0), top) / top, 2)

    rows = []
    first = [c for c in shown if c.primary] if len(shown) > MOST_ROWS else shown
    for c in [*first, *(c for c in shown if c not in first)]:
        low = c.relative.low if math.isfinite(c.relative.low) else c.relative.value
        high = c.relative.value if math.isnan(c.relative.high) else c.relative.high
        rows.append(
            {
                "label": c.setting.label,
                "kind": c.setting.training,
                "colour": c.setting.colour,
                "low": place(low),
                "width": round(place(high) - place(low), 2),
                "beyond": high > top,
                "at": place(c.relative.value),
                "text": value(c.relative),
                "interval": interval(c.relative),
            }
        )
    step = 0.25 if top <= 1.5 else 0.5
    ticks = [step * i for i in range(int(top / step) + 1)]
    return {
        "rows": rows[: len(first)],
        "more": rows[len(first) :],
        "ticks": [{"at": place(t), "text": percent(t)} for t in ticks],
        "one": place(1.0),
        "zone": place(1 - margin),
        "zone_text": percent(1 - margin),
    }


def facts(data: ReportData, gallery: Gallery) -> list[tuple[str, str]]:
    """The study in a few words each: who, what, how often."""
    facts = []
    for path in [data.slices] if data.slices else []:
        try:
            slices = SliceSet.open(path, cache_bytes=0)
        except UnderstudyError:
            continue
        index = slices.index
        if "split" in index:
            parts = index.groupby("split")["subject"].nunique()
            shown = [f"{parts[s]} {w}" for s, w in (("train", "training"), ("val", "validation")) if parts.get(s)]
            if not data.scores.empty:
                shown.append(f"{data.scores['subject'].nunique()} test")
            facts.append(("Patients", ", ".join(shown)))
            facts.append(("Real training slices", f"{int((index['split'] == 'train').sum()):,}"))
        sites = index["site"].replace("", pd.NA).nunique() if "site" in index else 0
        facts.append(("Hospitals", str(sites) if sites else "not known"))
        facts.append(("Slices", f"{_slicing(slices)}; {', '.join(slices.channels)}"))
        facts.append(("Classes", ", ".join(slices.class_names)))
    made = [n for n in gallery.numbers if n["kind"] == "synthetic"]
    if made:
        facts.append(("Synthetic slices", ", ".join(f"{n['slices']:,} ({n['short']})" for n in made)))
    networks = sorted(set(map(str, data.scores["segmenter"]))) if len(data.scores) else []
    if networks:
        repeats = data.scores.groupby("setting")["repeat"].nunique().max()
        named = ", ".join(map(data.shown, networks))
        facts.append(("Segmentation", f"{named}; {_trainings(int(repeats))}"))
    return facts


def _slicing(slices: SliceSet) -> str:
    """Size of the slices and what was done for all patients to have it."""
    size = f"{slices.resolution} × {slices.resolution} pixels"
    frame = slices.attrs.get("frame")  # not in sets of earlier versions
    if frame is None:
        return size
    return f"{frame['plane']}, {size} (from {frame['matrix']} × {frame['matrix']} of {frame['pixel']:g} mm)"
