"""How the generators' trainings were: what went wrong in them, in words."""

from __future__ import annotations

from typing import Any

from understudy.report.data import ReportData, count, number, percent

WORDS = {
    "collapsed": "its samples are all alike",
    "empty annotation": "its samples have no annotation, though real slices do",
    "rare annotation": "less than a quarter as many of its samples have an annotation as real slices do",
}


def faults(data: ReportData) -> list[str]:
    """A sentence for each generator that ended with a fault: what is trained on its slices must be read with that."""
    return [
        f"The generator {name} is broken: {_described(health['faults'])}. Its slices are used all the same."
        for name, health in data.generator_health.items()
        if health.get("faults")
    ]


def _described(found: dict[str, Any]) -> str:
    return " and ".join(
        f"{WORDS.get(fault, fault)} (since {float(kimg):,.1f} thousand images)"
        for fault, kimg in found.items()
    )


def health_lines(data: ReportData) -> dict[str, str]:
    """Generator -> its state at the end of the training, for the figures of its training."""
    lines = {}
    for name, health in data.generator_health.items():
        state = _described(health["faults"]) if health.get("faults") else "no fault found"
        repaired = int(health.get("repaired_gradients") or 0)
        lines[name] = (
            f"At the end: {state}; diversity {number(health.get('diversity'), 2)} of that of real slices;"
            f" {percent(health.get('annotated'))} of the samples have an annotation"
            + (
                f"; gradients that were no numbers were repaired in {count(repaired, 'update')}."
                * bool(repaired)
            )
            + ("." * (not repaired))
        )
    return lines
