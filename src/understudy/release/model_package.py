"""A package of a trained generator: gate, weights, model card, scan, hashes; whole or absent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors import safe_open

from understudy.errors import UnderstudyError
from understudy.exchange.description import CERTIFICATE
from understudy.generators.folder import CONFIG, WEIGHTS, save_model
from understudy.generators.registry import KINDS, load_generator
from understudy.generators.training.config import UNTRACED
from understudy.io.files import read_json, sha256_file
from understudy.release.documents import MODEL, model_documents, ro_crate
from understudy.release.evidence import SHOWN, model_evidence, sheet
from understudy.release.forms import About, Decision
from understudy.release.gate import Audited, clear_model
from understudy.release.package import Released, assembling, audit_record, certificate_head, copy_audit, sealed

DOCUMENTS = {
    "README.md": "model card",
    f"{MODEL}/{WEIGHTS}": "weights",
    f"{MODEL}/{CONFIG}": "architecture, channels, classes and recipe",
    "samples.png": "samples that the audit did not flag",
    "LICENSE": "licence",
    "CITATION.cff": "citation",
    "evidence.html": "evidence",
    "decision.json": "the decision",
    "audit/audit.json": "the audit of its samples, and membership inference on the weights",
    "audit/audit.md": "the audit in words",
    CERTIFICATE: "certificate",
}
_KEPT = ("kind", "model", "channels", "classes", "annotation", "spacing", "axes", "kimg", "steps", "precision", "torch")
_NOT_TRAINING = {*UNTRACED, "seed"}  # the seed gives the order of the training slices


@dataclass(frozen=True, kw_only=True)
class Sources(Audited):
    """What a release of weights rests on: a generator, and its audited samples (see `Audited`)."""

    model: Path  # folder of the trained generator
    evaluation: dict[str, Any] | None = None  # Dice of segmenters trained with its samples (`study.released.dice_of`)
    paths: tuple[Path, ...] = ()  # that no document may name


def release_model(
    sources: Sources, about: About, decision: Decision, out: Path, override: str | None = None, device: str = "cpu",
    progress: bool = False,
) -> Released:  # fmt: skip
    """Writes the package at `out`, which must not exist; raises if the gate or the scan refuses, or damaged weights."""
    s = sources
    with assembling(out) as (folder, _):
        cleared = clear_model(s.model, s, decision, override, device, progress)
        config = write_weights(s.model, folder / MODEL)
        if sha256_file(folder / MODEL / WEIGHTS) != cleared.weights:
            what = "the audited file of weights holds more than the EMA generator (metadata, or another precision)"
            raise UnderstudyError(what, where=s.model, fix="train it with this version, then sample and audit")
        copy_audit(s.audit, folder)
        verdict = cleared.found.numbers["verdict"]
        certificate = {
            **certificate_head("generator", about, decision, cleared.override),
            "model": describe(folder / MODEL, config),
            "audit": {
                **audit_record(cleared.found, folder),
                "judged": cleared.judged,
                "flagged": cleared.flagged,
                "verdict": {k: verdict[k] for k in ("kind", "headline", "sentences", "limits")},
            },
            "white_box": cleared.white_box.as_dict(),
            "evaluation": s.evaluation,
        }
        # some samples at random, none that lies near a training slice
        table = cleared.found.table
        rows = np.flatnonzero(~table["flagged"].to_numpy(bool) & table["judged"].to_numpy(bool))
        chosen = np.sort(np.random.default_rng(0).permutation(rows)[:SHOWN])
        picture = sheet(list(zip(*s.synthetic.read(chosen), strict=True)), certificate["model"])
        picture.save(folder / "samples.png", optimize=True)
        texts = model_documents(about, decision, certificate, config)
        texts["evidence.html"] = model_evidence(about, decision, certificate, picture, s.audit)
        crate = ro_crate(about, certificate, DOCUMENTS, {})
        hidden = [s.model, s.synthetic.folder, s.audit, *s.paths]
        return sealed(folder, out, certificate, texts, crate, [s.training, s.heldout], hidden)


def write_weights(model: Path, folder: Path) -> dict[str, Any]:
    """Writes the EMA generator and what is needed to sample from it into the new `folder`; returns its configuration.

    The tensors are read into the network and written again: other tensors, optimiser states, the file's metadata and
    the discriminator stay behind. Of config.json only named fields go along: no seed, no hash of the training slices.

    Raises:
        UnderstudyError: damaged weights, values that are not finite, disk full.
    """
    generator, config = load_generator(model)
    for name, value in generator.state_dict().items():
        if not torch.isfinite(value).all():
            raise UnderstudyError(f"{name} has values that are not finite", where=model, fix="train it again")
    kept = {name: config[name] for name in _KEPT if name in config}
    if "training" in config:
        kept["training"] = {k: v for k, v in config["training"].items() if k not in _NOT_TRAINING}
    folder.mkdir(parents=True)
    save_model(folder, generator, kept)
    for name in (WEIGHTS, CONFIG):
        (folder / name).chmod(0o644)
    return kept


def describe(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What a certificate says of written weights."""
    with safe_open(folder / WEIGHTS, "pt") as tensors:
        sizes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  # no mapping
    return {
        **{k: config.get(k) for k in ("kind", "channels", "classes", "annotation", "spacing", "axes")},
        "resolution": config["model"]["resolution"],
        "weights": {
            "file": f"{MODEL}/{WEIGHTS}",
            "sha256": sha256_file(folder / WEIGHTS),
            "tensors": len(sizes),
            "parameters": sum(int(torch.Size(size).numel()) for size in sizes),
        },
        "config_sha256": sha256_file(folder / CONFIG),
    }


def weights_problems(folder: Path, certified: dict[str, Any]) -> list[str]:
    """What is wrong with weights and configuration, compared with the certificate's `model`; nothing is executed."""
    problems, path = [], folder / WEIGHTS
    if sha256_file(path) != certified["weights"]["sha256"]:
        problems.append("the weights are not those that were certified")
    if sha256_file(folder / CONFIG) != certified["config_sha256"]:
        problems.append("the configuration is not the one that was certified")
    config = read_json(folder / CONFIG)
    if config.get("kind") not in KINDS or set(config) - {*_KEPT, "training"}:
        return [*problems, "the configuration has other fields than a release has"]
    try:
        with safe_open(path, "pt") as tensors:
            extra = tensors.metadata()
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
        what = f"the weights cannot be read ({str(error).splitlines()[0]})"
        raise UnderstudyError(what, where=path, fix="get them again") from error
    if extra:
        problems.append(f"the weights' file holds metadata ({', '.join(sorted(extra))})")
    generator, _ = load_generator(folder)  # refuses tensors that are missing, strange, or of another shape
    if not all(torch.isfinite(value).all() for value in generator.state_dict().values()):
        problems.append("the weights hold values that are not finite")
    return problems
