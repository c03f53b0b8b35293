"""How the generators' trainings were: what went wrong in them, in words."""

from __future__ import annotations

from typing import Any

from understudy.faults import FAULTS
from understudy.report.data import ReportData, count, number, percent


def faults(data: ReportData) -> list[str]:
    """A sentence for each generator that ended with a fault: what is trained on its slices must be read with that."""
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


def health_lines(data: ReportData) -> dict[str, str]:
    """Generator -> its state at the end of the training, for the figures of its training."""
    lines = {}
    for name, health in data.generator_health.items():
        state = described(health["faults"]) if health.get("faults") else "no collapse, no lack of annotations"
        repaired = int(health.get("repaired_gradients") or 0)
        lines[name] = (
            f"At the end of the training: {state}. The samples differ from each other"
            f" {number(health.get('diversity'), 2)} times as much as real slices do;"
            f" {percent(health.get('annotated'))} of them have an annotation. This does not judge how real they look."
            + f" Gradients that were NaN or infinite were set to 0 in {count(repaired, 'update')}."
            * bool(repaired)
        )
    return lines
