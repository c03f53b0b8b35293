"""Draws docs/images/architecture.svg from the code: the rooms in the layers of the import contract.

python docs/hooks/architecture.py
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections import defaultdict
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "understudy"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, GAP, MARGIN, LINE, LETTER = 960, 16, 16, 15, 6.6  # pixels


def layers() -> list[list[str]]:
    """The rooms of each layer, the top one first, from the first contract of pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip().removeprefix("understudy.") for name in layer.split("|")] for layer in found]


def imports(rooms: list[str]) -> dict[str, set[str]]:
    """Room -> rooms that its modules import, also inside functions."""
    edges: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(".".join(path.relative_to(PACKAGE).with_suffix("").parts), rooms)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("understudy"):
                base = (node.module or "").removeprefix("understudy").lstrip(".")
                targets = {room_of(f"{base}.{alias.name}".lstrip("."), rooms) for alias in node.names}
                edges[room or ""] |= {target for target in targets if target and target != room}
    return {room: edges[room] for room in rooms}


def room_of(module: str, rooms: list[str]) -> str | None:
    """The room that a module is in; None for one that is in none."""
    return next((room for room in rooms if module == room or module.startswith(f"{room}.")), None)


def first_line(room: str) -> str:
    """What the docstring of a room begins with."""
    folder = PACKAGE / room.replace(".", "/")
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].rstrip(".").replace("`", "")


def drawing() -> str:
    """The picture as SVG: a row a layer, a box a room; on hover, what it imports."""
    rows = layers()
    edges = imports([room for row in rows for room in row])
    parts, top = [], MARGIN
    for number, row in enumerate(rows):
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        texts = [textwrap.wrap(first_line(room), int(width / LETTER)) for room in row]
        height = 32 + LINE * max(map(len, texts))
        for column, (room, lines) in enumerate(zip(row, texts, strict=True)):
            left = MARGIN + column * (width + GAP)
            middle = f'x="{left + width / 2:.1f}" text-anchor="middle"'
            parts.append(
                f"<g><title>{room} imports {', '.join(sorted(edges[room])) or 'no other room'}</title>"
                f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" rx="6" fill="#e0f2f1"'
                f' stroke="#00796b"/><text {middle} y="{top + 21}" font-size="15" font-weight="600" fill="#00332e">'
                f"{room}</text>"
            )
            for k, line in enumerate(lines):
                y = top + 38 + LINE * k
                parts.append(f'<text {middle} y="{y}" font-size="12" fill="#37474f">{escape(line)}</text>')
            parts.append("</g>")
        top += height
        if number < len(rows) - 1:
            x = WIDTH / 2
            parts.append(f'<path d="M{x} {top + 2}v{GAP - 6}m-4 -5l4 5l4 -5" fill="none" stroke="#00796b"/>')
        top += GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif">',
            "<title>The rooms of Understudy: a room imports from the rows below it only</title>",
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
