"""From counts to words: what the audit found, how sure that is, and what it cannot say.

A verdict is made from an audit's numbers and its controls; without controls it cannot be made.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from understudy.errors import UnderstudyError
from understudy.memorization.concentration import Concentration
from understudy.memorization.config import FEWEST_PATIENTS
from understudy.memorization.controls import DETECTED, Controls
from understudy.memorization.intervals import upper_bound
from understudy.names import percent

Kind = Literal["copies_found", "no_sign", "cannot_tell"]
MORE_HELD_OUT = "Hold out more patients and audit again."


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
            f"No copy that this audit can find is left among {count(flags.judged, 'screened slice')}. This says"
            " nothing about the generator: see the audit before screening."
        )
    return Verdict(
        kind,
        headline,
        _evidence(kind, flags, hits, controls, patients, slices, needed, quantile, screened, heaped),
        _limits(controls) if slices >= needed else _limits(None),
    )


def _judged(
    flags: Flags, controls: Controls, patients: int, slices: int, needed: int, quantile: float
) -> tuple[Kind, str]:
    of = f"{flags.count:,} of {flags.judged:,} synthetic slices ({percent(flags.rate)})"
    alarm = controls.false_alarms
    if slices < needed:
        return "cannot_tell", (
            f"Cannot tell: {count(slices, 'held-out slice')} {'are' if slices > 1 else 'is'} too few: it takes at"
            f" least {needed} to flag any slice. {MORE_HELD_OUT}"
        )
    if patients < FEWEST_PATIENTS:
        return "cannot_tell", (
            f"Cannot tell: {count(patients, 'held-out patient')} {'are' if patients > 1 else 'is'} too few: it takes"
            f" at least {FEWEST_PATIENTS}. {MORE_HELD_OUT}"
        )
    if flags.certain and alarm.certain:
        return "cannot_tell", (
            f"Cannot tell: {count(flags.certain, 'synthetic slice')} {'is' if flags.certain == 1 else 'are'} nearer"
            f" to a training slice than chance explains, but so {'is' if alarm.certain == 1 else 'are'}"
            f" {count(alarm.certain, 'slice')} of new patients. Look for one patient under two names among the"
            " training and held-out patients, then audit again."
        )
    if flags.certain:
        return "copies_found", (
            f"Copies found: {count(flags.certain, 'synthetic slice')} {'is' if flags.certain == 1 else 'are'} nearer"
            f" to a training slice than chance explains; {of} are nearer than {percent(quantile)} of new patients'"
            " slices."
        )
    if math.isnan(alarm.rate):
        return "cannot_tell", (
            f"Cannot tell: {slices} held-out slices are too few to measure how often new patients' slices are flagged"
            f" by mistake: without any one patient at least {needed} must be left. {MORE_HELD_OUT}"
        )
    if flags.low > max(flags.expected, alarm.high):
        return "copies_found", (
            f"Copies found: {of} are nearer to a training slice than {percent(quantile)} of new patients' slices;"
            f" chance alone would give {percent(flags.expected)}."
        )
    if controls.missed:
        return "cannot_tell", (
            "Cannot tell: to test this search copies were made on purpose, and it found too few of some:"
            f" {missed_copies(controls)}."
            " So it cannot rule out copying. Audit again with slices of a higher resolution, or hold out more patients."
        )
    if flags.low > flags.expected:
        return "cannot_tell", (
            f"Cannot tell: {of} are nearer to a training slice than {percent(quantile)} of new patients' slices, more"
            f" than the {percent(flags.expected)} expected by chance, but the {patients} held-out patients differ too"
            f" much from each other to call it copying. {MORE_HELD_OUT}"
        )
    if flags.skipped > flags.judged:
        return "cannot_tell", (
            f"Cannot tell: {flags.skipped:,} of {flags.skipped + flags.judged:,} synthetic slices are constant or"
            " nearly empty, too many to judge the set by the others. Look at the slices, and train the generator"
            " longer."
        )
    return "no_sign", (
        f"No sign of copying: {of} are nearer to a training slice than {percent(quantile)} of new patients' slices;"
        f" chance alone would give {percent(flags.expected)}."
    )


def missed_copies(controls: Controls) -> str:
    """Kinds of planted copies that must be found and are not, in words, each with the share found."""
    words = {"exact": "exact copies", "noise": "noisy copies", "gamma": "copies with changed contrast"}
    told = [(words.get(d.name.split()[0], "copies"), d) for d in controls.missed]
    return "; ".join(
        f"{percent(d.rate)} of the {kind}{f' ({d.name})' * (' ' in d.name)}, {percent(DETECTED)} needed"
        for kind, d in told
    )


def _evidence(
    kind: Kind,
    flags: Flags,
    hits: Hits,
    controls: Controls,
    patients: int,
    slices: int,
    needed: int,
    quantile: float,
    screened: bool,
    heaped: Concentration | None,
) -> list[str]:
    said = [
        f"For comparison {count(slices, 'slice')} of {count(patients, 'patient')} whom the generator never saw (new"
        " patients, held out) were searched for in the same training slices. The smallest p-value that a slice can"
        f" have is {1 / (slices + 1):.2g}; counted by patient it is {flags.strict_p:.2g}, which"
        f" {count(flags.strict, 'synthetic slice')} {'reach' if flags.strict > 1 else 'reaches'}."
    ]
    if slices >= needed:
        said.append(_near(flags))
    if flags.skipped:
        said.append(_faint(flags))
    if slices < needed:
        said.append("With so few held-out slices none could be flagged, whatever the synthetic slices show.")
    elif flags.count:
        name, most = hits.worst or ("", 0)
        said.append(
            f"The flagged slices are nearest to slices of {hits.patients} of {count(hits.of, 'training patient')};"
            f" {name} has the most, {most:,} of them."
        )
        said += [] if heaped is None else [spread(heaped)]
    elif screened:
        said.append(
            "No slice is flagged, because the flagged ones were taken out by the same rule. New samples of the same"
            " generator would contain such slices again, so screen them as well."
        )
    else:
        said.append(
            f"No slice is flagged. That does not prove that there are none: of further slices of this kind up to"
            f" {percent(flags.bound)} could be too near (95 % bound from {count(flags.judged, 'slice')})."
        )
    if flags.wilson_high < flags.expected and not screened and slices >= needed:
        said.append(
            "That is fewer than chance gives: these slices are less like the training slices than new patients'"
            " slices are, as those of a generator that has not learned enough would be. Audit again after a longer"
            " training."
        )
    if slices >= needed:
        said.append(_tested(controls))
    if kind == "copies_found":
        said.append(
            "What to do: do not release this set. Look at the nearest pairs in private/gallery.png; take the flagged"
            " slices out with `understudy screen`, or train on more patients, and audit again."
        )
    return said


def _tested(controls: Controls) -> str:
    """What both controls gave, in words."""
    alarm = controls.false_alarms
    found = [d for d in controls.detections if d.must]
    least = min(found, key=lambda d: d.rate)
    return (
        "Test of the search: copies of training slices were made on purpose (exact, with noise up to 5 %, with changed"
        f" contrast), and of each kind it found {'all' if least.rate == 1 else f'at least {percent(least.rate)}'}"
        f"{f' (fewest: {least.name})' * (least.rate < 1)}; "
        + (
            "how often it flags slices of new patients by mistake could not be measured."
            if math.isnan(alarm.rate)
            else f"it flagged {percent(alarm.rate)} of new patients' slices by mistake (95 % interval"
            f" {percent(alarm.low)} to {percent(alarm.high)}), where {percent(alarm.nominal)} is expected."
        )
    )


def _near(flags: Flags) -> str:
    """How the flags compare with chance, with the direction in words."""
    if flags.excess_low > 0:
        told = "more than"
    elif flags.excess_high < 0:
        told = "fewer than"
    else:
        told = "no clear difference from"
    return (
        f"{percent(flags.rate)} of the slices are too near to a training slice (flagged), {told} the"
        f" {percent(flags.expected)} expected by chance: the difference is {points(flags.excess)} (95 % interval"
        f" {points(flags.excess_low).split()[0]} to {points(flags.excess_high).split()[0]}; above 0 means more than"
        " chance)."
    )


def _faint(flags: Flags) -> str:
    """What was done with slices of little contrast."""
    constant = flags.skipped - flags.faint
    said = (
        f"{flags.skipped:,} of {flags.skipped + flags.judged:,} synthetic slices have too little contrast to be"
        f" judged like the others: {constant:,} of one grey value, {flags.faint:,} nearly empty."
    )
    if not flags.faint:
        return said
    return (
        f"{said} The nearly empty ones were compared with the training slices of full contrast, since they might be"
        f" dimmed copies: {flags.faint_count:,} of them {'is' if flags.faint_count == 1 else 'are'} too near."
    )


def _look_first(flags: Flags, heaped: Concentration, hits: Hits, quantile: float) -> str:
    """The headline where no more slices are flagged than chance gives, but those that are lie beside few patients."""
    return (
        f"Cannot tell, look first: {flags.count:,} of {flags.judged:,} synthetic slices ({percent(flags.rate)}) are"
        f" nearer to a training slice than {percent(quantile)} of new patients' slices, no more than chance gives,"
        f" but they are concentrated on {people(heaped.patients)} of {hits.of}: look at the pairs in"
        " private/gallery.png before release."
    )


def spread(heaped: Concentration) -> str:
    """What the test of concentration found, and what it means; names nobody."""
    whom, every = people(heaped.patients), f"{percent(heaped.share_of_all)} of all judged slices are"
    counts = (
        f"{heaped.hit:,} of {heaped.flagged:,} flagged slices are nearest to {whom}, and so are the nearest slices of"
        f" {heaped.same} of the {heaped.votes} held-out patients who come nearest ({every})"
    )
    if heaped.found:
        return (
            f"Concentrated on {whom}: {counts}; p {_below(heaped.p)} by patient. These may be copies of {whom}, or"
            " slices of a generator that collapsed: look at the pairs in private/gallery.png before release."
        )
    if not heaped.testable:
        return (
            "Too few to tell whether they are concentrated on few patients: with"
            f" {count(heaped.flagged, 'flagged slice')} and"
            f" {count(heaped.votes, 'held-out patient')} p is {heaped.smallest_p:.2g} or more."
        )
    return f"No more concentrated on few patients than new patients' slices are: {counts}; p = {heaped.p:.2g}."


def _below(p: float) -> str:
    return "below 0.0001" if p < 1e-4 else f"= {p:.2g}"


def people(count: int) -> str:
    """E.g. "2 training patients"."""
    return "one training patient" if count == 1 else f"{count} training patients"


def _limits(controls: Controls | None) -> list[str]:
    """What no audit can say; with `controls`, which copies this one does not find."""
    missed = [d for d in controls.detections if d.rate < DETECTED] if controls else []
    listed = "; ".join(f"{d.name}: {percent(d.rate)}" for d in missed)
    return [
        *([f"Of some kinds of copies made to test it, it finds only a part: {listed}."] if missed else []),
        "It compares pixels. It does not find a slice that shows a patient in another position, or only a patient's"
        " unusual tumour.",
        "It judges these slices, not the generator: other samples, or the weights themselves, can give away more.",
        "Slices are judged one by one; what can be learned from many of them together is not examined.",
        "Whether a remaining risk is acceptable is a legal question and not answered here.",
    ]


def flag_bound(count: int, judged: int) -> float:
    """Upper bound of the flag rate (see `Flags.bound`)."""
    return upper_bound(count, judged)


def count(number: int, one: str) -> str:
    """E.g. "no slice", "1 slice", "1,054 slices"."""
    return f"{f'{number:,}' if number else 'no'} {one if number < 2 else one + 's'}"


def points(share: float) -> str:
    """E.g. "+3.2 percentage points"; a dash for what is not there."""
    return "–" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:+.1f} percentage points"  # + 0.0: no "-0.0"
