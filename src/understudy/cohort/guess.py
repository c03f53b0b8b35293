"""A cohort that nobody has described: what its files could be, from their names and a look at some annotations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from understudy.cohort.config import LABELS, Cohort, CohortConfig
from understudy.cohort.layouts import find_patients, nifti_files, recognised
from understudy.cohort.visits import IS_VISIT, VISIT
from understudy.errors import UnderstudyError
from understudy.exchange.spec import ALIASES
from understudy.io.nifti import read_header, read_voxels, whole_numbers

_MORE: dict[str, tuple[str, ...]] = {
    "T1w": ("t1pre", "t1wpre", "mprage", "t1native"),
    "T1wGd": ("ct1", "t1wce", "t1wgad", "t1gad", "t1wpost", "t1contrast", "t1km", "cet1w", "cet1", "gado"),
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
        "tumormask",
        "tumourmask",
        "lesionmask",
        "labelstr",
    ),
}
_ROLES = {word: name for name, words in ALIASES.items() for word in (*words, *_MORE[name])}
_ROLES |= dict.fromkeys(("segm", "segmentation", "segmentations"), LABELS)
_IMAGE = ("image", "images", "imagestr", "img", "imgs", "im", "scan", "scans", "volume", "volumes", "mri", "mr")
# In the names of masks of something else.
_NO_LESION = {"brain", "head", "skull", "bet", "gm", "wm", "csf", "probseg", "prob"}
_SITE_LIKE = re.compile(r"(site|cent|hosp).*|\D*", re.IGNORECASE)
_TIME_POINT = re.compile(r"[TVM]\d{1,2}", re.IGNORECASE)
_TRIED = 50  # patterns of a sequence, those that find most patients
_MORE_OF_BRATS = {4: "RC"}  # the resection cavity, since 2024
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
            return Guess(config, cohort) if layout == "nnunet" else _with_values(config, cohort)
    config, doubts = _by_names(folder, files)
    return _with_values(config, find_patients(config), doubts)


_Key = tuple[str, str, str]  # site, patient and visit; "" where the pattern does not tell


@dataclass(frozen=True)
class _Reading:
    """One way to read a file's path: which sequence, whose, and the pattern that says so."""

    role: str
    pattern: str
    key: _Key
    file: str


class _Pattern(list[_Reading]):
    """All files that one pattern finds."""

    @cached_property
    def keys(self) -> set[_Key]:
        return {reading.key for reading in self}

    @property
    def text(self) -> str:
        return self[0].pattern

    def quality(self, wanted: set[_Key] | None = None) -> tuple[int, bool, int, int, int, int]:
        """A good pattern finds many (of the wanted) scans, one file for each, and says much literally."""
        text = self.text
        return (
            len(self.keys & wanted) if wanted is not None else len(self.keys),
            len(self.keys) == len(self),
            -text.count("*") - text.count("{visit}") - 2 * text.count("{site}"),
            text.count("{patient}"),
            -text.index("{patient}"),
            -len(text),
        )


def _by_names(folder: Path, files: Sequence[str]) -> tuple[CohortConfig, dict[str, str]]:
    """Patterns of the sequences and of the annotation; the classes are still to be found."""
    readings: dict[str, dict[str, _Pattern]] = defaultdict(lambda: defaultdict(_Pattern))
    for file in files:
        for reading in _readings(file):
            readings[reading.role][reading.pattern].append(reading)
    patterns = {
        role: sorted(found.values(), key=_Pattern.quality, reverse=True)[:_TRIED] for role, found in readings.items()
    }
    annotations = patterns.pop(LABELS, [])
    images = [pattern for found in patterns.values() for pattern in found]
    labels = max(
        annotations, key=lambda a: (max((len(a.keys & i.keys) for i in images), default=0), *a.quality()), default=None
    )
    best = {}
    if labels:
        best = {role: max(found, key=lambda p: p.quality(labels.keys)) for role, found in patterns.items()}
        best = {role: p for role, p in best.items() if 2 * len(p.keys & labels.keys) >= len(labels.keys)}
    if not labels or not best:
        what = "a sequence (t1, t1ce, t2, flair, image, ...)" if labels else "an annotation (seg, mask, label, ...)"
        raise UnderstudyError(
            f"no file is named like {what} of the same patients; seen: {', '.join(_examples(files))}",
            where=folder,
            fix="describe the files in a study file: cohort: {path: FOLDER, layout: pattern, channels: {FLAIR:"
            " '{patient}/{patient}_flair.nii.gz'}, labels: '{patient}/{patient}_seg.nii.gz', classes: {1: lesion}}",
        )
    order = [name for name in ALIASES if name in best]
    texts = {name: best[name].text for name in [*order, *sorted(best.keys() - set(order))]} | {LABELS: labels.text}
    scans = {key for pattern in (labels, *best.values()) for key in pattern.keys}
    if len(scans) == len({key[:2] for key in scans}):  # one visit each
        texts = {name: text.replace("{visit}", "*") for name, text in texts.items()}
    marked = "{patient} the person and {visit} the visit" if "{visit}" in texts[LABELS] else "{patient} the patient"
    doubts = {LABELS: f"is this the annotation, and {marked}?"}
    doubts |= {name: "which sequence is this?" for name in best if name not in ALIASES}
    tops = sorted({reading.file.partition("/")[0] for reading in labels})
    if labels.text.startswith("{site}"):
        doubts["channels"] = f"the folders {_some(tops)} are taken as sites; they tell patients of one name apart"
    elif labels.text.startswith("*/"):
        doubts["channels"] = f"are the folders {_some(tops)} the sites? Then write {{site}} in place of the first *"
    config = CohortConfig.model_validate(
        {"path": folder, "layout": "pattern", "labels": texts.pop(LABELS), "channels": texts, "classes": {1: "lesion"}}
    )
    return config, doubts


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _readings(file: str) -> Iterator[_Reading]:
    """All ways to read one path."""
    *folders, name = file.split("/")
    stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
    role, start, stop = _role_in(stem)
    in_folder = -1
    if not role:
        in_folder = next((i for i in reversed(range(len(folders))) if _role_in(folders[i])[0]), -1)
        role = _role_in(folders[in_folder])[0] if in_folder >= 0 else ""
        start = stop = len(stem)
        if role == "image" and folders[in_folder] == "imagesTr" and re.search(r"_\d{4}$", stem):
            start -= 4  # nnU-Net's number of the channel
            role = f"channel{int(stem[start:])}"
    if role == "-":
        return
    if not role:
        role, start, stop = _last_word(stem)
    for folder in folders:  # P1/T2/P1_T2_FLAIR.nii.gz: T2 is a visit, and not a part of "T2 FLAIR"
        rest = start + len(folder) + 1
        if _TIME_POINT.fullmatch(folder) and stem.startswith(folder, start) and role == _role_in(stem[rest:stop])[0]:
            start = rest
    around = (stem[:start], stem[stop:])
    candidates = [p for i, p in enumerate(folders) if i != in_folder]
    candidates += [_without_visit(part.strip("_-. ")) for part in around]
    for patient in dict.fromkeys(candidates):
        if not patient or IS_VISIT.fullmatch(patient):
            continue
        mark = re.compile(rf"(?<![A-Za-z0-9]){re.escape(patient)}(?![A-Za-z0-9])")
        parts = [mark.sub("{patient}", part) for part in (*folders, *around)]
        for visit in _visits(parts, folders, patient, in_folder):
            *above, before, after = _with_visit(parts, visit)
            if visit and not any("{visit}" in part for part in (*above, before, after)):
                continue
            own = f"{before}{stem[start:stop]}{after}{name[len(stem) :]}"
            for folders_of in _folder_patterns(above, in_folder):
                pattern = "/".join([*folders_of, own])
                if "{patient}" in pattern:
                    site = folders[0] if pattern.startswith("{site}/") else ""
                    yield _Reading(role, pattern, (site, patient, visit), file)


def _visits(parts: Sequence[str], folders: Sequence[str], patient: str, in_folder: int) -> list[str]:
    """What could be the visit in a path whose patient is marked; "": none, or it is passed over."""
    found = [folder for i, folder in enumerate(folders) if i != in_folder and IS_VISIT.fullmatch(folder)]
    if not found:
        found = [match[0] for part in parts[-2:] for match in _VISIT_IN_NAME.finditer(part)]
    visits = found[:1]
    if in_folder < 0:  # the folder T1 of P1/T1/P1_T1_FLAIR.nii.gz
        visits += [folder for folder in folders if _TIME_POINT.fullmatch(folder)]
    if patient in folders and not _SITE_LIKE.fullmatch(patient):
        below = folders.index(patient) + 1
        if below < len(folders) and below != in_folder:
            visits.append(folders[below])
        # 01 of training05/training05_01_flair.nii.gz
        visits += re.findall(r"\{patient\}[_-](\d{1,2})(?![A-Za-z0-9])", parts[-2])
    return list(dict.fromkeys(["", *visits]))


def _with_visit(parts: Sequence[str], visit: str) -> list[str]:
    """The parts of a path with {visit} where it first stands; further visits are *."""
    words = rf"{VISIT}|{re.escape(visit)}" if visit else VISIT
    in_name = re.compile(rf"(?<=[_.-])(?:{words})(?=[_.-]|$)", re.IGNORECASE)
    left = ["{visit}"]

    def marked(match: re.Match[str]) -> str:
        return left.pop() if left and match[0] == visit else "*"

    folders = [re.sub(rf"^(?:{words})$", marked, part, flags=re.IGNORECASE) for part in parts[:-2]]
    return [*folders, *(in_name.sub(marked, part) for part in parts[-2:])]


def _folder_patterns(above: Sequence[str], in_folder: int) -> Iterator[tuple[str, ...]]:
    """Folders as they are, any folders, or any above the patient; or with the first as the site."""
    anywhere = [p if "{" in p or i == in_folder else "*" for i, p in enumerate(above)]
    first = next((i for i, p in enumerate(above) if "{" in p), len(above))
    ways = [tuple(above), tuple(anywhere), (*anywhere[:first], *above[first:])]
    if first > 0 and in_folder != 0 and _SITE_LIKE.fullmatch(above[0]):
        ways += [("{site}", *way[1:]) for way in ways]
    yield from dict.fromkeys(ways)


# A visit between separators of a file name.
_VISIT_IN_NAME = re.compile(rf"(?<=[_.-])(?:{VISIT})(?=[_.-]|$)", re.IGNORECASE)


def _without_visit(text: str) -> str:
    """p01 of p01_20010203 and of p01_manual."""
    words = re.split(r"([_. ])", text)
    while len(words) > 1 and (IS_VISIT.fullmatch(words[-1]) or words[-1].isalpha()):
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
            if not role and _ROLES.get(joined.rstrip("12")) == LABELS:
                role = LABELS  # mask1 and mask2 of two raters
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
    known = {entry.source: entry.name for entry in cohort.classes[1:]}
    if config.layout != "pattern" and values <= known.keys():
        return Guess(config, cohort, doubts)
    if not values:
        doubts["classes"] = "no annotated voxel was seen"
    elif not all(1 <= value <= 255 for value in values) or len(values) > 30:
        doubts["classes"] = f"the files have {len(values)} values from {min(values)} to {max(values)}: no annotation?"
    else:
        if config.layout.startswith("brats"):
            classes = known | {value: _MORE_OF_BRATS.get(value, f"class{value}") for value in values - known.keys()}
        else:
            classes = {value: f"class{value}" if len(values) > 1 else "lesion" for value in sorted(values)}
        config = config.model_copy(update={"classes": classes})
        cohort = find_patients(config)
        doubts["classes"] = "name what the values mean"
    return Guess(config, cohort, doubts)


def _examples(files: Sequence[str]) -> list[str]:
    return [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})]
