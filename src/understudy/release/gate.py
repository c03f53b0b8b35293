"""May these slices, or these weights, be released? Everything that speaks against it, at once.

Flagged slices are taken out. Nothing can be taken out of weights: they are tested by membership inference.
"""

import datetime as dt
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.generators.folder import WEIGHTS, read_config
from understudy.generators.membership import MembershipScores, supports_membership_inference
from understudy.generators.registry import KINDS
from understudy.io.files import read_json, sha256_file
from understudy.memorization.config import FEWEST_PATIENTS
from understudy.memorization.membership import Membership, membership
from understudy.memorization.screen import Recheck, recheck, rows_left
from understudy.memorization.words import missed_copies, people
from understudy.release.forms import Decision
from understudy.runtime.memory import release_memory
from understudy.slices import SliceSet

_FEWEST_WORDS = 3  # of a reason
SAME_AUC = 0.005  # by which areas under the curve may differ that are computed again on another machine
_ASK = "audit samples of these weights with them: understudy audit --model FOLDER"


@dataclass(frozen=True)
class Audited:
    """Synthetic slices and the audit of them that a release rests on."""

    synthetic: SliceSet  # that was audited, all of it
    training: SliceSet
    heldout: SliceSet  # often the same set
    audit: Path  # its folder
    training_rows: NDArray[np.int64] | None = None  # as in the audit

    def recheck(self, device: str, progress: bool) -> Recheck:
        """The audit, done again."""
        sets = self.training, self.heldout, self.synthetic
        return recheck(*sets, self.audit, self.training_rows, device=device, progress=progress)


@dataclass(frozen=True)
class Clearance:
    """What passed the gate."""

    found: Recheck
    certified: dict[str, Any]  # what the certificate says of the audit
    override: dict[str, Any] | None  # the reason, and what it overrules
    kept: NDArray[np.int64]  # rows of the slices that may go, or of samples that may be shown


def clear(
    audited: Audited, decision: Decision, override: str | None = None, device: str = "cpu", progress: bool = False
) -> Clearance:
    """Rechecks the audit of slices and weighs the decision; raises what speaks against it and is not overridden."""
    _check_decision(decision, override)
    found, synthetic = audited.recheck(device, progress), audited.synthetic
    kept, counts = rows_left(synthetic, found.table, found.numbers, device, progress)
    release_memory()
    before = dict(synthetic.attrs.get("screened") or {})  # by `understudy screen`, before this audit
    rest = found.rest(kept, screened=bool(before) or counts.flagged + counts.leaked > 0)
    against = _objections(found, decision, audited.audit, before)
    copies = {
        "are taken out": counts.flagged + counts.leaked,
        "were taken out before": before.get("flagged", 0) + before.get("leaked", 0),
    }
    if decision.decision == "approve" and any(copies.values()):
        words = " and ".join(f"{number:,} copies {when}" for when, number in copies.items() if number)
        against.append(f"{words}, but the decision is `approve`: write `approve_with_removal`")
    if rest.kind != "no_sign":
        against.append(f"the audit of the slices that are left does not say “no sign of copying”: {rest.headline}")
    certified = {
        **{name: value for name, value in asdict(counts).items() if name != "kept"}, "released": len(kept),
        "taken_out": counts.words(), "verdict_before": found.numbers["verdict"]["headline"], "verdict": rest.as_dict(),
    }  # fmt: skip
    if before:
        certified["screened"] = {name: int(before.get(name, 0)) for name in asdict(counts)}
    return Clearance(found, certified, _weighed(against, override, audited.audit), kept)


def clear_model(
    model: Path, audited: Audited, decision: Decision, override: str | None = None, device: str = "cpu",
    progress: bool = False,
) -> tuple[Clearance, Membership]:  # fmt: skip
    """Rechecks the audit of samples, repeats membership inference on the weights, and weighs the decision.

    Raises what speaks against the release. Not to be overridden: a refusal, an audit of other files, no membership
    inference on exactly these weights (of a GAN the folder `model` needs the discriminator, which is not released).
    """
    _check_decision(decision, override)
    synthetic, audit = audited.synthetic, audited.audit
    _check_weights(model, synthetic)
    scores = MembershipScores(model, device)
    recorded: dict[str, Any] = read_json(audit / "audit.json").get("membership") or {}
    if recorded.get("weights") != scores.weights:
        what = "no membership inference on the weights" if not recorded else "membership inference of other weights"
        raise UnderstudyError(f"the audit has {what}", where=audit, fix=_ASK)
    found = audited.recheck(device, progress)
    config = found.config
    asked = membership(*found.found.judged[:2], scores, config.membership_slices, config.resamples, config.seed)
    apart = max(abs(getattr(asked, name) - float(recorded[name])) for name in ("auc", "low", "high"))
    one = 1.01 / asked.training_patients  # whom another machine may put on the other side of a held-out one
    if not (apart <= SAME_AUC and abs(asked.tpr - float(recorded["tpr"])) <= one):  # NaN fails as well
        what = f"membership inference, done again, gives AUC {asked.auc:.3f}, recorded {float(recorded['auc']):.3f}"
        raise UnderstudyError(f"{what}: the record was changed, or is of other slices", where=audit, fix=_ASK)
    said = found.numbers["verdict"]
    against = _objections(found, decision, audit, {})
    most = decision.thresholds.most_auc
    if asked.low > 0.5 or min(asked.training_patients, asked.heldout_patients) < FEWEST_PATIENTS:
        against.append(asked.words)
    if most is None:
        against.append("no highest AUC of membership inference was agreed on (thresholds.most_auc)")
    elif asked.high > most:
        interval = f"95 % interval by patient {asked.low:.2f} to {asked.high:.2f}"
        against.append(f"the weights' AUC may be as high as {asked.high:.2f} ({interval}), agreed was {most:.2f}")
    if said["kind"] != "no_sign":
        against.append(f"the audit's verdict on its samples: {said['headline']}")
    if decision.decision == "approve_with_removal":
        against.append("the decision is `approve_with_removal`, but nothing can be taken out of weights")
    flagged, judged = (found.table[name].to_numpy(bool) for name in ("flagged", "judged"))
    shown = judged & ~flagged & (found.table["leaked"].to_numpy(str) == "")
    certified = {"judged": int(judged.sum()), "flagged": int(flagged.sum()), "verdict": said}
    return Clearance(found, certified, _weighed(against, override, audit), np.flatnonzero(shown)), asked


def _check_weights(model: Path, synthetic: SliceSet) -> None:
    """Raises unless the weights are a built-in generator's that can be tested, and the slices all its samples."""
    config = read_config(model)
    if "plugin" in config or config.get("kind") not in KINDS:
        raise UnderstudyError("a plug-in, whose files are not known", where=model, fix="release its slices instead")
    if not (model / WEIGHTS).is_file() or not supports_membership_inference(model):
        what = "no generator that supports membership inference here (of a GAN the discriminator is needed)"
        raise UnderstudyError(what, where=model, fix="train it again; weights are released only after that test")
    if synthetic.attrs.get("weights") != sha256_file(model / WEIGHTS) or "screened" in synthetic.attrs:
        fix = f"sample them (understudy sample {model} SLICES), audit all samples with --model, and decide again"
        which = "screened, not all samples" if "screened" in synthetic.attrs else "not samples"
        raise UnderstudyError(f"the audited slices are {which} of these weights", where=synthetic.path, fix=fix)


def _check_decision(decision: Decision, override: str | None) -> None:
    """Raises for what no reason overrides: a decision to refuse, and an override without a reason."""
    if decision.decision == "refuse":
        raise UnderstudyError("the decision is `refuse`", where=decision.by.name, fix="audit again, then decide again")
    if override is not None and len(override.split()) < _FEWEST_WORDS:
        raise UnderstudyError("an override needs a reason", where="override", fix=f"use {_FEWEST_WORDS} words or more")


def _weighed(against: list[str], override: str | None, audit: Path) -> dict[str, Any] | None:
    """The override's stamp; None without one. Raises if it is needed and missing."""
    if against and override is None:
        raise UnderstudyError(
            "this may not be released:\n" + "\n".join(f"  - {a}" for a in against), where=audit,
            fix="settle each point and run the command again; or release in spite of them with --override 'REASON',"
            " which is printed on every document of the package")  # fmt: skip
    return {"reason": override, "against": against} if override is not None else None


def _objections(found: Recheck, decision: Decision, audit: Path, before: dict[str, Any]) -> list[str]:
    """Where the audit's controls failed, or it is not what was agreed on; `before`: what was screened out earlier."""
    limits, config, concentration = decision.thresholds, found.numbers["config"], found.concentration
    audited = dt.date.fromtimestamp((audit / "audit.json").stat().st_mtime)
    copies = found.table["flagged"].to_numpy(bool) | (found.table["leaked"].to_numpy(str) != "")
    earlier = sum(int(before.get(name, 0)) for name in ("flagged", "leaked"))  # screening does not hide them
    rate = (int(copies.sum()) + earlier) / max(1, int(found.table["judged"].sum()) + earlier)
    against = []
    if found.controls.missed:
        against.append(
            f"the audit found too few of the copies that were planted to test it: {missed_copies(found.controls)};"
            " audit slices of a higher resolution, or hold out more patients"
        )
    if np.isnan(found.controls.false_alarms.rate):
        against.append("the audit could not measure its false alarms: hold out more patients and audit again")
    if concentration is not None and concentration.found and len(decision.gallery.split()) < _FEWEST_WORDS:
        against.append(
            f"the flagged slices are concentrated on {people(concentration.patients)}: look at private/gallery.png of"
            " the audit, and write under `gallery` of the decision what it shows"
        )
    if limits.quantile != config["quantile"]:
        against.append(
            f"the audit used the quantile {config['quantile']}, but {limits.quantile} was agreed on: audit again with"
            f" --quantile {limits.quantile}"
        )
    if rate > limits.most_flagged:
        against.append(
            f"{rate:.2%} of the slices {'were' if earlier else 'are'} flagged, more than the {limits.most_flagged:.2%}"
            " that were agreed on (`most_flagged`): train on more patients and audit again"
        )
    if limits.set_on > audited and limits.before_looking:
        against.append(
            f"the thresholds of {limits.set_on} are younger than the audit of {audited}: audit new samples, or say"
            " `before_looking: false`, which every document of the package then says as well"
        )
    if decision.date < limits.set_on:
        against.append(f"the decision of {decision.date} is older than its thresholds of {limits.set_on}")
    if decision.date > dt.date.today():
        against.append(f"the decision's date {decision.date} is in the future: correct it")
    return against
