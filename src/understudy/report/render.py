"""Templates as pages that need nothing from outside."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined

from understudy.report.data import percent


def render(template: str, *loaders: BaseLoader, **values: Any) -> str:
    """A template of `templates/`, or of one of the loaders, with the style of all pages as `style`."""
    environment = Environment(
        loader=ChoiceLoader([*loaders, PackageLoader("understudy.report", "templates")]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = percent
    environment.tests["a"] = lambda block, name: type(block).__name__ == name  # which kind of block
    style = files("understudy.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style, **values)
