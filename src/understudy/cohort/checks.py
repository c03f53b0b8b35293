"""Checks of a cohort before anything expensive: every file is read once, by the code that `prepare` reads it with."""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.config import Cohort, Patient, Problem, Severity, note
from understudy.cohort.patient import PatientReader
from understudy.cohort.slicing import Frame, SliceConfig, bright_part, grey_background, kept_slices
from understudy.cohort.splits import SplitConfig, split_patients
from understudy.errors import UnderstudyError, first_line
from understudy.exchange.spec import LABELS
from understudy.io.grids import VolumeHeader
from understudy.io.nifti import read_header
from understudy.runtime.memory import in_order
from understudy.runtime.progress import track
from understudy.volumes import SliceGeometry

log = logging.getLogger(__name__)

_CLEAR = "set `slices: {background: zero}`, or a generator learns it; nothing, if the volume is cropped to tissue"
_CUT = 0.001  # of a channel's summed intensity that cropping may take without a warning


@dataclass(frozen=True)
class Checked:
    """What was found out about a cohort."""

    problems: list[Problem]  # sorted by patient, errors first
    frame: Frame | None  # None if no header could be read
    kept: dict[str, int]  # patient id -> slices that pass the rule


@dataclass
class _Inspected:
    patient: Patient
    problems: list[Problem]
    kept: int | None = None  # slices that pass the rule
    digests: dict[str, str] = field(default_factory=dict)  # channel -> hash of its voxels
    classes: set[int] = field(default_factory=set)  # that are annotated


def check_cohort(
    cohort: Cohort, slicing: SliceConfig | None = None, workers: int = 2, progress: bool = True
) -> Checked:
    """Opens every file of every patient once and lists what is wrong.

    Args:
        slicing: how slices will be made; None: the defaults, with a rule that looks at a channel of the cohort.
        workers: patients that are read at the same time.

    Raises:
        UnderstudyError: unknown rule channel, resolution that does not fit. Nothing is raised for a bad file.
    """
    if slicing is None:
        slicing = SliceConfig(resolution=4)  # small enough for any cohort
        if slicing.rule_channel not in cohort.channels:
            slicing = slicing.model_copy(update={"rule_channel": cohort.channels[0]})
    refuse_rule_channel(cohort, slicing)
    frame = frame_of(cohort, slicing)
    problems = list(cohort.notes)
    inspected: list[_Inspected] = []
    with track(len(cohort.patients), "checking", unit="patients", show=progress) as meter:
        work = partial(_inspect, cohort=cohort, slicing=slicing, frame=frame)
        for found in in_order(work, cohort.patients, workers):
            inspected.append(found)
            problems += found.problems
            meter.advance(1, problems=len(problems))
    folders: dict[str, Path] = {}
    for patient in cohort.patients:
        if patient.id in folders:
            what = f"the patient is also in {folders[patient.id]}"
            problems.append(Problem(patient.id, patient.folder, what, "remove one of the two folders"))
        folders.setdefault(patient.id, patient.folder)
    problems += _copies_between_patients(inspected)
    seen = set[int]().union(*(i.classes for i in inspected))
    for index, entry in enumerate(cohort.classes):
        if seen and index and index not in seen:  # where nothing is annotated, each patient has a warning already
            text = f"no patient has the class {entry.name} (label value {entry.source})"
            problems.append(note(cohort.path, text, "correct its label value under `classes`, or leave the class out"))
    problems.sort(key=lambda p: (p.patient, p.severity, str(p.file), p.problem))
    return Checked(problems, frame, {i.patient.id: i.kept for i in inspected if i.kept is not None})


def check_split(cohort: Cohort, checked: Checked, split: SplitConfig, skip_bad_patients: bool) -> list[Problem]:
    """What is wrong with a split, once the patients with errors are left out; [] if errors stop `prepare` before it."""
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


def refuse_rule_channel(cohort: Cohort, slicing: SliceConfig) -> None:
    """Raises an `UnderstudyError` if the cohort lacks the channel of the slice rule."""
    if slicing.rule_channel not in cohort.channels:
        what = f"the slice rule looks at {slicing.rule_channel}, which the cohort does not have"
        fix = f"set `slices: {{rule_channel: ...}}` to one of {', '.join(cohort.channels)}"
        raise UnderstudyError(what, where="slices.rule_channel", fix=fix)


def refuse_empty_training(slices: int, cohort: Cohort) -> None:
    """Raises an `UnderstudyError` if no training slice passes the rule, which then is wrong for these images."""
    if not slices:
        fix = "lower `rule_fraction` or `rule_intensity` under `slices`, set `scaling: robust`, or `keep: all`"
        raise UnderstudyError("no training slice passes the slice rule", where=cohort.path, fix=fix)


def frame_of(cohort: Cohort, slicing: SliceConfig) -> Frame | None:
    """The frame by the first readable header of each patient, see `Frame.of`; None if there is none."""
    headers = first_headers(cohort, slicing)
    return Frame.of(headers, slicing) if headers else None


def first_headers(cohort: Cohort, slicing: SliceConfig) -> list[VolumeHeader]:
    """The first readable header of each patient."""
    headers = []
    for patient in cohort.patients:
        for path in patient.images.values():
            with suppress(UnderstudyError):
                headers.append(read_header(path, plane=slicing.plane))
                break
    return headers


def accept(cohort: Cohort, problems: Sequence[Problem], skip_bad_patients: bool = False) -> Cohort:
    """The cohort without the patients that have errors; raises if they may not be skipped or nobody is left."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if not errors:
        return cohort
    first, bad = errors[0], sorted({problem.patient for problem in errors if problem.patient})
    left = tuple(patient for patient in cohort.patients if patient.id not in bad)
    if left and skip_bad_patients:
        return replace(cohort, patients=left)
    fix = f"{first.fix}; `understudy check` lists everything"
    what = f"no patient is left: all {len(bad)} have errors"
    if not skip_bad_patients:
        listed = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        what = f"{len(bad)} of {len(cohort.patients)} patients cannot be used ({listed})"
        fix += "; `skip_bad_patients: true` goes on without them"
    what = f"{what}; {first.patient}: {first.problem}" if first.patient else first.problem
    raise UnderstudyError(what, where=first.file, fix=fix)


def _inspect(patient: Patient, cohort: Cohort, slicing: SliceConfig, frame: Frame | None) -> _Inspected:
    """Everything about one patient alone; an unforeseen exception becomes an error of this patient."""
    try:
        return _read_all(patient, cohort, slicing, frame)
    except Exception as error:
        log.debug("checking %s", patient.id, exc_info=True)
        what = f"unexpected {type(error).__name__}: {first_line(error)}"
        fix = "please report this; meanwhile leave the patient out (`skip_bad_patients: true`)"
        return _Inspected(patient, [Problem(patient.id, patient.folder, what, fix)])


def _read_all(patient: Patient, cohort: Cohort, slicing: SliceConfig, frame: Frame | None) -> _Inspected:
    reader = PatientReader(patient, cohort, slicing.plane)
    found = _Inspected(patient, reader.problems)  # the same list: reading on adds to it
    geometry = None
    if frame is not None and reader.header is not None and reader.sliceable:
        try:
            geometry = frame.geometry(reader.header)
        except UnderstudyError as error:
            reader.add(next(iter(reader.headers)), error.what, error.fix)
    for name in reader.headers:
        own = None if name in reader.off_grid else geometry
        wider = f"set `slices: {{matrix: {2 * own.padded}}}` for all patients, or crop or recentre this" if own else ""
        try:
            volume = reader.labels() if name == LABELS else reader.image(name)
        except UnderstudyError:
            continue  # it is among the reader's problems
        if name == LABELS:
            found.classes = set(np.unique(volume[volume > 0]).tolist())
            if own is not None and _outside(volume, own).any():
                reader.add(name, f"cropping to {own.padded} pixels would cut off annotated voxels", wider)
            continue
        # of the values, not of how they are stored: a copy may have been saved with another type
        with np.errstate(over="ignore"):
            found.digests[name] = hashlib.sha256(np.ascontiguousarray(volume, np.float32).data).hexdigest()
        if background := grey_background(volume):
            what = f"{name} is not dark in the corners of its slices (median {background:g}, maximum {volume.max():g})"
            reader.add(name, what, _CLEAR, "warning")
        if own is None:
            continue
        lost = _outside(volume, own).sum(dtype=np.float64)
        if lost and lost > _CUT * (total := volume.sum(dtype=np.float64)):
            what = f"cropping to {own.padded} pixels cuts off {lost / total:.1%} of {name}"
            reader.add(name, what, wider, "warning")
        try:
            bright = bright_part(volume, reader.files[name], own, slicing)
        except UnderstudyError as error:
            reader.add(name, error.what, error.fix)
            continue
        if name == slicing.rule_channel:
            found.kept = int(kept_slices(bright, own, slicing).sum())
            if not found.kept:
                rule = f"{name} > {slicing.rule_intensity:g} of 255 in {slicing.rule_fraction:.0%} of the pixels"
                what = f"no slice passes the slice rule ({rule}), so that the patient is not trained on"
                fix = "of a dim volume set `slices: {scaling: robust}`, of a small head lower `rule_fraction`"
                reader.add(name, what, fix, "warning")
    first: dict[str, str] = {}  # a missing sequence may have been filled with a copy of another
    for name, digest in found.digests.items():
        if (original := first.setdefault(digest, name)) != name:
            fix = "probably a stand-in for a missing sequence: add the real one, or leave the patient out"
            reader.add(name, f"{name} is identical to {original}", fix, "warning")
    return found


def _outside(stack: NDArray[np.generic], geometry: SliceGeometry) -> NDArray[np.generic]:
    """The stack [Z, H, W] with zeros where a slice is left after cropping; empty where nothing is cropped."""
    if geometry.inside == (geometry.rows, geometry.columns):
        return stack[:0]
    rest = stack.copy()
    scale = geometry.height / geometry.rows, geometry.width / geometry.columns
    kept = (slice(round(w.start * s), round(w.stop * s)) for w, s in zip(geometry.window, scale, strict=True))
    rest[:, *kept] = 0
    return rest


def _copies_between_patients(inspected: Sequence[_Inspected]) -> list[Problem]:
    """The same image under two ids would put one patient on both sides of the split."""
    first: dict[str, tuple[Patient, str]] = {}
    problems = []
    for found in inspected:
        patient = found.patient
        for name, digest in found.digests.items():
            earlier, earlier_name = first.setdefault(digest, (patient, name))
            if earlier.id != patient.id:
                what = f"{name} is identical to {earlier_name} of patient {earlier.id}"
                fix = "remove one of the two patients (they would leak between training and test)"
                severity: Severity = "error"
                if earlier.subject == patient.subject:  # both are on one side of the split
                    fix, severity = "nothing, or remove one of the two scans", "warning"
                problems.append(Problem(patient.id, patient.images[name], what, fix, severity))
    return problems
