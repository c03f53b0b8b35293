"""Draws docs/images/architecture.svg from the code: the rooms in the layers of the import contract, and who imports whom.

python docs/hooks/architecture.py
"""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "understudy"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, BOX, GAP, ROW, MARGIN = 960, 52, 16, 96, 16  # pixels


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
    return text.split("\n")[0].rstrip(".")


def drawing() -> str:
    """The picture as SVG: a box a room with its first docstring line on hover, a line for each import."""
    rows = layers()
    rooms = [room for row in rows for room in row]
    place: dict[str, tuple[float, float, float]] = {}  # left, top, width of each box
    for number, row in enumerate(rows):
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        for column, room in enumerate(row):
            place[room] = MARGIN + column * (width + GAP), MARGIN + number * ROW, width
    height = MARGIN * 2 + ROW * (len(rows) - 1) + BOX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" font-family="sans-serif">',
        "<title>The rooms of Understudy: an upper one imports from lower ones</title>",
    ]
    for room, targets in imports(rooms).items():
        left, top, width = place[room]
        for target in sorted(targets):
            to_left, to_top, to_width = place[target]
            x0, y0, x1, y1 = left + width / 2, top + BOX, to_left + to_width / 2, to_top
            bend = (y1 - y0) / 2
            parts.append(
                f'<path d="M{x0:.0f} {y0:.0f} C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"'
                f' fill="none" stroke="#888" stroke-opacity=".35"><title>{room} imports {target}</title></path>'
            )
    for room, (left, top, width) in place.items():
        parts.append(
            f'<g><title>{escape(first_line(room))}</title><rect x="{left:.1f}" y="{top}" width="{width:.1f}"'
            f' height="{BOX}" rx="6" fill="#e0f2f1" stroke="#00796b"/><text x="{left + width / 2:.1f}"'
            f' y="{top + BOX / 2 + 5}" text-anchor="middle" font-size="15" fill="#00332e">{room}</text></g>'
        )
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
