"""A package from a set, its audit and a decision: gate, data, documents, scan, hashes; whole or absent."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.exchange.packaged import CERTIFICATE, FORMAT
from understudy.files import sha256_file, write_json, write_text, writing
from understudy.release import documents
from understudy.release.content import LAYOUTS, SHARD_BYTES, clean_set, content_root, head_of, write_layout
from understudy.release.evidence import evidence
from understudy.release.forms import About, Decision
from understudy.release.gate import Clearance, clear
from understudy.release.metadata import croissant, ro_crate
from understudy.release.scan import Scan, refuse, scan, secret_words
from understudy.release.sums import write_sums
from understudy.slices import SliceSet

DOCUMENTS = {
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
class Released:
    """A finished package: its folder, root hash (to be published), certificate and scan."""

    path: Path
    root: str
    certificate: dict[str, Any]
    scan: Scan


def release_slices(
    synthetic: SliceSet,
    training: SliceSet,
    heldout: SliceSet,
    audit: Path,
    about: About,
    decision: Decision,
    out: Path,
    layout: str = "sliceset",
    override: str | None = None,
    training_rows: NDArray[np.int64] | None = None,
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
    if out.exists():
        raise UnderstudyError("the package is there already", where=out, fix="use a new folder")
    cleared = clear(synthetic, training, heldout, audit, decision, override, training_rows, device, progress)
    partial, work = out.with_name(out.name + ".partial"), out.with_name(out.name + ".work")
    with writing(out):
        for folder in (partial, work):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            done = _build(
                synthetic,
                [training, heldout],
                audit,
                about,
                decision,
                cleared,
                layout,
                shard_bytes,
                partial,
                work,
            )
            os.replace(partial, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)
    return Released(out, *done)


def _build(
    synthetic: SliceSet,
    real: list[SliceSet],
    audit: Path,
    about: About,
    decision: Decision,
    cleared: Clearance,
    layout: str,
    shard_bytes: int,
    folder: Path,
    work: Path,
) -> tuple[str, dict[str, Any], Scan]:
    place = folder / "data" if layout == "sliceset" else work / "slices"
    place.parent.mkdir(parents=True, exist_ok=True)
    p = cleared.found.table["p"].to_numpy(float)
    slices, manifest = clean_set(synthetic, cleared.kept, p, place)
    folder.mkdir(exist_ok=True)
    reading: dict[str, Any] = {"layout": "slices"}
    if layout != "sliceset":
        reading = write_layout(slices, layout, folder / "data", shard_bytes)
    manifest.to_parquet(folder / "manifest.parquet", index=False)
    for name in ("audit.json", "audit.md"):
        (folder / "audit").mkdir(exist_ok=True)
        shutil.copyfile(audit / name, folder / "audit" / name)
    certificate = _certificate(slices, manifest, cleared, about, decision, layout, reading, folder)
    _documents(folder, about, decision, certificate, manifest, place, audit)
    sets = list({id(s): s for s in real}.values())
    words = secret_words(sets, [synthetic.path, audit, *(s.path for s in sets), folder])
    searched = scan(folder, certificate["data"], sets, words)
    refuse(searched, folder)
    return write_sums(folder), certificate, searched


def _certificate(
    slices: SliceSet,
    manifest: pd.DataFrame,
    cleared: Clearance,
    about: About,
    decision: Decision,
    layout: str,
    reading: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    head, numbers = head_of(slices), cleared.found.numbers
    generators = sorted(set(manifest["generator"].dropna().astype(str)))
    with_class = {c[5:]: int((manifest[c] > 0).sum()) for c in map(str, manifest) if c.startswith("area.")}
    return {
        "format": FORMAT,
        "kind": "slices",
        "software_version": __version__,
        "title": about.title,
        "version": about.version,
        "released": dt.date.today().isoformat(),
        "layout": layout,
        "data": {
            **head,
            "slices": len(slices),
            "spacing": slices.spacing,
            "axes": slices.axes,
            "reading": reading,
            "generators": generators,
            "slices_with_class": with_class,
        },
        "content": {
            "root": content_root(head, manifest),
            "manifest_sha256": sha256_file(folder / "manifest.parquet"),
        },
        "audit": {
            "sha256": sha256_file(folder / "audit" / "audit.json"),
            "audited_set": numbers["sets"]["synthetic"]["content_hash"],
            "before": int(numbers["sets"]["synthetic"]["slices"]),
            "flagged": cleared.flagged,
            "alike": cleared.alike,
            "released": len(slices),
            "quantile": numbers["config"]["quantile"],
            "rule": numbers["rule"]["text"],
            "training_slices": len(cleared.found.training.rows),
            "training_patients": cleared.found.training.count,
            "verdict_before": numbers["verdict"]["headline"],
            "verdict": cleared.verdict,
            "recomputed": True,
        },
        "decision": decision.model_dump(mode="json"),
        "override": cleared.override,
    }


def _documents(
    folder: Path,
    about: About,
    decision: Decision,
    certificate: dict[str, Any],
    manifest: pd.DataFrame,
    slices: Path,
    audit: Path,
) -> None:
    kinds = {"i": "sc:Integer", "f": "sc:Float"}
    columns = {str(c): kinds.get(manifest[c].dtype.kind, "sc:Text") for c in manifest}
    write_text(folder / "LICENSE", documents.licence(about))
    write_text(folder / "CITATION.cff", documents.citation(about, certificate["released"]))
    write_text(folder / "DATASHEET.md", documents.datasheet(about, decision, certificate))
    write_text(folder / "aida.md", documents.aida(about, certificate))
    write_text(folder / "evidence.html", evidence(about, decision, certificate, slices, audit))
    write_json(
        folder / "decision.json", {**decision.model_dump(mode="json"), "override": certificate["override"]}
    )
    write_json(
        folder / "croissant.json",
        croissant(about, certificate, certificate["content"]["manifest_sha256"], columns),
    )
    write_json(folder / "ro-crate-metadata.json", ro_crate(about, certificate, DOCUMENTS))
    write_json(folder / CERTIFICATE, certificate)
