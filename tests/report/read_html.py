"""The cells of a table written as HTML."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any


def cells_of_html(text: str) -> list[list[str]]:
    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[list[str]] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag == "tr":
                self.rows.append([])
            elif tag in ("td", "th"):
                self.rows[-1].append("")

        def handle_data(self, data: str) -> None:
            if self.rows and self.rows[-1] and data.strip():
                self.rows[-1][-1] += data

    found = Cells()
    found.feed(text)
    return found.rows
