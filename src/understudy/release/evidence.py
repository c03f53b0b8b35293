"""evidence.html and sheets of slices: the audit and pictures of synthetic slices. No real picture, no patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import PackageLoader
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from understudy.release.documents import signed, stamp
from understudy.release.forms import About, Decision
from understudy.report.content import read_audits
from understudy.report.data import ReportData
from understudy.report.plots import slices as plots
from understudy.report.plots.gallery import make_gallery
from understudy.report.render import render
from understudy.report.sections.copies import copies

Pixels = NDArray[np.uint8]
SHOWN = 12  # slices on a sheet
_LINE = 18  # pixels of a line of words


def evidence(about: About, decision: Decision, certificate: dict[str, Any], slices: Path, audit: Path) -> str:
    """The page of a package of slices; `slices` is what is released, `audit` the folder of the audit."""
    c, data = certificate["audit"], certificate["data"]
    name = ", ".join(data["generators"]) or "synthetic"
    report = ReportData(
        about.title, {}, pd.DataFrame(), synthetic={name: slices}, audits={name: audit}, show_patient_ids=False
    )
    gallery = make_gallery(report)
    removed = ", the flagged ones among them, which are not in this package." if c["flagged"] else ": those here."
    return _render(
        about, certificate, report, decision, data,
        heading="What is left after the audit",
        second=f"{c['before']:,} slices were audited; {c['flagged']:,} flagged ones and {c['alike']:,} near-duplicates"
        f" of them were taken out, {c['released']:,} are here.",
        facts=[("Slices", f"{data['slices']:,}")],
        drawn=" from those that are here",
        audited=f"All {c['before']:,} slices{removed}",
        gallery=gallery,
        classes=list(zip(gallery.classes, plots.colours(len(gallery.classes)), strict=True)),
    )  # fmt: skip


def model_evidence(
    about: About, decision: Decision, certificate: dict[str, Any], picture: Image.Image, audit: Path
) -> str:
    """The page of a package of weights; `picture` shows samples that were not flagged."""
    c, model = certificate["audit"], certificate["model"]
    report = ReportData(about.title, {}, pd.DataFrame(), audits={model["kind"]: audit}, show_patient_ids=False)
    return _render(
        about, certificate, report, decision, model,
        heading="Samples and weights",
        second=certificate["white_box"]["words"],
        facts=[("Weights", f"{model['weights']['parameters']:,}")],
        drawn=" from those that the audit did not flag",
        audited=f"{c['judged']:,} samples of exactly these weights, {c['flagged']:,} of them flagged.",
        picture=plots.png(np.asarray(picture)),
    )  # fmt: skip


def _render(
    about: About, certificate: dict[str, Any], report: ReportData, decision: Decision, data: dict[str, Any],
    second: str, facts: list[tuple[str, str]], **fields: Any,
) -> str:  # fmt: skip
    size, channels = f"{data['resolution']} pixels", ", ".join(data["channels"])
    return render(
        "evidence.html.j2",
        PackageLoader("understudy.release"),
        about=about,
        released=certificate["released"],
        version=certificate["software_version"],
        forced=stamp(certificate),
        paragraphs=[certificate["audit"]["verdict"]["headline"], second, signed(decision),
                    f"Known defects: {about.known_defects}"],
        facts=[*facts, ("Size", size), ("Channels", channels), ("Licence", about.licence)],
        audit=copies(report, read_audits(report)),
        **{"gallery": None, "picture": "", "classes": [], **fields},
    )  # fmt: skip


def sheet(chosen: Sequence[tuple[Pixels, Pixels]], data: dict[str, Any]) -> Image.Image:
    """A picture of slices: for each its channels and its annotation, under headings.

    Args:
        chosen: image uint8 [C, H, W] and labels uint8 [H, W] of each slice.
        data: channels, classes, resolution and axes.
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
