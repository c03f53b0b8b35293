"""What plain numbers of the pictures give away, without anatomy: a reader who raises the brightness sees some of it.

Encoding all pictures alike hides files, not pixels: a generator that leaves faint noise where real slices are exactly
black is found out by one turn of the window. So the steward is told, before anybody reads, how well each of a few
plain numbers would tell the sources apart, as an AUC.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from understudy.reading.statistics import auc

Pixels = NDArray[np.uint8]
TELLING = 0.9  # an AUC of which the steward is warned
_DARK = 26  # grey value below which a pixel counts as background: a tenth of the range
MEASURES = (
    "size of the PNG file (hidden: all are sent with one length)",
    "share of pixels that are exactly black",
    "noise in the background",
    "area of the head (height of the slice)",
    "brightness of the head",
    "sharpness",
)


def measured(pictures: Sequence[Pixels]) -> list[float]:
    """The numbers of a case, in the order of MEASURES: the mean over its panels."""
    return [float(np.mean(numbers)) for numbers in zip(*map(_measure, pictures), strict=True)]


def _measure(picture: Pixels) -> tuple[float, ...]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=6)
    head, grey = picture >= _DARK, picture.astype(np.float32)
    steps = np.abs(grey[1:, 1:] - grey[:-1, 1:]) + np.abs(grey[1:, 1:] - grey[1:, :-1])  # to both neighbours
    inside = steps[head[1:, 1:] & head[:-1, :-1]]
    noise = float(picture[~head].std()) if not head.all() else 0.0
    brightness = float(picture[head].mean()) if head.any() else 0.0
    sharpness = float(inside.mean()) if inside.size else 0.0
    return float(file.tell()), float((picture == 0).mean()), noise, float(head.mean()), brightness, sharpness


def shortcut_table(numbers: Mapping[str, Sequence[Sequence[float]]]) -> list[dict[str, Any]]:
    """How well each number alone would tell each generator from real slices.

    Args:
        numbers: source ("real" or a generator) -> `measured` of each of its cases.

    Returns:
        Rows of measure, generator and auc (0.5: says nothing, 1: says all; whichever direction), most telling first.
    """
    real = np.array(numbers["real"])
    rows = []
    for generator in (name for name in numbers if name != "real"):
        made = np.array(numbers[generator])
        for column, measure in enumerate(MEASURES):
            value = auc(real[:, column], made[:, column])[0]
            rows.append({"measure": measure, "generator": generator, "auc": max(value, 1 - value)})
    return sorted(rows, key=lambda row: (-row["auc"], row["generator"], row["measure"]))
