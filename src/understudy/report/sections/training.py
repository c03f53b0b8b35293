"""How generators and segmentation networks were trained: curves, faults, training sets."""

from __future__ import annotations

from typing import Any

from understudy.faults import FAULTS
from understudy.report.content import Content
from understudy.report.data import ReportData, count, number, percent
from understudy.report.plots.curves import generator_curves, segmenter_curves
from understudy.report.sections.base import Block, Figure, Heading, Section, missing, shown
from understudy.report.tables.results import trainings_table


def section(content: Content) -> Section:
    """Each generator, then the segmentation networks."""
    data, blocks = content.data, list[Block]()
    real: dict[str, float] = next((n["with_class"] for n in content.gallery.numbers if n["kind"] == "real"), {})
    for name, path in data.generator_histories.items():
        blocks.append(Heading(f"Generator {data.shown(name)}"))
        if name in data.generator_health:
            blocks.append(health_line(data.generator_health[name]))
        caption = "Dotted: share of the real slices with the class. A sign of real scores that stays near 1 suggests"
        caption += " that the discriminator has memorized the training slices."
        panels = generator_curves(name, path, real, data.shown(name))
        blocks += [Figure(panels, caption)] if panels else missing(["No history of this training was found."])
    if not data.generator_histories:
        blocks += missing(["No generator was trained in this study."])
    panels = segmenter_curves(data)
    caption = "Validation patients are neither trained nor tested on; the best Dice on them picks the tested weights."
    blocks.append(Heading("Segmentation networks"))
    blocks += shown(Figure(panels, caption), trainings_table(data, content.settings) if data.runs else None)
    blocks += missing([] if panels else ["No histories of segmentation networks were found."])
    return Section("training", "Training", "Training", blocks, {"generator_health": data.generator_health})


def faults(data: ReportData) -> list[str]:
    """A sentence for each generator that ended with a fault."""
    return [
        f"The training of {data.shown(name)} went wrong: {described(health['faults'])}. Its slices are used all the"
        " same, so read its results as those of a failed training: train it longer or with another recipe."
        for name, health in data.generator_health.items()
        if health.get("faults")
    ]


def described(found: dict[str, Any]) -> str:
    """Faults of a training in words."""
    return " and ".join(
        f"{FAULTS.get(fault, fault)} (from {float(kimg):,.1f} thousand images on)" for fault, kimg in found.items()
    )


def health_line(health: dict[str, Any]) -> str:
    """The state of a generator at the end of its training."""
    state = described(health["faults"]) if health.get("faults") else "no collapse, no lack of annotations"
    line = (
        f"At the end of the training: {state}. The samples differ from each other"
        f" {number(health.get('diversity'), 2)} times as much as real slices do; {percent(health.get('annotated'))} of"
        " them have an annotation. This does not judge how real they look."
    )
    if repaired := int(health.get("repaired_gradients") or 0):
        line += f" Gradients that were NaN or infinite were set to 0 in {count(repaired, 'update')}."
    return line
