"""A patient without an annotation, sliced as the patients of a training were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.scaling import SliceConfig, slice_images
from understudy.errors import UnderstudyError
from understudy.nifti import VolumeHeader, read_header, read_voxels, slices_of
from understudy.volumes import SliceGeometry, TestVolume


def slice_new_patient(
    files: Mapping[str, Path], config: SliceConfig, trust_array_order: bool = False
) -> tuple[TestVolume, VolumeHeader]:
    """All slices of a patient, with an empty truth, and the header of the first channel.

    Args:
        files: channel -> NIfTI volume.
        config: how slices are made.
        trust_array_order: take the files as aligned voxel by voxel even where their headers disagree.

    Raises:
        UnderstudyError: unreadable file, channels on different grids, no channel for the slice rule.
    """
    headers = {name: read_header(path) for name, path in files.items()}
    name, first = next(iter(headers.items()))
    if config.rule_channel not in headers:
        raise UnderstudyError(
            f"the slice rule looks at {config.rule_channel}, which is not among {', '.join(files)}",
            where=files[name].parent,
        )
    for other, header in headers.items():
        if header.same_grid(first):
            continue
        if not (trust_array_order and header.shape == first.shape):
            raise UnderstudyError(
                f"{other} and {name} are not on the same grid (shapes {header.shape} and {first.shape})",
                where=files[other],
                fix="resample all channels to one grid before segmenting",
            )
        headers[other] = replace(header, affine=first.affine)
    depth, height, width = first.slice_shape
    geometry = SliceGeometry.fit(height, width, config.resolution)

    def read(channel: str) -> NDArray[np.generic]:
        return slices_of(read_voxels(files[channel], headers[channel]), headers[channel])

    images, kept = slice_images(read, files, geometry, config)
    empty = np.zeros((depth, height, width), np.uint8)
    volume = TestVolume(
        files[name].parent.name, "", "test", images, kept, empty, geometry, first.spacing, first.slice_affine
    )
    return volume, first
