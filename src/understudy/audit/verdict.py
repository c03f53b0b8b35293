"""From counts to words: what the audit found, how sure that is, and what it cannot say.

A verdict is made from an audit's numbers and its controls; without controls it cannot be made.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from understudy.audit.concentration import Concentration
from understudy.audit.config import FEWEST_PATIENTS
from understudy.audit.controls import DETECTED, Controls
from understudy.audit.intervals import upper_bound
from understudy.errors import UnderstudyError

Kind = Literal["copies_found", "no_sign", "cannot_tell"]


@dataclass(frozen=True)
class Flags:
    """How many synthetic slices are nearer to the training set than new patients' slices are.

    Attributes:
        judged: synthetic slices compared (without constant and nearly empty ones).
        count, rate: flagged by the rule at the quantile.
        low, high: of the rate, by bootstrap over held-out patients and synthetic slices.
        wilson_low, wilson_high: of the rate, synthetic slices drawn again only (the threshold held fixed).
        expected: 1 - q.
        excess, excess_low, excess_high: rate - expected.
        residual, residual_low, residual_high: (rate - c) / (1 - c), c the false alarms on new patients (Anonymeter's
            residual risk).
        bound: exact one-sided 95 % upper bound of the rate, the threshold held fixed.
        views: share that each view alone would flag.
        beyond: slices that are nearer than every slice of every held-out patient.
        strict_p, strict: smallest p by patient, 1 / (P + 1), and slices that reach it.
        certain: slices too near for chance in a set of this size: beyond every held-out slice, and their extrapolated
            p-value times the slices judged is below 1 % (`conformal.tail_p_values`); faint ones too.
        skipped: synthetic slices that are constant or faint, and not among those judged.
        faint, faint_count: of them, those that are not constant (compared with the training slices of full contrast,
            since a dimmed copy would be one of them), and of these the flagged ones.
    """

    judged: int
    count: int
    rate: float
    low: float
    high: float
    wilson_low: float
    wilson_high: float
    expected: float
    excess: float
    excess_low: float
    excess_high: float
    residual: float
    residual_low: float
    residual_high: float
    bound: float
    views: dict[str, float]
    beyond: int
    strict_p: float
    strict: int
    certain: int
    skipped: int = 0
    faint: int = 0
    faint_count: int = 0


@dataclass(frozen=True)
class Hits:
    """Training patients that flagged slices lie next to, numbered from the worst hit one on; never an id.

    Attributes:
        patients: distinct ones. of: training patients.
        counts: "patient 1" -> flagged slices next to one of its slices.
    """

    patients: int
    of: int
    counts: dict[str, int]

    @property
    def worst(self) -> tuple[str, int] | None:
        """The worst hit patient and its slices."""
        return next(iter(self.counts.items()), None)


@dataclass(frozen=True)
class Verdict:
    """What a data steward reads.

    Attributes:
        kind: "copies_found", "no_sign" or "cannot_tell".
        headline: one sentence.
        sentences: the evidence.
        limits: what the audit cannot say.
    """

    kind: Kind
    headline: str
    sentences: list[str]
    limits: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def verdict(
    flags: Flags,
    hits: Hits,
    controls: Controls | None,
    patients: int,
    slices: int,
    needed: int,
    quantile: float,
    screened: bool = False,
    heaped: Concentration | None = None,
) -> Verdict:
    """The verdict.

    Args:
        patients, slices: held out and judged.
        needed: held-out slices without which nothing can be flagged.
        screened: flagged slices were taken out of the synthetic set, so that their absence says nothing new.
        heaped: whether the flags are concentrated on few training patients; None where none is flagged.

    Raises:
        UnderstudyError: no controls.
    """
    if controls is None:
        raise UnderstudyError(
            "an audit without its controls is not shown: nobody could know whether it would have found a copy",
            fix="run the audit again with planted copies and held-out halves",
        )
    kind, headline = _judged(flags, controls, patients, slices, needed, quantile)
    if kind == "no_sign" and heaped is not None and heaped.found:
        kind, headline = "cannot_tell", _look_first(flags, heaped, hits, quantile)
    if screened and kind == "no_sign":
        headline = (
            f"No copy that this audit can find is left among {flags.judged:,} screened slices. This says nothing on the"
            " generator: see the audit before screening."
        )
    return Verdict(
        kind,
        headline,
        _evidence(flags, hits, controls, patients, slices, quantile, screened, heaped),
        _limits(controls),
    )


def _judged(
    flags: Flags, controls: Controls, patients: int, slices: int, needed: int, quantile: float
) -> tuple[Kind, str]:
    of = f"{flags.count:,} of {flags.judged:,} synthetic slices ({percent(flags.rate)})"
    alarm = controls.false_alarms
    if slices < needed:
        return "cannot_tell", (
            f"Cannot tell: {slices} held-out slices are too few; to flag the nearest {percent(1 - quantile)} takes"
            f" {needed}."
        )
    if patients < FEWEST_PATIENTS:
        return (
            "cannot_tell",
            f"Cannot tell: {patients} held-out patients are too few; it takes {FEWEST_PATIENTS}.",
        )
    if flags.certain and alarm.certain:
        return "cannot_tell", (
            f"Cannot tell: {flags.certain:,} synthetic slices lie nearer to a training slice than chance explains, but"
            f" so do {alarm.certain:,} slices of new patients, compared with the other new patients."
        )
    if flags.certain:
        several = "slices lie" if flags.certain > 1 else "slice lies"
        return "copies_found", (
            f"Copies found: {flags.certain:,} synthetic {several} nearer to a training slice than chance explains;"
            f" {of} are nearer than {percent(quantile)} of new patients' slices."
        )
    if math.isnan(alarm.rate):
        return "cannot_tell", (
            f"Cannot tell: {slices} held-out slices are too few to check for false alarms; without each patient in turn"
            f" {needed} must be left."
        )
    if flags.low > max(flags.expected, alarm.high):
        return "copies_found", (
            f"Copies found: {of} are nearer to a training slice than {percent(quantile)} of new patients' slices;"
            f" chance alone would give {percent(flags.expected)}."
        )
    if controls.missed:
        return "cannot_tell", (
            "Cannot tell: this audit misses copies that it has to find"
            f" ({', '.join(d.name for d in controls.missed)})."
        )
    if flags.low > flags.expected:
        return "cannot_tell", (
            f"Cannot tell: {of} are nearer than {percent(quantile)} of new patients' slices, more than chance gives,"
            f" but {patients} held-out patients vary too much among themselves to call it copying."
        )
    if flags.skipped > flags.judged:
        return "cannot_tell", (
            f"Cannot tell: {flags.skipped:,} of {flags.skipped + flags.judged:,} synthetic slices are constant or"
            " nearly empty, and few are left to judge."
        )
    return "no_sign", (
        f"No sign of copying beyond what new patients show: {of} are nearer to a training slice than"
        f" {percent(quantile)} of new patients' slices; chance alone would give {percent(flags.expected)}."
    )


def _evidence(
    flags: Flags,
    hits: Hits,
    controls: Controls,
    patients: int,
    slices: int,
    quantile: float,
    screened: bool,
    heaped: Concentration | None,
) -> list[str]:
    alarm = controls.false_alarms
    said = [
        f"Yardstick: {slices:,} slices of {patients} patients who were never trained on, compared with the same"
        f" training slices. The smallest p-value that a slice can have is {1 / (slices + 1):.2g}; counted by patient it"
        f" is {flags.strict_p:.2g}, and {flags.strict:,} synthetic slices reach that.",
        f"Slices too near, beyond chance: {points(flags.excess)} (95 % interval"
        f" {points(flags.excess_low)} to {points(flags.excess_high)}, held-out patients drawn again;"
        f" the synthetic sample alone: rate {percent(flags.wilson_low)} to {percent(flags.wilson_high)}).",
    ]
    if flags.skipped:
        said.append(
            f"{flags.skipped:,} of {flags.skipped + flags.judged:,} synthetic slices have too little contrast to be"
            f" judged like the others (constant: {flags.skipped - flags.faint:,}). The {flags.faint:,} others were"
            f" compared with the training slices that do show somebody: {flags.faint_count:,} of them are too near."
        )
    if flags.count:
        name, most = hits.worst or ("", 0)
        said.append(
            f"The flagged slices lie next to {hits.patients} of {hits.of} training patients; {name}, the worst hit,"
            f" has {most:,} of them."
        )
        said += [] if heaped is None else [spread(heaped)]
    elif screened:
        said.append(
            "No slice is flagged, since those that were have been taken out by the same rule. More samples of the same"
            " generator would hold such slices again."
        )
    else:
        said.append(
            f"No slice is flagged. That is not zero risk: with {flags.judged:,} slices up to"
            f" {percent(flags.bound)} of such slices could still be too near (95 % bound)."
        )
    if flags.wilson_high < flags.expected and not screened:
        said.append(
            "That is fewer than chance gives: these slices lie farther from the training slices than new patients' do,"
            " as the slices of an unfinished generator would. A better one has to be audited again."
        )
    found = [d for d in controls.detections if d.must]
    least = min(found, key=lambda d: d.rate)
    said.append(
        f"Controls: of planted copies (exact, noise up to 5 %, changed contrast) at least {percent(least.rate)} are"
        f" found ({least.name}); "
        + (
            "how often slices of new patients are flagged cannot be told."
            if math.isnan(alarm.rate)
            else f"slices of new patients are flagged in {percent(alarm.rate)}"
            f" ({percent(alarm.low)} to {percent(alarm.high)}), where {percent(alarm.nominal)} is meant."
        )
    )
    return said


def _look_first(flags: Flags, heaped: Concentration, hits: Hits, quantile: float) -> str:
    """The headline where no more slices are flagged than chance gives, but those that are lie beside few patients."""
    return (
        f"Cannot tell, look first: {flags.count:,} of {flags.judged:,} synthetic slices ({percent(flags.rate)}) are"
        f" nearer to a training slice than {percent(quantile)} of new patients' slices, no more than chance may give,"
        f" but they are concentrated on {people(heaped.patients)} of {hits.of}: look at the gallery before release."
    )


def spread(heaped: Concentration) -> str:
    """What the test of concentration found, and what it means; names nobody."""
    whom, every = people(heaped.patients), f"{percent(heaped.share_of_all)} of all judged slices are"
    counts = (
        f"{heaped.hit:,} of {heaped.flagged:,} flagged slices lie beside {whom}, and of the {heaped.votes} held-out"
        f" patients whose slices are the nearest {heaped.same} ({every})"
    )
    if heaped.found:
        return (
            f"Concentrated on {whom}: {counts}; p {_below(heaped.p)} by patient. Copies of {whom}, or a generator that"
            " collapsed beside them: look at the gallery (private/gallery.png) before release."
        )
    if not heaped.testable:
        return (
            f"Whether they are concentrated on few patients cannot be told: with {heaped.flagged:,} flags and"
            f" {heaped.votes} held-out patients p is at least {heaped.smallest_p:.2g}."
        )
    return f"Not more concentrated on few patients than new patients' slices: {counts}; p = {heaped.p:.2g}."


def _below(p: float) -> str:
    return "below 0.0001" if p < 1e-4 else f"= {p:.2g}"


def people(count: int) -> str:
    """E.g. "2 training patients"."""
    return "one training patient" if count == 1 else f"{count} training patients"


def _limits(controls: Controls) -> list[str]:
    missed = [d for d in controls.detections if d.rate < DETECTED]
    listed = ", ".join(f"{d.name} {percent(d.rate)}" for d in missed)
    return [
        *([f"Planted copies are found only in part: {listed}."] if missed else []),
        "It compares pixels. A slice that shows a patient in another position, or only an unusual tumour of theirs,"
        " is not found by it.",
        "It judges these slices, not the generator: other samples, or the weights themselves, can give away more.",
        "Slices are judged one by one; what can be learned from many of them together is not examined.",
        "Whether a remaining risk is acceptable is a legal question and not answered here.",
    ]


def flag_bound(count: int, judged: int) -> float:
    """Upper bound of the flag rate (see `Flags.bound`)."""
    return upper_bound(count, judged)


def percent(share: float, digits: int | None = None) -> str:
    """E.g. "1.5 %", "0.04 %", "99 %"; a dash for what is not there."""
    if math.isnan(share):
        return "–"
    value = 100 * share
    if digits is None:
        digits = (
            0 if value == 0 or value >= 20 or abs(value - round(value)) < 0.005 else 1 if value >= 0.95 else 2
        )
    return f"{value:.{digits}f} %"


def points(share: float) -> str:
    """E.g. "+3.2 percentage points"."""
    return "–" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:+.1f} points"  # + 0.0: no "-0.0"
