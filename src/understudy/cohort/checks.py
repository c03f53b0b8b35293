"""Checks of a cohort before anything expensive: every file is read once, by the code that `prepare` reads it with."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.background import grey_background
from understudy.cohort.frame import Frame
from understudy.cohort.layouts import LABELS, Cohort, Patient
from understudy.cohort.patient import PatientReader, Problem
from understudy.cohort.scaling import SliceConfig, bright_part, kept_slices
from understudy.cohort.splits import SplitConfig, split_patients
from understudy.errors import UnderstudyError
from understudy.io.grids import VolumeHeader
from understudy.io.nifti import read_header
from understudy.runtime.progress import track
from understudy.runtime.threads import in_order
from understudy.volumes import SliceGeometry

log = logging.getLogger(__name__)

_CLEAR = (
    "`slices: {background: zero}` sets it to 0, if this is background: where only few patients have it, a generator"
    " learns it, and the audit takes its slices for theirs. Nothing, if the volume is cropped to tissue"
)
_CUT = 0.001  # of a channel's summed intensity that cropping may take without a word


@dataclass(frozen=True)
class Checked:
    """What was found out about a cohort.

    Attributes:
        problems: by patient, errors first; empty if all is well.
        frame: pixel size and field of view of the slices; None if no header could be read.
        kept: patient id -> slices that pass the rule.
    """

    problems: list[Problem]
    frame: Frame | None
    kept: dict[str, int]


def check_cohort(
    cohort: Cohort, slicing: SliceConfig | None = None, workers: int = 2, progress: bool = True
) -> Checked:
    """Opens every file of every patient once and lists what is wrong.

    Args:
        cohort: from `find_patients`.
        slicing: how slices will be made; None: the defaults, with a rule that looks at a channel of the cohort.
        workers: patients that are read at the same time.
        progress: show a progress bar.

    Raises:
        UnderstudyError: slices that cannot be made of any patient (unknown rule channel, resolution). Nothing is
            raised for a bad file.
    """
    slicing = slicing or default_slicing(cohort)
    refuse_rule_channel(cohort, slicing)
    frame = frame_of(cohort, slicing)
    problems = [Problem("", note.file, note.text, note.fix, note.severity) for note in cohort.notes]
    inspected: list[_Inspected] = []
    with track(len(cohort.patients), "checking", unit="patients", show=progress) as meter:
        work = partial(_inspect, cohort=cohort, slicing=slicing, frame=frame)
        for found in in_order(work, cohort.patients, workers):
            inspected.append(found)
            problems += found.problems
            meter.advance(1, problems=len(problems))
    problems += _repeated_ids(cohort) + _copies_between_patients(inspected)
    problems += _absent_classes(cohort, inspected)
    problems.sort(key=lambda p: (p.patient, p.severity, str(p.file), p.problem))
    return Checked(problems, frame, {i.patient.id: i.kept for i in inspected if i.kept is not None})


def check_split(cohort: Cohort, checked: Checked, split: SplitConfig, skip_bad_patients: bool) -> list[Problem]:
    """What is wrong with the parts of a split, once the patients with errors are left out.

    Nothing is said where errors stop `prepare` before it splits.
    """
    if not skip_bad_patients and any(p.severity == "error" for p in checked.problems):
        return []
    try:
        accepted = accept(cohort, checked.problems, skip_bad_patients)
        parts = split_patients(accepted, split)
        refuse_empty_training(sum(checked.kept.get(p, 0) for p, part in parts.items() if part == "train"), cohort)
    except UnderstudyError as error:
        where = Path(error.where) if error.where else cohort.path
        return [Problem("", where, error.what, error.fix or "correct the study file")]
    return []


def default_slicing(cohort: Cohort) -> SliceConfig:
    """The defaults, with a rule that looks at the first channel where there is no T1w, at any resolution."""
    usual = SliceConfig.model_validate({})
    channel = usual.rule_channel if usual.rule_channel in cohort.channels else cohort.channels[0]
    return usual.model_copy(update={"rule_channel": channel, "resolution": 4})


def refuse_rule_channel(cohort: Cohort, slicing: SliceConfig) -> None:
    """Raises an `UnderstudyError` where the slice rule looks at a channel that the cohort does not have."""
    if slicing.rule_channel not in cohort.channels:
        raise UnderstudyError(
            f"the slice rule looks at {slicing.rule_channel}, which the cohort does not have",
            where="slices.rule_channel",
            fix=f"set `slices: {{rule_channel: {cohort.channels[0]}}}`, or another of {', '.join(cohort.channels)}",
        )


def refuse_empty_training(slices: int, cohort: Cohort) -> None:
    """Raises an `UnderstudyError` where no training slice passes the rule, which then is wrong for these images."""
    if not slices:
        raise UnderstudyError(
            "no training slice passes the slice rule",
            where=cohort.path,
            fix="lower `rule_fraction` or `rule_intensity` under `slices`, set `scaling: robust`, or `keep: all`",
        )


def frame_of(cohort: Cohort, slicing: SliceConfig) -> Frame | None:
    """The frame of a cohort's slices, from the first readable header of each patient; None if there is none.

    Raises:
        UnderstudyError: see `Frame.of`.
    """
    headers = first_headers(cohort, slicing)
    return Frame.of(headers, slicing) if headers else None


def first_headers(cohort: Cohort, slicing: SliceConfig) -> list[VolumeHeader]:
    """The first readable header of each patient."""
    return [header for patient in cohort.patients if (header := _first_header(patient, slicing))]


def _first_header(patient: Patient, slicing: SliceConfig) -> VolumeHeader | None:
    for path in patient.images.values():
        try:
            return read_header(path, plane=slicing.plane)
        except UnderstudyError:
            continue
    return None


def accept(cohort: Cohort, problems: Sequence[Problem], skip_bad_patients: bool = False) -> Cohort:
    """The cohort without the patients that have errors.

    Raises:
        UnderstudyError: there are errors and they may not be skipped, or no patient is left.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return cohort
    first, bad = errors[0], sorted({problem.patient for problem in errors if problem.patient})
    if not first.patient and not skip_bad_patients:
        raise UnderstudyError(
            first.problem, where=first.file, fix=f"{first.fix}; `skip_bad_patients: true` goes on without it"
        )
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


@dataclass(frozen=True)
class _Inspected:
    """What is known of a patient whose files have been read.

    Attributes:
        patient: whose.
        problems: found.
        kept: slices that pass the rule; None where the rule's channel cannot be used.
        digests: channel -> hash of its voxels.
        classes: indices of the classes that occur in the annotation.
    """

    patient: Patient
    problems: list[Problem]
    kept: int | None = None
    digests: dict[str, str] = field(default_factory=dict)
    classes: frozenset[int] = frozenset()


def _inspect(patient: Patient, cohort: Cohort, slicing: SliceConfig, frame: Frame | None) -> _Inspected:
    """Everything that can be said of one patient alone; what nobody foresaw is a row of the table, not its end."""
    try:
        return _inspected(patient, cohort, slicing, frame)
    except Exception as error:
        log.debug("checking %s", patient.id, exc_info=True)
        what = f"unexpected {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        fix = "please report this; meanwhile leave the patient out (`skip_bad_patients: true`)"
        return _Inspected(patient, [Problem(patient.id, patient.folder, what, fix)])


def _inspected(patient: Patient, cohort: Cohort, slicing: SliceConfig, frame: Frame | None) -> _Inspected:
    reader = PatientReader(patient, cohort, slicing.plane)
    problems, geometry = reader.problems, None

    def add(name: str, error: UnderstudyError) -> None:
        problems.append(Problem(patient.id, reader.files[name], error.what, error.fix or "replace the file"))

    if frame is not None and reader.header is not None and reader.sliceable:
        try:
            geometry = frame.geometry(reader.header)
        except UnderstudyError as error:
            add(next(iter(reader.headers)), error)
    kept, classes, digests = None, frozenset[int](), dict[str, str]()
    for name in reader.headers:
        try:
            if name == LABELS:
                labels = reader.labels()
                classes = frozenset(np.unique(labels[labels > 0]).tolist())
                if geometry is not None and name not in reader.off_grid and _outside(labels, geometry).any():
                    what = f"cropping to {geometry.padded} pixels would cut off annotated voxels"
                    add(name, UnderstudyError(what, fix=_wider(geometry)))
                continue
            volume = reader.image(name)
        except UnderstudyError:
            continue  # it is among the reader's problems
        # of the values, not of how they are stored: a copy may have been saved with another type
        with np.errstate(over="ignore"):
            digests[name] = hashlib.sha256(np.ascontiguousarray(volume, np.float32).data).hexdigest()
        if background := grey_background(volume):
            what = f"{name} is not dark in the corners of its slices (median {background:g}, maximum {volume.max():g})"
            problems.append(Problem(patient.id, reader.files[name], what, _CLEAR, "warning"))
        if geometry is None or name in reader.off_grid:
            continue
        lost = _outside(volume, geometry)
        if lost.any() and lost.sum(dtype=np.float64) > _CUT * volume.sum(dtype=np.float64):
            share = lost.sum(dtype=np.float64) / volume.sum(dtype=np.float64)
            what = f"cropping to {geometry.padded} pixels cuts off {share:.1%} of {name}"
            problems.append(Problem(patient.id, reader.files[name], what, _wider(geometry), "warning"))
        try:
            bright = bright_part(volume, reader.files[name], geometry, slicing)
        except UnderstudyError as error:
            add(name, error)
            continue
        if name == slicing.rule_channel:
            kept = int(kept_slices(bright, geometry, slicing).sum())
            if not kept:
                what = f"no slice passes the slice rule ({_rule(slicing)}), so that the patient is not trained on"
                fix = (
                    "look at the volume: if it is dim, set `slices: {scaling: robust}`; if the head is small in the"
                    " slice, lower `rule_fraction`"
                )
                problems.append(Problem(patient.id, reader.files[name], what, fix, "warning"))
    return _Inspected(patient, problems + _copies_within(patient, digests), kept, digests, classes)


def _rule(slicing: SliceConfig) -> str:
    return (
        f"{slicing.rule_channel} above {slicing.rule_intensity:g} of 255 on more than {slicing.rule_fraction:.0%} of"
        " the padded pixels"
    )


def _outside(stack: NDArray[np.generic], geometry: SliceGeometry) -> NDArray[np.generic]:
    """The stack [Z, H, W] with zeros where a slice is left after cropping; empty where nothing is cropped."""
    if geometry.inside == (geometry.rows, geometry.columns):
        return stack[:0]
    rest = stack.copy()
    scale = geometry.height / geometry.rows, geometry.width / geometry.columns
    kept = (slice(round(w.start * s), round(w.stop * s)) for w, s in zip(geometry.window, scale, strict=True))
    rest[:, *kept] = 0
    return rest


def _wider(geometry: SliceGeometry) -> str:
    return f"set `slices: {{matrix: {2 * geometry.padded}}}` for all patients, or crop or recentre this volume"


def _absent_classes(cohort: Cohort, inspected: Sequence[_Inspected]) -> list[Problem]:
    """Classes that no patient has: usually a wrong label value."""
    seen = frozenset[int]().union(*(i.classes for i in inspected))
    if not seen:
        return []  # each empty annotation is a warning already
    return [
        Problem(
            "",
            cohort.path,
            f"no patient has the class {entry.name} (label value {entry.source})",
            "correct its label value under `classes`, or leave the class out",
            "warning",
        )
        for index, entry in enumerate(cohort.classes)
        if index and index not in seen
    ]


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


def _copies_between_patients(inspected: Sequence[_Inspected]) -> list[Problem]:
    """The same image under two ids would put one patient on both sides of the split."""
    first: dict[str, tuple[Patient, str]] = {}
    problems = []
    for found in inspected:
        patient = found.patient
        for name, digest in found.digests.items():
            earlier, earlier_name = first.setdefault(digest, (patient, name))
            if earlier.id == patient.id:
                continue
            what = f"{name} is identical to {earlier_name} of patient {earlier.id}"
            file, fix = (
                patient.images[name],
                "remove one of the two patients (they would leak between training and test)",
            )
            if earlier.subject == patient.subject:  # both are on one side of the split
                problems.append(Problem(patient.id, file, what, "nothing, or remove one of the two scans", "warning"))
            else:
                problems.append(Problem(patient.id, file, what, fix))
    return problems
