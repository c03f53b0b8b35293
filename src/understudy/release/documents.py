"""The words around the data: licence, citation, datasheet, AIDA's record."""

from __future__ import annotations

from typing import Any

import yaml

from understudy import __version__
from understudy.release.forms import About, Decision


def stamp(certificate: dict[str, Any]) -> str:
    """What stands on every document of a release that was forced; "" otherwise."""
    forced = certificate.get("override")
    if not forced:
        return ""
    against = "; ".join(forced["against"]) or "nothing"
    return f"RELEASED AGAINST THE GATE. Reason given: {forced['reason']}. What spoke against it: {against}."


def licence(about: About) -> str:
    """The LICENSE file."""
    sources = "\n".join(f"  - {s}" for s in about.sources)
    return (
        f"{about.title}, version {about.version}\n\nLicence: {about.licence}\n{about.licence_url}\n\nThese slices are"
        " synthetic. They were made by a generator that was trained on\n"
        f"{sources}\nwhose terms, as {about.publisher} has confirmed, allow this release and still hold.\n"
        f"Forbidden: {about.forbidden_uses}\n"
    )


def citation(about: About, date: str) -> str:
    """CITATION.cff 1.2.0."""
    content: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "Please cite this data set if you use it.",
        "type": "dataset",
        "title": about.title,
        "version": about.version,
        "date-released": date,
        "abstract": about.description,
        "authors": [{"name": name} for name in about.creators],
        "license-url": about.licence_url,
        "keywords": about.keywords,
        "doi": about.doi,
    }
    return yaml.safe_dump({k: v for k, v in content.items() if v}, sort_keys=False, allow_unicode=True)


def aida(about: About, certificate: dict[str, Any]) -> str:
    """The front matter of a record of AIDA data hub, as its own records have it."""
    data = certificate["data"]
    record = {
        "hidden": True,
        "synthetic": True,
        "datacite": {
            "@context": "http://schema.org",
            "@type": "Dataset",
            "@id": about.doi or "",
            "name": about.title,
            "about": "Radiology",
            "author": [{"@type": "Person", "name": n} for n in about.creators],
            "publisher": about.publisher,
            "copyrightYear": certificate["released"][:4],
            "copyrightHolder": about.publisher,
            "provider": [{"name": about.publisher, "email": about.contact}],
            "datePublished": certificate["released"],
            "keywords": about.keywords,
            "version": about.version,
            "description": about.description,
            "license": [about.licence],
            "citation": about.sources,
        },
        "other": {
            "shortName": about.short_name,
            "origin": "Synthetic",
            "status": "Complete",
            "annotation": ", ".join(c["name"] for c in data["classes"][1:]),
            "numberOfScans": f"{data['slices']} {len(data['channels'])}-channel MR images",
            "numberOfAnnotations": data["slices"],
            "modality": ["MR"],
            "resolution": "x".join(f"{s:g}" for s in data["spacing"]) + " mm"
            if data["spacing"]
            else "not recorded",
        },
    }
    forced = stamp(certificate)
    body = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
    return f"---\n{body}---\n\n{forced}\n" if forced else f"---\n{body}---\n"


def datasheet(about: About, decision: Decision, certificate: dict[str, Any]) -> str:
    """The headings of Gebru et al., "Datasheets for Datasets" (2021), answered."""
    data, audit, forced = certificate["data"], certificate["audit"], stamp(certificate)
    areas = ", ".join(f"{name}: {n:,}" for name, n in data["slices_with_class"].items()) or "no class"
    limits = decision.thresholds
    lines = [
        f"# Datasheet: {about.title}",
        "",
        *([f"> **{forced}**", ""] if forced else []),
        f"Version {about.version}, released {certificate['released']} by {about.publisher}. Contact: {about.contact}.",
        "",
        "## Motivation",
        "",
        about.purpose,
        f"Made by {', '.join(about.creators)}.",
        "",
        "## Composition",
        "",
        f"{data['slices']:,} synthetic 2D slices of {data['resolution']} x {data['resolution']} pixels, 8 bits, with"
        f" the channels {', '.join(data['channels'])} and an annotation in the classes"
        f" {', '.join(c['name'] for c in data['classes'][1:])}. Slices that hold a class: {areas}. No slice shows a"
        " person; there are no patients, volumes or recommended splits. `manifest.parquet` has a row a slice: id,"
        " generator, seed, pixels of each class, the audit's p-value, SHA-256.",
        "",
        f"Known defects: {about.known_defects}",
        "",
        "## Collection process",
        "",
        f"Sampled from the generators {', '.join(data['generators']) or 'not named'}, trained on"
        f" {audit['training_slices']:,} slices of {audit['training_patients']} patients of:",
        "",
        *[f"- {s}" for s in about.sources],
        "",
        f"Ethical approval: {about.approval}",
        "",
        "## Preprocessing, cleaning, labelling",
        "",
        f"{audit['before']:,} slices were audited for copies of training patients; {audit['flagged']:,} flagged ones"
        f" and {audit['alike']:,} near-duplicates of them were taken out. Annotations were generated together with the"
        " images and checked by nobody unless said above.",
        "",
        "## Privacy",
        "",
        f"Rule: {audit['rule']}.",
        "",
        f"Before: {audit['verdict_before']}",
        "",
        f"What is left: {audit['verdict']['headline']}",
        "",
        *[f"- {s}" for s in audit["verdict"]["limits"]],
        "",
        f"Thresholds (quantile {limits.quantile}, at most {limits.most_flagged:.2%} flagged) were set on"
        f" {limits.set_on}, before the result was seen. Decision of {decision.date}: {decision.decision}, by"
        f" {decision.by.name} ({decision.by.role}). {decision.remarks}",
        "",
        "## Uses",
        "",
        f"Intended: {about.purpose}",
        "",
        f"Forbidden: {about.forbidden_uses}",
        "",
        "## Distribution",
        "",
        f"Licence: {about.licence} {about.licence_url}. The terms of the sources hold as well.",
        "",
        "## Maintenance",
        "",
        about.maintenance,
        "",
        f"Understudy {__version__}; check with `understudy verify`.",
        "",
    ]
    return "\n".join(lines)
