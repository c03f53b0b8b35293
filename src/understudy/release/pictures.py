"""A sheet of synthetic slices: for each its channels and its annotation, under headings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from understudy.report.plots.slices import channel_window, colours, contact_sheet, enlarged, overlay, upright, windowed

Pixels = NDArray[np.uint8]
SHOWN = 12  # slices on a sheet
_TILE = 96  # pixels of a small slice
_LINE = 18  # pixels of a line of words
_PAIRS = 2  # slices side by side


def sheet(chosen: Sequence[tuple[Pixels, Pixels]], data: dict[str, Any]) -> Image.Image:
    """The picture.

    Args:
        chosen: image uint8 [C, H, W] and labels uint8 [H, W] of each slice.
        data: channels, classes, resolution and axes.
    """
    factor = max(1, _TILE // data["resolution"])
    classes = [c["name"] for c in data["classes"][1:]]
    windows = [channel_window(np.stack([image[c] for image, _ in chosen])) for c in range(len(data["channels"]))]
    below = next((i for i, name in enumerate(data["channels"]) if "FLAIR" in name.upper()), 0)
    tiles: list[Pixels] = []
    for image, labels in chosen:
        grey = [enlarged(upright(windowed(x, w), data["axes"]), factor) for x, w in zip(image, windows, strict=True)]
        tiles += [np.repeat(g[..., None], 3, axis=-1) for g in grey]
        tiles.append(overlay(grey[below], enlarged(upright(labels, data["axes"]), factor), len(classes)))
    heads = [*data["channels"], "annotation"]
    pairs = min(_PAIRS, len(chosen))
    return _headed(contact_sheet(tiles, pairs * len(heads)), heads * pairs, classes)


def _headed(picture: Pixels, heads: list[str], classes: list[str]) -> Image.Image:
    """The names of the columns above, those of the classes below."""
    height, width = picture.shape[:2]
    page = Image.new("RGB", (width, height + 2 * _LINE), "white")
    page.paste(Image.fromarray(picture), (0, _LINE))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    step = width / len(heads)
    for i, name in enumerate(heads):
        draw.text((i * step + 2, 2), _fitting(name, step - 4, font), "black", font)
    place = 2.0
    for name, colour in zip(classes, colours(len(classes)), strict=True):
        draw.rectangle((place, height + _LINE + 4, place + 10, height + _LINE + 14), colour)
        draw.text((place + 14, height + _LINE + 2), name, "black", font)
        place += 28 + font.getlength(name)
    return page


def _fitting(name: str, width: float, font: Any) -> str:
    while len(name) > 1 and font.getlength(name) > width:
        name = name[:-2] + "…" if name.endswith("…") else name[:-1] + "…"
    return name
