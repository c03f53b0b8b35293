"""What a screen reader and a dark room need of the report: names, order of headings, landmarks, contrast."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from understudy.report.data import ReportData
from understudy.report.page import build_report

CSS = files("understudy.report").joinpath("templates/report.css").read_text(encoding="utf-8")
GROUNDS = {  # ground -> colours of words on it
    "paper": ("ink", "quiet", "link", "yes", "no", "open"), "soft": ("ink", "quiet", "link"),
    "yes-tint": ("ink", "link"), "no-tint": ("ink", "link"), "open-tint": ("ink", "link", "open"),
}  # fmt: skip


class Page(HTMLParser):
    """Faults of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.faults: list[str] = []
        self.words: str | None = None  # of a header cell that is open
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "th":
            self.words = ""
        if tag == "img" and not given.get("alt"):
            self.faults.append("a picture without words")
        if tag == "html" and given.get("lang") != "en":
            self.faults.append("no language")
        if given.get("role") == "region" and not (given.get("aria-label") and given.get("tabindex") == "0"):
            self.faults.append("a region that has no name, or that a keyboard cannot reach")

    def handle_data(self, data: str) -> None:
        if self.words is not None:
            self.words += data.strip()

    def handle_endtag(self, tag: str) -> None:
        if tag == "th":
            self.faults += [] if self.words else ["a header cell without words"]
            self.words = None


@pytest.fixture(scope="module")
def pages(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("report")
    return [build_report(study, out), *sorted((out / "tables").glob("*.html"))]


def test_every_picture_header_and_region_has_words_and_headings_skip_no_level(pages: list[Path]) -> None:
    assert len(pages) > 5
    for path in pages:
        page = Page(path.read_text(encoding="utf-8"))
        assert not page.faults, path
        assert page.levels[0] == 1, path
        assert page.levels.count(1) == 1, path
        assert all(b - a <= 1 for a, b in pairwise(page.levels)), path
        assert "main" in page.tags, path


def test_a_page_with_faults_is_noticed() -> None:
    bad = Page('<html><img src="x"><th scope="col"></th><div role="region">x</div></html>')
    assert len(bad.faults) == 4


def schemes() -> Iterator[dict[str, str]]:
    """Colours by name, in the light and in the dark."""
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", block)) for block in CSS.split(":root {")[1:3])
    yield light
    yield {**light, **dark}


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("colours", schemes(), ids=["light", "dark"])
def test_words_have_the_contrast_of_wcag_aa(colours: dict[str, str]) -> None:
    for ground, words in GROUNDS.items():
        for name in words:
            low, high = sorted(luminance(colours[key]) for key in (ground, name))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, name)
