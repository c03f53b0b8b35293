"""A cohort that nobody has described: what its files could be, from their names and a look at some annotations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from understudy.cohort.config import LABELS, Cohort, CohortConfig
from understudy.cohort.layouts import find_patients, nifti_files, recognised
from understudy.errors import UnderstudyError
from understudy.exchange.spec import ALIASES
from understudy.nifti import read_header, read_voxels, whole_numbers

_MORE: dict[str, tuple[str, ...]] = {
    "T1w": ("t1pre", "t1wpre", "mprage", "t1native"),
    "T1wGd": ("t1wce", "t1wgad", "t1gad", "t1wpost", "t1contrast", "t1km", "cet1w", "cet1", "gado"),
    "T2w": (),
    "FLAIR": ("t2flair", "flairw"),
    LABELS: (
        "lesion",
        "lesions",
        "roi",
        "rois",
        "tumor",
        "tumour",
        "gt",
        "truth",
        "groundtruth",
        "manual",
        "wmh",
    ),
}
_ROLES = {word: name for name, words in ALIASES.items() for word in (*words, *_MORE[name])}
_ROLES |= dict.fromkeys(("segm", "segmentation", "segmentations"), LABELS)
_IMAGE = ("image", "images", "img", "imgs", "im", "scan", "scans", "volume", "volumes", "mri", "mr")
_NO_LESION = {
    "brain",
    "head",
    "skull",
    "bet",
    "gm",
    "wm",
    "csf",
    "probseg",
    "prob",
}  # masks of something else
# A visit is no patient: such parts of a name become *.
_VISIT = re.compile(
    r"(19|20)\d{6}|(19|20)\d\d-\d\d-\d\d|(ses|session|visit|tp|timepoint|scan|baseline|followup|fu)[-_]?[a-z]?\d*",
    re.IGNORECASE,
)
_LOOKED_AT = 20  # annotations whose values are read


@dataclass(frozen=True)
class Guess:
    """A described cohort, and what of it somebody should look at.

    Attributes:
        config: finds the patients.
        cohort: these patients.
        doubts: fields of the config that were guessed -> why to look.
    """

    config: CohortConfig
    cohort: Cohort
    doubts: dict[str, str] = field(default_factory=dict)


def guess(folder: Path) -> Guess:
    """The description of a folder of patients, as far as its names tell.

    Raises:
        UnderstudyError: nothing is recognised (the message shows names that were seen), or a known layout that cannot
            be used.
    """
    files, _ = nifti_files(folder)
    layout = recognised(folder, files)
    if layout:
        config = CohortConfig.model_validate({"path": folder, "layout": layout})
        try:
            cohort = find_patients(config)
        except UnderstudyError:
            # names like those of BraTS, but for another set of sequences
            if not layout.startswith("brats"):
                raise
        else:
            return Guess(config, cohort) if layout != "bids" else _with_values(config, cohort)
    config, doubts = _by_names(folder, files)
    return _with_values(config, find_patients(config), doubts)


@dataclass(frozen=True)
class _Reading:
    """One way to read a file's path: which sequence, whose, and the pattern that says so."""

    role: str
    pattern: str
    patient: str
    file: str


def _by_names(folder: Path, files: Sequence[str]) -> tuple[CohortConfig, dict[str, str]]:
    """Patterns of the sequences and of the annotation; the classes are still to be found."""
    readings: dict[str, dict[str, list[_Reading]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        for reading in _readings(file):
            readings[reading.role][reading.pattern].append(reading)
    best = {role: max(patterns.values(), key=_quality) for role, patterns in readings.items()}
    patients = {role: {reading.patient for reading in found} for role, found in best.items()}
    labels = best.pop(LABELS, [])
    channels = {
        role: found[0].pattern
        for role, found in best.items()
        if 2 * len(patients[role] & patients.get(LABELS, set())) >= len(patients.get(LABELS, set()))
    }
    if not labels or not channels:
        what = (
            "a sequence (t1, t1ce, t2, flair, image, ...)"
            if labels
            else "an annotation (seg, mask, label, ...)"
        )
        raise UnderstudyError(
            f"no file is named like {what} of the same patients; seen: {', '.join(_examples(files))}",
            where=folder,
            fix="describe the files in a study file: cohort: {path: FOLDER, layout: pattern, channels: {FLAIR:"
            " '{patient}/{patient}_flair.nii.gz'}, labels: '{patient}/{patient}_seg.nii.gz', classes: {1: lesion}}",
        )
    order = [name for name in ALIASES if name in channels]
    channels = {name: channels[name] for name in [*order, *sorted(channels.keys() - set(order))]}
    doubts = {"labels": "is this the annotation, and {patient} the patient (not a visit)?"}
    doubts |= {name: "which sequence is this?" for name in channels if name not in ALIASES}
    others = [
        file for file in files if not any(file == r.file for found in (labels, *best.values()) for r in found)
    ]
    if others:
        doubts["channels"] = f"{len(others)} files are not used, e.g. {others[0]}"
    config = CohortConfig.model_validate(
        {
            "path": folder,
            "layout": "pattern",
            "channels": channels,
            "labels": labels[0].pattern,
            "classes": {1: "lesion"},
        }
    )
    return config, doubts


def _quality(readings: Sequence[_Reading]) -> tuple[int, bool, int, int, int, int]:
    """A good pattern tells many patients from each other, has one file for each, and says much literally."""
    patients, pattern = len({reading.patient for reading in readings}), readings[0].pattern
    place = -pattern.index("{patient}")
    return (
        patients,
        patients == len(readings),
        -pattern.count("*"),
        pattern.count("{patient}"),
        place,
        -len(pattern),
    )


def _readings(file: str) -> Iterator[_Reading]:
    """All ways to read one path."""
    *folders, name = file.split("/")
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    ending = name[len(stem) :]
    role, start, stop = _role_in(stem)
    in_folder = -1
    if not role:
        in_folder = next((i for i in reversed(range(len(folders))) if _role_in(folders[i])[0]), -1)
        role = _role_in(folders[in_folder])[0] if in_folder >= 0 else ""
    if role == "-":
        return
    if not role:
        role, start, stop = _last_word(stem)
    rest = [stem[:start].strip("_-. "), stem[stop:].strip("_-. ")] if start < stop else [stem]
    candidates = [p for i, p in enumerate(folders) if i != in_folder] + [_without_visit(p) for p in rest]
    for patient in dict.fromkeys(candidates):
        if not patient or _VISIT.fullmatch(patient):
            continue
        mark = re.compile(rf"(?<![A-Za-z0-9]){re.escape(patient)}(?![A-Za-z0-9])")
        own = "*".join(_VISIT_IN_NAME.split(mark.sub("{patient}", stem)))
        parts = [mark.sub("{patient}", folder) for folder in folders]
        above = ["*" if _VISIT.fullmatch(part) else part for part in parts]
        anywhere = [p if "{patient}" in p or i == in_folder else "*" for i, p in enumerate(parts)]
        first = next((i for i, p in enumerate(parts) if "{patient}" in p), len(parts))
        variants = [tuple(above), tuple(anywhere), (*anywhere[:first], *above[first:])]
        for folders_of in dict.fromkeys(variants):
            pattern = "/".join([*folders_of, own + ending])
            if "{patient}" in pattern:
                yield _Reading(role, pattern, patient, file)


# the same between separators of a file name
_VISIT_IN_NAME = re.compile(rf"(?<=[_.-])(?:{_VISIT.pattern.replace('(', '(?:')})(?=[_.-])", re.IGNORECASE)


def _without_visit(text: str) -> str:
    """p01 of p01_20010203 and of p01_manual."""
    words = re.split(r"([_. ])", text)
    while len(words) > 1 and (_VISIT.fullmatch(words[-1]) or words[-1].isalpha()):
        words = words[:-2]
    return "".join(words)


def _role_in(text: str) -> tuple[str, int, int]:
    """Sequence or annotation that a name tells, and where in it; "" if it tells none, "-" for a mask of the brain."""
    words = [(m.start(), m.end()) for m in re.finditer(r"[A-Za-z0-9]+", text)]
    found: list[tuple[str, int, int]] = []
    for length in (3, 2, 1):
        for i in reversed(range(len(words) - length + 1)):
            joined = "".join(text[a:b] for a, b in words[i : i + length]).lower()
            role = _ROLES.get(joined) or ("image" if length == 1 and joined in _IMAGE else "")
            if role:
                found.append((role, words[i][0], words[i + length - 1][1]))
    if any(role == LABELS for role, *_ in found):
        if {text[a:b].lower() for a, b in words} & _NO_LESION:
            return "-", 0, 0
        return next(entry for entry in found if entry[0] == LABELS)
    named = [entry for entry in found if entry[0] != "image"]
    return next(iter([*named, *found]), ("", 0, 0))


def _last_word(text: str) -> tuple[str, int, int]:
    """A name that is no known sequence by its last word (adc of p01_adc), or "image" where that is a number."""
    word = re.search(r"(?:^|[_. -])([A-Za-z][A-Za-z0-9]*)$", text)
    if word and (word[1].isalpha() or (word.start(1) > 0 and not re.search(r"\d{2}", word[1]))):
        return word[1], word.start(1), word.end(1)
    return "image", len(text), len(text)


def _with_values(config: CohortConfig, cohort: Cohort, doubts: dict[str, str] | None = None) -> Guess:
    """With a class for each value that the annotations have, where they are not those of the config."""
    doubts = dict(doubts or {})
    paths = [patient.labels for patient in cohort.patients if patient.labels]
    values: set[int] = set()
    for i in sorted({round(i) for i in np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_AT))}):
        path = paths[i]
        try:
            found = np.unique(whole_numbers(read_voxels(path, read_header(path)), path))
        except UnderstudyError:
            continue  # `check` names it
        values |= {int(value) for value in found[:256]} - {0}
    known = {entry.source for entry in cohort.classes[1:]}
    if config.layout == "bids" and values <= known:
        return Guess(config, cohort, doubts)
    if not values:
        doubts["classes"] = "no annotated voxel was seen"
    elif not all(1 <= value <= 255 for value in values) or len(values) > 30:
        doubts["classes"] = (
            f"the files have {len(values)} values from {min(values)} to {max(values)}: no annotation?"
        )
    else:
        names = ["lesion"] if len(values) == 1 else [f"class{value}" for value in sorted(values)]
        config = config.model_copy(update={"classes": dict(zip(sorted(values), names, strict=True))})
        cohort = find_patients(config)
        doubts["classes"] = "name what the values mean"
    return Guess(config, cohort, doubts)


def _examples(files: Sequence[str]) -> list[str]:
    return [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})]
