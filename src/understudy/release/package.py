"""A package from a set, its audit and a decision: gate, data, documents, scan, hashes; whole or absent."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.exchange.packaged import CERTIFICATE, FORMAT
from understudy.io.files import sha256_file, write_json, write_text
from understudy.release import documents
from understudy.release.assembly import Released, assembling, copy_audit, sealed
from understudy.release.content import LAYOUTS, SHARD_BYTES, clean_set, content_root, head_of, write_layout
from understudy.release.crate import ro_crate
from understudy.release.croissant import croissant
from understudy.release.datasheet import datasheet, readme
from understudy.release.evidence import evidence
from understudy.release.forms import About, Decision
from understudy.release.gate import Audited, Clearance, clear, concentration_record
from understudy.runtime.memory import release_memory
from understudy.slices import SliceSet

DOCUMENTS = {
    "README.md": "where to begin",
    "manifest.parquet": "one row a slice",
    "LICENSE": "licence",
    "CITATION.cff": "citation",
    "DATASHEET.md": "datasheet",
    "aida.md": "record for AIDA data hub",
    "croissant.json": "Croissant metadata",
    "evidence.html": "evidence",
    "decision.json": "the decision",
    "audit/audit.json": "the audit",
    "audit/audit.md": "the audit in words",
    CERTIFICATE: "certificate",
}


@dataclass(frozen=True)
class _Order:
    """What was asked for, and what the gate said."""

    about: About
    decision: Decision
    cleared: Clearance
    audit: Path
    layout: str
    shard_bytes: int


def release_slices(
    audited: Audited,
    about: About,
    decision: Decision,
    out: Path,
    layout: str = "sliceset",
    override: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    device: str = "cpu",
    progress: bool = False,
) -> Released:
    """Writes the package at `out`, which must not exist.

    Raises:
        UnderstudyError: the gate or the scan refuses, unknown layout, disk full, `out` exists.
    """
    if layout not in LAYOUTS:
        raise UnderstudyError(f"unknown format {layout!r}", where="--format", fix=f"use {', '.join(LAYOUTS)}")
    with assembling(out) as (folder, work):
        cleared = clear(audited, decision, override, device, progress)
        order = _Order(about, decision, cleared, audited.audit, layout, shard_bytes)
        certificate = _write(audited.synthetic, order, folder, work)
        hidden = [audited.synthetic.folder, audited.audit]
        return sealed(folder, out, certificate, [audited.training, audited.heldout], hidden)


def _write(synthetic: SliceSet, order: _Order, folder: Path, work: Path) -> dict[str, Any]:
    """Everything but the hashes; returns the certificate."""
    place = folder / "data" if order.layout == "sliceset" else work / "slices"
    place.parent.mkdir(parents=True, exist_ok=True)
    p = order.cleared.found.table["p"].to_numpy(float)
    slices, manifest = clean_set(synthetic, order.cleared.kept, p, place)
    release_memory()
    reading: dict[str, Any] = {"layout": "slices"}
    if order.layout != "sliceset":
        reading = write_layout(slices, order.layout, folder / "data", order.shard_bytes)
        release_memory()
    manifest.to_parquet(folder / "manifest.parquet", index=False)
    copy_audit(order.audit, folder)
    certificate = _certificate(slices, manifest, order, reading, folder)
    _documents(folder, order, certificate, manifest, place)
    return certificate


def _certificate(
    slices: SliceSet, manifest: pd.DataFrame, order: _Order, reading: dict[str, Any], folder: Path
) -> dict[str, Any]:
    head, about = head_of(slices), order.about
    generators = sorted(set(manifest["generator"].dropna().astype(str)))
    with_class = {c[5:]: int((manifest[c] > 0).sum()) for c in map(str, manifest) if c.startswith("area.")}
    return {
        "format": FORMAT,
        "kind": "slices",
        "software_version": __version__,
        "title": about.title,
        "version": about.version,
        "released": dt.date.today().isoformat(),
        "layout": order.layout,
        "data": {
            **head,
            "slices": len(slices),
            "spacing": slices.spacing,
            "axes": slices.axes,
            "reading": reading,
            "generators": generators,
            "slices_with_class": with_class,
        },
        "content": {"root": content_root(head, manifest), "manifest_sha256": sha256_file(folder / "manifest.parquet")},
        "audit": _audit(order.cleared, len(slices), folder),
        "decision": order.decision.model_dump(mode="json"),
        "override": order.cleared.override,
    }


def _audit(cleared: Clearance, released: int, folder: Path) -> dict[str, Any]:
    numbers = cleared.found.numbers
    return {
        "sha256": sha256_file(folder / "audit" / "audit.json"),
        "audited_set": numbers["sets"]["synthetic"]["content_hash"],
        "before": int(numbers["sets"]["synthetic"]["slices"]),
        "flagged": cleared.flagged,
        "alike": cleared.alike,
        "released": released,
        "quantile": numbers["config"]["quantile"],
        "rule": numbers["rule"]["text"],
        "training_slices": len(cleared.found.training.rows),
        "training_patients": cleared.found.training.count,
        "verdict_before": numbers["verdict"]["headline"],
        "concentration": concentration_record(cleared.found),
        "verdict": cleared.verdict,
        "recomputed": True,
        **({"screened": cleared.screened} if cleared.screened else {}),
    }


def _documents(folder: Path, order: _Order, certificate: dict[str, Any], manifest: pd.DataFrame, slices: Path) -> None:
    about, decision = order.about, order.decision
    kinds = {"i": "sc:Integer", "f": "sc:Float"}
    columns = {str(c): kinds.get(manifest[c].dtype.kind, "sc:Text") for c in manifest}
    texts = {
        "README.md": readme(about, certificate),
        "LICENSE": documents.licence(about),
        "CITATION.cff": documents.citation(about, certificate["released"]),
        "DATASHEET.md": datasheet(about, decision, certificate),
        "aida.md": documents.aida(about, certificate),
        "evidence.html": evidence(about, decision, certificate, slices, order.audit),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    signed = {**decision.model_dump(mode="json"), "override": certificate["override"]}
    write_json(folder / "decision.json", signed)
    described = croissant(about, certificate, certificate["content"]["manifest_sha256"], columns)
    write_json(folder / "croissant.json", described)
    part = f"{certificate['data']['slices']:,} slices, layout {order.layout}"
    crate = ro_crate(about, certificate, DOCUMENTS, {"data/": part})
    write_json(folder / "ro-crate-metadata.json", crate)
    write_json(folder / CERTIFICATE, certificate)
