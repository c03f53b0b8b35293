"""Fenced blocks of the documentation and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"(?:<!-- not run: (?P<why>[^>]+?) -->\n)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"`(understudy [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: page, line, kind (sh, yaml, ...), text, and why it is not run ("" if it is)."""

    page: str
    line: int
    kind: str
    text: str
    why: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command in it, comments left out; several in a line are joined by &&."""
        joined = self.text.replace("\\\n", " ")
        words = [shlex.split(line, comments=True) for line in joined.splitlines()]
        found: list[list[str]] = []
        for line in words:
            found.append([])
            for word in line:
                if word == "&&":
                    found.append([])
                else:
                    found[-1].append(word)
        return [command for command in found if command]


def blocks(kind: str) -> list[Block]:
    """All blocks of a kind, page by page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            if match["kind"] == kind:
                line = text.count("\n", 0, match.start("text"))
                found.append(Block(page.relative_to(ROOT).as_posix(), line, kind, match["text"], match["why"] or ""))
    return found


def inline_commands() -> list[tuple[str, list[str]]]:
    """(page, words) of each `understudy ...` within a sentence or a table."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for match in _INLINE.finditer(text):
            found.append((page.relative_to(ROOT).as_posix(), shlex.split(match[1])))
    return found
