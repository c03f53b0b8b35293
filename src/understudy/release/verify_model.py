"""What a recipient can know of released weights: are they those that were audited and asked, and nothing else?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.generators.folder import WEIGHTS, classes_of, load_generator
from understudy.generators.joint import decode
from understudy.io.files import read_json, sha256_file
from understudy.memorization.recheck import controls_of
from understudy.release.weights import MODEL, weights_problems

_ASKED = ("score", "auc", "low", "high", "training", "heldout", "training_patients", "heldout_patients", "weights")
_SAME = 0.005  # by which the certificate's numbers, asked again, may differ from the audit's


def model_problems(folder: Path, certificate: dict[str, Any], override: str) -> list[str]:
    """All that is wrong with a package of weights, beyond its list of hashes.

    Raises:
        UnderstudyError: a file that cannot be read; also OSError, KeyError, TypeError, ValueError of damaged ones.
    """
    problems = weights_problems(folder / MODEL, certificate["model"])
    problems += _audit(folder, certificate, override)
    if override and override not in (folder / "README.md").read_text(encoding="utf-8"):
        problems.append("the model card hides that the release was forced")
    if certificate["model"]["weights"]["sha256"] not in (folder / "README.md").read_text(encoding="utf-8"):
        problems.append("the model card is of other weights")
    crate = {e["@id"] for e in read_json(folder / "ro-crate-metadata.json")["@graph"]}
    if not {"./", f"{MODEL}/{WEIGHTS}"} <= crate:
        problems.append("ro-crate-metadata.json does not describe this package")
    return problems


def drawn(folder: Path, count: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Samples of the weights, to look at: image uint8 [C, H, W] and labels uint8 [H, W] of each."""
    generator, config = load_generator(folder / MODEL)
    images, labels, _ = decode(generator.sample(count, 0), classes_of(config), config["annotation"])
    return list(zip(images, labels, strict=True))


def _audit(folder: Path, certificate: dict[str, Any], override: str) -> list[str]:
    """The audit and the white-box check, and that both are of these weights."""
    said, path = certificate["audit"], folder / "audit" / "audit.json"
    numbers, problems = read_json(path), []
    asked, stated = numbers["membership"] or {}, certificate["white_box"]
    if sha256_file(path) != said["sha256"]:
        problems.append("the audit is not the one that was certified")
    if numbers["sets"]["synthetic"]["content_hash"] != said["audited_set"]:
        problems.append("the audit is of other samples")
    if asked.get("weights", {}).get(WEIGHTS) != sha256_file(folder / MODEL / WEIGHTS):
        problems.append("the white-box check is not of these weights")
    if any(_differ(asked.get(name), stated[name]) for name in _ASKED):
        problems.append("the certificate states another white-box check than the audit")
    if numbers["flags"]["count"] != said["flagged"] or numbers["verdict"]["kind"] != said["verdict"]["kind"]:
        problems.append("the certificate states another verdict than the audit")
    if override:
        return problems
    if controls_of(numbers).missed:
        problems.append("the audit misses its planted copies")
    if numbers["verdict"]["kind"] != "no_sign" or asked.get("low", 1) > 0.5:
        problems.append("the audit speaks against a release that was not forced")
    return problems


def _differ(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return not abs(one - other) <= _SAME
    return bool(one != other)
