"""One pixel size and one field of view for all patients of a cohort: heads have their true size in every slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from understudy.cohort.scaling import SliceConfig
from understudy.errors import UnderstudyError
from understudy.nifti import Plane, VolumeHeader
from understudy.volumes import SliceGeometry, power_of_two

SAME_SIZE = 0.01  # by which pixels may differ without being resampled
_FARTHEST = (
    4  # times that a pixel may be larger or smaller than the cohort's: beyond that a header must be wrong
)


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
        sizes = [max(_geometry(header, pixel, 4, None).inside) for header in headers]
        matrix = config.matrix or power_of_two(int(_lower_median(sizes)))
        SliceGeometry.fit(matrix, matrix, config.resolution, matrix)  # raises if the resolution does not fit
        return cls(config.plane, pixel, matrix, config.resolution)

    def geometry(self, header: VolumeHeader) -> SliceGeometry:
        """How the slices of one volume are brought into the frame.

        Raises:
            UnderstudyError: pixels so much smaller or larger that the header must be wrong.
        """
        return _geometry(header, self.pixel, self.resolution, self.matrix)

    def describe(self) -> str:
        """In words, e.g. "axial slices of 1 mm pixels, 256 x 256, shrunk to 64 x 64"."""
        shrunk = (
            "" if self.matrix == self.resolution else f", shrunk to {self.resolution} x {self.resolution}"
        )
        return f"{self.plane} slices of {self.pixel:g} mm pixels, {self.matrix} x {self.matrix}{shrunk}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON values; `Frame(**frame.as_dict())` is the same."""
        return asdict(self)


def _geometry(header: VolumeHeader, pixel: float, resolution: int, matrix: int | None) -> SliceGeometry:
    _, height, width = header.slice_shape
    scale = [edge / pixel for edge in header.spacing[1:]]
    if max(*scale, 1 / min(scale)) > _FARTHEST:
        raise UnderstudyError(
            f"pixels of {header.spacing[1]:.3g} x {header.spacing[2]:.3g} mm beside {pixel:.3g} mm in the cohort",
            fix="check the voxel size in the header, or leave the patient out",
        )
    if max(abs(s - 1) for s in scale) <= SAME_SIZE:
        scale = [1.0, 1.0]
    return SliceGeometry.fit(height, width, resolution, matrix, (scale[0], scale[1]))


def _lower_median(values: Sequence[float]) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])
