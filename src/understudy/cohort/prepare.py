"""The slices of a cohort's patients, written patient by patient; `cohort.scaling` says what a slice is made of."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.checks import frame_of, refuse_empty_training, refuse_rule_channel
from understudy.cohort.frame import Frame
from understudy.cohort.layouts import LABELS, Cohort, Patient
from understudy.cohort.patient import PatientReader
from understudy.cohort.scaling import SliceConfig, slice_images
from understudy.errors import UnderstudyError
from understudy.io.grids import axes_of
from understudy.io.nifti import read_header
from understudy.runtime.lazy import pandas as pd
from understudy.runtime.progress import track
from understudy.runtime.threads import in_order
from understudy.slices import SliceWriter
from understudy.volumes import TestVolume, VolumeWriter

SPLITS = ("train", "val", "test")
_COUNTED = {"patients": 0, "slices": 0, "annotated": 0, "without_slices": 0}


def prepare(
    cohort: Cohort,
    split: Mapping[str, str],
    config: SliceConfig,
    out: Path,
    progress: bool = True,
    frame: Frame | None = None,
) -> dict[str, dict[str, int]]:
    """Writes `out/slices` (kept slices of all patients) and `out/volumes` (validation and test patients, whole).

    Args:
        cohort: accepted patients.
        split: patient id -> "train", "val" or "test".
        config: how slices are made.
        out: folder of the two results.
        progress: show a progress bar.
        frame: pixel size and field of view, from `check_cohort`; None: those of these patients.

    Returns:
        For each split: patients, slices, annotated slices, patients without a slice.

    Raises:
        UnderstudyError: unreadable or unusable volume, unknown rule channel, patient without a part, no slice
            that passes the rule, full disk, no permission.
    """
    refuse_rule_channel(cohort, config)
    for patient in cohort.patients:
        if split.get(patient.id) not in SPLITS:
            raise UnderstudyError(f"patient {patient.id} is in no part of the split", fix="split the cohort again")
    order = sorted(cohort.patients, key=lambda patient: patient.id)
    frame = frame or frame_of(cohort, config)
    if frame is None:  # no header can be read: the first patient says why
        PatientReader(order[0], cohort, config.plane).refuse_errors()
        raise UnderstudyError("no image of the cohort can be read", where=cohort.path, fix="run `understudy check`")
    spec = config.model_dump(exclude={"workers"})
    axes = axes_of(config.plane)
    writer = SliceWriter(
        Path(out) / "slices",
        cohort.channels,
        cohort.classes,
        config.resolution,
        spacing=_common_spacing(order, frame),
        axes=axes,
        identity={"config": spec, "split": dict(split), "files": _file_sizes(order), "frame": frame.as_dict()},
    )
    volumes = VolumeWriter(Path(out) / "volumes", cohort.channels, cohort.classes, axes=axes, frame=frame.as_dict())
    # What an interrupted run has written is not written again; the order of patients is always the same.
    already = writer.done
    counts, sources = {part: Counter(_COUNTED) for part in SPLITS}, {}
    work = partial(slice_patient, cohort=cohort, split=split, config=config, frame=frame, volumes=volumes)
    with track(len(order), "slicing", unit="patients", show=progress) as meter:
        for sliced in in_order(work, order, config.workers):
            skip = min(already, len(sliced.rows))
            already -= skip
            if len(sliced.rows) > skip:
                writer.append(sliced.images[skip:], sliced.labels[skip:], sliced.rows.iloc[skip:])
            counts[split[sliced.patient.id]].update(sliced.counted)
            sources[sliced.patient.id] = sliced.source
            meter.advance(1, slices=sum(part["slices"] for part in counts.values()))
    refuse_empty_training(counts["train"]["slices"], cohort)
    volumes.close()
    result = {part: dict(counter) for part, counter in counts.items()}
    writer.close(counts=result, slicing=spec, frame=frame.as_dict(), layout=cohort.layout, sources=sources)
    return result


@dataclass(frozen=True)
class SlicedPatient:
    """A patient's kept slices.

    Attributes:
        patient: whose.
        images: uint8 [n, C, R, R].
        labels: uint8 [n, R, R], class indices.
        rows: their index rows.
        source: SHA-256 over the bytes of the patient's files.
    """

    patient: Patient
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    rows: pd.DataFrame
    source: str

    @property
    def counted(self) -> dict[str, int]:
        """What the patient adds to the counts of its part."""
        annotated = int(self.labels.any(axis=(1, 2)).sum())
        return dict(zip(_COUNTED, (1, len(self.rows), annotated, int(self.rows.empty)), strict=True))


def slice_patient(
    patient: Patient,
    cohort: Cohort,
    split: Mapping[str, str],
    config: SliceConfig,
    frame: Frame,
    volumes: VolumeWriter | None = None,
) -> SlicedPatient:
    """Slices one patient, and writes the whole volume to `volumes` if the patient is in "val" or "test".

    Raises:
        UnderstudyError: see `prepare`.
    """
    part, digest = split[patient.id], hashlib.sha256()
    reader = PatientReader(patient, cohort, config.plane)
    reader.refuse_errors()
    header = reader.headers[LABELS]
    geometry = frame.geometry(header)

    def read(channel: str) -> NDArray[Any]:
        return reader.image(channel, digest)

    files = {channel: reader.files[channel] for channel in cohort.channels}
    images, kept = slice_images(read, files, geometry, config, only_kept=part == "train")
    truth = reader.labels(digest)
    if part == "train":
        truth = truth[kept]
    labels = geometry.network_labels(truth, len(cohort.classes))

    if part != "train" and volumes is not None:
        volumes.write(
            TestVolume(
                patient.subject, patient.site, part, images, kept, truth, geometry, header.spacing, header.slice_affine
            )
        )
    rows = _index_rows(patient, part, np.flatnonzero(kept))
    if part != "train":
        images, labels = images[kept], labels[kept]
    return SlicedPatient(patient, images, labels, rows, digest.hexdigest())


def _index_rows(patient: Patient, part: str, z: NDArray[np.int64]) -> pd.DataFrame:
    """Rows of the slice set's index; z counts from 0 at the inferior end."""
    text = {"subject": patient.subject, "site": patient.site, "split": part}
    columns = {name: pd.Series([value] * len(z), dtype=object) for name, value in text.items()}
    ids = [f"{patient.id}_{i:03d}" for i in z]
    return pd.DataFrame({"id": ids, **columns, "z": z.astype(np.int64)})[["id", "subject", "site", "z", "split"]]


def _common_spacing(patients: list[Patient], frame: Frame) -> tuple[float, float, float] | None:
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


def _file_sizes(patients: list[Patient]) -> dict[str, int]:
    """What tells cheaply that the files are still those that an interrupted run has read."""
    paths = [path for patient in patients for path in (*patient.images.values(), patient.labels) if path]
    return {str(path): path.stat().st_size for path in paths}
