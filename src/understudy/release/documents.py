"""The documents of a package, for people and for programs, from the templates in `templates/`; pictures of slices.

Datasheet: Gebru et al. 2021. Model card: Mitchell et al. 2019, with Hugging Face's front matter. RO-Crate 1.1,
Croissant 1.1 with RAI 1.0, CITATION.cff 1.2.0, a record of AIDA data hub. No real picture, no patient.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from understudy.io.files import sha256_json
from understudy.names import display_name, percent
from understudy.release.forms import About, Decision
from understudy.report.answer import POOREST_BASELINE
from understudy.report.content import read_audits
from understudy.report.data import ReportData
from understudy.report.page import render
from understudy.report.plots import slices as plots
from understudy.report.plots.gallery import make_gallery
from understudy.report.sections.copies import copies

Pixels = NDArray[np.uint8]
MODEL = "model"  # folder of the weights in a package
SHOWN = 12  # slices on a sheet
LITTLE = 0.5  # of the real slices' Dice
_LINE = 18  # pixels of a line of words
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
    "sha256": "SHA-256 (hex) of image [C, H, W] and labels [H, W], uint8",
}
_MEDIA = {
    ".md": "text/markdown", ".html": "text/html", ".json": "application/json", ".png": "image/png", "": "text/plain",
    ".parquet": "application/vnd.apache.parquet", ".cff": "application/yaml",
    ".safetensors": "application/octet-stream",
}  # fmt: skip
HUGGING_FACE = {  # its names for licences
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "apache-2.0", "mit"
}  # fmt: skip


def stamp(certificate: dict[str, Any]) -> str:
    """What stands on every document of a release that was forced, or whose thresholds came late; "" otherwise."""
    forced, marks = certificate.get("override"), []
    if forced:
        against = "; ".join(forced["against"]) or "nothing"
        marks = [f"RELEASED AGAINST THE GATE. Reason given: {forced['reason']}. What spoke against it: {against}."]
    if not certificate["decision"]["thresholds"]["before_looking"]:
        marks.append("The thresholds were set AFTER the audit's result had been seen.")
    return " ".join(marks)


def usefulness(certificate: dict[str, Any]) -> str:
    """What was measured of segmenters trained on the slices: the first line of a package."""
    found = certificate["evaluation"] or {}
    alone = [c for c in found.get("comparisons", []) if c.get("training") == "synthetic"]
    alone = [c for c in alone if c["relative_dice"] is not None]
    if alone and found["baseline_dice"] < POOREST_BASELINE:
        return (
            "Whether segmenters learn anything from these slices could not be told: those trained on the real slices"
            f" reached a mean Dice of only {found['baseline_dice']:.2f}."
        )
    if not alone:
        return (
            "Whether segmenters learn anything from these slices was not measured. That they passed the search for"
            " copies says nothing about it: slices that show nothing pass it as well."
        )
    best, before = alone[0], certificate["audit"].get("before")
    interval = "" if best["low"] is None else f" (95 % interval {percent(best['low'])} to {percent(best['high'])})"
    said = (
        f"Trained on such slices alone, a segmenter reached {percent(best['relative_dice'])}{interval} of the Dice of"
        f" one trained on real slices, on {found['patients']} test patients."
    )
    if best["relative_dice"] < LITTLE:
        said += " That is little: slices that show next to nothing pass the search for copies."
    whole = before is not None and before > certificate["audit"]["released"]
    return said + f" It was measured with all {before or 0:,}, before some were taken out." * whole


def signed(decision: Decision) -> str:
    """Who decided, and on which thresholds, in one paragraph."""
    limits, by = decision.thresholds, decision.by
    agreed = f"quantile {limits.quantile}, at most {limits.most_flagged:.2%} flagged"
    if limits.most_auc is not None:
        agreed += f", AUC of membership inference at most {limits.most_auc}"
    seen_before = "before" if limits.before_looking else "AFTER"
    whom = ", ".join(x for x in (by.name, by.role, by.organisation) if x)
    paragraph = (
        f"Decision of {decision.date}: {decision.decision.replace('_', ' ')}, by {whom}. The thresholds ({agreed}) were"
        f" agreed on {limits.set_on}, {seen_before} the result had been seen, as the signer states."
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
              "hugging_face": licence if licence in HUGGING_FACE else None}  # fmt: skip
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
        usefulness=usefulness(certificate), classes=[c["name"] for c in data["classes"][1:]],
        year=certificate["released"][:4], **fields,
    )  # fmt: skip


def evidence(
    about: About, decision: Decision, certificate: dict[str, Any], audit: Path, shown: Path | Image.Image
) -> str:
    """evidence.html; `shown` is the released slice set, or a picture of samples of released weights."""
    c, data = certificate["audit"], certificate.get("data") or certificate["model"]
    facts = [("Size", f"{data['resolution']} pixels"), ("Channels", ", ".join(data["channels"])),
             ("Licence", about.licence)]  # fmt: skip
    name = ", ".join(data["generators"]) or "synthetic" if "data" in certificate else data["kind"]
    sets = {name: shown} if isinstance(shown, Path) else {}
    report = ReportData(about.title, {}, pd.DataFrame(), synthetic=sets, audits={name: audit}, show_patient_ids=False)
    fields: dict[str, Any]
    if isinstance(shown, Path):
        gallery = make_gallery(report)
        classes = list(zip(gallery.classes, plots.colours(len(gallery.classes)), strict=True))
        gone = c["before"] > c["released"]
        removed = ", those among them that are not in this package." if gone else ": those here."
        fields = {"heading": "What is left after the audit", "drawn": " from those that are here",
                  "audited": f"All {c['before']:,} slices{removed}",
                  "gallery": gallery, "picture": "", "classes": classes}  # fmt: skip
        second = f"{c['before']:,} slices were audited, {c['released']:,} are here; taken out: {c['taken_out']}."
        facts.insert(0, ("Slices", f"{data['slices']:,}"))
    else:
        audited = f"{c['judged']:,} samples of exactly these weights, {c['flagged']:,} of them flagged."
        fields = {"heading": "Samples and weights", "drawn": " from those that the audit did not flag",
                  "audited": audited, "gallery": None, "classes": [],
                  "picture": plots.png(np.asarray(shown))}  # fmt: skip
        second = certificate["white_box"]["words"]
        facts.insert(0, ("Weights", f"{data['weights']['parameters']:,}"))
    return render(
        "evidence.html.j2", PackageLoader("understudy.release"), about=about, released=certificate["released"],
        version=certificate["software_version"], forced=stamp(certificate), facts=facts,
        paragraphs=[c["verdict"]["headline"], usefulness(certificate), second, signed(decision),
                    f"Known defects: {about.known_defects}"],
        audit=copies(report, read_audits(report)), **fields,
    )  # fmt: skip


def sheet(chosen: Sequence[tuple[Pixels, Pixels]], data: dict[str, Any]) -> Image.Image:
    """A picture of slices (uint8 [C, H, W], labels [H, W]): for each its channels and its annotation, under headings.

    `data`: channels, classes, resolution and axes, as in a certificate.
    """
    factor = max(1, 96 // data["resolution"])  # tiles of about 96 pixels
    classes = [c["name"] for c in data["classes"][1:]]
    windows = [plots.channel_window(np.stack(channel)) for channel in zip(*(image for image, _ in chosen), strict=True)]
    below = next((i for i, name in enumerate(data["channels"]) if "FLAIR" in name.upper()), 0)

    def tile(pixels: Pixels) -> Pixels:
        return plots.enlarged(plots.upright(pixels, data["axes"]), factor)

    tiles: list[Pixels] = []
    for image, labels in chosen:
        grey = [tile(plots.windowed(x, w)) for x, w in zip(image, windows, strict=True)]
        tiles += [np.repeat(g[..., None], 3, axis=-1) for g in grey]
        tiles.append(plots.overlay(grey[below], tile(labels), len(classes)))
    heads = [*data["channels"], "annotation"] * min(2, len(chosen))  # two slices side by side
    picture = plots.contact_sheet(tiles, len(heads))
    height, width = picture.shape[:2]
    page = Image.new("RGB", (width, height + 2 * _LINE), "white")
    page.paste(Image.fromarray(picture), (0, _LINE))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    step = width / len(heads)
    for i, name in enumerate(heads):  # above the columns
        while len(name) > 1 and font.getlength(name) > step - 4:
            name = name.removesuffix("…")[:-1] + "…"
        draw.text((i * step + 2, 2), name, "black", font)
    place = 2.0
    for name, colour in zip(classes, plots.colours(len(classes)), strict=True):  # below the picture
        draw.rectangle((place, height + _LINE + 4, place + 10, height + _LINE + 14), colour)
        draw.text((place + 14, height + _LINE + 2), name, "black", font)
        place += 28 + font.getlength(name)
    return page
