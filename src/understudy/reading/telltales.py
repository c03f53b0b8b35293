"""What trivial numbers of the pictures give away: a reader who raises the brightness sees some of them too.

Re-encoding all pictures alike hides files, not pixels. A generator that leaves faint noise where a real slice is
exactly black is found out by one turn of the window, which says nothing about anatomy. So the steward is told, before
anybody reads, how well each of a few plain numbers would tell the sources apart, as an AUC.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from understudy.reading.statistics import auc

Pixels = NDArray[np.uint8]
TELLING = 0.9  # an AUC of which the steward is warned
DARK = 26  # grey value below which a pixel counts as background: a tenth of the range


def _png_bytes(picture: Pixels) -> float:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=6)
    return float(file.tell())


def _black(picture: Pixels) -> float:
    return float((picture == 0).mean())


def _background(picture: Pixels) -> float:
    dark = picture[picture < DARK]
    return float(dark.std()) if dark.size else 0.0


def _head(picture: Pixels) -> float:
    """How much of the picture is head: it changes with the height of the slice, and with the choice of slices."""
    return float((picture >= DARK).mean())


def _brightness(picture: Pixels) -> float:
    inside = picture[picture >= DARK]
    return float(inside.mean()) if inside.size else 0.0


def _sharpness(picture: Pixels) -> float:
    """Mean step between neighbours within the head."""
    grey = picture.astype(np.float32)
    inside = (picture[1:, 1:] >= DARK) & (picture[:-1, :-1] >= DARK)
    steps = np.abs(grey[1:, 1:] - grey[:-1, 1:]) + np.abs(grey[1:, 1:] - grey[1:, :-1])
    return float(steps[inside].mean()) if inside.any() else 0.0


MEASURES: dict[str, Callable[[Pixels], float]] = {
    "size of the PNG file (hidden: all are sent with one length)": _png_bytes,
    "share of pixels that are exactly black": _black,
    "noise in the background": _background,
    "area of the head (height of the slice)": _head,
    "brightness of the head": _brightness,
    "sharpness": _sharpness,
}


def measured(pictures: Sequence[Pixels]) -> list[float]:
    """The numbers of a case, in the order of MEASURES: the mean over its panels."""
    return [float(np.mean([measure(picture) for picture in pictures])) for measure in MEASURES.values()]


def telltales(numbers: Mapping[str, Sequence[Sequence[float]]]) -> list[dict[str, Any]]:
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
