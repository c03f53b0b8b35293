"""May these weights be released? Their samples are audited as slices are, and the weights themselves are asked.

Nothing can be taken out of weights: whoever has them draws any number of slices, flagged ones among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.generators.folder import CONFIG, WEIGHTS
from understudy.generators.membership import NetworkWitness, can_testify
from understudy.generators.registry import KINDS
from understudy.io.files import read_json, sha256_file
from understudy.memorization.config import FEWEST_PATIENTS, AuditConfig
from understudy.memorization.membership import Membership, membership
from understudy.memorization.recheck import Recheck
from understudy.release.forms import Decision
from understudy.release.gate import Audited, check_will, objections, weighed
from understudy.slices import SliceSet

_SAME = 0.005  # by which areas may differ that are computed again on another machine
_ASK = "ask these weights: understudy audit --model FOLDER, with samples of them"


@dataclass(frozen=True)
class ModelClearance:
    """What passed: the audit of the samples and the white-box check, both done again on these weights."""

    weights: str
    found: Recheck
    white_box: Membership
    judged: int
    flagged: int
    override: dict[str, Any] | None


def clear_model(
    model: Path,
    audited: Audited,
    decision: Decision,
    override: str | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> ModelClearance:
    """Rechecks the audit, asks the weights again, and weighs the decision.

    Args:
        model: folder of the trained generator; of a GAN with its discriminator, which is asked and not released.
        audited: its samples and their audit, done with the generator at hand.

    Raises:
        UnderstudyError: something speaks against the release and no reason to override it is given. Not to be
            overridden: a refusal, an audit of other files, no white-box check of exactly these weights.
    """
    check_will(decision, override)
    synthetic, audit = audited.synthetic, audited.audit
    weights = bound_weights(model, synthetic)
    recorded = _recorded(audit, NetworkWitness(model, device).weights)
    found = audited.recheck(device, progress)
    asked = _asked_again(found, NetworkWitness(model, device), recorded, audit)
    flagged, judged = int(found.table["flagged"].sum()), int(found.table["judged"].sum())
    said = found.rest(np.arange(len(synthetic)), screened=False)
    if said.kind != found.numbers["verdict"]["kind"]:
        raise UnderstudyError("the audit's verdict is not that of these slices", where=audit, fix=_ASK)
    against = objections(found, decision, flagged / max(1, judged), audit)
    against += _white_box_objections(asked, decision)
    if said.kind != "no_sign":
        against.append(f"the audit's verdict on its samples: {found.numbers['verdict']['headline']}")
    if decision.decision == "approve_with_removal":
        against.append("the decision is `approve_with_removal`, but nothing can be taken out of weights")
    return ModelClearance(weights, found, asked, judged, flagged, weighed(against, override, audit))


def bound_weights(model: Path, synthetic: SliceSet) -> str:
    """SHA-256 (hex) of the weights, of which the slices are samples as they came.

    Raises:
        UnderstudyError: they are not; a plug-in's weights; no generator; a GAN without its discriminator.
    """
    config = read_json(model / CONFIG)
    if "plugin" in config or config.get("kind") not in KINDS:
        raise UnderstudyError(
            "the generator is a plug-in's, whose files this program does not know",
            where=model,
            fix=f"release its slices instead, or train one of {', '.join(KINDS)}",
        )
    if not (model / WEIGHTS).is_file() or not can_testify(model):
        raise UnderstudyError(
            "the folder holds no generator that can be asked (of a GAN its discriminator is needed)",
            where=model,
            fix="train it again; a release is possible only after the white-box check",
        )
    weights = sha256_file(model / WEIGHTS)
    if synthetic.attrs.get("weights") != weights:
        raise UnderstudyError(
            "the audited slices are not samples of these weights",
            where=synthetic.path,
            fix=f"sample them (understudy sample {model} SLICES), audit the samples with --model, and decide anew",
        )
    if "screened" in synthetic.attrs:
        raise UnderstudyError(
            "the audited slices were screened, so that they tell nothing of the weights",
            where=synthetic.path,
            fix="audit samples as they come",
        )
    return weights


def _recorded(audit: Path, weights: dict[str, str]) -> dict[str, Any]:
    """The white-box check that the audit records, of these weights."""
    recorded: dict[str, Any] | None = read_json(audit / "audit.json").get("membership")
    if not recorded:
        raise UnderstudyError("the audit has not asked the weights (no white-box check)", where=audit, fix=_ASK)
    if recorded.get("weights") != weights:
        raise UnderstudyError(
            "the white-box check does not say that it is of these weights"
            if not recorded.get("weights")
            else "the white-box check is of other weights",
            where=audit,
            fix=_ASK,
        )
    return recorded


def _asked_again(found: Recheck, witness: NetworkWitness, recorded: dict[str, Any], audit: Path) -> Membership:
    config = AuditConfig.model_validate(found.numbers["config"])
    asked = membership(*found.asked, witness, config.membership_slices, config.resamples, config.seed)
    apart = max(abs(getattr(asked, name) - float(recorded[name])) for name in ("auc", "low", "high"))
    if not apart <= _SAME:
        raise UnderstudyError(
            f"the weights were asked again and said something else (AUC {asked.auc:.3f}, recorded"
            f" {float(recorded['auc']):.3f}): the record was changed, or is of other slices",
            where=audit,
            fix=_ASK,
        )
    return asked


def _white_box_objections(asked: Membership, decision: Decision) -> list[str]:
    most = decision.thresholds.most_auc
    said = []
    if asked.low > 0.5 or min(asked.training_patients, asked.heldout_patients) < FEWEST_PATIENTS:
        said.append(asked.words)
    if most is None:
        said.append("no highest AUC of the white-box check was agreed on (thresholds.most_auc)")
    elif asked.high > most:
        said.append(
            f"the weights' AUC may be as high as {asked.high:.2f} (95 % interval by patient {asked.low:.2f} to"
            f" {asked.high:.2f}), agreed was at most {most:.2f}"
        )
    return said
