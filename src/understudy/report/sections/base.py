"""A section of the page: blocks from top to bottom, and what it adds to the files and to `report.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.report.plots.style import Panel
from understudy.report.tables.base import Table


@dataclass(frozen=True)
class Text:
    # a paragraph in a style of its own: "missing" (what is not there), "quiet", "verdict"
    text: str
    css: str


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str | Sequence[str]]  # words, or (what they are about, words)


@dataclass(frozen=True)
class Figure:
    panels: Sequence[Panel]  # beside each other
    caption: str = ""


@dataclass(frozen=True)
class Details:
    summary: str  # a line that the reader opens
    blocks: Sequence[Block]
    open: bool = False


@dataclass(frozen=True)
class Html:
    template: str  # below `templates/`
    values: Mapping[str, Any]  # `v` in the template


Block = str | Table | Text | Heading | Bullets | Figure | Details | Html


@dataclass(frozen=True)
class Section:
    key: str  # its anchor
    title: str
    nav: str  # its word in the contents of the page, "" for none
    blocks: Sequence[Block]  # from top to bottom
    numbers: Mapping[str, Any] = field(default_factory=dict)  # its keys of report.json
    tables: Sequence[Table] = ()  # written, but not shown
    panels: Sequence[Panel] = ()  # written, but not shown
    private: Sequence[Panel] = ()  # figures that show slices, written to figures/private
    css: str = ""  # class of its element

    @property
    def every_table(self) -> list[Table]:
        """All that are written as files."""
        return [*(b for b in _walk(self.blocks) if isinstance(b, Table)), *self.tables]

    @property
    def every_panel(self) -> list[Panel]:
        """All that are written as files and show no slice."""
        shown = [p for b in _walk(self.blocks) if isinstance(b, Figure) for p in b.panels]
        return [p for p in [*shown, *self.panels] if p.key]


def _walk(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield from _walk(block.blocks) if isinstance(block, Details) else [block]


def missing(sentences: Sequence[str]) -> list[Text]:
    """Paragraphs about what is not there."""
    return [Text(s, "missing") for s in sentences]


def shown(*blocks: Block | None) -> list[Block]:
    """The blocks that there are: without None, empty words and figures without plots."""
    return [b for b in blocks if b is not None and b != "" and not (isinstance(b, Figure) and not b.panels)]
