"""A package of slices from a set, its audit and a decision: gate, data, documents, scan, hashes; whole or absent."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy import __version__
from understudy.errors import UnderstudyError
from understudy.exchange.description import CERTIFICATE, FORMAT
from understudy.io.files import sha256_file, write_json, write_text, writing
from understudy.memorization.screen import Recheck
from understudy.memorization.words import spread
from understudy.release.content import LAYOUTS, SHARD_BYTES, clean_set, content_root, head_of, write_layout, write_sums
from understudy.release.documents import croissant, ro_crate, slice_documents
from understudy.release.evidence import evidence
from understudy.release.forms import About, Decision
from understudy.release.gate import Audited, clear
from understudy.release.scan import Scan, refuse, scan, secret_words
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
class Released:
    """A finished package: its folder, root hash (to be published), certificate and scan."""

    path: Path
    root: str
    certificate: dict[str, Any]
    scan: Scan


def release_slices(
    audited: Audited, about: About, decision: Decision, out: Path, layout: str = "sliceset",
    override: str | None = None, shard_bytes: int = SHARD_BYTES, device: str = "cpu", progress: bool = False,
) -> Released:  # fmt: skip
    """Writes the package at `out`, which must not exist.

    Args:
        layout: one of `content.LAYOUTS`.
        override: the reason for releasing against the gate.
        shard_bytes: the largest tar file of WebDataset.

    Raises:
        UnderstudyError: the gate or the scan refuses, unknown layout, disk full, `out` exists.
    """
    if layout not in LAYOUTS:
        raise UnderstudyError(f"unknown format {layout!r}", where="--format", fix=f"use {', '.join(LAYOUTS)}")
    with assembling(out) as (folder, work):
        cleared = clear(audited, decision, override, device, progress)
        place = folder / "data" if layout == "sliceset" else work / "slices"
        place.parent.mkdir(parents=True, exist_ok=True)
        p = cleared.found.table["p"].to_numpy(float)
        slices, manifest = clean_set(audited.synthetic, cleared.kept, p, place)
        release_memory()
        reading: dict[str, Any] = {"layout": "slices"}
        if layout != "sliceset":
            reading = write_layout(slices, layout, folder / "data", shard_bytes)
            release_memory()
        manifest.to_parquet(folder / "manifest.parquet", index=False)
        copy_audit(audited.audit, folder)
        head, hashed = head_of(slices), sha256_file(folder / "manifest.parquet")
        data = {
            **head,
            "slices": len(slices),
            "spacing": slices.spacing,
            "axes": slices.axes,
            "reading": reading,
            "generators": sorted(set(manifest["generator"].dropna().astype(str))),
            "slices_with_class": {
                c[5:]: int((manifest[c] > 0).sum()) for c in map(str, manifest) if c.startswith("area.")
            },
        }
        numbers = cleared.found.numbers
        certificate = {
            **certificate_head("slices", about, decision, cleared.override),
            "layout": layout,
            "data": data,
            "content": {"root": content_root(head, manifest), "manifest_sha256": hashed},
            "audit": {
                **audit_record(cleared.found, folder),
                "before": int(numbers["sets"]["synthetic"]["slices"]),
                "flagged": cleared.flagged,
                "alike": cleared.alike,
                "released": len(slices),
                "verdict_before": numbers["verdict"]["headline"],
                "verdict": cleared.verdict,
                **({"screened": cleared.screened} if cleared.screened else {}),
            },
        }
        write_json(folder / "croissant.json", croissant(about, certificate, manifest))
        texts = slice_documents(about, decision, certificate)
        texts["evidence.html"] = evidence(about, decision, certificate, place, audited.audit)
        crate = ro_crate(about, certificate, DOCUMENTS, {"data/": f"{len(slices):,} slices, layout {layout}"})
        hidden = [audited.synthetic.folder, audited.audit]
        return sealed(folder, out, certificate, texts, crate, [audited.training, audited.heldout], hidden)


# What packages of slices and of weights have in common.


def certificate_head(kind: str, about: About, decision: Decision, override: dict[str, Any] | None) -> dict[str, Any]:
    """The first fields of a certificate."""
    return {
        "format": FORMAT,
        "kind": kind,
        "software_version": __version__,
        "title": about.title,
        "version": about.version,
        "released": dt.date.today().isoformat(),
        "decision": decision.model_dump(mode="json"),
        "override": override,
    }


def audit_record(found: Recheck, folder: Path) -> dict[str, Any]:
    """What every certificate says of the audit, which was done again."""
    numbers, spread_over = found.numbers, found.concentration
    return {
        "sha256": sha256_file(folder / "audit" / "audit.json"),
        "audited_set": numbers["sets"]["synthetic"]["content_hash"],
        "quantile": numbers["config"]["quantile"],
        "rule": numbers["rule"]["text"],
        "training_slices": len(found.found.parts.training.rows),
        "training_patients": found.found.parts.training.count,
        "concentration": None if spread_over is None else {**spread_over.as_dict(), "words": spread(spread_over)},
        "recomputed": True,
    }


@contextmanager
def assembling(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that becomes `out` if the block succeeds, and one for temporary work; raises if `out` exists."""
    if out.exists():
        raise UnderstudyError("the package is there already", where=out, fix="use a new folder")
    partial, work = out.with_name(out.name + ".partial"), out.with_name(out.name + ".work")
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


def copy_audit(audit: Path, folder: Path) -> None:
    """The shareable parts of an audit: its numbers and words, no neighbour and no p-value by slice."""
    (folder / "audit").mkdir(exist_ok=True)
    for name in ("audit.json", "audit.md"):
        shutil.copyfile(audit / name, folder / "audit" / name)


def sealed(
    folder: Path, out: Path, certificate: dict[str, Any], texts: dict[str, str], crate: dict[str, Any],
    real: Sequence[SliceSet], paths: Sequence[Path],
) -> Released:  # fmt: skip
    """Writes the documents into `folder`, searches it for what must not leave (else raises), and writes its hashes.

    Args:
        out: the place that the folder will have.
        real: sets of patients that nothing may be of.
        paths: that no file may hold, besides those of `real` and the folder's own.
    """
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "decision.json", {**certificate["decision"], "override": certificate["override"]})
    write_json(folder / "ro-crate-metadata.json", crate)
    write_json(folder / CERTIFICATE, certificate)
    sets = list({id(s): s for s in real}.values())
    words = secret_words(sets, [*paths, *(s.folder for s in sets), folder])
    searched = scan(folder, certificate.get("data", {}), sets, words)
    refuse(searched, folder)
    return Released(out, write_sums(folder), certificate, searched)
