"""A package of a trained generator: gate with white-box check, weights, model card, scan, hashes; whole or absent."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.exchange.packaged import CERTIFICATE, FORMAT
from understudy.generators.folder import CONFIG, WEIGHTS
from understudy.io.files import sha256_file, write_json, write_text
from understudy.release import documents
from understudy.release.assembly import Released, assembling, copy_audit, sealed
from understudy.release.card import card
from understudy.release.crate import ro_crate
from understudy.release.evidence import model_evidence
from understudy.release.forms import About, Decision
from understudy.release.gate import Audited, concentration_record
from understudy.release.model_gate import ModelClearance, clear_model
from understudy.release.pictures import SHOWN, sheet
from understudy.release.weights import MODEL, describe, write_weights
from understudy.slices import SliceSet

DOCUMENTS = {
    "README.md": "model card",
    f"{MODEL}/{WEIGHTS}": "weights",
    f"{MODEL}/{CONFIG}": "architecture, channels, classes and recipe",
    "samples.png": "samples that the audit did not flag",
    "LICENSE": "licence",
    "CITATION.cff": "citation",
    "evidence.html": "evidence",
    "decision.json": "the decision",
    "audit/audit.json": "the audit of its samples, and the white-box check",
    "audit/audit.md": "the audit in words",
    CERTIFICATE: "certificate",
}


@dataclass(frozen=True, kw_only=True)
class Sources(Audited):
    """What a release of weights rests on: audited samples (see `Audited`), and

    Attributes:
        model: folder of the trained generator.
        evaluation: Dice of segmenters trained with its samples (`study.released.dice_of`), None: not measured.
        paths: further ones that must not be told.
    """

    model: Path
    evaluation: dict[str, Any] | None = None
    paths: tuple[Path, ...] = ()


def release_model(
    sources: Sources,
    about: About,
    decision: Decision,
    out: Path,
    override: str | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Released:
    """Writes the package at `out`, which must not exist.

    Raises:
        UnderstudyError: the gate or the scan refuses, damaged weights, disk full, `out` exists.
    """
    s = sources
    with assembling(out) as (folder, _):
        cleared = clear_model(s.model, s, decision, override, device, progress)
        config = write_weights(s.model, folder / MODEL)
        if sha256_file(folder / MODEL / WEIGHTS) != cleared.weights:
            raise UnderstudyError(
                "the audited file of weights holds more than the averaged generator (metadata, or another precision)",
                where=s.model,
                fix="train it again with this version, then sample and audit",
            )
        copy_audit(s.audit, folder)
        certificate = _certificate(folder, about, decision, cleared, config, s.evaluation)
        _documents(folder, about, decision, certificate, config, s, cleared)
        hidden = [s.model, s.synthetic.folder, s.audit, *s.paths]
        return sealed(folder, out, certificate, [s.training, s.heldout], hidden)


def _certificate(
    folder: Path,
    about: About,
    decision: Decision,
    cleared: ModelClearance,
    config: dict[str, Any],
    evaluation: dict[str, Any] | None,
) -> dict[str, Any]:
    numbers = cleared.found.numbers
    return {
        "format": FORMAT,
        "kind": "generator",
        "software_version": __version__,
        "title": about.title,
        "version": about.version,
        "released": dt.date.today().isoformat(),
        "model": describe(folder / MODEL, config),
        "audit": {
            "sha256": sha256_file(folder / "audit" / "audit.json"),
            "audited_set": numbers["sets"]["synthetic"]["content_hash"],
            "judged": cleared.judged,
            "flagged": cleared.flagged,
            "quantile": numbers["config"]["quantile"],
            "rule": numbers["rule"]["text"],
            "training_slices": len(cleared.found.training.rows),
            "training_patients": cleared.found.training.count,
            "concentration": concentration_record(cleared.found),
            "verdict": {k: numbers["verdict"][k] for k in ("kind", "headline", "sentences", "limits")},
            "recomputed": True,
        },
        "white_box": cleared.white_box.as_dict(),
        "evaluation": evaluation,
        "decision": decision.model_dump(mode="json"),
        "override": cleared.override,
    }


def _documents(
    folder: Path,
    about: About,
    decision: Decision,
    certificate: dict[str, Any],
    config: dict[str, Any],
    sources: Sources,
    cleared: ModelClearance,
) -> None:
    picture = sheet(_unflagged(sources.synthetic, cleared), certificate["model"])
    picture.save(folder / "samples.png", optimize=True)
    texts = {
        "README.md": card(about, decision, certificate, config),
        "LICENSE": documents.licence(about, "These are the weights of a generator of synthetic slices"),
        "CITATION.cff": documents.citation(about, certificate["released"], "software"),
        "evidence.html": model_evidence(about, decision, certificate, picture, sources.audit),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    signed = {**decision.model_dump(mode="json"), "override": certificate["override"]}
    write_json(folder / "decision.json", signed)
    crate = ro_crate(about, certificate, DOCUMENTS, {})
    write_json(folder / "ro-crate-metadata.json", crate)
    write_json(folder / CERTIFICATE, certificate)


def _unflagged(synthetic: SliceSet, cleared: ModelClearance) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Some samples at random, none that lies near a training slice."""
    table = cleared.found.table
    rows = np.flatnonzero(~table["flagged"].to_numpy(bool) & table["judged"].to_numpy(bool))
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:SHOWN])
    return list(zip(*synthetic.read(chosen), strict=True))
