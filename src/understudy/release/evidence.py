"""The evidence for others: the audit's section and pictures of synthetic slices. No real picture, no patient."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import ChoiceLoader, DictLoader, Environment, PackageLoader, StrictUndefined

from understudy.release.documents import stamp
from understudy.release.forms import About, Decision
from understudy.report.audit_section import make_audit_section
from understudy.report.data import ReportData
from understudy.report.gallery import make_gallery
from understudy.report.pictures import colours

_PAGE = """{% from "macros.html.j2" import block, legend with context %}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ about.title }}: evidence</title><style>{{ style | safe }}</style></head><body>
{% if forced %}<p class="banner" role="note"><strong>{{ forced }}</strong></p>{% endif %}
<header><p class="eyebrow">Evidence of a release, version {{ about.version }}, {{ c.released }}</p><h1>{{
about.title }}</h1>
<dl class="facts">{% for name, value in facts %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}</dl>
<nav aria-label="Contents"><a href="#left">What is left</a> <a href="#pictures">Pictures</a> <a
href="#copies">The audit</a></nav></header>
<main><section id="left"><h2>What is left after the audit</h2>
<p>{{ c.audit.before }} slices were audited; {{ c.audit.flagged }} flagged ones and {{ c.audit.alike }}
near-duplicates of them were taken out, {{ c.data.slices }} are here.</p>
<p><strong>{{ c.audit.verdict.headline }}</strong></p>
<p>Decision of {{ decision.date }}: {{ decision.decision | replace("_", " ") }}, by {{ decision.by.name }}, {{
decision.by.role }}. Thresholds were set on {{ decision.thresholds.set_on }}, before looking: quantile {{
decision.thresholds.quantile }}, at most {{ "%.2f" | format(100 * decision.thresholds.most_flagged) }} %
flagged.</p>
<p>This page shows synthetic slices only. {{ about.known_defects }}</p></section>
<section id="pictures"><h2>Pictures</h2>{{ legend(classes) }}
{% for b in gallery.random %}{{ block(b) }}{% endfor %}
{% for s in gallery.sheets %}<figure><img src="{{ s.src }}" alt="{{ s.alt }}"></figure>{% endfor %}</section>
{% include "audit.html.j2" %}
</main><footer><p>Understudy {{ c.software_version }}. Check this package: understudy verify
PACKAGE.</p></footer></body></html>
"""


def evidence(about: About, decision: Decision, certificate: dict[str, Any], slices: Path, audit: Path) -> str:
    """The page; `slices` is what is released, `audit` the folder of the audit."""
    name = ", ".join(certificate["data"]["generators"]) or "synthetic"
    data = ReportData(
        about.title,
        {},
        pd.DataFrame(),
        synthetic={name: slices},
        audits={name: audit},
        show_patient_ids=False,
    )
    gallery = make_gallery(data)
    loader = ChoiceLoader([DictLoader({"page": _PAGE}), PackageLoader("understudy.report", "templates")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    facts = [
        ("Slices", f"{certificate['data']['slices']:,}"),
        ("Size", f"{certificate['data']['resolution']} pixels"),
        ("Channels", ", ".join(certificate["data"]["channels"])),
        ("Licence", about.licence),
    ]
    style = files("understudy.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return environment.get_template("page").render(
        about=about,
        decision=decision,
        c=certificate,
        facts=facts,
        style=style,
        gallery=gallery,
        forced=stamp(certificate),
        classes=list(zip(gallery.classes, colours(len(gallery.classes)), strict=True)),
        audit=make_audit_section(data),
    )
