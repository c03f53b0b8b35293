"""May this set be released? Everything that speaks against it, at once; flagged slices are out in any case."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.memorization.recheck import MEMORY, Recheck, recheck
from understudy.memorization.screen import near_duplicates
from understudy.memorization.verdict import missed_copies, people, spread
from understudy.release.forms import Decision
from understudy.runtime.memory import release_memory
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
    screened: dict[str, int] = field(default_factory=dict)  # slices before `understudy screen`, and what it took out


def clear(
    audited: Audited, decision: Decision, override: str | None = None, device: str = "cpu", progress: bool = False
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
            f"all {len(synthetic):,} slices are flagged, or near-duplicates of flagged ones: none is left to release",
            where=synthetic.path,
            fix="train the generator on more patients, sample and audit again",
        )
    before = dict(synthetic.attrs.get("screened") or {})  # by `understudy screen`, before this audit
    rest = found.rest(kept, screened=bool(before) or len(kept) < len(synthetic))
    rate = len(flagged) / max(1, int(found.table["judged"].sum()))
    against = objections(found, decision, rate, audited.audit)
    if decision.decision == "approve" and (rate or before.get("flagged")):
        taken = f"`understudy screen` took out {before['flagged']}" if before.get("flagged") else "would be removed"
        against.append(f"slices are flagged ({taken}), but the decision is `approve`: write `approve_with_removal`")
    if rest.kind != "no_sign":
        against.append(f"the audit of the slices that are left does not say “no sign of copying”: {rest.headline}")
    stamp = weighed(against, override, audited.audit)
    counts = {name: int(before[name]) for name in ("before", "flagged", "alike")} if before else {}
    return Clearance(kept, found, len(flagged), len(alike), rest.as_dict(), stamp, counts)


def check_will(decision: Decision, override: str | None) -> None:
    """What no reason overrides: a decision to refuse, and an override without a reason.

    Raises:
        UnderstudyError: says which.
    """
    if decision.decision == "refuse":
        raise UnderstudyError(
            "the decision is `refuse`, so there is no package",
            where=f"decision of {decision.by.name}",
            fix="train on more patients or remove the flagged slices, audit again, and ask for a new decision",
        )
    if override is not None and len(override.split()) < _FEWEST_WORDS:
        raise UnderstudyError(
            "an override needs a reason in words",
            where="--override",
            fix=f"write why in {_FEWEST_WORDS} words or more, e.g. --override 'phantoms, no patients'",
        )


def weighed(against: list[str], override: str | None, audit: Path) -> dict[str, Any] | None:
    """The override's stamp (reason, and what it overrules), None without one.

    Raises:
        UnderstudyError: something speaks against the release, and nobody overrides it.
    """
    if against and override is None:
        raise UnderstudyError(
            "this may not be released:\n" + "\n".join(f"  - {a}" for a in against),
            where=audit,
            fix="settle each point and run the command again; or release in spite of them with --override 'REASON',"
            " which is printed on every document of the package",
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
        said.append(
            f"to test the audit copies were made on purpose, and it found too few: {missed_copies(found.controls)};"
            " audit slices of a higher resolution, or hold out more patients"
        )
    if np.isnan(found.controls.false_alarms.rate):
        said.append(
            "the audit could not measure how often it flags slices of new patients by mistake: hold out more"
            " patients and audit again"
        )
    if heaped is not None and heaped.found and len(decision.gallery.split()) < _FEWEST_WORDS:
        said.append(
            f"the flagged slices are concentrated on {people(heaped.patients)}: look at private/gallery.png of the"
            " audit, and write under `gallery` of the decision what it shows"
        )
    if limits.quantile != config["quantile"]:
        said.append(
            f"the audit used the quantile {config['quantile']}, but {limits.quantile} was agreed on: audit again with"
            f" --quantile {limits.quantile}"
        )
    if rate > limits.most_flagged:
        said.append(
            f"{rate:.2%} of the slices are flagged, more than the {limits.most_flagged:.2%} that were agreed on"
            " (`most_flagged`): train on more patients and audit again"
        )
    if limits.set_on > audited:
        said.append(
            f"the thresholds were agreed on {limits.set_on}, after the audit of {audited}: they must be agreed before"
            " it, so audit again"
        )
    if decision.date < limits.set_on:
        said.append(
            f"the decision of {decision.date} is older than its thresholds of {limits.set_on}: correct the dates"
        )
    if decision.date > dt.date.today():
        said.append(f"the decision's date {decision.date} is in the future: correct it")
    return said
