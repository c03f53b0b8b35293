"""The evidence for others: the audit's section and pictures of synthetic slices. No real picture, no patient."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import ChoiceLoader, DictLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from understudy.release.documents import signed, stamp
from understudy.release.forms import About, Decision
from understudy.report.data import ReportData
from understudy.report.plots.slices import colours, png
from understudy.report.sections.audit import make_audit_section
from understudy.report.sections.gallery import make_gallery

_PAGE = """{% from "macros.html.j2" import block, legend with context %}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ about.title }}: evidence</title><style>{{ style | safe }}</style></head><body>
{% if forced %}<p class="banner" role="note"><strong>{{ forced }}</strong></p>{% endif %}
<header><p class="eyebrow">Evidence of a release, version {{ about.version }}, {{ released }}</p><h1>{{
about.title }}</h1>
<dl class="facts">{% for name, value in facts %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}</dl>
<nav aria-label="Contents"><a href="#left">{{ heading }}</a> <a href="#pictures">Pictures</a> <a
href="#copies">The audit</a></nav></header>
<main><section id="left"><h2>{{ heading }}</h2>
{% for said in paragraphs %}<p>{% if loop.first %}<strong>{{ said }}</strong>{% else %}{{ said }}{% endif %}</p>
{% endfor %}</section>
<section id="pictures"><h2>Pictures</h2><p>Synthetic slices only, drawn at random{{ drawn }}. No picture on this page
shows a patient.</p>{% if gallery %}{{ legend(classes) }}
{% for b in gallery.random %}{{ block(b) }}{% endfor %}
{% for s in gallery.sheets %}<div class="sheets"><img src="{{ s.src }}" alt="{{ s.alt }}"></div>{% endfor %}
{% else %}<div class="sheets"><img src="{{ picture }}" alt="Synthetic slices with their annotations"></div>{% endif %}
</section>
{% if before %}<section><h2>What was audited</h2><p>{{ before }}</p></section>{% endif %}
{% include "audit.html.j2" %}
</main><footer><p>Understudy {{ version }}. Check this package: understudy verify
PACKAGE.</p></footer></body></html>
"""


def evidence(about: About, decision: Decision, certificate: dict[str, Any], slices: Path, audit: Path) -> str:
    """The page of a package of slices; `slices` is what is released, `audit` the folder of the audit."""
    c = certificate["audit"]
    data = _data(about, audit, ", ".join(certificate["data"]["generators"]) or "synthetic", slices)
    gallery = make_gallery(data)
    return _render(
        about,
        certificate,
        data,
        heading="What is left after the audit",
        paragraphs=[
            c["verdict"]["headline"],
            f"{c['before']:,} slices were audited; {c['flagged']:,} flagged ones and {c['alike']:,} near-duplicates of"
            f" them were taken out, {c['released']:,} are here.",
            signed(decision),
            f"Known defects: {about.known_defects}",
        ],
        facts=[("Slices", f"{certificate['data']['slices']:,}"), *_facts(about, certificate["data"])],
        drawn=" from those that are here",
        before=f"All {c['before']:,} slices"
        + (
            ", the flagged ones among them, which are not in this package."
            if c["flagged"]
            else ": those that are here."
        ),
        gallery=gallery,
        classes=list(zip(gallery.classes, colours(len(gallery.classes)), strict=True)),
    )


def model_evidence(
    about: About, decision: Decision, certificate: dict[str, Any], picture: Image.Image, audit: Path
) -> str:
    """The page of a package of weights; `picture` shows samples that were not flagged."""
    c, model = certificate["audit"], certificate["model"]
    return _render(
        about,
        certificate,
        _data(about, audit, model["kind"]),
        heading="Samples and weights",
        paragraphs=[
            c["verdict"]["headline"],
            certificate["white_box"]["words"],
            signed(decision),
            f"Known defects: {about.known_defects}",
        ],
        facts=[("Weights", f"{model['weights']['parameters']:,}"), *_facts(about, model)],
        drawn=" from those that the audit did not flag",
        before=f"{c['judged']:,} samples of exactly these weights, {c['flagged']:,} of them flagged.",
        picture=png(np.asarray(picture)),
    )


def _data(about: About, audit: Path, name: str, slices: Path | None = None) -> ReportData:
    return ReportData(
        about.title,
        {},
        pd.DataFrame(),
        synthetic={name: slices} if slices else {},
        audits={name: audit},
        show_patient_ids=False,
    )


def _facts(about: About, data: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Size", f"{data['resolution']} pixels"),
        ("Channels", ", ".join(data["channels"])),
        ("Licence", about.licence),
    ]


def _render(about: About, certificate: dict[str, Any], data: ReportData, **fields: Any) -> str:
    loader = ChoiceLoader([DictLoader({"page": _PAGE}), PackageLoader("understudy.report", "templates")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    style = files("understudy.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return environment.get_template("page").render(
        about=about,
        released=certificate["released"],
        version=certificate["software_version"],
        style=style,
        forced=stamp(certificate),
        audit=make_audit_section(data),
        **{"gallery": None, "picture": "", "classes": [], **fields},
    )
