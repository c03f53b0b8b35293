"""croissant.json: Croissant 1.1 with the fields of its responsible-AI vocabulary (RAI 1.0)."""

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
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_COLUMNS = {
    "id": "Name of the slice",
    "generator": "Which generator it was sampled from",
    "seed": "Of the sampling",
    "p": "Conformal p-value of the audit: how unusual its nearness to a training slice is among new patients",
    "sha256": "SHA-256 (hex) of image [C, H, W] and labels [H, W], uint8",
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


def croissant(about: About, certificate: dict[str, Any], manifest_sha: str, columns: dict[str, str]) -> dict[str, Any]:
    """croissant.json of a package of slices; `columns`: name -> sc:Text, sc:Integer or sc:Float."""
    forced = stamp(certificate)
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
        **_responsible(about, certificate),
        "prov:wasDerivedFrom": about.sources,
        "distribution": _distribution(certificate["layout"], manifest_sha),
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "slices",
                "name": "slices",
                "description": "One row a slice",
                "key": {"@id": "slices/id"},
                "field": [_field(name, kind) for name, kind in columns.items()],
            }
        ],
    }


def _responsible(about: About, certificate: dict[str, Any]) -> dict[str, Any]:
    """Where the slices come from, what was done to them, whom they may harm, what they are for."""
    audit, forced = certificate["audit"], stamp(certificate)
    removed = (
        f"{audit['before']} slices were audited; {audit['flagged']} flagged as near-copies of training patients and"
        f" {audit['alike']} near-duplicates of them were removed. Rule: {audit['rule']}"
    )
    return {
        "rai:dataCollection": "Sampled from generative models that were trained on"
        f" {audit['training_slices']} slices of {audit['training_patients']} patients; no person is shown.",
        "rai:dataCollectionType": ["Synthetic"],
        "rai:hasSyntheticData": True,
        "rai:dataPreprocessingProtocol": [removed],
        "rai:dataAnnotationProtocol": ["Annotations were generated together with the images."],
        "rai:machineAnnotationTools": [*certificate["data"]["generators"], f"Understudy {__version__}"],
        "rai:dataLimitations": [about.known_defects, *audit["verdict"]["limits"]],
        "rai:dataBiases": [f"Those of the sources: {s}" for s in about.sources],
        "rai:dataSocialImpact": f"Forbidden: {about.forbidden_uses}",
        "rai:personalSensitiveInformation": [audit["verdict"]["headline"], *([forced] if forced else [])],
        "rai:dataUseCases": [about.purpose],
        "rai:dataReleaseMaintenancePlan": about.maintenance,
    }


def _field(name: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"slices/{name}",
        "name": f"slices/{name}",
        "description": _COLUMNS.get(name, f"Pixels of the class {name.removeprefix('area.')}"),
        "dataType": kind,
        "source": {"fileObject": {"@id": "manifest.parquet"}, "extract": {"column": name}},
    }


def _distribution(layout: str, manifest_sha: str) -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:FileObject",
            "@id": "manifest.parquet",
            "name": "manifest.parquet",
            "description": "One row a slice",
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
    ]
