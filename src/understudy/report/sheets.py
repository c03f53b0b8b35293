"""Pictures of slices put together to one figure, for the folder of figures: the page lays its tiles out by itself."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from understudy.report.gallery import Tile
from understudy.report.plots import QUIET, Panel, panel_of, styled

CELL, GAP = 1.3, 0.06  # inches: edge of a tile, and between tiles
LABEL, HEAD, WORDS = (
    1.25,
    0.42,
    0.17,
)  # inches: width of row labels, height of column heads, of captions below tiles

Row = tuple[str, Sequence[Tile | None]]


def sheet(key: str, alt: str, heads: Sequence[str], rows: Sequence[Row]) -> Panel:
    """Rows of tiles below column heads; None leaves a place empty."""
    columns = max(len(tiles) for _, tiles in rows)
    label = LABEL if any(name for name, _ in rows) else 0.0
    head = HEAD if any(heads) else 0.0
    words = WORDS if any(t is not None and t.caption for _, tiles in rows for t in tiles) else 0.0
    width, height = label + columns * (CELL + GAP), head + len(rows) * (CELL + words + GAP)
    with styled():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        for c, text in enumerate(heads):
            x = (label + c * (CELL + GAP) + CELL / 2) / width
            figure.text(
                x, 1 - (head - 0.06) / height, _folded(text, 17), ha="center", va="bottom", fontsize=7.5
            )
        for r, (name, tiles) in enumerate(rows):
            top = head + r * (CELL + words + GAP)
            figure.text(
                0.02 / width, 1 - (top + CELL / 2) / height, _folded(name, 17), va="center", fontsize=7.5
            )
            for c, tile in enumerate(tiles):
                if tile is None:
                    continue
                left = label + c * (CELL + GAP)
                box = (left / width, 1 - (top + CELL) / height, CELL / width, CELL / height)
                place = figure.add_axes(box)
                place.imshow(_pixels(tile.src), interpolation="none", cmap="gray", vmin=0, vmax=255)
                place.axis("off")
                if tile.caption:
                    below = 1 - (top + CELL + 0.03) / height
                    figure.text(left / width, below, tile.caption, va="top", fontsize=6.5, color=QUIET)
        return panel_of(figure, alt, True, key)


def _pixels(src: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))


def _folded(text: str, width: int) -> str:
    return textwrap.fill(text, width)
