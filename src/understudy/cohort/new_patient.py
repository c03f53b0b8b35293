"""A patient without an annotation, sliced as the patients of a training were."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from understudy.cohort.checks import refuse_rule_channel
from understudy.cohort.frame import Frame
from understudy.cohort.layouts import Cohort, Patient
from understudy.cohort.patient import PatientReader
from understudy.cohort.scaling import SliceConfig, slice_images
from understudy.errors import UnderstudyError
from understudy.io.grids import VolumeHeader
from understudy.volumes import TestVolume

log = logging.getLogger(__name__)


def slice_new_patient(
    files: Mapping[str, Path], config: SliceConfig, frame: Frame | None = None, trust_array_order: bool = False
) -> tuple[TestVolume, VolumeHeader]:
    """All slices of a patient, with an empty truth, and the header of the first channel.

    Args:
        files: channel -> NIfTI volume.
        config: how slices are made.
        frame: pixel size and field of view of the training; None (older trainings): the patient's own.
        trust_array_order: take the files as aligned voxel by voxel even where their headers disagree.

    Raises:
        UnderstudyError: unreadable file, channels on different grids, voxels that cannot be used, no channel for the
            slice rule.
    """
    folder = next(iter(files.values())).parent
    cohort = Cohort((), tuple(files), (), "pattern", folder, trust_array_order)
    refuse_rule_channel(cohort, config)
    reader = PatientReader(Patient(folder.name, "", dict(files), None), cohort, config.plane)
    for problem in reader.problems:
        if problem.severity == "warning":
            log.warning("%s; what to do: %s", problem.problem, problem.fix)
    if not reader.sliceable:
        raise UnderstudyError(
            f"the segmenter works on {config.plane} slices with square pixels, as it was trained; this volume has none",
            where=folder,
            fix="resample all its sequences to isotropic voxels, or use a segmenter of the plane of this acquisition",
        )
    reader.refuse_errors()
    header = reader.headers[cohort.channels[0]]
    geometry = (frame or Frame.of([header], config)).geometry(header)
    images, kept = slice_images(reader.image, reader.files, geometry, config)
    empty = np.zeros(header.slice_shape, np.uint8)
    volume = TestVolume(folder.name, "", "test", images, kept, empty, geometry, header.spacing, header.slice_affine)
    return volume, header
