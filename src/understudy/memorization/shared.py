"""What a recipient of a release is told of an audit: counts, rates and words, no more.

Whoever holds slices and asks whether they were trained on could answer that by hashes of the training set, by its
slices' nearest scores (histograms, thresholds, medians), by p-values of single slices, and, who holds all of it, by any
number with many digits. So fields are named here, and numbers that were measured are rounded.
"""

from typing import Any

DIGITS = 3  # of measured numbers
_AS_THEY_ARE = ("format", "software_version", "refusal")
_OF_SETS = ("slices", "judged", "patients")
_OF_NULL = ("slices", "patients", "slices_needed")


def shared(numbers: dict[str, Any], membership: dict[str, Any] | None = None) -> dict[str, Any]:
    """The part of audit.json (`numbers`) that may be released, with this membership inference."""
    sets = {name: {k: told[k] for k in _OF_SETS if k in told} for name, told in numbers["sets"].items()}
    sets["synthetic"]["content_hash"] = numbers["sets"]["synthetic"]["content_hash"]  # of no patient's slices
    controls, measured = numbers["controls"], ("flags", "concentration", "exposed", "within")
    # medians of planted copies, and what single views find, are scores of training slices
    detection = [{**found, "views": {}, "median": {}} for found in controls["detection"]]
    return {
        **{name: numbers[name] for name in _AS_THEY_ARE},
        "verdict": numbers["verdict"],
        "sets": sets,
        "rule": numbers["rule"],
        "null": {name: numbers["null"][name] for name in _OF_NULL},
        "patients": {name: numbers["patients"][name] for name in ("hit", "of", "worst")},
        **{name: rounded(numbers[name]) for name in measured},
        "controls": rounded({**controls, "detection": detection}),
        "membership": rounded(membership),
    }


def rounded(value: Any) -> Any:
    """With `DIGITS` digits of each number that is no count."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
