"""Volumes to 8-bit slices, as the paper made them: scale, pad, choose by the rule, shrink to the network's resolution.

As in the authors' `split_volumes_to_slices.m`: each volume is divided by its own maximum and multiplied by 255 in
double precision; slices are zero-padded to 256 x 256; a slice is kept if more than 15 % of the padded T1w pixels
exceed 50 (compared before rounding); MATLAB's `uint8` rounds halves up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from understudy.errors import UnderstudyError
from understudy.io.foreign import not_finite
from understudy.io.grids import Plane, VolumeHeader
from understudy.io.settings import Settings
from understudy.runtime.lazy import ndimage
from understudy.volumes import SliceGeometry, power_of_two

_LARGEST = 4096  # pixels along an edge
_BLOCK = 4  # slices that are scaled at a time: their doubles stay in the processor's cache
_SAME_SIZE = 0.01  # by which pixels may differ without being resampled
_FARTHEST = 4  # times that a pixel may be larger or smaller than the cohort's: beyond that a header must be wrong
_GREY = 0.1  # of the maximum: what is darker in the corners is noise, or the tail of an interpolation
_CORNER = 3  # voxels along an edge
_NOISE, _DEVIATIONS = 0.02, 5  # of the maximum, and median absolute deviations: how far background is from its level


class SliceConfig(Settings):
    """How slices are made; the defaults are the paper's."""

    # exclude_if: fields that came later are not part of the job ids of studies that do not use them
    resolution: int = Field(default=256, description="height and width of the slices, pixels (32, 64, 128, 256, ...)")
    scaling: Literal["max", "robust"] = Field(
        default="max",
        description="what becomes 255: the volume's maximum (the paper), or a percentile of its non-zero voxels",
    )
    background: Literal["keep", "zero"] = Field(
        default="keep",
        exclude_if=lambda value: bool(value == "keep"),
        description="a grey background (`understudy check` finds it): keep it (the paper), or set it to 0",
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
        description="edge of the square to which slices are padded or cropped, pixels, a power of two; null: the"
        " smallest that holds the slices of at least half of the patients",
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


@dataclass(frozen=True)
class Frame:
    """One pixel size and one field of view for all patients of a cohort: heads have their true size in every slice."""

    plane: Plane
    pixel: float  # edge of a pixel before slices are padded and shrunk, mm
    matrix: int  # edge of the square to which slices are padded or cropped, pixels of this size
    resolution: int  # edge of the slices that networks see, pixels

    @classmethod
    def of(cls, headers: Sequence[VolumeHeader], config: SliceConfig) -> "Frame":
        """The frame of a cohort from one header a patient.

        The pixel size is the lower median of the patients' pixel sizes. The matrix is the smallest power of two that
        holds the slices of at least half of the patients, at that pixel size.
        """
        middle = (len(headers) - 1) // 2  # of sorted values: the lower median
        pixel = config.pixel_size or round(float(np.sort([min(header.spacing[1:]) for header in headers])[middle]), 4)
        sizes = [
            max(n * _scale(edge, pixel) for n, edge in zip(header.slice_shape[1:], header.spacing[1:], strict=True))
            for header in headers
        ]
        matrix = config.matrix or power_of_two(round(float(np.sort(sizes)[middle])))
        SliceGeometry.fit(matrix, matrix, config.resolution, matrix)  # raises if the resolution does not fit
        return cls(config.plane, pixel, matrix, config.resolution)

    def geometry(self, header: VolumeHeader) -> SliceGeometry:
        """How the slices of one volume are brought into the frame; refuses pixels of an impossible size."""
        _, height, width = header.slice_shape
        _, *edges = header.spacing
        if max(*edges, self.pixel) > _FARTHEST * min(*edges, self.pixel):
            what = f"pixels of {edges[0]:.3g} x {edges[1]:.3g} mm, where the cohort has {self.pixel:.3g} mm"
            raise UnderstudyError(what, fix="check the voxel size in the header, or leave the patient out")
        scale = _scale(edges[0], self.pixel), _scale(edges[1], self.pixel)
        return SliceGeometry.fit(height, width, self.resolution, self.matrix, scale)

    def changes(self, headers: Sequence[VolumeHeader]) -> bool:
        """Whether slices differ from those of versions that padded each volume by itself and took all units for mm."""
        try:
            return any(
                header.units not in ("mm", "unknown")
                or self.geometry(header) != SliceGeometry.fit(*header.slice_shape[1:], self.resolution)
                for header in headers
            )
        except UnderstudyError:
            return True

    def describe(self) -> str:
        """For people: "axial slices of 1 mm pixels, 256 x 256, shrunk to 64 x 64"."""
        shrunk = "" if self.matrix == self.resolution else f", shrunk to {self.resolution} x {self.resolution}"
        return f"{self.plane} slices of {self.pixel:g} mm pixels, {self.matrix} x {self.matrix}{shrunk}"


def _scale(edge: float, pixel: float) -> float:
    """New pixels for each of the old ones; 1 where their sizes are nearly the same."""
    return 1.0 if abs(edge / pixel - 1) <= _SAME_SIZE else edge / pixel


def _corners(slices: NDArray[Any]) -> NDArray[Any]:
    ends = (slice(None, _CORNER), slice(-_CORNER, None))
    return np.concatenate([slices[:, y, x].ravel() for y in ends for x in ends])


def grey_background(slices: NDArray[Any]) -> float:
    """Median in the four corners of the slices [Z, H, W] if that is more than a tenth of the maximum, else 0.

    A grey background that only some patients have identifies them, and passes the slice rule where there is no tissue.
    """
    level = float(np.median(_corners(slices)))
    return level if level > _GREY * float(slices.max()) else 0.0


def without_background(slices: NDArray[Any]) -> NDArray[Any]:
    """Slices [Z, H, W] with a grey background set to 0; the same array where there is none.

    Background is what is like the corners, except specks and what is enclosed by other values in its slice. It is not
    subtracted: in phase-sensitive images tissue lies on both sides of the level of air.
    """
    level = grey_background(slices)
    if level == 0:
        return slices
    spread = float(np.median(np.abs(_corners(slices).astype(np.float64) - level)))
    tolerance = max(_NOISE * float(slices.max()), _DEVIATIONS * spread)
    cleared = np.zeros_like(slices)
    for plane, result in zip(slices, cleared, strict=True):
        unlike = np.abs(plane.astype(np.float64) - level) > tolerance  # narrower types would wrap around
        unlike |= ndimage.binary_closing(unlike)  # which by itself would take away what touches the edge
        head = ndimage.binary_propagation(ndimage.binary_opening(unlike), mask=unlike)  # without specks
        np.copyto(result, plane, where=ndimage.binary_fill_holes(head))
    return cleared


def slice_images(
    read: Callable[[str], NDArray[Any]], files: Mapping[str, Path], geometry: SliceGeometry, config: SliceConfig,
    only_kept: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:  # fmt: skip
    """A patient's images as networks see them, uint8 [n, C, R, R], and the slices that pass the rule, bool [Z].

    `read` gives the volume [Z, H, W] of a channel; `files` are for messages, and in the order of the result's channels.
    With `only_kept` slices that do not pass the rule are left out.
    """
    # The rule first: of a training patient only the kept slices are worth scaling.
    rule = bright_part(read(config.rule_channel), files[config.rule_channel], geometry, config)
    kept = kept_slices(rule, geometry, config)
    wanted = np.flatnonzero(kept) if only_kept else np.arange(len(kept))
    images = np.zeros((len(wanted), len(files), config.resolution, config.resolution), np.uint8)
    for c, (channel, path) in enumerate(files.items()):
        volume = rule if channel == config.rule_channel else bright_part(read(channel), path, geometry, config)
        as_stored = geometry.padded == geometry.resolution
        edges = (len(wanted), geometry.padded, geometry.padded)
        padded = images[:, c] if as_stored else np.zeros(edges, np.uint8)  # [n, P, P]
        (top, left), (_, height, width) = volume.corner, volume.slices.shape
        inside = padded[:, *geometry.place][:, top : top + height, left : left + width]
        to_8_bit(volume.slices, volume.ceiling, wanted, inside)
        if not as_stored:
            images[:, c] = geometry.shrink_images(padded)
    return images, kept


class Bright(NamedTuple):
    """The part of a volume that can become brighter than 0."""

    slices: NDArray[Any]  # [Z, h, w], a view of the box around every voxel above zero
    corner: tuple[int, int]  # row and column at which the box starts
    ceiling: float  # the intensity that becomes 255


def bright_part(slices: NDArray[Any], path: Path, geometry: SliceGeometry, config: SliceConfig) -> Bright:
    """A volume [Z, H, W] without its grey background, resampled and cropped; refuses one with no voxel above 0."""
    if config.background == "zero":
        slices = without_background(slices)
    slices = geometry.fit_images(slices)
    if slices.dtype.kind in "iu" and slices.dtype.itemsize > 4:
        slices = slices.astype(np.float64)  # doubles, in which the rule is computed, do not hold all of them
    if bad := not_finite(slices):
        what = f"the volume holds {bad} (slice, row, column)"
        raise UnderstudyError(what, where=path, fix="export it again, or set these voxels to 0")
    brightest = slices.max(axis=0)
    ceiling = float(brightest.max())
    if config.scaling == "robust":
        nonzero = slices[slices != 0]
        ceiling = float(np.percentile(nonzero, config.percentile)) if nonzero.size else 0.0
    if not (np.isfinite(ceiling) and ceiling > 0):
        what = "no voxel of the volume is above zero, once cropped and without a grey background"
        raise UnderstudyError(what, where=path, fix="look at it in a viewer; replace it, or leave the patient out")
    rows, columns = np.flatnonzero((brightest > 0).any(1)), np.flatnonzero((brightest > 0).any(0))
    box = slices[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Bright(box, (int(rows[0]), int(columns[0])), ceiling)


def kept_slices(rule: Bright, geometry: SliceGeometry, config: SliceConfig) -> NDArray[np.bool_]:
    """bool [Z]: more than `rule_fraction` of the padded pixels above `rule_intensity` of 255, or all slices.

    As in the authors' script the comparison is made in double precision, before rounding to 8 bits.
    """
    if config.keep == "all":
        return np.ones(len(rule.slices), bool)
    bright = [np.count_nonzero(_scaled(plane, rule.ceiling) > config.rule_intensity) for plane in rule.slices]
    return np.array([count / geometry.padded**2 > config.rule_fraction for count in bright], bool)


def to_8_bit(slices: NDArray[Any], ceiling: float, wanted: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """[Z, H, W] -> `out` uint8 [len(wanted), H, W]: value / ceiling * 255 in double precision, halves up, clipped."""
    native = slices.dtype.newbyteorder("=")
    table = None
    if native.itemsize <= 2 and np.issubdtype(native, np.integer):
        # At most 65,536 different values: round each of them once and look the voxels up.
        unsigned = np.dtype(f"u{native.itemsize}")
        table = _round_8_bit(np.arange(1 << 8 * native.itemsize, dtype=unsigned).view(native), ceiling)
    for start in range(0, len(wanted), _BLOCK):
        values = slices[wanted[start : start + _BLOCK]]
        if table is None:
            out[start : start + _BLOCK] = _round_8_bit(values, ceiling)
        else:
            values = values.astype(native, copy=False).view(unsigned)
            out[start : start + _BLOCK] = np.take(table, values, mode="clip")


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
