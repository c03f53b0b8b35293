"""A cohort that nobody has described: its file patterns, guessed from the files' names.

`_readings` lists every way to read one path, each a file pattern. `_guess_patterns` takes the annotation's pattern that
finds most patients, and of each sequence that which finds most of these. `_with_classes` reads annotations' values.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from understudy.cohort.config import Cohort, CohortConfig
from understudy.cohort.layouts import EXAMPLE, find_patients, nifti_files, recognised
from understudy.cohort.participants import IS_VISIT, VISIT
from understudy.errors import UnderstudyError
from understudy.exchange.spec import ALIASES, LABELS, pattern_text
from understudy.io.nifti import read_header, read_voxels, whole_numbers

IMAGE, IGNORED = "image", "-"  # roles of a file: of no named sequence, and a mask of something else than a lesion
_MORE_WORDS = {
    "T1w": "t1pre t1wpre mprage t1native",
    "T1wGd": "ct1 t1wce t1wgad t1gad t1wpost t1contrast t1km cet1w cet1 gado",
    "FLAIR": "t2flair flairw",
    LABELS: "lesion lesions roi rois tumor tumour gt truth groundtruth manual wmh tumormask tumourmask lesionmask"
    " labelstr segm segmentation segmentations",
}
_ROLES = {word: role for role, words in ALIASES.items() for word in (*words, *_MORE_WORDS.get(role, "").split())}
_IMAGE_WORDS = ["image", "images", "imagestr", "img", "imgs", "im", "scan", "scans", "volume", "volumes", "mri", "mr"]
_NO_LESION = {"brain", "head", "skull", "bet", "gm", "wm", "csf", "probseg", "prob"}  # in the names of other masks
_SITE_LIKE = re.compile(r"(site|cent|hosp).*|\D*", re.IGNORECASE)
_TIME_POINT = re.compile(r"[TVM]\d{1,2}", re.IGNORECASE)
_MARK = "\0"  # stands in a name for the word that tells the role
_IN_NAME = rf"(?<=[_.-])(?:{{}})(?=[_.{_MARK}-]|$)"  # a word between separators
_MOST_PATTERNS = 50  # of a role that are compared: those that find most patients
_MOST_READ = 20  # annotations whose values are read

_Key = tuple[str, str, str]  # site, patient and visit; "" where the pattern does not tell
_Pattern = tuple[str, Counter[_Key]]  # its text, and the scans that it finds with how many files of each


@dataclass(frozen=True)
class Guess:
    """A described cohort; `doubts` tell for fields of the config that were guessed why to look."""

    config: CohortConfig
    cohort: Cohort
    doubts: dict[str, str] = field(default_factory=dict)


def guess(folder: Path) -> Guess:
    """The description of a folder of patients, as far as its names tell; refuses one of which they tell nothing."""
    files, _ = nifti_files(folder)
    if layout := recognised(folder, files):
        config = CohortConfig.model_validate({"path": folder, "layout": layout})
        try:
            cohort = find_patients(config)
        except UnderstudyError:
            if not layout.startswith("brats"):  # else names like those of BraTS, but of another set of sequences
                raise
        else:
            return Guess(config, cohort) if layout == "nnunet" else _with_classes(config, cohort, {})
    config, doubts = _guess_patterns(folder, files)
    return _with_classes(config, find_patients(config), doubts)


def _with_classes(config: CohortConfig, cohort: Cohort, doubts: dict[str, str]) -> Guess:
    """With a class for each value that the annotations have, where they are not those of the config."""
    paths = [patient.labels for patient in cohort.patients if patient.labels]
    values: set[int] = set()
    for i in sorted({round(i) for i in np.linspace(0, len(paths) - 1, min(len(paths), _MOST_READ))}):
        try:
            found = np.unique(whole_numbers(read_voxels(paths[i], read_header(paths[i])), paths[i]))
        except UnderstudyError:
            continue  # `check` names it
        values |= {int(value) for value in found[:256]} - {0}
    known = {entry.source: entry.name for entry in cohort.classes[1:]}
    if config.layout != "pattern" and values <= known.keys():
        return Guess(config, cohort, doubts)
    if not values:
        return Guess(config, cohort, doubts | {"classes": "no annotated voxel was seen"})
    if min(values) < 1 or max(values) > 255 or len(values) > 30:
        doubt = f"the files have {len(values)} values from {min(values)} to {max(values)}: no annotation?"
        return Guess(config, cohort, doubts | {"classes": doubt})
    if config.layout.startswith("brats"):  # since 2024, 4 is the resection cavity
        classes = known | {value: "RC" if value == 4 else f"class{value}" for value in values - known.keys()}
    else:
        classes = {value: f"class{value}" if len(values) > 1 else "lesion" for value in sorted(values)}
    config = config.model_copy(update={"classes": classes})
    return Guess(config, find_patients(config), doubts | {"classes": "name what the values mean"})


def _guess_patterns(folder: Path, files: Sequence[str]) -> tuple[CohortConfig, dict[str, str]]:
    """Patterns of the sequences and of the annotation, and what is doubtful; the classes are still to be found."""
    readings: dict[str, dict[str, Counter[_Key]]] = defaultdict(lambda: defaultdict(Counter))
    for file in files:
        for role, pattern, scan in _readings(file):
            readings[role][pattern][scan] += 1
    patterns: dict[str, list[_Pattern]] = {
        role: sorted(found.items(), key=_quality, reverse=True)[:_MOST_PATTERNS] for role, found in readings.items()
    }
    annotations = patterns.pop(LABELS, [])
    images = [scans.keys() for found in patterns.values() for _, scans in found]

    def fitness(annotation: _Pattern) -> tuple[int, ...]:
        return max((len(annotation[1].keys() & scans) for scans in images), default=0), *_quality(annotation)

    labels, scans = max(annotations, key=fitness, default=("", Counter[_Key]()))
    best: dict[str, _Pattern] = {}
    for role, found in patterns.items():
        closest = max(found, key=lambda pattern: _quality(pattern, scans))
        if scans and 2 * len(closest[1].keys() & scans.keys()) >= len(scans):
            best[role] = closest
    if not best:
        seen = [files[i] for i in sorted({0, len(files) // 2, len(files) - 1})]
        kind = "a sequence (t1, t1ce, t2, flair, image, ...)" if labels else "an annotation (seg, mask, label, ...)"
        what = f"no file is named like {kind} of the same patients; seen: {', '.join(seen)}"
        fix = f"describe the files in a study file under `cohort:`, for example {EXAMPLE}"
        raise UnderstudyError(what, where=folder, fix=fix)
    order = [*(name for name in ALIASES if name in best), *sorted(best.keys() - ALIASES.keys())]
    texts = {name: best[name][0] for name in order} | {LABELS: labels}
    keys = scans.keys() | {key for _, found in best.values() for key in found}
    if len(keys) == len({key[:2] for key in keys}):  # one visit each
        texts = {name: text.replace("{visit}", "*") for name, text in texts.items()}
    marked = "{patient} the person and {visit} the visit" if "{visit}" in texts[LABELS] else "{patient} the patient"
    doubts = {LABELS: f"is this the annotation, and {marked}?"}
    doubts |= {name: "which sequence is this?" for name in best if name not in ALIASES}
    expression = re.compile(pattern_text(labels, ("site", "patient", "visit")))
    tops = sorted({file.partition("/")[0] for file in files if expression.fullmatch(file)})
    listed = ", ".join(tops[:4]) + (", ..." if len(tops) > 4 else "")
    if labels.startswith("{site}"):
        doubts["channels"] = f"the folders {listed} are taken as sites; they tell patients of one name apart"
    elif labels.startswith("*/"):
        doubts["channels"] = f"are the folders {listed} the sites? Then write {{site}} in place of the first *"
    described = {"layout": "pattern", "labels": texts.pop(LABELS), "channels": texts, "classes": {1: "lesion"}}
    return CohortConfig.model_validate({"path": folder, **described}), doubts


def _quality(pattern: _Pattern, wanted: Counter[_Key] | None = None) -> tuple[int, ...]:
    """Sort key: a good pattern finds many (of the wanted) scans, one file for each, and says much literally."""
    text, scans = pattern
    return (
        len(scans if wanted is None else scans.keys() & wanted.keys()),
        len(scans) == scans.total(),
        -text.count("*") - text.count("{visit}") - 2 * text.count("{site}"),
        text.count("{patient}"),
        -text.index("{patient}"),
        -len(text),
    )


class _Path(NamedTuple):
    """A path below the folder, with the word that tells the file's role set apart."""

    folders: list[str]  # above the file
    named_by: int  # index of the folder that tells the role; -1: the file's name does
    stem: str  # of the file's name, with _MARK for the word
    word: str  # tells the role; empty if a folder does
    ending: str
    role: str  # a sequence, "image" or "labels"; "-": a mask of something else

    @classmethod
    def of(cls, file: str) -> "_Path":
        """Tells the role by the file's name, else by the last folder that tells one, else by the name's last word."""
        *folders, name = file.split("/")
        stem = re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
        role, start, stop = _role_in(stem)
        named_by = -1
        if not role:  # T1/p01.nii.gz
            named_by = next((i for i in reversed(range(len(folders))) if _role_in(folders[i])[0]), -1)
            role = _role_in(folders[named_by])[0] if named_by >= 0 else ""
            start = stop = len(stem)
            if role == IMAGE and folders[named_by] == "imagesTr" and re.search(r"_\d{4}$", stem):
                start -= 4  # nnU-Net's number of the channel
                role = f"channel{int(stem[start:])}"
        if not role:  # adc of p01_adc, if it is no number
            word = re.search(r"(?:^|[_. -])([A-Za-z][A-Za-z0-9]*)$", stem)
            role = IMAGE
            if word and (word[1].isalpha() or (word.start(1) > 0 and not re.search(r"\d{2}", word[1]))):
                role, start, stop = word[1], word.start(1), word.end(1)
        for folder in folders:  # P1/T2/P1_T2_FLAIR.nii.gz: T2 is a visit, and not a part of "T2 FLAIR"
            rest = start + len(folder) + 1
            at_start = _TIME_POINT.fullmatch(folder) and stem.startswith(folder, start)
            if at_start and role == _role_in(stem[rest:stop])[0]:
                start = rest
        marked = stem[:start] + _MARK + stem[stop:]
        return cls(folders, named_by, marked, stem[start:stop], name[len(stem) :], role)


def _role_in(text: str) -> tuple[str, int, int]:
    """The role that a name tells ("": none, "-": a mask of the brain), and start and stop of the words that tell it."""
    words = [(m.start(), m.end()) for m in re.finditer(r"[A-Za-z0-9]+", text)]
    found: list[tuple[str, int, int]] = []
    for length in (3, 2, 1):  # "t1_post" before "t1"
        for i in reversed(range(len(words) - length + 1)):
            joined = "".join(text[a:b] for a, b in words[i : i + length]).lower()
            role = _ROLES.get(joined, IMAGE if length == 1 and joined in _IMAGE_WORDS else "")
            if not role and _ROLES.get(joined.rstrip("12")) == LABELS:
                role = LABELS  # mask1 and mask2 of two raters
            if role:
                found.append((role, words[i][0], words[i + length - 1][1]))
    masks = [entry for entry in found if entry[0] == LABELS]
    if masks and {text[a:b].lower() for a, b in words} & _NO_LESION:
        return IGNORED, 0, 0
    sequences = [entry for entry in found if entry[0] != IMAGE]
    return next(iter([*masks, *sequences, *found]), ("", 0, 0))


def _readings(file: str) -> Iterator[tuple[str, str, _Key]]:
    """All ways to read one path: its role, a pattern that says so, and whose scan it then is."""
    path = _Path.of(file)
    if path.role == IGNORED:
        return
    patients = [folder for i, folder in enumerate(path.folders) if i != path.named_by]
    for part in path.stem.split(_MARK):  # p01 of p01_20010203 and of p01_manual
        words = re.split(r"([_. ])", part.strip("_-. "))
        while len(words) > 1 and (IS_VISIT.fullmatch(words[-1]) or words[-1].isalpha()):
            words = words[:-2]
        patients.append("".join(words))
    for patient in dict.fromkeys(patients):
        if not patient or IS_VISIT.fullmatch(patient):
            continue
        whole_word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(patient)}(?![A-Za-z0-9])")
        parts = [whole_word.sub("{patient}", part) for part in (*path.folders, path.stem)]
        for visit in _visits(path, patient, parts[-1]):
            *above, stem = _with_visit(parts, visit)
            if visit and not any("{visit}" in part for part in (*above, stem)):
                continue
            for folders in _folder_patterns(above, path.named_by):
                pattern = "/".join([*folders, stem.replace(_MARK, path.word) + path.ending])
                if "{patient}" in pattern:
                    site = path.folders[0] if pattern.startswith("{site}/") else ""
                    yield path.role, pattern, (site, patient, visit)


def _visits(path: _Path, patient: str, stem: str) -> list[str]:
    """What could be the visit; "": none, or it is replaced by *. `stem` is that of the path, with {patient}."""
    found = [folder for i, folder in enumerate(path.folders) if i != path.named_by and IS_VISIT.fullmatch(folder)]
    found = found or [match[0] for match in re.finditer(_IN_NAME.format(VISIT), stem, re.IGNORECASE)]
    visits = found[:1]
    if path.named_by < 0:  # the folder T1 of P1/T1/P1_T1_FLAIR.nii.gz
        visits += [folder for folder in path.folders if _TIME_POINT.fullmatch(folder)]
    if patient in path.folders and not _SITE_LIKE.fullmatch(patient):
        below = path.folders.index(patient) + 1
        if below < len(path.folders) and below != path.named_by:
            visits.append(path.folders[below])
        # 01 of training05/training05_01_flair.nii.gz
        visits += re.findall(r"\{patient\}[_-](\d{1,2})(?![A-Za-z0-9])", stem.partition(_MARK)[0])
    return list(dict.fromkeys(["", *visits]))


def _with_visit(parts: Sequence[str], visit: str) -> list[str]:
    """The parts of a path with {visit} where it first stands; further visits are *."""
    words = rf"{VISIT}|{re.escape(visit)}" if visit else VISIT

    def mark(match: re.Match[str]) -> str:
        return "{visit}" if visit and match[0] == visit else "*"

    *folders, stem = parts
    folders = [re.sub(rf"^(?:{words})$", mark, folder, flags=re.IGNORECASE) for folder in folders]
    stem = re.sub(_IN_NAME.format(words), mark, stem, flags=re.IGNORECASE)
    before, found, after = "/".join([*folders, stem]).partition("{visit}")
    return (before + found + after.replace("{visit}", "*")).split("/")


def _folder_patterns(above: Sequence[str], named_by: int) -> Iterator[tuple[str, ...]]:
    """Folders as they are, any folders, or any above the patient; or with the first as the site."""
    anywhere = [part if "{" in part or i == named_by else "*" for i, part in enumerate(above)]
    first = next((i for i, part in enumerate(above) if "{" in part), len(above))
    ways = [tuple(above), tuple(anywhere), (*anywhere[:first], *above[first:])]
    if first > 0 and named_by != 0 and _SITE_LIKE.fullmatch(above[0]):
        ways += [("{site}", *way[1:]) for way in ways]
    yield from dict.fromkeys(ways)
