"""Pictures of slices: upright, windowed, sharply enlarged, with the annotation drawn in colours all eyes can tell."""

import base64
import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

Pixels = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)

# Vermillion, sky blue and yellow differ in lightness as well as in hue (Okabe and Ito 2008), so they stay apart for
# colour-blind readers and on a grey print; the first colour goes to class 1.
CLASS_COLOURS = ("#D55E00", "#56B4E9", "#F0E442", "#009E73", "#CC79A7", "#0072B2", "#E69F00", "#BBBBBB")
# Where rows and columns of a picture run, seen as a radiologist sees it: from the feet (axial), from the front
# (coronal), from the left (sagittal).
DISPLAYED = {frozenset("LP"): ("P", "L"), frozenset("LI"): ("I", "L"), frozenset("PI"): ("I", "P")}
CANONICAL = {"L": "L", "R": "L", "P": "P", "A": "P", "I": "I", "S": "I"}


def upright(image: NDArray[Scalar], axes: Sequence[str] | None) -> NDArray[Scalar]:
    """A view of slices [..., H, W] as radiologists look at them: front or head up, the patient's right on the left.

    `axes`: directions in which row and column indices increase, two of "LRAPSI"; None (not known) changes nothing.
    """
    have = list(axes or ())
    want = DISPLAYED.get(frozenset(CANONICAL.get(a, a) for a in have))
    if want is None or len(have) != 2:
        return image
    if CANONICAL[have[0]] != want[0]:
        image, have = np.swapaxes(image, -1, -2), have[::-1]
    if have[0] != want[0]:
        image = image[..., ::-1, :]
    if have[1] != want[1]:
        image = image[..., ::-1]
    return image


def channel_window(images: Pixels) -> tuple[float, float]:
    """(black, white) for one channel's slices [n, H, W]: 0 to the 99.5th percentile of what is not background."""
    inside = images[images > 0]
    return 0.0, float(max(np.percentile(inside, 99.5), 1.0)) if inside.size else 255.0


def windowed(image: Pixels, window: tuple[float, float]) -> Pixels:
    """The slice with `window` spread over 0 to 255, uint8."""
    low, high = window
    return np.asarray(np.clip((image.astype(np.float32) - low) * (255 / (high - low)), 0, 255), np.uint8)


def enlarged(image: NDArray[Scalar], factor: int) -> NDArray[Scalar]:
    """Every pixel as a square of `factor` x `factor`: a small slice stays as coarse as the network saw it."""
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def colours(count: int) -> list[str]:
    """Hex colours of classes 1 to `count`; they repeat after eight."""
    return [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(count)]


def overlay(
    grey: Pixels, labels: Pixels, classes: int, outline: Pixels | None = None, fill: float = 0.42, width: int = 2
) -> Pixels:
    """The annotation [H, W] over a picture uint8 [H, W]: each class tinted, with a solid border; uint8 [H, W, 3].

    `classes`: how many, background left out; `outline`: class indices [H, W] whose common border is drawn in white;
    `fill`, `width`: opacity of the tint, width of the borders in pixels.
    """
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    for index, colour in enumerate(colours(classes), start=1):
        mask = labels == index
        if not mask.any():
            continue
        tint = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
        picture[mask] = (1 - fill) * picture[mask] + fill * tint
        picture[mask & ~binary_erosion(mask, iterations=width)] = tint
    if outline is not None:
        picture[(outline > 0) & ~binary_erosion(outline > 0)] = 255
    return np.asarray(picture.round(), np.uint8)


def framed(picture: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """A white frame around rows top:bottom, columns left:right of a picture [H, W, 3]."""
    top, bottom, left, right = box
    picture = picture.copy()
    picture[[top, bottom - 1], left:right] = 255
    picture[top:bottom, [left, right - 1]] = 255
    return picture


def square_around(mask: NDArray[np.bool_], smallest: int, margin: float = 0.35) -> tuple[int, int, int, int]:
    """A square (top, bottom, left, right) inside the picture around the mask; the middle if empty.

    `margin` is added to the mask's longer edge, as a fraction of it; `smallest` is the least edge in pixels.
    """
    height, width = mask.shape
    where = np.argwhere(mask)
    low, high = (where.min(0), where.max(0) + 1) if len(where) else (np.array(mask.shape) // 2,) * 2
    side = int(min(max(smallest, round((1 + margin) * (high - low).max())), height, width))
    centre = (low + high) / 2
    top = int(np.clip(round(centre[0] - side / 2), 0, height - side))
    left = int(np.clip(round(centre[1] - side / 2), 0, width - side))
    return top, top + side, left, left + side


def contact_sheet(tiles: Sequence[Pixels], columns: int, gap: int = 3) -> Pixels:
    """Pictures of one size [H, W, 3] in rows of `columns`, white gaps between them."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = tile
    return sheet


def png(picture: Pixels) -> str:
    """A picture, grey [H, W] or colour [H, W, 3], as a `data:` address that a page can hold."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
