"""ro-crate-metadata.json: RO-Crate 1.1 of a package of slices or of a generator."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from understudy import __version__
from understudy.io.files import sha256_json
from understudy.release.documents import stamp
from understudy.release.forms import About

ROOT = "./"
FORMATS = {
    ".md": "text/markdown",
    ".html": "text/html",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".cff": "application/yaml",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    "": "text/plain",
}


def ro_crate(
    about: About, certificate: dict[str, Any], files: dict[str, str], folders: dict[str, str]
) -> dict[str, Any]:
    """The crate.

    Args:
        files: path of each document -> what it is.
        folders: path of each folder of data, with a slash behind -> what it holds.
    """
    parts = [
        {"@id": name, "@type": "File", "name": what, "encodingFormat": FORMATS[_suffix(name)]}
        for name, what in files.items()
    ]
    parts += [{"@id": name, "@type": "Dataset", "name": what, "description": what} for name, what in folders.items()]
    people = [
        {"@id": f"#creator-{i}", "@type": "Person", "name": n, **_affiliated(about.affiliation)}
        for i, n in enumerate(about.creators, start=1)
    ]
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [
            {
                "@id": "ro-crate-metadata.json",
                "@type": "CreativeWork",
                "about": {"@id": ROOT},
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            },
            _root(about, certificate, [p["@id"] for p in parts], [p["@id"] for p in people]),
            *parts,
            *people,
            *_around(about, certificate),
        ],
    }


def _affiliated(organisation: str) -> dict[str, Any]:
    return {"affiliation": {"@id": f"#{quote(organisation)}"}} if organisation else {}


def _organisations(about: About, signer: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that people of the crate belong to."""
    names = dict.fromkeys([about.affiliation, signer.get("organisation", "")])
    return [{"@id": f"#{quote(n)}", "@type": "Organization", "name": n} for n in names if n]


def _root(about: About, certificate: dict[str, Any], parts: list[str], people: list[str]) -> dict[str, Any]:
    forced = stamp(certificate)
    return {
        "@id": ROOT,
        "@type": "Dataset",
        "name": about.title,
        "version": about.version,
        "description": about.description + (f" {forced}" if forced else ""),
        "datePublished": certificate["released"],
        "license": {"@id": "#licence"},
        "author": {"@id": people[0]} if len(people) == 1 else [{"@id": name} for name in people],
        "publisher": {"@id": "#publisher"},
        "keywords": ", ".join(about.keywords) or "synthetic, MRI",
        "identifier": about.doi or f"urn:understudy:{sha256_json(certificate)}",
        "hasPart": [{"@id": name} for name in parts],
        "mentions": {"@id": "#release"},
    }


def _around(about: About, certificate: dict[str, Any]) -> list[dict[str, Any]]:
    """Licence, publisher, program, and how it came about."""
    signer = certificate["decision"]["by"]
    what = "flagged slices taken out" if certificate["kind"] == "slices" else "weights asked (white-box check)"
    return [
        {
            "@id": "#licence",
            "@type": "CreativeWork",
            "name": about.licence,
            "description": "The licence; the file LICENSE has it with the sources' terms and the forbidden uses",
            **({"url": about.licence_url} if about.licence_url else {}),
        },
        {
            "@id": "#publisher",
            "@type": "Organization",
            "name": about.publisher,
            "contactPoint": {"@id": "#contact"},
            **({"url": about.publisher_url} if about.publisher_url else {}),
        },
        {
            "@id": "#contact",
            "@type": "ContactPoint",
            "contactType": "release",
            "name": about.contact,
            **({"email": about.contact} if "@" in about.contact else {}),
        },
        {
            "@id": "#steward",
            "@type": "Person",
            "name": signer["name"],
            "jobTitle": signer["role"],
            **_affiliated(signer.get("organisation", "")),
        },
        *_organisations(about, signer),
        {"@id": "#understudy", "@type": "SoftwareApplication", "name": "Understudy", "version": __version__},
        {
            "@id": "#release",
            "@type": "CreateAction",
            "name": f"Audit, {what}, release",
            "description": certificate["audit"]["verdict"]["headline"],
            "agent": {"@id": "#steward"},
            "instrument": {"@id": "#understudy"},
            "result": {"@id": ROOT},
            "endTime": certificate["released"],
        },
    ]


def _suffix(name: str) -> str:
    last = name.rsplit("/", 1)[-1]
    return f".{last.rsplit('.', 1)[1]}" if "." in last else ""
