"""Pictures of slices put together to one figure, for the folder of figures: the page lays its tiles out by itself."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from understudy.report.plots.style import QUIET, Panel, panel_of, styled

CELL, GAP = 1.3, 0.06  # inches: edge of a tile, and between tiles
LABEL = 1.25  # inches: width of row labels
HEAD, WORDS, LEGEND = (0.42, 0.17, 0.25)  # inches: heights of column heads, of captions below tiles, of the legend


@dataclass(frozen=True)
class Tile:
    """A picture (`data:` address) with its words: `alt` for those who cannot see it, `caption` below it."""

    src: str
    alt: str
    caption: str = ""


Row = tuple[str, Sequence[Tile | None]]


def sheet(
    key: str, alt: str, heads: Sequence[str], rows: Sequence[Row], classes: Sequence[tuple[str, str]] = ()
) -> Panel:
    """Rows of tiles below column heads; None leaves a place empty. `classes`: name and colour of each, for a legend."""
    columns = max(len(tiles) for _, tiles in rows)
    label = LABEL if any(name for name, _ in rows) else 0.0
    head = HEAD if any(heads) else 0.0
    words = WORDS if any(t is not None and t.caption for _, tiles in rows for t in tiles) else 0.0
    width = label + columns * (CELL + GAP)
    height = head + len(rows) * (CELL + words + GAP) + (LEGEND if classes else 0.0)
    with styled():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        for c, text in enumerate(heads):
            x, y = (label + c * (CELL + GAP) + CELL / 2) / width, 1 - (head - 0.06) / height
            figure.text(x, y, textwrap.fill(text, 17), ha="center", va="bottom", fontsize=7.5)
        for r, (name, tiles) in enumerate(rows):
            top = head + r * (CELL + words + GAP)
            middle = 1 - (top + CELL / 2) / height
            figure.text(0.02 / width, middle, textwrap.fill(name, 17), va="center", fontsize=7.5)
            for c, tile in enumerate(tiles):
                if tile is None:
                    continue
                left = label + c * (CELL + GAP)
                place = figure.add_axes((left / width, 1 - (top + CELL) / height, CELL / width, CELL / height))
                pixels = Image.open(io.BytesIO(base64.b64decode(tile.src.partition(",")[2])))
                place.imshow(pixels, interpolation="none", cmap="gray", vmin=0, vmax=255)
                place.axis("off")
                if tile.caption:
                    below = 1 - (top + CELL + 0.03) / height
                    figure.text(left / width, below, tile.caption, va="top", fontsize=6.5, color=QUIET)
        if classes:
            handles = [Patch(color=colour) for _, colour in classes]
            names = [name for name, _ in classes]
            at = (label / width, 0)
            figure.legend(handles, names, loc="lower left", bbox_to_anchor=at, ncols=len(names), fontsize=7.5,
                          borderpad=0, handlelength=1)  # fmt: skip
        return panel_of(figure, alt, True, key)
