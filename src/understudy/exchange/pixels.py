"""Pixels of one file, checked: PNG, NIfTI and NumPy arrays as grey values 0..255."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from understudy.errors import UnderstudyError
from understudy.exchange.spec import FolderSpec
from understudy.io.folders import read_bytes
from understudy.io.nifti import LABEL_TOLERANCE

_GREY_PNG = {"L", "1"}
_SLACK = 1e-4  # of the range: what single precision leaves of rounding
_EXAMPLE = "--values=-1,1 (or `values: [-1, 1]`)"


def read_png(path: Path) -> NDArray[np.uint8]:
    """[H, W] of an 8-bit grey PNG.

    Raises:
        UnderstudyError: unreadable, colour, palette or 16-bit.
    """
    content = read_bytes(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode in _GREY_PNG:
                return np.asarray(image.convert("L"), np.uint8)
            mode, kind = image.mode, image.format
    except Exception as error:  # of a damaged file Pillow raises nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else reason
        raise UnderstudyError(
            f"the image cannot be read ({reason})", where=path, fix="replace it by an intact copy"
        ) from error
    if mode in ("RGB", "RGBA", "LA", "P", "PA"):
        words = {"P": "colours of a palette", "PA": "colours of a palette", "LA": "grey with transparency"}
        raise UnderstudyError(
            f"the {kind} image has {words.get(mode, f'colours ({mode})')}, not one channel of grey values",
            where=path,
            fix="write one 8-bit grey image a channel (a colour image cannot say which MR channel is which)",
        )
    raise UnderstudyError(
        f"the {kind} image has more than 8 bits a pixel ({mode})",
        where=path,
        fix="scale it to 0-255 and save it with 8 bits, so that all images are scaled alike",
    )


def to_grey(values: NDArray[Any], spec: FolderSpec, where: Path, annotation: bool = False) -> NDArray[Any]:
    """The same as grey values 0..255: uint8 as they are, anything else as float32.

    Args:
        values: of one file, or of one slice of an array.
        spec: its `values` and `clip`.
        where: for messages.
        annotation: in a file of its own, which is not scaled.

    Raises:
        UnderstudyError: not numbers, NaN or infinite, out of range.
    """
    scaling = "as_is" if annotation else spec.values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise UnderstudyError(f"values of type {values.dtype} are no grey values", where=where, fix="save numbers")
    if values.dtype == np.uint8 and scaling == "as_is":
        return values
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UnderstudyError(
            f"the {'annotation' if annotation else 'image'} holds NaN or infinite values",
            where=where,
            fix="correct or remove it",
        )
    if annotation:
        return _codes(values, low, high, where)
    if scaling == "max":
        if high <= 0 or low < 0:
            raise UnderstudyError(
                f"values from {low:g} to {high:g} cannot be divided by their maximum",
                where=where,
                fix="give the two numbers that become 0 and 255 instead: " + _EXAMPLE,
            )
        return np.asarray(values, np.float32) * np.float32(255 / high)
    if scaling == "as_is":
        return _as_is(values, low, high, spec.clip, where)
    bottom, top = scaling
    slack = _SLACK * (top - bottom)
    if (low < bottom - slack or high > top + slack) and not spec.clip:
        raise UnderstudyError(
            f"values from {low:g} to {high:g} lie outside of {bottom:g} to {top:g}",
            where=where,
            fix="correct `values`, or let what is outside be cut off: --clip (`clip: true`)",
        )
    grey = (np.asarray(values, np.float32) - np.float32(bottom)) * np.float32(255 / (top - bottom))
    return np.clip(grey, 0, 255)


def _codes(values: NDArray[Any], low: float, high: float, where: Path) -> NDArray[Any]:
    """An annotation's values, which may lie between its codes as a generator's do, but are no probabilities."""
    if low < -LABEL_TOLERANCE or high > 255 + LABEL_TOLERANCE:
        raise UnderstudyError(
            f"the annotation has values from {low:g} to {high:g}, not from 0 (background) to 255",
            where=where,
            fix="save the number of each pixel's class, 0 for background, as 8-bit integers, and name the classes:"
            " --codes NAME=VALUE,... (or `codes: {NAME: VALUE}`)",
        )
    grey = np.clip(np.asarray(values, np.float32), 0, 255)
    if 0 < high <= 1 + LABEL_TOLERANCE and np.abs(grey - np.rint(grey)).max() > LABEL_TOLERANCE:
        raise UnderstudyError(
            f"the annotation has fractions from {low:g} to {high:g}: it looks like a map of probabilities",
            where=where,
            fix="save a threshold of it, (array > 0.5).astype('uint8'), and name its value: --codes NAME=1 (or"
            " `codes: {NAME: 1}`)",
        )
    return grey


def _as_is(values: NDArray[Any], low: float, high: float, clip: bool, where: Path) -> NDArray[Any]:
    if (low < 0 or high > 255) and not clip:
        raise UnderstudyError(
            f"values from {low:g} to {high:g} are no grey values 0 to 255",
            where=where,
            fix=f"say which numbers become 0 and 255: {_EXAMPLE}, or --values max",
        )
    if np.issubdtype(values.dtype, np.floating) and 0 < high <= 1:
        raise UnderstudyError(
            f"values from {low:g} to {high:g} would all become black",
            where=where,
            fix="say which numbers become 0 and 255, e.g. --values 0,1 (or `values: [0, 1]`)",
        )
    return np.clip(np.asarray(values, np.float32), 0, 255)


def to_8_bit(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values rounded to the nearest of 0..255 (as StyleGAN's own export; guided-diffusion's rounds down)."""
    return grey if grey.dtype == np.uint8 else np.rint(grey).astype(np.uint8)
