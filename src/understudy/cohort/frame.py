"""One pixel size and one field of view for all patients of a cohort: heads have their true size in every slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from understudy.cohort.scaling import SliceConfig
from understudy.errors import UnderstudyError
from understudy.io.grids import Plane, VolumeHeader
from understudy.volumes import SliceGeometry, power_of_two

SAME_SIZE = 0.01  # by which pixels may differ without being resampled
_FARTHEST = 4  # times that a pixel may be larger or smaller than the cohort's: beyond that a header must be wrong


@dataclass(frozen=True)
class Frame:
    """What the slices of all patients of a cohort have in common.

    Attributes:
        plane: axial, coronal or sagittal.
        pixel: edge of a pixel before slices are padded and shrunk, mm.
        matrix: edge of the square to which slices are padded or cropped, pixels of this size.
        resolution: edge of the slices that networks see, pixels.
    """

    plane: Plane
    pixel: float
    matrix: int
    resolution: int

    @classmethod
    def of(cls, headers: Sequence[VolumeHeader], config: SliceConfig) -> Frame:
        """The frame of a cohort from one header a patient.

        The pixel size is the lower median of the patients' pixel sizes. The matrix is the smallest power of two that
        holds the slices of at least half of the patients, at that pixel size.

        Raises:
            UnderstudyError: the resolution does not fit.
        """
        pixel = config.pixel_size or round(_lower_median([min(header.spacing[1:]) for header in headers]), 4)
        sizes = [
            max(n * _scale(edge, pixel) for n, edge in zip(header.slice_shape[1:], header.spacing[1:], strict=True))
            for header in headers
        ]
        matrix = config.matrix or power_of_two(round(_lower_median(sizes)))
        SliceGeometry.fit(matrix, matrix, config.resolution, matrix)  # raises if the resolution does not fit
        return cls(config.plane, pixel, matrix, config.resolution)

    def geometry(self, header: VolumeHeader) -> SliceGeometry:
        """How the slices of one volume are brought into the frame.

        Raises:
            UnderstudyError: pixels so much smaller or larger that the header must be wrong.
        """
        _, height, width = header.slice_shape
        _, *edges = header.spacing
        if max(*edges, self.pixel) > _FARTHEST * min(*edges, self.pixel):
            raise UnderstudyError(
                f"pixels of {edges[0]:.3g} x {edges[1]:.3g} mm, where the cohort has {self.pixel:.3g} mm",
                fix="check the voxel size in the header, or leave the patient out",
            )
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
        """In words, e.g. "axial slices of 1 mm pixels, 256 x 256, shrunk to 64 x 64"."""
        shrunk = "" if self.matrix == self.resolution else f", shrunk to {self.resolution} x {self.resolution}"
        return f"{self.plane} slices of {self.pixel:g} mm pixels, {self.matrix} x {self.matrix}{shrunk}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON values; `Frame(**frame.as_dict())` is the same."""
        return asdict(self)


def _scale(edge: float, pixel: float) -> float:
    """New pixels for each of the old ones; 1 where their sizes are nearly the same."""
    scale = edge / pixel
    return 1.0 if abs(scale - 1) <= SAME_SIZE else scale


def _lower_median(values: Sequence[float]) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])
