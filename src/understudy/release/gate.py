"""May this set be released? Everything that speaks against it, at once; flagged slices are out in any case."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.audit.recheck import MEMORY, Recheck, recheck
from understudy.audit.screen import near_duplicates
from understudy.audit.verdict import people, spread
from understudy.errors import UnderstudyError
from understudy.memory import release_memory
from understudy.release.forms import Decision
from understudy.slices import SliceSet

_FEWEST_WORDS = 3  # of a reason


@dataclass(frozen=True)
class Audited:
    """Synthetic slices and the audit of them that a release rests on.

    Attributes:
        synthetic: the set that was audited, all of it.
        training, heldout: real slices of the audit; often one set.
        audit: folder of the audit.
        training_rows: as in `perform.audit`.
    """

    synthetic: SliceSet
    training: SliceSet
    heldout: SliceSet
    audit: Path
    training_rows: NDArray[np.int64] | None = None

    def recheck(self, device: str, progress: bool) -> Recheck:
        """The audit, done again."""
        return recheck(
            self.training, self.heldout, self.synthetic, self.audit, self.training_rows, device=device,
            progress=progress,
        )  # fmt: skip


@dataclass(frozen=True)
class Clearance:
    """What passed: rows that may go, the audit found again, and what an override had to overrule."""

    kept: NDArray[np.int64]
    found: Recheck
    flagged: int
    alike: int
    verdict: dict[str, Any]
    override: dict[str, Any] | None


def clear(
    audited: Audited,
    decision: Decision,
    override: str | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Clearance:
    """Rechecks the audit and weighs the decision.

    Raises:
        UnderstudyError: something speaks against the release and no reason to override it is given; a refusal and an
            audit of other files cannot be overridden.
    """
    check_will(decision, override)
    found, synthetic = audited.recheck(device, progress), audited.synthetic
    flagged = np.flatnonzero(found.table["flagged"].to_numpy(bool))
    alike = near_duplicates(synthetic, flagged, found.numbers, device, progress, MEMORY)
    release_memory()
    kept = np.setdiff1d(np.arange(len(synthetic)), np.union1d(flagged, alike))
    if not len(kept):
        raise UnderstudyError(
            "every slice is flagged: nothing is left", where=synthetic.path, fix="train anew"
        )
    rest = found.rest(kept, screened=len(kept) < len(synthetic))
    rate = len(flagged) / max(1, int(found.table["judged"].sum()))
    against = objections(found, decision, rate, audited.audit)
    if decision.decision == "approve" and rate:
        against.append("slices are flagged and go out, but the decision is not `approve_with_removal`")
    if rest.kind != "no_sign":
        against.append(f"the audit's verdict on what is left: {rest.headline}")
    stamp = weighed(against, override, audited.audit)
    return Clearance(kept, found, len(flagged), len(alike), rest.as_dict(), stamp)


def check_will(decision: Decision, override: str | None) -> None:
    """What no reason overrides: a decision to refuse, and an override without a reason.

    Raises:
        UnderstudyError: says which.
    """
    if decision.decision == "refuse":
        raise UnderstudyError("the decision is to refuse", where=decision.by.name, fix="do not release this")
    if override is not None and len(override.split()) < _FEWEST_WORDS:
        raise UnderstudyError("an override needs a reason in words", where="--override", fix="say why")


def weighed(against: list[str], override: str | None, audit: Path) -> dict[str, Any] | None:
    """The override's stamp (reason, and what it overrules), None without one.

    Raises:
        UnderstudyError: something speaks against the release, and nobody overrides it.
    """
    if against and override is None:
        raise UnderstudyError(
            "the gate stays shut:\n" + "\n".join(f"  {a}" for a in against),
            where=audit,
            fix="mend this, or release against it with --override REASON, which is stamped on everything",
        )
    return {"reason": override, "against": against} if override is not None else None


def concentration_record(found: Recheck) -> dict[str, Any] | None:
    """For the certificate: how the flagged slices are spread over training patients, and in words; None without any."""
    heaped = found.concentration
    return None if heaped is None else {**heaped.as_dict(), "words": spread(heaped)}


def objections(found: Recheck, decision: Decision, rate: float, audit: Path) -> list[str]:
    """Where the audit's controls failed, or it is not what was agreed on; `rate`: share of judged slices flagged."""
    limits, config, heaped = decision.thresholds, found.numbers["config"], found.concentration
    audited = dt.date.fromtimestamp((audit / "audit.json").stat().st_mtime)
    said = []
    if found.controls.missed:
        said.append(f"the audit misses planted copies: {', '.join(d.name for d in found.controls.missed)}")
    if np.isnan(found.controls.false_alarms.rate):
        said.append("the audit could not check for false alarms")
    if heaped is not None and heaped.found and len(decision.gallery.split()) < _FEWEST_WORDS:
        said.append(
            f"the flagged slices are concentrated on {people(heaped.patients)}: look at private/gallery.png of the"
            " audit, and write into the decision (gallery) what it shows"
        )
    if limits.quantile != config["quantile"]:
        said.append(f"the audit's quantile is {config['quantile']}, the one agreed on {limits.quantile}")
    if rate > limits.most_flagged:
        said.append(f"{rate:.2%} of the slices are flagged, agreed were at most {limits.most_flagged:.2%}")
    if limits.set_on > audited:
        said.append(f"the thresholds are of {limits.set_on}, after the audit of {audited}")
    if decision.date < limits.set_on or decision.date > dt.date.today():
        said.append(f"the decision's date {decision.date} lies before its thresholds' or in the future")
    return said
