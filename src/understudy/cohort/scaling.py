"""Volumes to 8-bit slices, as the paper made them: scale, pad, choose by the rule, shrink to the network's resolution.

The rules come from the authors' `split_volumes_to_slices.m` (facts, generators 0.11): each volume is divided by
its own maximum and multiplied by 255 in double precision; slices are zero-padded to 256 x 256; a slice is kept
if more than 15 % of the padded T1w pixels exceed 50 (compared before rounding); MATLAB's `uint8` rounds halves up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from understudy.cohort.background import without_background
from understudy.errors import UnderstudyError
from understudy.io.grids import Plane
from understudy.volumes import SliceGeometry

_LARGEST = 4096  # pixels along an edge
_BLOCK = 4  # slices that are scaled at a time: their doubles stay in the processor's cache


class SliceConfig(BaseModel):
    """How slices are made; the defaults are the paper's."""

    model_config = ConfigDict(extra="forbid")

    resolution: int = Field(default=256, description="height and width of the slices, pixels (32, 64, 128, 256, ...)")
    scaling: Literal["max", "robust"] = Field(
        default="max",
        description="what becomes 255: the volume's maximum (the paper), or a percentile of its non-zero voxels",
    )
    background: Literal["keep", "zero"] = Field(
        default="keep",
        # Left out of what identifies a study's slices, so that those of before the field came stay valid.
        exclude_if=lambda value: bool(value == "keep"),
        description="where the corners of a volume's slices are not dark (`understudy check` tells): keep that as it is"
        " (the paper), or set it to 0",
    )
    plane: Plane = Field(
        default="axial",
        exclude_if=lambda value: bool(value == "axial"),
        description="plane of the slices; choose that in which the volumes were acquired",
    )
    pixel_size: float | None = Field(
        default=None,
        gt=0.05,
        lt=50,
        exclude_if=lambda value: value is None,
        description="edge of a pixel to which slices with others are resampled, mm; null: that of most patients",
    )
    matrix: int | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="edge of the square to which slices are padded with zeros or cropped, pixels, a power of two; null:"
        " the smallest that holds the slices of at least half of the patients",
    )
    percentile: float = Field(default=99.5, gt=50, le=100, description="the percentile of `scaling: robust`, percent")
    keep: Literal["rule", "all"] = Field(default="rule", description="keep the slices that pass the rule below, or all")
    rule_channel: str = Field(default="T1w", description="sequence that the rule looks at")
    rule_intensity: float = Field(
        default=50.0, ge=0, lt=255, description="a pixel counts above this, on the scale 0-255"
    )
    rule_fraction: float = Field(
        default=0.15, ge=0, lt=1, description="a slice is kept if more than this fraction of its padded pixels count"
    )
    workers: int = Field(default=2, ge=1, le=64, description="patients that are read at the same time, threads")

    @field_validator("resolution", "matrix")
    @classmethod
    def _power_of_two(cls, value: int | None) -> int | None:
        if value is not None and (not 4 <= value <= _LARGEST or value & (value - 1)):
            raise ValueError(f"should be a power of two from 4 to {_LARGEST}, such as 64, 128 or 256")
        return value


def slice_images(
    read: Callable[[str], NDArray[Any]],
    files: Mapping[str, Path],
    geometry: SliceGeometry,
    config: SliceConfig,
    only_kept: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A patient's images as networks see them.

    Args:
        read: channel -> its volume [Z, H, W].
        files: channel -> file, for messages; their order is that of the result's channels.
        geometry: of the slices.
        config: how slices are made.
        only_kept: leave out slices that do not pass the rule.

    Returns:
        uint8 [n, C, R, R], and bool [Z]: the slices that pass the rule.

    Raises:
        UnderstudyError: a volume that cannot be scaled.
    """
    # The rule first: of a training patient only the kept slices are worth scaling.
    rule = bright_part(read(config.rule_channel), files[config.rule_channel], geometry, config)
    kept = kept_slices(rule, geometry, config)
    wanted = np.flatnonzero(kept) if only_kept else np.arange(len(kept))
    images = np.zeros((len(wanted), len(files), config.resolution, config.resolution), np.uint8)
    for c, channel in enumerate(files):
        volume = (
            rule if channel == config.rule_channel else bright_part(read(channel), files[channel], geometry, config)
        )
        _scale_and_shrink(volume, wanted, geometry, images[:, c])
    return images, kept


def bright_part(slices: NDArray[Any], path: Path, geometry: SliceGeometry, config: SliceConfig) -> Bright:
    """A volume [Z, H, W] without its grey background, resampled and cropped, and the intensity that becomes 255.

    Raises:
        UnderstudyError: no voxel above zero, or NaN.
    """
    if config.background == "zero":
        slices = without_background(slices)
    return Bright.of(geometry.fit_images(slices), path, config)


def kept_slices(rule: Bright, geometry: SliceGeometry, config: SliceConfig) -> NDArray[np.bool_]:
    """bool [Z]: the slices that are kept, by the rule's channel."""
    kept = passes_rule(rule.slices, rule.ceiling, geometry, config)
    return np.ones_like(kept) if config.keep == "all" else kept


def passes_rule(
    slices: NDArray[Any], ceiling: float, geometry: SliceGeometry, config: SliceConfig
) -> NDArray[np.bool_]:
    """[Z, H, W] -> bool [Z]: more than `rule_fraction` of the padded pixels above `rule_intensity` of 255.

    As in the authors' script the comparison is made in double precision, before rounding to 8 bits.
    """
    # The smallest value that passes: one comparison a pixel then does what a conversion and a division would.
    lowest = _lowest_above(config.rule_intensity, ceiling, slices.dtype)
    bright = [int(np.count_nonzero(plane >= lowest)) for plane in slices]
    return np.array([count / geometry.padded**2 > config.rule_fraction for count in bright], bool)


@dataclass(frozen=True)
class Bright:
    """The part of a volume that can become brighter than 0.

    Attributes:
        slices: [Z, h, w], a view of the box around every voxel above zero.
        corner: row and column at which the box starts.
        ceiling: the intensity that becomes 255.
    """

    slices: NDArray[Any]
    corner: tuple[int, int]
    ceiling: float

    @classmethod
    def of(cls, slices: NDArray[Any], path: Path, config: SliceConfig) -> Bright:
        """Looks at a volume [Z, H, W]; raises an UnderstudyError if it has no usable ceiling."""
        if slices.dtype.kind in "iu" and slices.dtype.itemsize > 4:
            slices = slices.astype(np.float64)  # doubles, in which the rule is computed, do not hold all of them
        brightest = slices.max(axis=0)  # a NaN stays one
        ceiling = _ceiling(slices, float(brightest.max()), path, config)
        rows, columns = np.flatnonzero((brightest > 0).any(1)), np.flatnonzero((brightest > 0).any(0))
        box = slices[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(box, (int(rows[0]), int(columns[0])), ceiling)


def _scale_and_shrink(
    volume: Bright, wanted: NDArray[np.int64], geometry: SliceGeometry, out: NDArray[np.uint8]
) -> None:
    """Scales slices to 8 bits and shrinks their padded squares into `out` [len(wanted), R, R], which holds zeros."""
    as_stored = geometry.padded == geometry.resolution
    padded = out if as_stored else np.zeros((len(wanted), geometry.padded, geometry.padded), np.uint8)
    (top, left), (_, height, width) = np.add(geometry.offset, volume.corner), volume.slices.shape
    to_8_bit(volume.slices, volume.ceiling, wanted, padded[:, top : top + height, left : left + width])
    if not as_stored:
        out[:] = geometry.shrink_images(padded)


def to_8_bit(slices: NDArray[Any], ceiling: float, wanted: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """[Z, H, W] -> `out` uint8 [len(wanted), H, W]: value / ceiling * 255 in double precision, halves up, clipped."""
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(wanted), _BLOCK)]
    native = slices.dtype.newbyteorder("=")
    if native.itemsize > 2 or not np.issubdtype(native, np.integer):
        for block in blocks:
            out[block] = _round_8_bit(slices[wanted[block]], ceiling)
        return
    # At most 65,536 different values: round each of them once and look the voxels up.
    unsigned = np.dtype(f"u{native.itemsize}")
    table = _round_8_bit(np.arange(1 << 8 * native.itemsize, dtype=unsigned).view(native), ceiling)
    for block in blocks:
        values = slices[wanted[block]].astype(native, copy=False).view(unsigned)
        out[block] = np.take(table, values, mode="clip")


def _lowest_above(intensity: float, ceiling: float, dtype: np.dtype[Any]) -> Any:
    """The smallest value of a type that is above `intensity` on the scale 0-255; scaling never changes an order."""
    native = dtype.newbyteorder("=")
    if np.issubdtype(native, np.integer):
        start = int(intensity * ceiling / 255) - 1
        return next(v for v in range(start, start + 4) if v / ceiling * 255 > intensity)
    below, above = native.type(0), np.nextafter(native.type(ceiling), native.type(np.inf))
    while below < (middle := below + (above - below) / native.type(2)) < above:
        passes = _scaled(middle, ceiling) > intensity
        below, above = (below, middle) if passes else (middle, above)
    return above


def _scaled(values: NDArray[Any], ceiling: float) -> NDArray[np.float64]:
    """values / ceiling * 255, in this order and in doubles, as MATLAB computes it."""
    scaled = values.astype(np.float64)
    scaled /= ceiling
    scaled *= 255
    return scaled


def _round_8_bit(values: NDArray[Any], ceiling: float) -> NDArray[np.uint8]:
    """MATLAB's uint8(values / ceiling * 255)."""
    scaled = _scaled(values, ceiling)
    np.clip(scaled, 0, 255, out=scaled)
    whole = scaled.astype(np.uint8)  # truncates
    whole += scaled - whole >= 0.5  # not floor(x + 0.5), which rounds 0.49999999999999994 up
    return whole


def _ceiling(slices: NDArray[Any], value: float, path: Path, config: SliceConfig) -> float:
    """The intensity that becomes 255; `value` is the volume's maximum."""
    if config.scaling == "robust":
        nonzero = slices[slices != 0]
        value = float(np.percentile(nonzero, config.percentile)) if nonzero.size else 0.0
    if not (np.isfinite(value) and value > 0):
        raise UnderstudyError(
            "no voxel of the volume is above zero, once cropped and without a grey background",
            where=path,
            fix="look at the volume in a viewer; replace the file, or leave the patient out",
        )
    return value
