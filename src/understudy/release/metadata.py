"""Metadata for machines: Croissant 1.1 with responsible-AI fields, RO-Crate 1.1."""

from __future__ import annotations

from typing import Any

from understudy import __version__
from understudy.release.documents import stamp
from understudy.release.forms import About

_CROISSANT = "http://mlcommons.org/croissant/"
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": _CROISSANT,
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MIME = {
    "png": "image/png",
    "nnunet": "image/png",
    "nifti": "application/gzip",
    "webdataset": "application/x-tar",
    "sliceset": "application/octet-stream",
}
_GLOB = {
    "png": "data/**/*.png",
    "nnunet": "data/**/*.png",
    "nifti": "data/**/*.nii.gz",
    "webdataset": "data/*.tar",
    "sliceset": "data/**",
}


def croissant(
    about: About, certificate: dict[str, Any], manifest_sha: str, columns: dict[str, str]
) -> dict[str, Any]:
    """croissant.json; `columns`: name -> sc:Text, sc:Integer or sc:Float."""
    audit, forced, layout = certificate["audit"], stamp(certificate), certificate["layout"]
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"slices/{name}",
            "name": f"slices/{name}",
            "dataType": kind,
            "source": {"fileObject": {"@id": "manifest.parquet"}, "extract": {"column": name}},
        }
        for name, kind in columns.items()
    ]
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
        "citeAs": f"{', '.join(about.creators)}: {about.title}, version {about.version}. {about.publisher}.",
        "rai:dataCollection": "Sampled from trained generative models; no person is shown.",
        "rai:dataCollectionType": ["Synthetic"],
        "rai:hasSyntheticData": True,
        "rai:dataPreprocessingProtocol": [
            f"Slices flagged as near-copies of training patients were removed: {audit['rule']}"
        ],
        "rai:dataLimitations": [about.known_defects, *audit["verdict"]["limits"]],
        "rai:dataBiases": [f"Those of the sources: {s}" for s in about.sources],
        "rai:personalSensitiveInformation": [audit["verdict"]["headline"], *([forced] if forced else [])],
        "rai:dataUseCases": [about.purpose, f"Forbidden: {about.forbidden_uses}"],
        "rai:dataReleaseMaintenancePlan": about.maintenance,
        "prov:wasDerivedFrom": about.sources,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "manifest.parquet",
                "name": "manifest.parquet",
                "contentUrl": "manifest.parquet",
                "encodingFormat": "application/x-parquet",
                "sha256": manifest_sha,
            },
            {
                "@type": "cr:FileSet",
                "@id": "files",
                "name": "files",
                "description": f"The slices, layout {layout}",
                "encodingFormat": _MIME[layout],
                "includes": _GLOB[layout],
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "slices",
                "name": "slices",
                "key": {"@id": "slices/id"},
                "field": fields,
            }
        ],
    }


def ro_crate(about: About, certificate: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """ro-crate-metadata.json; `files`: path of each document -> what it is."""
    forced = stamp(certificate)
    parts = [{"@id": name, "@type": "File", "name": what} for name, what in files.items()]
    people = [
        {"@id": f"#creator-{i}", "@type": "Person", "name": n} for i, n in enumerate(about.creators, start=1)
    ]
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [
            {
                "@id": "ro-crate-metadata.json",
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "name": about.title,
                "version": about.version,
                "description": about.description + (f" {forced}" if forced else ""),
                "datePublished": certificate["released"],
                "license": {"@id": "LICENSE"},
                "author": [{"@id": p["@id"]} for p in people],
                "publisher": {"@id": "#publisher"},
                "hasPart": [{"@id": "data/"}, *({"@id": p["@id"]} for p in parts)],
                "mentions": {"@id": "#release"},
            },
            {
                "@id": "data/",
                "@type": "Dataset",
                "name": f"{certificate['data']['slices']} slices, layout {certificate['layout']}",
            },
            *parts,
            *people,
            {"@id": "#publisher", "@type": "Organization", "name": about.publisher, "email": about.contact},
            {
                "@id": "#understudy",
                "@type": "SoftwareApplication",
                "name": "Understudy",
                "version": __version__,
            },
            {
                "@id": "#release",
                "@type": "CreateAction",
                "name": "Audit, removal of flagged slices, release",
                "instrument": {"@id": "#understudy"},
                "result": {"@id": "./"},
                "endTime": certificate["released"],
            },
        ],
    }
