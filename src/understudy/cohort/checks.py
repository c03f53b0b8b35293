"""Checks of a cohort before anything expensive: every file is opened once, every problem says what to do."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.background import grey_background
from understudy.cohort.layouts import LABELS, Cohort, Patient
from understudy.errors import UnderstudyError
from understudy.nifti import VolumeHeader, in_order, read_header, read_voxels, slices_of
from understudy.progress import track
from understudy.slices import LabelClass

Severity = Literal["error", "warning"]

# Interpolation undershoots a little below zero; a z-scored volume is negative for about half of its tissue.
_TOLERATED_NEGATIVE = 0.01  # fraction of the voxels
_TOLERATED_UNDERSHOOT = 0.05  # of the maximum


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one patient.

    Attributes:
        patient: id.
        file: the file concerned.
        problem: what is wrong.
        fix: what to do about it.
        severity: an "error" keeps the patient out; a "warning" is to be known.
    """

    patient: str
    file: Path
    problem: str
    fix: str
    severity: Severity = "error"


@dataclass(frozen=True)
class _Inspected:
    """A patient's problems, and digests of the images by which copies are recognised."""

    problems: list[Problem]
    digests: dict[str, str] = field(default_factory=dict)


def check_cohort(cohort: Cohort, workers: int = 2, progress: bool = True) -> list[Problem]:
    """Opens every file of every patient once and lists what is wrong, by patient, errors first.

    Args:
        cohort: from `find_patients`.
        workers: patients that are read at the same time.
        progress: show a progress bar.

    Returns:
        Problems; empty if all is well. Nothing is raised for a bad file.
    """
    problems: list[Problem] = []
    digests: list[tuple[Patient, dict[str, str]]] = []
    with track(len(cohort.patients), "checking", unit="patients", show=progress) as meter:
        for patient, inspected in zip(
            cohort.patients,
            in_order(partial(_inspect, cohort=cohort), cohort.patients, workers),
            strict=True,
        ):
            problems += inspected.problems
            digests.append((patient, inspected.digests))
            meter.advance(1, problems=len(problems))
    problems += _repeated_ids(cohort) + _copies_between_patients(digests)
    return sorted(problems, key=lambda p: (p.patient, p.severity, str(p.file), p.problem))


def accept(cohort: Cohort, problems: Sequence[Problem], skip_bad_patients: bool = False) -> Cohort:
    """The cohort without the patients that have errors.

    Raises:
        UnderstudyError: there are errors and they may not be skipped, or no patient is left.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    bad = sorted({problem.patient for problem in errors})
    if not bad:
        return cohort
    first = errors[0]
    listed = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    if not skip_bad_patients:
        raise UnderstudyError(
            f"{len(bad)} of {len(cohort.patients)} patients cannot be used ({listed}); "
            f"{first.patient}: {first.problem}",
            where=first.file,
            fix=f"{first.fix}; `understudy check` lists everything; `skip_bad_patients: true` goes on without them",
        )
    left = tuple(patient for patient in cohort.patients if patient.id not in bad)
    if not left:
        raise UnderstudyError(
            f"no patient is left: all {len(bad)} have errors; {first.patient}: {first.problem}",
            where=first.file,
            fix=f"{first.fix}; `understudy check` lists everything",
        )
    return replace(cohort, patients=left)


def _inspect(patient: Patient, cohort: Cohort) -> _Inspected:
    """Everything that can be said of one patient alone."""
    problems = _missing_and_surplus(patient)
    files = dict(patient.images) | ({LABELS: patient.labels} if patient.labels else {})
    headers: dict[str, VolumeHeader] = {}
    for name, path in files.items():
        try:
            headers[name] = read_header(path)
        except UnderstudyError as error:
            problems.append(_from_error(patient, path, error))
    problems += _grid(patient, files, headers, cohort)
    digests: dict[str, str] = {}
    for name, header in headers.items():
        try:
            voxels = read_voxels(files[name], header)
        except UnderstudyError as error:
            problems.append(_from_error(patient, files[name], error))
            continue
        if name == LABELS:
            problems += _judge_labels(patient, files[name], voxels, cohort.classes)
        else:
            judged = _judge_image(patient, files[name], name, slices_of(voxels, header))
            problems += judged
            if any(problem.severity == "error" for problem in judged):
                continue  # two empty volumes are not copies of one patient
            digests[name] = hashlib.sha256(np.ascontiguousarray(voxels.T).data).hexdigest()
    return _Inspected(problems + _copies_within(patient, digests), digests)


def _from_error(patient: Patient, path: Path, error: UnderstudyError) -> Problem:
    """A file that cannot be read."""
    return Problem(patient.id, path, error.what, error.fix or "replace the file")


def _missing_and_surplus(patient: Patient) -> list[Problem]:
    """Files that are not there, and files that are there twice."""
    problems = []
    for name, path in patient.missing.items():
        others = sorted(p.name for p in path.parent.glob("*.nii*")) if path.parent.is_dir() else []
        known = {p.name for p in (*patient.images.values(), patient.labels) if p}
        # BraTS 2020 ships one annotation under a name of its own (patient 355).
        strange = [other for other in others if other not in known and not other.startswith(".")]
        hint = f" (or rename {strange[0]}, if it is this one)" if strange else ""
        what = "no annotation" if name == LABELS else f"no {name} image"
        problems.append(Problem(patient.id, path, what, f"add {path.name}{hint}, or leave the patient out"))
    for name, paths in patient.surplus.items():
        first = patient.labels if name == LABELS else patient.images[name]
        chosen = first.name if first else ""
        problems.append(
            Problem(
                patient.id,
                paths[0],
                f"{len(paths) + 1} files match {name}: {', '.join([chosen, *(p.name for p in paths)])}",
                "keep one of them, or make the pattern narrower",
            )
        )
    return problems


def _grid(
    patient: Patient, files: dict[str, Path], headers: dict[str, VolumeHeader], cohort: Cohort
) -> list[Problem]:
    """Shapes and affines that differ from those of most of the patient's files."""
    if len(headers) < 2:
        return []
    common = Counter(header.slice_shape for header in headers.values()).most_common(1)[0][0]
    reference = next(name for name, header in headers.items() if header.slice_shape == common)
    problems = []
    for name, header in headers.items():
        if header.same_grid(headers[reference]):
            if header.axes != headers[reference].axes:
                what = f"{name} is stored as {header.axes}, {reference} as {headers[reference].axes}"
                fix = "nothing to do: the headers agree on the positions, and each file is turned by its own"
                problems.append(Problem(patient.id, files[name], what, fix, "warning"))
        elif header.shape != headers[reference].shape:
            what = f"{name} has shape {_times(header.shape)}, {reference} {_times(headers[reference].shape)}"
            fix = "resample it onto the grid of the other files"
            problems.append(Problem(patient.id, files[name], what, fix))
        else:
            problems.append(_other_affine(patient, files, name, reference, headers, cohort))
    return problems


def _other_affine(
    patient: Patient,
    files: dict[str, Path],
    name: str,
    reference: str,
    headers: dict[str, VolumeHeader],
    cohort: Cohort,
) -> Problem:
    """Same shape, other position in the world: wrong header or wrong data, which only the user can know."""
    what = (
        f"the affines of {name} ({headers[name].axes}) and {reference} ({headers[reference].axes}) differ"
        + _where_the_annotation_lies(files, name, reference, headers)
    )
    if cohort.trust_array_order:
        fix = "nothing, if you know that the arrays align: `trust_array_order` is set"
        return Problem(patient.id, files[name], what, fix, "warning")
    fix = "look at both in a viewer; correct the header, or set `trust_array_order: true` if the arrays align"
    return Problem(patient.id, files[name], what, fix)


def _where_the_annotation_lies(
    files: dict[str, Path], name: str, reference: str, headers: dict[str, VolumeHeader]
) -> str:
    """A hint at which of array and header is right: how much of the annotation lies on tissue by either."""
    if name != LABELS:
        return ""
    try:
        labels, image = (read_voxels(files[n], headers[n]) for n in (name, reference))
    except UnderstudyError:
        return ""  # reported by its own problem
    annotated = int(np.count_nonzero(labels))
    if not annotated:
        return ""
    stored = np.count_nonzero(image[labels != 0]) / annotated
    turned = slices_of(labels, headers[name]) != 0
    by_header = np.count_nonzero(slices_of(image, headers[reference])[turned]) / annotated
    return (
        f" ({stored:.0%} of the annotation lies on non-zero voxels as stored, {by_header:.0%} by the headers)"
    )


def _times(shape: tuple[int, ...]) -> str:
    """(240, 240, 155) -> 240x240x155."""
    return "x".join(map(str, shape))


def _judge_image(patient: Patient, path: Path, name: str, voxels: NDArray[Any]) -> list[Problem]:
    """NaN, infinite, empty, constant and negative volumes [Z, H, W], and those whose background is not dark."""

    def problem(what: str, fix: str, severity: Severity = "error") -> list[Problem]:
        return [Problem(patient.id, path, f"{name} {what}", fix, severity)]

    low, high = float(voxels.min()), float(voxels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(voxels)))
        return problem(f"holds {bad} NaN or infinite voxels", "export it again, or set these voxels to 0")
    if low == high:
        kind = "is empty (all zeros)" if low == 0 else f"is constant (all {low:g})"
        return problem(kind, "replace it by the real image")
    if low < 0:
        share = np.count_nonzero(voxels < 0) / voxels.size
        if share > _TOLERATED_NEGATIVE or low < -_TOLERATED_UNDERSHOOT * high:
            return problem(
                f"is negative in {share:.1%} of its voxels (minimum {low:g}, maximum {high:g})",
                "use intensities before z-scoring, or shift them so that the background is 0",
            )
        return problem(
            f"is slightly negative in {share:.2%} of its voxels (minimum {low:g})",
            "nothing, if this comes from interpolation: these voxels become 0",
            "warning",
        )
    if background := grey_background(voxels):
        return problem(
            f"is not dark in the corners of its slices (median {background:g}, maximum {high:g})",
            "`slices: {background: zero}` sets it to 0, if this is background: where only few patients have it, a"
            " generator learns it, and the audit takes its slices for theirs. Nothing, if the volume is cropped to"
            " tissue",
            "warning",
        )
    return []


def _judge_labels(
    patient: Patient, path: Path, voxels: NDArray[Any], classes: tuple[LabelClass, ...]
) -> list[Problem]:
    """Fractions, unexpected values, an empty mask, integers stored as floats."""

    def problem(what: str, fix: str, severity: Severity = "error") -> Problem:
        return Problem(patient.id, path, what, fix, severity)

    problems = []
    if np.issubdtype(voxels.dtype, np.floating):
        broken = voxels != np.rint(voxels)  # true for NaN as well
        if broken.any() or not np.isfinite(voxels).all():
            example = voxels[broken | ~np.isfinite(voxels)].flat[0]
            what = f"the annotation holds values that are not whole, for example {example:.9g}"
            return [problem(what, "round it, or resample it again with nearest-neighbour interpolation")]
        what = f"the annotation is stored as {voxels.dtype.name}, though all values are whole"
        problems.append(problem(what, "nothing to do; saved as uint8 it would be smaller", "warning"))
    values = _distinct(voxels)
    unexpected = [value for value in values if value not in [entry.source for entry in classes]]
    if unexpected:
        named = ", ".join(f"{entry.source} ({entry.name})" for entry in classes)
        what = f"unexpected label {', '.join(f'{value:g}' for value in unexpected[:5])}; expected {named}"
        fix = "correct the file, or describe the cohort with `layout: pattern` and its own `classes`"
        problems.append(problem(what, fix))
    elif values == [0]:
        what = "the annotation is empty (background only)"
        problems.append(problem(what, "nothing, if there is no lesion; else replace the file", "warning"))
    return problems


def _distinct(voxels: NDArray[Any]) -> list[float]:
    """The values that occur, sorted; without sorting the millions of zeros."""
    values = [float(value) for value in np.unique(voxels[voxels != 0])]
    return sorted([*values, 0.0]) if np.count_nonzero(voxels) < voxels.size else values


def _copies_within(patient: Patient, digests: dict[str, str]) -> list[Problem]:
    """Two sequences of one patient with the same voxels: a missing one was filled with a copy."""
    first: dict[str, str] = {}
    problems = []
    for name, digest in digests.items():
        if digest in first:
            problems.append(
                Problem(
                    patient.id,
                    patient.images[name],
                    f"{name} is identical to {first[digest]}",
                    "probably a stand-in for a missing sequence: add the real one, or leave the patient out",
                    "warning",
                )
            )
        first.setdefault(digest, name)
    return problems


def _repeated_ids(cohort: Cohort) -> list[Problem]:
    """One id in two folders."""
    first: dict[str, Path] = {}
    problems = []
    for patient in cohort.patients:
        if patient.id in first:
            problems.append(
                Problem(
                    patient.id,
                    patient.folder,
                    f"the patient is also in {first[patient.id]}",
                    "remove one of the two folders",
                )
            )
        first.setdefault(patient.id, patient.folder)
    return problems


def _copies_between_patients(digests: list[tuple[Patient, dict[str, str]]]) -> list[Problem]:
    """The same image under two ids would put one patient on both sides of the split."""
    first: dict[str, tuple[Patient, str]] = {}
    problems = []
    for patient, images in digests:
        for name, digest in images.items():
            earlier, earlier_name = first.setdefault(digest, (patient, name))
            if earlier.id != patient.id:
                problems.append(
                    Problem(
                        patient.id,
                        patient.images[name],
                        f"{name} is identical to {earlier_name} of patient {earlier.id}",
                        "remove one of the two patients (they would leak between training and test)",
                    )
                )
    return problems
