"""The documents of a package, for people and for programs, from the templates in `templates/`.

Datasheet: Gebru et al. 2021. Model card: Mitchell et al. 2019, with Hugging Face's front matter. RO-Crate 1.1,
Croissant 1.1 with RAI 1.0, CITATION.cff 1.2.0, a record of AIDA data hub.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy.io.files import sha256_json
from understudy.names import display_name, percent
from understudy.release.forms import About, Decision

MODEL = "model"  # folder of the weights in a package
_LAYOUTS = {  # words, media type, and pattern of the files
    "sliceset": ("a slice set of Understudy (Zarr 3 and `index.parquet`)", "application/octet-stream", "data/**"),
    "png": ("PNG files, one a channel: `data/CHANNEL/ID_CHANNEL.png`, the annotation in `data/Seg`",
            "image/png", "data/**/*.png"),
    "nifti": ("NIfTI files, one a channel: `data/CHANNEL/ID_CHANNEL.nii.gz`, the annotation in `data/seg`",
              "application/gzip", "data/**/*.nii.gz"),
    "nnunet": ("a raw dataset of nnU-Net v2 (`imagesTr`, `labelsTr`, `dataset.json`, folds)",
               "image/png", "data/**/*.png"),
    "webdataset": ("WebDataset shards: tar files with PNG files and a JSON file for each slice",
                   "application/x-tar", "data/*.tar"),
}  # fmt: skip
_CODED = {"png", "nifti", "webdataset"}  # layouts whose annotations are grey values, not class indices
_COLUMNS = {  # of the manifest
    "id": "Name of the slice",
    "generator": "Which generator it was sampled from",
    "seed": "Of the sampling",
    "p": "Conformal p-value of the audit: how unusual its nearness to a training slice is among new patients",
    "sha256": "SHA-256 (hex) of image [C, H, W] and labels [H, W], uint8",
}
_MEDIA = {
    ".md": "text/markdown",
    ".html": "text/html",
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".cff": "application/yaml",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    "": "text/plain",
}
_HUGGING_FACE = {  # its names for licences
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "apache-2.0", "mit"
}  # fmt: skip


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
    codes = ", ".join(named) if layout in _CODED else ""
    fields = {"signed": signed(decision), "layout": _LAYOUTS[layout][0], "greys": greys, "codes": codes}
    names = ("README.md", "DATASHEET.md", "LICENSE", "CITATION.cff", "aida.md")
    return {name: _render(f"{name}.j2", about, certificate, **fields) for name in names}


def model_documents(
    about: About, decision: Decision, certificate: dict[str, Any], config: dict[str, Any]
) -> dict[str, str]:
    """README.md (model card), LICENSE and CITATION.cff of a package of weights with the configuration `config`."""
    model = certificate["model"]
    parts = {"model": config["model"], "training": config.get("training", {})}
    recipe = {k: {n: x for n, x in v.items() if n not in ("kind", "annotation")} for k, v in parts.items()}
    licence = about.licence.lower().replace(" ", "-")
    fields = {"model": model, "config": config, "folder": MODEL, "evaluation": certificate["evaluation"],
              "signed": signed(decision), "recipe": yaml.safe_dump(recipe, sort_keys=True),
              "hugging_face": licence if licence in _HUGGING_FACE else None}  # fmt: skip
    templates = {"README.md": "model_card.md.j2", "LICENSE": "LICENSE.j2", "CITATION.cff": "CITATION.cff.j2"}
    return {name: _render(template, about, certificate, **fields) for name, template in templates.items()}


def croissant(about: About, certificate: dict[str, Any], manifest: pd.DataFrame) -> dict[str, Any]:
    """croissant.json of a package of slices."""
    kinds = {"i": "sc:Integer", "f": "sc:Float"}
    columns = [
        (name, kinds.get(manifest[name].dtype.kind, "sc:Text"),
         _COLUMNS.get(name, f"Pixels of the class {name.removeprefix('area.')}"))
        for name in map(str, manifest)
    ]  # fmt: skip
    _, media, pattern = _LAYOUTS[certificate["layout"]]
    text = _render("croissant.json.j2", about, certificate, columns=columns, media=media, pattern=pattern)
    return dict(json.loads(text))


def ro_crate(
    about: About, certificate: dict[str, Any], files: dict[str, str], folders: dict[str, str]
) -> dict[str, Any]:
    """ro-crate-metadata.json; `files` and `folders` (with a slash behind) map a path to what it holds."""
    parts = [
        {"@id": name, "@type": "File", "name": what, "encodingFormat": _MEDIA[PurePosixPath(name).suffix]}
        for name, what in files.items()
    ]
    parts += [{"@id": name, "@type": "Dataset", "name": what, "description": what} for name, what in folders.items()]
    fields = {"parts": parts, "people": about.creators, "signer": {"organisation": ""} | certificate["decision"]["by"],
              "identifier": sha256_json(certificate),
              "affiliation": lambda name: {"@id": f"#{quote(name)}"} if name else None}  # fmt: skip
    crate = json.loads(_render("ro-crate.json.j2", about, certificate, **fields))
    crate["@graph"] = [{k: v for k, v in entity.items() if v} for entity in crate["@graph"]]
    return dict(crate)


def _render(template: str, about: About, certificate: dict[str, Any], **fields: Any) -> str:
    data = certificate.get("data") or certificate["model"]
    environment = Environment(
        loader=PackageLoader("understudy.release"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "bullets": lambda lines: "\n".join(f"- {line}" for line in lines),
        "commas": "{:,}".format,
        "display_name": display_name,
        "json": partial(json.dumps, ensure_ascii=False),  # YAML as well, of which JSON is a part
        "percent": partial(percent, digits=0),
    }
    return environment.get_template(template).render(
        about=about, certificate=certificate, audit=certificate["audit"], data=data, forced=stamp(certificate),
        classes=[c["name"] for c in data["classes"][1:]], year=certificate["released"][:4], **fields,
    )  # fmt: skip
