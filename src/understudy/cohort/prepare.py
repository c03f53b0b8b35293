"""The slices of a cohort's patients, written patient by patient; `cohort.slicing` says how a slice is made."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.checks import frame_of, refuse_empty_training, refuse_rule_channel
from understudy.cohort.config import Cohort, Patient
from understudy.cohort.patient import PatientReader
from understudy.cohort.slicing import Frame, SliceConfig, slice_images
from understudy.errors import UnderstudyError
from understudy.exchange.spec import LABELS
from understudy.io.grids import VolumeHeader, axes_of
from understudy.io.nifti import read_header
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.memory import in_order
from understudy.runtime.progress import track
from understudy.slices import SliceWriter
from understudy.volumes import TestVolume, VolumeWriter

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_COUNTED = {"patients": 0, "slices": 0, "annotated": 0, "without_slices": 0}


def prepare(
    cohort: Cohort, split: Mapping[str, str], config: SliceConfig, out: Path, progress: bool = True,
    frame: Frame | None = None,
) -> dict[str, dict[str, int]]:  # fmt: skip
    """Writes `out/slices` (kept slices of all patients) and `out/volumes` (validation and test patients, whole).

    An interrupted run is continued by the same call.

    Args:
        cohort: accepted patients.
        split: patient id -> "train", "val" or "test".
        frame: pixel size and field of view, from `check_cohort`; None: those of these patients.

    Returns:
        For each split: patients, slices, annotated slices, patients without a slice.

    Raises:
        UnderstudyError: unusable volume, unknown rule channel, patient without a part, no training slice, full disk.
    """
    refuse_rule_channel(cohort, config)
    if left_over := [patient.id for patient in cohort.patients if split.get(patient.id) not in SPLITS]:
        raise UnderstudyError(f"patient {left_over[0]} is in no part of the split", fix="split the cohort again")
    order = sorted(cohort.patients, key=lambda patient: patient.id)
    frame = frame or frame_of(cohort, config)
    if frame is None:  # no header can be read: the first patient says why
        PatientReader(order[0], cohort, config.plane).refuse_errors()
        raise UnderstudyError("no image of the cohort can be read", where=cohort.path, fix="run `understudy check`")
    spec, cut = config.model_dump(exclude={"workers"}), asdict(frame)
    # sizes tell cheaply that the files are still those that an interrupted run has read
    sizes = {str(path): path.stat().st_size for patient in order for path in patient.files.values()}
    identity = {"config": spec, "split": dict(split), "files": sizes, "frame": cut}
    channels, classes, axes = cohort.channels, cohort.classes, axes_of(config.plane)
    spacing = _common_spacing(order, frame)
    # a job that was killed after it had written them writes them again
    writer = SliceWriter(Path(out) / "slices", channels, classes, config.resolution, spacing, axes, identity, True)
    volumes = VolumeWriter(Path(out) / "volumes", channels, classes, axes, cut)
    # What an interrupted run has written is not written again; the order of patients is always the same.
    already = writer.done
    counts, sources = {part: Counter(_COUNTED) for part in SPLITS}, {}
    work = partial(slice_patient, cohort=cohort, split=split, config=config, frame=frame, volumes=volumes)
    with track(len(order), "slicing", unit="patients", show=progress) as meter:
        for patient, (images, labels, rows, source) in zip(order, in_order(work, order, config.workers), strict=True):
            skip = min(already, len(rows))
            already -= skip
            if len(rows) > skip:
                writer.append(images[skip:], labels[skip:], rows.iloc[skip:])
            counted = (1, len(rows), int(labels.any(axis=(1, 2)).sum()), int(rows.empty))
            counts[split[patient.id]].update(dict(zip(_COUNTED, counted, strict=True)))
            sources[patient.id] = source
            meter.advance(1, slices=sum(part["slices"] for part in counts.values()))
    refuse_empty_training(counts["train"]["slices"], cohort)
    volumes.close()
    result = {part: dict(counter) for part, counter in counts.items()}
    writer.close(counts=result, slicing=spec, frame=cut, layout=cohort.layout, sources=sources)
    return result


def slice_patient(
    patient: Patient, cohort: Cohort, split: Mapping[str, str], config: SliceConfig, frame: Frame, volumes: VolumeWriter
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], pd.DataFrame, str]:
    """Slices one patient, and writes the whole volume to `volumes` if the patient is in "val" or "test".

    Returns the kept slices uint8 [n, C, R, R], their class indices uint8 [n, R, R], their rows of the index (z counts
    from 0 at the inferior end), and SHA-256 over the bytes of the patient's files.
    """
    part, digest = split[patient.id], hashlib.sha256()
    reader = PatientReader(patient, cohort, config.plane)
    reader.refuse_errors()
    header = reader.headers[LABELS]
    geometry = frame.geometry(header)
    files = {channel: reader.files[channel] for channel in cohort.channels}
    images, kept = slice_images(partial(reader.image, digest=digest), files, geometry, config, part == "train")
    truth = reader.labels(digest)
    truth = truth[kept] if part == "train" else truth
    labels = geometry.network_labels(truth, len(cohort.classes))
    if part != "train":
        where = (geometry, header.spacing, header.slice_affine)
        volumes.write(TestVolume(patient.subject, patient.site, part, images, kept, truth, *where))
        images, labels = images[kept], labels[kept]
    z = np.flatnonzero(kept)
    text = {"subject": patient.subject, "site": patient.site, "split": part}
    columns = {name: pd.Series([value] * len(z), dtype=object) for name, value in text.items()}  # also without rows
    rows = pd.DataFrame({"id": [f"{patient.id}_{i:03d}" for i in z], **columns, "z": z.astype(np.int64)})
    return images, labels, rows[["id", "subject", "site", "z", "split"]], digest.hexdigest()


def _common_spacing(patients: Sequence[Patient], frame: Frame) -> tuple[float, float, float] | None:
    """(row, column, slice) distance in mm of the slices as networks see them; None if patients differ."""
    spacings = set()
    for patient in patients:
        header = read_header(next(iter(patient.images.values())), plane=frame.plane)
        depth, rows, columns = header.spacing
        geometry = frame.geometry(header)
        factor = geometry.padded / geometry.resolution
        row, column = (frame.pixel, frame.pixel) if geometry.resampled else (rows, columns)
        spacings.add((round(row * factor, 4), round(column * factor, 4), round(depth, 4)))
    return spacings.pop() if len(spacings) == 1 else None


def slice_new_patient(
    files: Mapping[str, Path], config: SliceConfig, frame: Frame | None = None, trust_array_order: bool = False
) -> tuple[TestVolume, VolumeHeader]:
    """All slices of a patient without an annotation, made as those of a training, and the first channel's header.

    Args:
        files: channel -> NIfTI volume.
        frame: pixel size and field of view of the training; None (older trainings): the patient's own.
        trust_array_order: take the files as aligned voxel by voxel even where their headers disagree.
    """
    folder = next(iter(files.values())).parent
    cohort = Cohort((), tuple(files), (), "pattern", folder, trust_array_order)
    refuse_rule_channel(cohort, config)
    reader = PatientReader(Patient(folder.name, "", dict(files), None), cohort, config.plane)
    for problem in reader.problems:
        if problem.severity == "warning":
            log.warning("%s; what to do: %s", problem.problem, problem.fix)
    if not reader.sliceable:
        what = f"the segmenter was trained on {config.plane} slices with square pixels; this volume has none"
        fix = "resample all its sequences to isotropic voxels, or use a segmenter of the plane of this acquisition"
        raise UnderstudyError(what, where=folder, fix=fix)
    reader.refuse_errors()
    header = reader.headers[cohort.channels[0]]
    geometry = (frame or Frame.of([header], config)).geometry(header)
    images, kept = slice_images(reader.image, reader.files, geometry, config)
    empty = np.zeros(header.slice_shape, np.uint8)
    volume = TestVolume(folder.name, "", "test", images, kept, empty, geometry, header.spacing, header.slice_affine)
    return volume, header
