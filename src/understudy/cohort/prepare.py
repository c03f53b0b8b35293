"""The slices of a cohort's patients, written patient by patient; what a slice is made of says `cohort.scaling`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.layouts import LABELS, Cohort, Patient
from understudy.cohort.scaling import SliceConfig, slice_images
from understudy.errors import UnderstudyError
from understudy.lazy import pandas as pd
from understudy.nifti import AXES, VolumeHeader, in_order, read_header, read_voxels, slices_of
from understudy.progress import track
from understudy.slices import LabelClass, SliceWriter
from understudy.volumes import SliceGeometry, TestVolume, VolumeWriter

SPLITS = ("train", "val", "test")
_COUNTED = {"patients": 0, "slices": 0, "annotated": 0, "without_slices": 0}


def prepare(
    cohort: Cohort, split: Mapping[str, str], config: SliceConfig, out: Path, progress: bool = True
) -> dict[str, dict[str, int]]:
    """Writes `out/slices` (kept slices of all patients) and `out/volumes` (validation and test patients, whole).

    Args:
        cohort: accepted patients.
        split: patient id -> "train", "val" or "test".
        config: how slices are made.
        out: folder of the two results.
        progress: show a progress bar.

    Returns:
        For each split: patients, slices, annotated slices, patients without a slice.

    Raises:
        UnderstudyError: unreadable or unusable volume, unknown rule channel, patient without a part, no slice
            that passes the rule, full disk, no permission.
    """
    _refuse_unusable(cohort, split, config)
    order = sorted(cohort.patients, key=lambda patient: patient.id)
    spec = config.model_dump(exclude={"workers"})
    writer = SliceWriter(
        Path(out) / "slices",
        cohort.channels,
        cohort.classes,
        config.resolution,
        spacing=_common_spacing(order, config.resolution),
        axes=AXES,
        identity={"config": spec, "split": dict(split), "files": _file_sizes(order)},
    )
    volumes = VolumeWriter(Path(out) / "volumes", cohort.channels, cohort.classes, axes=AXES)
    # What an interrupted run has written is not written again; the order of patients is always the same.
    already = writer.done
    counts, sources = {part: Counter(_COUNTED) for part in SPLITS}, {}
    work = partial(slice_patient, cohort=cohort, split=split, config=config, volumes=volumes)
    with track(len(order), "slicing", unit="patients", show=progress) as meter:
        for sliced in in_order(work, order, config.workers):
            skip = min(already, len(sliced.rows))
            already -= skip
            if len(sliced.rows) > skip:
                writer.append(sliced.images[skip:], sliced.labels[skip:], sliced.rows.iloc[skip:])
            counts[split[sliced.patient.id]].update(sliced.counted)
            sources[sliced.patient.id] = sliced.source
            meter.advance(1, slices=sum(part["slices"] for part in counts.values()))
    _refuse_empty(counts["train"]["slices"], cohort, config)
    volumes.close()
    result = {part: dict(counter) for part, counter in counts.items()}
    writer.close(counts=result, slicing=spec, layout=cohort.layout, sources=sources)
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
    volumes: VolumeWriter | None = None,
) -> SlicedPatient:
    """Slices one patient, and writes the whole volume to `volumes` if the patient is in "val" or "test".

    Raises:
        UnderstudyError: see `prepare`.
    """
    part, digest = split[patient.id], hashlib.sha256()
    headers = _headers(patient, cohort)
    depth, height, width = headers[LABELS].slice_shape
    geometry = SliceGeometry.fit(height, width, config.resolution)

    def read(name: str) -> NDArray[Any]:
        return slices_of(read_voxels(_file(patient, name), headers[name], digest), headers[name])

    files = {channel: _file(patient, channel) for channel in cohort.channels}
    images, kept = slice_images(read, files, geometry, config, only_kept=part == "train")
    wanted = np.flatnonzero(kept) if part == "train" else np.arange(depth)
    truth = class_indices(read(LABELS)[wanted], cohort.classes, _file(patient, LABELS))
    labels = geometry.shrink_labels(geometry.pad(truth), len(cohort.classes))

    if part != "train" and volumes is not None:
        spacing, affine = headers[LABELS].spacing, headers[LABELS].slice_affine
        volumes.write(
            TestVolume(patient.id, patient.site, part, images, kept, truth, geometry, spacing, affine)
        )
    rows = _index_rows(patient, part, np.flatnonzero(kept))
    if part != "train":
        images, labels = images[kept], labels[kept]
    return SlicedPatient(patient, images, labels, rows, digest.hexdigest())


def _index_rows(patient: Patient, part: str, z: NDArray[np.int64]) -> pd.DataFrame:
    """Rows of the slice set's index; z counts from 0 at the inferior end."""
    text = {"subject": patient.id, "site": patient.site, "split": part}
    columns = {name: pd.Series([value] * len(z), dtype=object) for name, value in text.items()}
    ids = [f"{patient.id}_{i:03d}" for i in z]
    return pd.DataFrame({"id": ids, **columns, "z": z.astype(np.int64)})[
        ["id", "subject", "site", "z", "split"]
    ]


def _file(patient: Patient, name: str) -> Path:
    """The file of a sequence or of the annotation."""
    path = patient.labels if name == LABELS else patient.images.get(name)
    if path is None:
        raise UnderstudyError(
            f"patient {patient.id} has no {name}",
            where=patient.missing.get(name),
            fix="add the file or set `skip_bad_patients: true`",
        )
    return path


def class_indices(slices: NDArray[Any], classes: tuple[LabelClass, ...], path: Path) -> NDArray[np.uint8]:
    """Source label values [Z, H, W] -> class indices uint8 [Z, H, W].

    Raises:
        UnderstudyError: a value that no class has.
    """
    indices = np.zeros(slices.shape, np.uint8)
    for target, plane in zip(indices, slices, strict=True):
        known = np.count_nonzero(plane == 0)
        if known == plane.size:
            continue
        for index, entry in enumerate(classes[1:], start=1):
            here = plane == entry.source
            target[here] = index
            known += np.count_nonzero(here)
        if known < plane.size:
            unexpected = sorted(set(np.unique(plane).tolist()) - {entry.source for entry in classes})
            raise UnderstudyError(
                f"unexpected label {', '.join(f'{value:g}' for value in unexpected[:5])}",
                where=path,
                fix=f"expected {', '.join(f'{c.source} ({c.name})' for c in classes)}; "
                "correct the file or the label map",
            )
    return indices


def _headers(patient: Patient, cohort: Cohort) -> dict[str, VolumeHeader]:
    """Headers of all the patient's files, agreeing on the grid."""
    headers = {name: read_header(_file(patient, name)) for name in (*cohort.channels, LABELS)}
    first = headers[cohort.channels[0]]
    for name, header in headers.items():
        if header.same_grid(first):
            continue
        if not (cohort.trust_array_order and header.shape == first.shape):
            raise UnderstudyError(
                f"patient {patient.id}: {name} and {cohort.channels[0]} are not on the same grid",
                where=_file(patient, name),
                fix="run `understudy check` on the cohort",
            )
        headers[name] = replace(header, affine=first.affine)
    return headers


def _common_spacing(patients: list[Patient], resolution: int) -> tuple[float, float, float] | None:
    """(row, column, slice) distance in mm of the slices as stored; None if patients differ."""
    spacings = set()
    for patient in patients:
        header = read_header(next(iter(patient.images.values())))
        depth, rows, columns = header.spacing
        geometry = SliceGeometry.fit(*header.slice_shape[1:], resolution)
        factor = geometry.padded / geometry.resolution
        spacings.add((round(rows * factor, 4), round(columns * factor, 4), round(depth, 4)))
    return spacings.pop() if len(spacings) == 1 else None


def _refuse_unusable(cohort: Cohort, split: Mapping[str, str], config: SliceConfig) -> None:
    """What can be known to be wrong before the first volume is read."""
    if config.rule_channel not in cohort.channels:
        raise UnderstudyError(
            f"the slice rule looks at {config.rule_channel}, which the cohort does not have",
            where="rule_channel",
            fix=f"set it to one of {', '.join(cohort.channels)}",
        )
    for patient in cohort.patients:
        if split.get(patient.id) not in SPLITS:
            raise UnderstudyError(
                f"patient {patient.id} is in no part of the split", fix="split the cohort again"
            )
        for name in (*cohort.channels, LABELS):
            _file(patient, name)


def _refuse_empty(slices: int, cohort: Cohort, config: SliceConfig) -> None:
    """A rule that nothing passes is a wrong rule for these images."""
    if not slices:
        raise UnderstudyError(
            f"no training slice passes the rule ({config.rule_channel} above {config.rule_intensity:g} on more than "
            f"{config.rule_fraction:.0%} of the padded pixels)",
            where=cohort.path,
            fix="lower `rule_fraction` or `rule_intensity`, or set `keep: all`",
        )


def _file_sizes(patients: list[Patient]) -> dict[str, int]:
    """What tells cheaply that the files are still those that an interrupted run has read."""
    paths = [path for patient in patients for path in (*patient.images.values(), patient.labels) if path]
    return {str(path): path.stat().st_size for path in paths}
