"""Volumes to slices, as the paper made them: scale, pad, choose by the rule, shrink to the network's resolution.

The rules come from the authors' `split_volumes_to_slices.m` (facts, generators 0.11): each volume is divided by
its own maximum and multiplied by 255 in double precision; slices are zero-padded to 256 x 256; a slice is kept
if more than 15 % of the padded T1w pixels exceed 50 (compared before rounding); MATLAB's `uint8` rounds halves up.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from understudy.cohort.layouts import LABELS, Cohort, Patient
from understudy.errors import UnderstudyError
from understudy.lazy import pandas as pd
from understudy.nifti import AXES, VolumeHeader, in_order, read_header, read_voxels, slices_of
from understudy.progress import track
from understudy.slices import LabelClass, SliceWriter
from understudy.volumes import SliceGeometry, TestVolume, VolumeWriter

SPLITS = ("train", "val", "test")
_BLOCK = 4  # slices that are scaled at a time: their doubles stay in the processor's cache
_COUNTED = {"patients": 0, "slices": 0, "annotated": 0, "without_slices": 0}


class SliceConfig(BaseModel):
    """How slices are made; the defaults are the paper's."""

    model_config = ConfigDict(extra="forbid")

    resolution: int = Field(
        default=256, description="height and width of the slices, pixels (32, 64, 128, 256, ...)"
    )
    scaling: Literal["max", "robust"] = Field(
        default="max",
        description="what becomes 255: the volume's maximum (the paper), or a percentile of its non-zero voxels",
    )
    percentile: float = Field(
        default=99.5, gt=50, le=100, description="the percentile of `scaling: robust`, percent"
    )
    keep: Literal["rule", "all"] = Field(
        default="rule", description="keep the slices that pass the rule below, or all"
    )
    rule_channel: str = Field(default="T1w", description="sequence that the rule looks at")
    rule_intensity: float = Field(
        default=50.0, ge=0, lt=255, description="a pixel counts above this, on the scale 0-255"
    )
    rule_fraction: float = Field(
        default=0.15,
        ge=0,
        lt=1,
        description="a slice is kept if more than this fraction of its padded pixels count",
    )
    workers: int = Field(
        default=2, ge=1, le=64, description="patients that are read at the same time, threads"
    )


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

    def bright(channel: str) -> _Bright:
        return _Bright.of(read(channel), files[channel], config)

    # The rule first: of a training patient only the kept slices are worth scaling.
    rule = bright(config.rule_channel)
    kept = passes_rule(rule.slices, rule.ceiling, geometry, config)
    if config.keep == "all":
        kept = np.ones_like(kept)
    wanted = np.flatnonzero(kept) if only_kept else np.arange(len(kept))
    images = np.zeros((len(wanted), len(files), config.resolution, config.resolution), np.uint8)
    for c, channel in enumerate(files):
        volume = rule if channel == config.rule_channel else bright(channel)
        _scale_and_shrink(volume, wanted, geometry, images[:, c])
    return images, kept


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
class _Bright:
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
    def of(cls, slices: NDArray[Any], path: Path, config: SliceConfig) -> _Bright:
        """Looks at a volume [Z, H, W]; raises an UnderstudyError if it has no usable ceiling."""
        brightest = slices.max(axis=0)  # a NaN stays one
        ceiling = _ceiling(slices, float(brightest.max()), path, config)
        rows, columns = np.flatnonzero((brightest > 0).any(1)), np.flatnonzero((brightest > 0).any(0))
        box = slices[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(box, (int(rows[0]), int(columns[0])), ceiling)


def _scale_and_shrink(
    volume: _Bright, wanted: NDArray[np.int64], geometry: SliceGeometry, out: NDArray[np.uint8]
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


def _ceiling(slices: NDArray[Any], value: float, path: Path, config: SliceConfig) -> float:
    """The intensity that becomes 255; `value` is the volume's maximum."""
    if config.scaling == "robust":
        nonzero = slices[slices != 0]
        value = float(np.percentile(nonzero, config.percentile)) if nonzero.size else 0.0
    if not (np.isfinite(value) and value > 0):
        raise UnderstudyError(
            "the volume is empty, not above zero, or holds NaN",
            where=path,
            fix="run `understudy check` on the cohort",
        )
    return value


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
