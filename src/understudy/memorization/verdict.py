"""What an audit decides: copies found, no sign, or cannot tell, and for which reason. `words` says it in sentences."""

import html
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from understudy.memorization.concentration import Concentration
from understudy.memorization.config import FEWEST_PATIENTS
from understudy.memorization.controls import Controls

Kind = Literal["copies_found", "no_sign", "cannot_tell"]
REASONS: dict[str, Kind] = {
    "too_few_slices": "cannot_tell",  # held-out slices: none could be flagged
    "too_few_patients": "cannot_tell",  # held-out patients
    "new_patients_certain": "cannot_tell",  # single slices nearer than chance explains, but so are new patients' slices
    "certain": "copies_found",  # single slices nearer than chance explains
    "false_alarms_unknown": "cannot_tell",  # too few held-out slices to measure them
    "rate": "copies_found",  # more flags than chance, and than new patients have among themselves
    "copies_missed": "cannot_tell",  # the search does not find what was planted
    "rate_unclear": "cannot_tell",  # more flags than chance, but not than new patients have among themselves
    "mostly_empty": "cannot_tell",  # most synthetic slices are constant or nearly empty
    "concentrated": "cannot_tell",  # no more flags than chance, but beside few training patients
    "screened": "no_sign",  # flagged slices were taken out before
    "nothing": "no_sign",
}


@dataclass(frozen=True)
class Flags:
    """How many synthetic slices are nearer to the training set than new patients' slices are."""

    judged: int  # synthetic slices compared (without constant and nearly empty ones)
    count: int  # flagged by the rule at the quantile q
    rate: float
    low: float  # of the rate, by bootstrap over held-out patients and synthetic slices
    high: float
    wilson_low: float  # of the rate, synthetic slices drawn again only (the threshold held fixed)
    wilson_high: float
    expected: float  # 1 - q
    excess: float  # rate - expected
    excess_low: float
    excess_high: float
    residual: float  # (rate - c) / (1 - c), c the false alarms on new patients (Giomi et al. 2022, residual risk)
    residual_low: float
    residual_high: float
    bound: float  # exact one-sided 95 % upper bound of the rate, the threshold held fixed
    views: dict[str, float]  # share that each view alone would flag
    beyond: int  # nearer than every slice of every held-out patient
    strict_p: float  # smallest p by patient, 1 / (P + 1)
    strict: int  # slices that reach it
    certain: int  # too near for chance in a set of this size (`PValues.certain`); faint ones too
    skipped: int = 0  # constant or faint, not among those judged
    faint: int = 0  # of these not constant: compared with training slices of full contrast, for dimmed copies
    faint_count: int = 0  # of the faint ones flagged


@dataclass(frozen=True)
class Findings:
    """All that a verdict is made of; without controls there is none."""

    flags: Flags
    hits: dict[str, int]  # "patient 1", the worst hit one, ... -> flagged slices next to it; never an id
    training: int  # patients
    controls: Controls
    patients: int  # held out
    slices: int  # held out and judged
    needed: int  # held-out slices without which nothing can be flagged
    quantile: float
    screened: bool = False  # flagged slices were taken out before, so that their absence says nothing new
    concentration: Concentration | None = None  # None where none is flagged


def reason(found: Findings) -> str:
    """Why the verdict is what it is: the first of `REASONS` that holds."""
    flags, alarms = found.flags, found.controls.false_alarms
    if found.slices < found.needed:
        return "too_few_slices"
    if found.patients < FEWEST_PATIENTS:
        return "too_few_patients"
    if flags.certain:
        return "new_patients_certain" if alarms.certain else "certain"
    if math.isnan(alarms.rate):
        return "false_alarms_unknown"
    if flags.low > max(flags.expected, alarms.high):
        return "rate"
    if found.controls.missed:
        return "copies_missed"
    if flags.low > flags.expected:
        return "rate_unclear"
    if flags.skipped > flags.judged:
        return "mostly_empty"
    if found.concentration is not None and found.concentration.found:
        return "concentrated"
    return "screened" if found.screened else "nothing"


@dataclass(frozen=True)
class Verdict:
    """What a data steward reads: a headline of one sentence, the evidence, and what the audit cannot say."""

    kind: Kind
    headline: str
    sentences: list[str]
    limits: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        return f"Verdict({self.kind}): {self.headline}"

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(self.headline)}</b></p>"
