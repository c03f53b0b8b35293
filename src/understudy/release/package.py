"""Packages of slices and of weights: gate, content, documents, scan, hashes; whole or absent."""

import datetime as dt
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors import safe_open

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.exchange.description import CERTIFICATE, FORMAT
from understudy.generators.folder import CONFIG, UNTRACED, WEIGHTS, save_model
from understudy.generators.registry import KINDS, load_generator
from understudy.io.files import read_json, sha256_file, write_json, write_text, writing
from understudy.io.seals import Damaged
from understudy.memorization.membership import Membership
from understudy.memorization.shared import rounded, shared
from understudy.memorization.words import as_markdown, spread
from understudy.release import documents
from understudy.release.allowed import CRATE, DOCUMENTS, MODEL_DOCUMENTS
from understudy.release.content import (
    LAYOUTS,
    SHARD_BYTES,
    clean_set,
    content_root,
    head_of,
    table_bytes,
    write_layout,
    write_sums,
)  # fmt: skip
from understudy.release.forms import About, Decision
from understudy.release.gate import Audited, Clearance, clear, clear_model
from understudy.release.scan import Scan, refuse, refuse_forms, scan
from understudy.release.signature import check_key, sign
from understudy.release.words import Words, secrets_of
from understudy.runtime.memory import release_memory
from understudy.slices import SliceSet

# what of a generator's configuration is released: not the seed, which gives the order of the training slices
_KEPT = ("kind", "model", "channels", "classes", "annotation", "spacing", "axes", "kimg", "steps", "precision", "torch")
_NOT_TRAINING = {*UNTRACED, "seed"}


@dataclass(frozen=True)
class Released:
    """A finished package: its folder, root hash (to be published), certificate, scan, and the map of ids beside it."""

    path: Path
    root: str
    certificate: dict[str, Any]
    scan: Scan
    ids: Path | None = None  # CSV: released id, id and row in the audited set; not part of the package


def release_slices(
    audited: Audited, about: About, decision: Decision, out: Path, layout: str = "sliceset",
    override: str | None = None, device: str = "cpu", progress: bool = False, shard_bytes: int = SHARD_BYTES,
    order: int | None = None, evaluation: dict[str, Any] | None = None, key: Path | None = None,
) -> Released:  # fmt: skip
    """Writes the package at `out`, which must not exist; raises if the gate or the scan refuses.

    Args:
        layout: one of `content.LAYOUTS`.
        override: the reason for releasing against the gate.
        shard_bytes: the largest tar file of WebDataset.
        order: seed of the order of the slices, in which they are numbered anew; None: one that nobody knows.
        evaluation: Dice of segmenters trained with the slices (`study.released.dice_of`); None: not measured.
        key: private key of SSH, by which the package is signed.
    """
    if layout not in LAYOUTS:
        raise UnderstudyError(f"unknown format {layout!r}", where="layout", fix=f"use {', '.join(LAYOUTS)}")
    words = _checked(audited, about, decision, override, out, key)
    with _assembling(out) as (folder, work):
        cleared = clear(audited, decision, override, device, progress)
        place = folder / "data" if layout == "sliceset" else work / "slices"
        place.parent.mkdir(parents=True, exist_ok=True)
        slices, table, ids = clean_set(audited.synthetic, cleared.kept, place, order)
        release_memory()
        reading: dict[str, Any] = {"layout": "slices"}
        if layout != "sliceset":
            reading = write_layout(slices, layout, folder / "data", shard_bytes)
            release_memory()
        (folder / "manifest.parquet").write_bytes(table_bytes(table))
        manifest = table.to_pandas()
        head, areas = head_of(slices), [c for c in map(str, manifest) if c.startswith("area.")]
        certificate = {
            **_certificate("slices", about, decision, cleared, folder),
            "layout": layout,
            "evaluation": evaluation,
            "data": {
                **head,
                "slices": len(slices),
                "spacing": slices.spacing,
                "axes": slices.axes,
                "reading": reading,
                "generators": sorted(set(manifest["generator"].dropna().astype(str))),
                "slices_with_class": {c.removeprefix("area."): int((manifest[c] > 0).sum()) for c in areas},
            },
            "content": {
                "root": content_root(head, manifest),
                "manifest_sha256": sha256_file(folder / "manifest.parquet"),
            },
        }
        write_json(folder / "croissant.json", documents.croissant(about, certificate, manifest))
        texts = documents.slice_documents(about, decision, certificate)
        texts["evidence.html"] = documents.evidence(about, decision, certificate, folder / "audit", place)
        crate = documents.ro_crate(about, certificate, DOCUMENTS, {"data/": f"{len(slices):,} slices, layout {layout}"})
        return _sealed(folder, out, certificate, texts, crate, audited, words, key, ids)


def release_model(
    model: Path, audited: Audited, about: About, decision: Decision, out: Path, override: str | None = None,
    device: str = "cpu", progress: bool = False, evaluation: dict[str, Any] | None = None, hidden: Sequence[Path] = (),
    key: Path | None = None,
) -> Released:  # fmt: skip
    """Writes the package of a trained generator at `out`, which must not exist; raises if the gate or the scan refuses.

    Args:
        model: folder of the generator; `audited` are its samples.
        evaluation: Dice of segmenters trained with its samples (`study.released.dice_of`).
        hidden: further paths that no document may name.
        key: private key of SSH, by which the package is signed.
    """
    words = _checked(audited, about, decision, override, out, key, [model, *hidden])
    with _assembling(out) as (folder, _):
        cleared, asked = clear_model(model, audited, decision, override, device, progress)
        config = _write_weights(model, folder / documents.MODEL)
        written = sha256_file(folder / documents.MODEL / WEIGHTS)
        if written != audited.synthetic.attrs["weights"]:  # which the gate has compared with the audited file
            raise UnderstudyError("the audited file has more than the EMA weights", where=model, fix="train it again")
        certificate = {
            **_certificate("generator", about, decision, cleared, folder, asked),
            "model": _describe(folder / documents.MODEL, config),
            "white_box": rounded(asked.as_dict()),
            "evaluation": evaluation,
        }
        chosen = np.sort(np.random.default_rng(0).permutation(cleared.kept)[: documents.SHOWN])
        picture = documents.sheet(list(zip(*audited.synthetic.read(chosen), strict=True)), certificate["model"])
        picture.save(folder / "samples.png", optimize=True)
        texts = documents.model_documents(about, decision, certificate, config)
        texts["evidence.html"] = documents.evidence(about, decision, certificate, folder / "audit", picture)
        crate = documents.ro_crate(about, certificate, MODEL_DOCUMENTS, {})
        return _sealed(folder, out, certificate, texts, crate, audited, words, key)


def _certificate(
    kind: str, about: About, decision: Decision, cleared: Clearance, folder: Path, asked: Membership | None = None
) -> dict[str, Any]:
    """Writes what a recipient is told of the audit, as it was found again; returns what every certificate says."""
    found, concentration = cleared.found, cleared.found.concentration
    numbers = shared(found.numbers, asked.as_dict() if asked else None)
    write_json(folder / "audit" / "audit.json", numbers)
    write_text(folder / "audit" / "audit.md", as_markdown(numbers))
    training = found.found.parts.training
    return {
        "format": FORMAT,
        "kind": kind,
        "software_version": __version__,
        "title": about.title,
        "version": about.version,
        "sites_named": about.sites_named,
        "released": dt.date.today().isoformat(),
        "decision": decision.model_dump(mode="json"),
        "override": cleared.override,
        "audit": {
            "sha256": sha256_file(folder / "audit" / "audit.json"),
            "audited_set": found.numbers["sets"]["synthetic"]["content_hash"],
            "quantile": found.numbers["config"]["quantile"],
            "rule": found.numbers["rule"]["text"],
            "training_slices": len(training.rows),
            "training_patients": training.count,
            "concentration": None
            if concentration is None
            else rounded(concentration.as_dict()) | {"words": spread(concentration)},
            "recomputed": True,
            **cleared.certified,
        },
    }


@contextmanager
def _assembling(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that becomes `out` if the block succeeds, and one for temporary work; raises if `out` exists."""
    for place, what in ((out, "the package"), (_ids_of(out), "the map of the ids of a package")):
        if place.exists():
            raise UnderstudyError(f"{what} is there already", where=place, fix="use a new folder")
    partial, work = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.work")
    with writing(out):
        for folder in (partial, work):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            yield partial, work
            os.replace(partial, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)


def _checked(
    audited: Audited, about: About, decision: Decision, override: str | None, out: Path, key: Path | None,
    hidden: Sequence[Path] = (),
) -> Words:  # fmt: skip
    """What the package must not hold; raises if the forms, from which its texts are written, hold it already, or if
    the key cannot sign."""
    if key is not None:
        check_key(key)
    real = _real(audited)
    paths = [audited.synthetic.folder, audited.audit, *hidden, *(s.folder for s in real), out]
    words = Words(secrets_of(real, paths, about.sites_named))
    told = {"about.yaml": about.model_dump(exclude={"sites_named"}), "decision.yaml": decision.model_dump(mode="json")}
    refuse_forms(words, told | {"--override": override or "", "--out": out.name})
    return words


def _real(audited: Audited) -> list[SliceSet]:
    return list({id(s): s for s in (audited.training, audited.heldout)}.values())


def _sealed(
    folder: Path, out: Path, certificate: dict[str, Any], texts: dict[str, str], crate: dict[str, Any],
    audited: Audited, words: Words, key: Path | None, ids: str = "",
) -> Released:  # fmt: skip
    """Writes the documents, searches `folder` for what must not leave (else raises), writes its hashes and signs them.

    The map `ids` is written beside `out`, for its owner only.
    """
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "decision.json", {**certificate["decision"], "override": certificate["override"]})
    write_json(folder / CRATE, crate)
    write_json(folder / CERTIFICATE, certificate)
    searched = scan(folder, certificate, _real(audited), words)
    refuse(searched, folder)
    root, beside = write_sums(folder), _ids_of(out) if ids else None
    if key is not None:
        sign(folder, key)
    if beside:
        write_text(beside, ids)
        beside.chmod(0o600)
    return Released(out, root, certificate, searched, beside)


def _ids_of(out: Path) -> Path:
    """Where the map from released ids to those of the audited set lies: beside the package."""
    return out.with_name(out.name + ".ids.csv")


def _write_weights(model: Path, folder: Path) -> dict[str, Any]:
    """Writes the EMA generator and what is needed to sample from it into the new `folder`; returns its configuration.

    Tensors are read into the network and written again: optimiser states, the discriminator, metadata stay behind.
    """
    generator, config = load_generator(model)
    kept = {name: config[name] for name in _KEPT if name in config}
    if "training" in config:
        kept["training"] = {k: v for k, v in config["training"].items() if k not in _NOT_TRAINING}
    folder.mkdir(parents=True)
    save_model(folder, generator, kept)
    for name in (WEIGHTS, CONFIG):
        (folder / name).chmod(0o644)
    return kept


def _describe(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What a certificate says of written weights."""
    with safe_open(folder / WEIGHTS, "pt") as tensors:
        sizes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  # no mapping
    return {
        **{k: config.get(k) for k in ("kind", "channels", "classes", "annotation", "spacing", "axes")},
        "resolution": config["model"]["resolution"],
        "weights": {
            "file": f"{documents.MODEL}/{WEIGHTS}",
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
    if config.get("kind") not in KINDS or set(config) - {*_KEPT, "training", "sha256"}:
        return [*problems, "the configuration has other fields than a release has"]
    try:
        with safe_open(path, "pt") as tensors:
            extra = tensors.metadata()
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
        what = f"the weights cannot be read ({str(error).splitlines()[0]})"
        raise UnderstudyError(what, where=path, fix="get them again") from error
    if extra:
        problems.append(f"the weights' file holds metadata ({', '.join(sorted(extra))})")
    try:
        load_generator(folder)  # refuses tensors that are missing, strange, not finite, or of another shape
    except Damaged:
        problems.append("the weights are not those of their configuration")
    return problems
