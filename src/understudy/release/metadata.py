"""Metadata for programs: RO-Crate 1.1, and Croissant 1.1 with its responsible-AI vocabulary (RAI 1.0)."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from understudy import __version__
from understudy.io.files import sha256_json
from understudy.release.documents import stamp
from understudy.release.forms import About

ROOT = "./"
_FORMATS = {
    ".md": "text/markdown",
    ".html": "text/html",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".cff": "application/yaml",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    "": "text/plain",
}
_CROISSANT = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet format"
    " includes isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace"
    " samplingRate separator source subField transform"
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{name: f"cr:{name}" for name in _CROISSANT.split()},
}
_COLUMNS = {
    "id": "Name of the slice",
    "generator": "Which generator it was sampled from",
    "seed": "Of the sampling",
    "p": "Conformal p-value of the audit: how unusual its nearness to a training slice is among new patients",
    "sha256": "SHA-256 (hex) of image [C, H, W] and labels [H, W], uint8",
}
_FILES = {  # layout -> media type and pattern
    "png": ("image/png", "data/**/*.png"),
    "nnunet": ("image/png", "data/**/*.png"),
    "nifti": ("application/gzip", "data/**/*.nii.gz"),
    "webdataset": ("application/x-tar", "data/*.tar"),
    "sliceset": ("application/octet-stream", "data/**"),
}


def ro_crate(
    about: About, certificate: dict[str, Any], files: dict[str, str], folders: dict[str, str]
) -> dict[str, Any]:
    """ro-crate-metadata.json.

    Args:
        files: path of each document -> what it is.
        folders: path of each folder of data, with a slash behind -> what it holds.
    """
    forced, signer = stamp(certificate), certificate["decision"]["by"]
    parts = [
        {"@id": name, "@type": "File", "name": what, "encodingFormat": _FORMATS[PurePosixPath(name).suffix]}
        for name, what in files.items()
    ]
    parts += [{"@id": name, "@type": "Dataset", "name": what, "description": what} for name, what in folders.items()]
    people = [
        {"@id": f"#creator-{i}", "@type": "Person", "name": n, **_affiliated(about.affiliation)}
        for i, n in enumerate(about.creators, start=1)
    ]
    authors = [{"@id": p["@id"]} for p in people]
    root = {
        "@id": ROOT,
        "@type": "Dataset",
        "name": about.title,
        "version": about.version,
        "description": about.description + (f" {forced}" if forced else ""),
        "datePublished": certificate["released"],
        "license": {"@id": "#licence"},
        "author": authors[0] if len(authors) == 1 else authors,
        "publisher": {"@id": "#publisher"},
        "keywords": ", ".join(about.keywords) or "synthetic, MRI",
        "identifier": about.doi or f"urn:understudy:{sha256_json(certificate)}",
        "hasPart": [{"@id": p["@id"]} for p in parts],
        "mentions": {"@id": "#release"},
    }
    specification = {"@id": "https://w3id.org/ro/crate/1.1"}
    itself = {"@id": "ro-crate-metadata.json", "@type": "CreativeWork", "about": {"@id": ROOT},
              "conformsTo": specification}  # fmt: skip
    licence = {"@id": "#licence", "@type": "CreativeWork", "name": about.licence, "url": about.licence_url,
               "description": "LICENSE holds it, with the sources' terms and the forbidden uses"}  # fmt: skip
    publisher = {"@id": "#publisher", "@type": "Organization", "name": about.publisher, "url": about.publisher_url,
                 "contactPoint": {"@id": "#contact"}}  # fmt: skip
    contact = {"@id": "#contact", "@type": "ContactPoint", "contactType": "release", "name": about.contact,
               "email": about.contact if "@" in about.contact else ""}  # fmt: skip
    steward = {"@id": "#steward", "@type": "Person", "name": signer["name"], "jobTitle": signer["role"],
               **_affiliated(signer.get("organisation", ""))}  # fmt: skip
    names = dict.fromkeys([about.affiliation, signer.get("organisation", "")])
    organisations = [{"@id": f"#{quote(n)}", "@type": "Organization", "name": n} for n in names if n]
    program = {"@id": "#understudy", "@type": "SoftwareApplication", "name": "Understudy", "version": __version__}
    what = "flagged slices taken out" if certificate["kind"] == "slices" else "membership inference on the weights"
    action = {
        "@id": "#release",
        "@type": "CreateAction",
        "name": f"Audit, {what}, release",
        "description": certificate["audit"]["verdict"]["headline"],
        "agent": {"@id": "#steward"},
        "instrument": {"@id": "#understudy"},
        "result": {"@id": ROOT},
        "endTime": certificate["released"],
    }
    around: list[dict[str, Any]] = [licence, publisher, contact, steward, *organisations, program, action]
    graph = [itself, root, *parts, *people, *({k: v for k, v in entity.items() if v} for entity in around)]
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph}


def _affiliated(organisation: str) -> dict[str, Any]:
    return {"affiliation": {"@id": f"#{quote(organisation)}"}} if organisation else {}


def croissant(about: About, certificate: dict[str, Any], manifest_sha: str, columns: dict[str, str]) -> dict[str, Any]:
    """croissant.json of a package of slices; `columns`: name -> sc:Text, sc:Integer or sc:Float."""
    forced, (media, pattern) = stamp(certificate), _FILES[certificate["layout"]]
    manifest = {
        "@type": "cr:FileObject",
        "@id": "manifest.parquet",
        "name": "manifest.parquet",
        "description": "One row a slice",
        "contentUrl": "manifest.parquet",
        "encodingFormat": "application/x-parquet",
        "sha256": manifest_sha,
    }
    files = {"@type": "cr:FileSet", "@id": "files", "name": "files", "encodingFormat": media, "includes": pattern,
             "description": f"The slices, layout {certificate['layout']}"}  # fmt: skip
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"slices/{name}",
            "name": f"slices/{name}",
            "description": _COLUMNS.get(name, f"Pixels of the class {name.removeprefix('area.')}"),
            "dataType": kind,
            "source": {"fileObject": {"@id": "manifest.parquet"}, "extract": {"column": name}},
        }
        for name, kind in columns.items()
    ]
    records = {"@type": "cr:RecordSet", "@id": "slices", "name": "slices", "description": "One row a slice",
               "key": {"@id": "slices/id"}, "field": fields}  # fmt: skip
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": about.short_name,
        "alternateName": about.title,
        "description": about.description + (f" {forced}" if forced else ""),
        "version": about.version,
        "license": about.licence_url or about.licence,
        "url": about.doi or f"urn:understudy:{certificate['content']['root']}",
        "datePublished": certificate["released"],
        "creator": [{"@type": "sc:Person", "name": n} for n in about.creators],
        "publisher": {"@type": "sc:Organization", "name": about.publisher},
        "keywords": about.keywords,
        "citeAs": f"{about.citation}.",
        **_responsible(about, certificate, forced),
        "prov:wasDerivedFrom": about.sources,
        "distribution": [manifest, files],
        "recordSet": [records],
    }


def _responsible(about: About, certificate: dict[str, Any], forced: str) -> dict[str, Any]:
    """Where the slices come from, what was done to them, whom they may harm, what they are for."""
    audit = certificate["audit"]
    return {
        "rai:dataCollection": "Sampled from generative models that were trained on"
        f" {audit['training_slices']} slices of {audit['training_patients']} patients; no person is shown.",
        "rai:dataCollectionType": ["Synthetic"],
        "rai:hasSyntheticData": True,
        "rai:dataPreprocessingProtocol": [
            f"{audit['before']} slices were audited; {audit['flagged']} flagged as near-copies of training patients and"
            f" {audit['alike']} near-duplicates of them were removed. Rule: {audit['rule']}"
        ],
        "rai:dataAnnotationProtocol": ["Annotations were generated together with the images."],
        "rai:machineAnnotationTools": [*certificate["data"]["generators"], f"Understudy {__version__}"],
        "rai:dataLimitations": [about.known_defects, *audit["verdict"]["limits"]],
        "rai:dataBiases": [f"Those of the sources: {s}" for s in about.sources],
        "rai:dataSocialImpact": f"Forbidden: {about.forbidden_uses}",
        "rai:personalSensitiveInformation": [audit["verdict"]["headline"], *([forced] if forced else [])],
        "rai:dataUseCases": [about.purpose],
        "rai:dataReleaseMaintenancePlan": about.maintenance,
    }
