"""The words around slices or weights: licence, citation, AIDA's record, the stamp of a forced release."""

from __future__ import annotations

from typing import Any

import yaml

from understudy.release.forms import About, Decision


def stamp(certificate: dict[str, Any]) -> str:
    """What stands on every document of a release that was forced; "" otherwise."""
    forced = certificate.get("override")
    if not forced:
        return ""
    against = "; ".join(forced["against"]) or "nothing"
    return f"RELEASED AGAINST THE GATE. Reason given: {forced['reason']}. What spoke against it: {against}."


def signed(decision: Decision) -> str:
    """Who decided, and on which thresholds, in one paragraph."""
    limits = decision.thresholds
    agreed = f"quantile {limits.quantile}, at most {limits.most_flagged:.2%} flagged"
    if limits.most_auc is not None:
        agreed += f", AUC of the white-box check at most {limits.most_auc}"
    by = ", ".join(x for x in (decision.by.name, decision.by.role, decision.by.organisation) if x)
    said = (
        f"Decision of {decision.date}: {decision.decision.replace('_', ' ')}, by {by}. The thresholds ({agreed}) were"
        f" agreed on {limits.set_on}, before anyone had seen the result, as the signer states."
    )
    seen = f"What the closest pairs show: {decision.gallery.rstrip('.')}." if decision.gallery else ""
    return " ".join(part for part in (said, seen, decision.remarks) if part)


def licence(about: About, what: str = "These slices are synthetic. They were made by a generator") -> str:
    """The LICENSE file; `what` begins the sentence on what was trained."""
    sources = "\n".join(f"  - {s}" for s in about.sources)
    return (
        f"{about.title}, version {about.version}\n\nLicence: {about.licence}\n{about.licence_url}\n\n{what} that was"
        f" trained on\n{sources}\nwhose terms, as {about.publisher} has confirmed, allow this release and still hold."
        "\n\n"
        f"Forbidden: {about.forbidden_uses}\n"
    )


def citation(about: About, date: str, kind: str = "dataset") -> str:
    """CITATION.cff 1.2.0; `kind`: dataset, or software (which weights are, since CFF knows no third)."""
    content: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": f"Please cite {'this data set' if kind == 'dataset' else 'these weights'} and their sources.",
        "type": kind,
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
            "resolution": "x".join(f"{s:g}" for s in data["spacing"]) + " mm" if data["spacing"] else "not recorded",
        },
    }
    forced = stamp(certificate)
    body = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
    return f"---\n{body}---\n\n{forced}\n" if forced else f"---\n{body}---\n"
