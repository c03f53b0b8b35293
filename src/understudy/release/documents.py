"""The documents of a package: README, datasheet (Gebru et al. 2021), model card (Mitchell et al. 2019), ..."""

from __future__ import annotations

from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy.names import display_name, percent
from understudy.release.forms import About, Decision

MODEL = "model"  # folder of the weights in a package
_LAYOUTS = {
    "sliceset": "a slice set of Understudy (Zarr 3 and `index.parquet`)",
    "png": "PNG files, one a channel: `data/CHANNEL/ID_CHANNEL.png`, the annotation in `data/Seg`",
    "nifti": "NIfTI files, one a channel: `data/CHANNEL/ID_CHANNEL.nii.gz`, the annotation in `data/seg`",
    "nnunet": "a raw dataset of nnU-Net v2 (`imagesTr`, `labelsTr`, `dataset.json`, folds)",
    "webdataset": "WebDataset shards: tar files with PNG files and a JSON file for each slice",
}
_CODED = {"png", "nifti", "webdataset"}  # layouts whose annotations are grey values, not class indices
_HUGGING_FACE = {  # its names for licences
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "CC0 1.0": "cc0-1.0",
    "APACHE 2.0": "apache-2.0",
    "MIT": "mit",
}
_NOT_SHOWN = {"kind", "annotation"}  # of the recipe


def stamp(certificate: dict[str, Any]) -> str:
    """What stands on every document of a release that was forced; "" otherwise."""
    forced = certificate.get("override")
    if not forced:
        return ""
    against = "; ".join(forced["against"]) or "nothing"
    return f"RELEASED AGAINST THE GATE. Reason given: {forced['reason']}. What spoke against it: {against}."


def signed(decision: Decision) -> str:
    """Who decided, and on which thresholds, in one paragraph."""
    limits, by = decision.thresholds, decision.by
    agreed = f"quantile {limits.quantile}, at most {limits.most_flagged:.2%} flagged"
    if limits.most_auc is not None:
        agreed += f", AUC of membership inference at most {limits.most_auc}"
    whom = ", ".join(x for x in (by.name, by.role, by.organisation) if x)
    paragraph = (
        f"Decision of {decision.date}: {decision.decision.replace('_', ' ')}, by {whom}. The thresholds ({agreed}) were"
        f" agreed on {limits.set_on}, before anyone had seen the result, as the signer states."
    )
    seen = f"What the closest pairs show: {decision.gallery.rstrip('.')}." if decision.gallery else ""
    return " ".join(part for part in (paragraph, seen, decision.remarks) if part)


def slice_documents(about: About, decision: Decision, certificate: dict[str, Any]) -> dict[str, str]:
    """README.md, DATASHEET.md, LICENSE, CITATION.cff and aida.md of a package of slices: name -> text."""
    data, layout = certificate["data"], certificate["layout"]
    greys = [c["code"] if layout in _CODED else i for i, c in enumerate(data["classes"])]
    named = [f"{grey} {c['name']}" for grey, c in zip(greys, data["classes"], strict=True)]
    fields = {"data": data, "layout": _LAYOUTS[layout], "greys": greys} | _common(about, decision, certificate, data)
    return {
        "README.md": _render("README.md.j2", codes=", ".join(named) if layout in _CODED else "", **fields),
        "DATASHEET.md": _render("DATASHEET.md.j2", **fields),
        "LICENSE": _licence(about, "These slices are synthetic. They were made by a generator"),
        "CITATION.cff": _citation(about, certificate["released"], "dataset"),
        "aida.md": _aida(about, certificate),
    }


def model_documents(
    about: About, decision: Decision, certificate: dict[str, Any], config: dict[str, Any]
) -> dict[str, str]:
    """README.md (model card with the front matter of Hugging Face), LICENSE and CITATION.cff of a package of weights.

    Args:
        config: the configuration that goes with the weights.
    """
    model, evaluation = certificate["model"], certificate["evaluation"]
    shown = {"model": config["model"], "training": config.get("training", {})}
    recipe = {k: {n: x for n, x in v.items() if n not in _NOT_SHOWN} for k, v in shown.items()}
    card = _render(
        "model_card.md.j2", front_matter=_front_matter(about, certificate), model=model, config=config, folder=MODEL,
        evaluation=evaluation, kind=display_name(model["kind"]), recipe=yaml.safe_dump(recipe, sort_keys=True),
        **_common(about, decision, certificate, model),
    )  # fmt: skip
    return {
        "README.md": card,
        "LICENSE": _licence(about, "These are the weights of a generator of synthetic slices"),
        "CITATION.cff": _citation(about, certificate["released"], "software"),
    }


def _common(about: About, decision: Decision, certificate: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    classes, audit = [c["name"] for c in data["classes"][1:]], certificate["audit"]
    return {"about": about, "certificate": certificate, "audit": audit, "forced": stamp(certificate),
            "signed": signed(decision), "classes": classes, "year": certificate["released"][:4]}  # fmt: skip


def _render(template: str, **fields: Any) -> str:
    loader = PackageLoader("understudy.release")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "commas": "{:,}".format,
        "percent": lambda share: percent(share, 0),
        "bullets": lambda lines: "\n".join(f"- {line}" for line in lines),
    }
    return environment.get_template(template).render(**fields)


def _front_matter(about: About, certificate: dict[str, Any]) -> str:
    """The YAML of a model card that Hugging Face reads."""
    kind, evaluation = certificate["model"]["kind"], certificate["evaluation"]
    known = _HUGGING_FACE.get(about.licence.upper())
    fields: dict[str, Any] = {"license": known or "other"}
    if known is None:
        fields |= {"license_name": about.licence, "license_link": about.licence_url or "LICENSE"}
    fields |= {
        "library_name": "understudy-mri",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["mri", "medical-imaging", "synthetic-data", "segmentation", kind, *about.keywords],
    }
    if evaluation:
        task = {"type": "image-segmentation", "name": "Segmenter trained with samples of it"}
        data = {"type": "private", "name": f"{evaluation['patients']} test patients of the publisher's study"}
        metrics = [
            {
                "type": "relative_dice",
                "name": f"Dice relative to real slices: {c['label']}",
                "value": c["relative_dice"],
            }
            for c in evaluation["comparisons"]
            if c["relative_dice"] is not None
        ]
        results = {"task": task, "dataset": data, "metrics": metrics}
        fields["model-index"] = [{"name": about.title, "results": [results]}]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _licence(about: About, what: str) -> str:
    """The LICENSE file; `what` begins the sentence on what was trained."""
    sources = "\n".join(f"  - {s}" for s in about.sources)
    return (
        f"{about.title}, version {about.version}\n\nLicence: {about.licence}\n{about.licence_url}\n\n{what} that was"
        f" trained on\n{sources}\nwhose terms, as {about.publisher} has confirmed, allow this release and still hold."
        f"\n\nForbidden: {about.forbidden_uses}\n"
    )


def _citation(about: About, date: str, kind: str) -> str:
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


def _aida(about: About, certificate: dict[str, Any]) -> str:
    """The front matter of a record of AIDA data hub, as its own records have it."""
    data, released, forced = certificate["data"], certificate["released"], stamp(certificate)
    datacite = {
        "@context": "http://schema.org",
        "@type": "Dataset",
        "@id": about.doi or "",
        "name": about.title,
        "about": "Radiology",
        "author": [{"@type": "Person", "name": n} for n in about.creators],
        "publisher": about.publisher,
        "copyrightYear": released[:4],
        "copyrightHolder": about.publisher,
        "provider": [{"name": about.publisher, "email": about.contact}],
        "datePublished": released,
        "keywords": about.keywords,
        "version": about.version,
        "description": about.description,
        "license": [about.licence],
        "citation": about.sources,
    }
    other = {
        "shortName": about.short_name,
        "origin": "Synthetic",
        "status": "Complete",
        "annotation": ", ".join(c["name"] for c in data["classes"][1:]),
        "numberOfScans": f"{data['slices']} {len(data['channels'])}-channel MR images",
        "numberOfAnnotations": data["slices"],
        "modality": ["MR"],
        "resolution": "x".join(f"{s:g}" for s in data["spacing"]) + " mm" if data["spacing"] else "not recorded",
    }
    record = {"hidden": True, "synthetic": True, "datacite": datacite, "other": other}
    body = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
    return f"---\n{body}---\n\n{forced}\n" if forced else f"---\n{body}---\n"
