"""Which files belong to which patient: BraTS, nnU-Net and BIDS by their names, any other cohort by file patterns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from understudy.cohort.bids import find_bids, is_bids
from understudy.cohort.config import (
    LABELS,
    UNKNOWN_SITE,
    Cohort,
    CohortConfig,
    Found,
    Note,
    Patient,
    Scan,
    described_classes,
)
from understudy.cohort.nnunet import find_nnunet, is_nnunet
from understudy.cohort.participants import read_sites
from understudy.errors import UnderstudyError
from understudy.folders import list_files
from understudy.slices import BACKGROUND, LabelClass

__all__ = ["LABELS", "Cohort", "CohortConfig", "Note", "Patient", "brats_classes", "find_patients"]

# What each BraTS release calls its files; the channel names are the paper's.
_BRATS_SUFFIXES = {
    "brats2018": {"T1w": "_t1", "T1wGd": "_t1ce", "T2w": "_t2", "FLAIR": "_flair"},
    "brats2023": {"T1w": "-t1n", "T1wGd": "-t1c", "T2w": "-t2w", "FLAIR": "-t2f"},
}
_BRATS_LABELS = {"brats2018": "_seg", "brats2023": "-seg"}
# The paper codes the annotations 51, 102 and 204 (label / 5 * 255, label 4 being the enhancing tumour); since
# 2023 the enhancing tumour is label 3, and keeps its code so that both releases mean the same by it.
_BRATS_CLASSES = {
    "brats2018": (("NCR/NET", 1, 51), ("ED", 2, 102), ("ET", 4, 204)),
    "brats2023": (("NCR/NET", 1, 51), ("ED", 2, 102), ("ET", 3, 204)),
}
# BraTS-GLI-00008-001 is the second scan of BraTS-GLI-00008.
_BRATS_TIME_POINT = re.compile(r"(?P<person>BraTS-[A-Za-z]+-\d+)-\d{3}")
# BraTS 2020's archive calls the annotation of patient 355 W39_1998.09.19_Segm.nii.
_BRATS_STRAY_LABELS = re.compile(
    r"(?P<folder>(?:.*/)?(?P<patient>BraTS[^/]*))/[^/]*_Segm\.nii(\.gz)?", re.IGNORECASE
)
_NOT_ANNOTATED = re.compile(r"validation|testing", re.IGNORECASE)  # in folders of BraTS without annotations

_EXAMPLE = (
    "layout: pattern, channels: {FLAIR: '{patient}/{patient}_flair.nii.gz'}, "
    "labels: '{patient}/{patient}_seg.nii.gz', classes: {1: tumour}"
)
_NIFTI = (".nii", ".nii.gz")


def find_patients(config: CohortConfig) -> Cohort:
    """Finds the patients below `config.path` without opening a volume.

    A patient that lacks a file is in the cohort, with the file under `missing`, so that `check_cohort` can
    name it. Several scans of one person (time points of BraTS 2023 and later, sessions in BIDS) have one `subject`.

    Raises:
        UnderstudyError: no such folder, no NIfTI file, no layout recognised, a pattern without {patient} or
            that matches nothing, a sequence that no patient has, a table or columns of sites that were named and are
            not there.
    """
    root = Path(config.path)
    files, unreadable = nifti_files(root)
    layout: str = config.layout
    if layout == "auto":
        layout = "pattern" if config.channels else _recognise(root, files)
    if layout in _BRATS_SUFFIXES or layout == "nnunet":
        _refuse_pattern_fields(config, layout)
    ways: dict[str, Callable[[], Found]] = {
        "pattern": lambda: _find_by_patterns(config, files),
        "nnunet": lambda: find_nnunet(root, files),
        "bids": lambda: find_bids(config, root, files),
    }
    found = ways[layout]() if layout in ways else _find_brats(layout, root, files)
    _refuse_absent_from_all(root, layout, found, files)
    subjects = _subjects(found, root)
    persons = {scan.id: scan.person or scan.id for scan in found.scans}
    sites, doubts = read_sites(config, persons)
    patients = tuple(
        _patient(root, scan, found.channels, sites.get(scan.id, UNKNOWN_SITE), subjects[scan.id])
        for scan in found.scans
    )
    notes = (*unreadable, *found.notes, *doubts)
    return Cohort(patients, found.channels, found.classes, layout, root, config.trust_array_order, notes)


def _subjects(found: Found, root: Path) -> dict[str, str]:
    """Scan's id -> id of the first scan of the same person."""
    first: dict[str, str] = {}
    subjects = {scan.id: first.setdefault(scan.person or scan.id, scan.id) for scan in found.scans}
    often = [subject for subject, times in Counter(subjects.values()).items() if times > 1]
    if often:
        found.notes.append(
            Note(
                f"{len(often)} patients have several scans (e.g. {often[0]}): training uses all of them, validation and"
                " test each patient's first, and no patient is on two sides",
                "nothing, or keep one scan a patient",
                root,
            )
        )
    return subjects


def nifti_files(root: Path) -> tuple[list[str], list[Note]]:
    """All NIfTI files below `root` as relative POSIX paths, and the folders and names that cannot be read.

    Raises:
        UnderstudyError: no such folder, no NIfTI file in it that can be seen.
    """
    listing = list_files(root, _NIFTI)
    files = listing.files
    if not files and listing.problems:
        raise listing.problems[0]
    if not files:
        raise UnderstudyError(
            "no NIfTI file (.nii, .nii.gz) in the folder or below it",
            where=root,
            fix="point `path` at the folder that holds the patients' folders, or unpack the data first",
        )
    unreadable = [
        Note(f"{p.what}: patients may be missing", p.fix or "", Path(p.where or root), "error")
        for p in listing.problems
    ]
    return files, unreadable


def recognised(root: Path, files: Sequence[str]) -> str:
    """The layout whose names the files below `root` have; "" if none.

    Raises:
        UnderstudyError: names of two layouts, a folder of several data sets.
    """
    if is_nnunet(root):
        return "nnunet"
    present = [layout for layout in _BRATS_SUFFIXES if _match_brats(layout, files)]
    if len(present) > 1:
        raise UnderstudyError(
            "the folder mixes the names of BraTS 2018-2021 (_t1ce) and of BraTS 2023 and later (-t1c)",
            where=root,
            fix="set `layout: brats2018` or `layout: brats2023`, or keep the releases in separate folders",
        )
    if present:
        return present[0]
    if is_bids(files):
        return "bids"
    sets = sorted(path.parent.name for path in root.glob("*/dataset.json") if is_nnunet(path.parent))
    if sets:
        raise UnderstudyError(
            f"the folder holds data sets of nnU-Net ({', '.join(sets[:5])}), not one itself",
            where=root,
            fix=f"point `path` at one of them, for example {root / sets[0]}",
        )
    return ""


def _recognise(root: Path, files: Sequence[str]) -> str:
    """The layout whose names the files have."""
    if layout := recognised(root, files):
        return layout
    raise UnderstudyError(
        f"the file names are not those of BraTS, nnU-Net or BIDS (found for example {', '.join(files[:3])})",
        where=root,
        fix=f"`understudy init {root}` writes a study file with a guess; or describe them under `cohort:`, for"
        f" example: {_EXAMPLE}",
    )


def _find_brats(layout: str, root: Path, files: Sequence[str]) -> Found:
    """The scans of one BraTS release; folders for validation, which have no annotations, are left out."""
    suffixes = {**_BRATS_SUFFIXES[layout], LABELS: _BRATS_LABELS[layout]}
    scans = []
    notes, without = [], []
    stray = {m["folder"]: m.string for file in files if (m := _BRATS_STRAY_LABELS.fullmatch(file))}
    for (patient, folder), own in sorted(_match_brats(layout, files).items()):
        if LABELS not in own and folder in stray:
            own[LABELS] = [stray[folder]]
        if LABELS not in own and _NOT_ANNOTATED.search(f"{folder}/{patient}"):
            without.append((patient, folder))
            continue
        expected = {
            name: f"{folder}/{patient}{suffix}.nii.gz".lstrip("/") for name, suffix in suffixes.items()
        }
        time_point = _BRATS_TIME_POINT.fullmatch(patient)
        scans.append(Scan(patient, own, expected, time_point["person"] if time_point else ""))
    if without:
        notes.append(
            Note(
                f"{len(without)} patients of the challenge's validation or test part have no annotation and are not"
                f" used (e.g. {without[0][0]})",
                "nothing, or point `path` at the training part",
                root / without[0][1],
            )
        )
    return Found(tuple(_BRATS_SUFFIXES[layout]), brats_classes(layout), scans, notes)


def _match_brats(layout: str, files: Sequence[str]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """The files of one BraTS release: (patient, folder) -> channel -> files."""
    suffixes = {**_BRATS_SUFFIXES[layout], LABELS: _BRATS_LABELS[layout]}
    by_suffix = {suffix: name for name, suffix in suffixes.items()}
    expression = re.compile(rf"(?P<patient>.+?)(?P<suffix>{'|'.join(by_suffix)})\.(?i:nii(\.gz)?)")
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        match = expression.fullmatch(name)
        if match:
            patient = found.setdefault((match["patient"], folder), {})
            patient.setdefault(by_suffix[match["suffix"]], []).append(file)
    return found


def _find_by_patterns(config: CohortConfig, files: Sequence[str]) -> Found:
    """Groups files by the patient that each pattern finds in their paths."""
    if not config.channels or not config.labels or not config.classes:
        lacking = [name for name in ("channels", "labels", "classes") if not getattr(config, name)]
        raise UnderstudyError(
            f"layout: pattern needs {' and '.join(lacking)}", where=config.path, fix=f"for example {_EXAMPLE}"
        )
    if LABELS in config.channels:
        raise UnderstudyError(
            f"a channel cannot be called {LABELS!r}", where="channels", fix="give the sequence another name"
        )
    classes = described_classes(config.classes)
    patterns = {**config.channels, LABELS: config.labels}
    expressions = {name: _pattern_expression(name, pattern) for name, pattern in patterns.items()}
    literal = {name: len(re.sub(r"\{patient\}|\*", "", pattern)) for name, pattern in patterns.items()}
    found: dict[str, Scan] = {}
    unmatched = set(patterns)
    for file in files:
        matches = {name: match for name, e in expressions.items() if (match := e.fullmatch(file))}
        unmatched -= matches.keys()
        # p1_seg.nii.gz also fits {patient}.nii.gz, but is the annotation of p1 and not the image of a patient p1_seg
        closest = max((literal[name] for name in matches), default=0)
        for name, match in matches.items():
            if literal[name] == closest:
                scan = found.setdefault(match["patient"], Scan(match["patient"]))
                scan.files.setdefault(name, []).append(file)
    for name in patterns:
        if name in unmatched:
            raise UnderstudyError(
                f"the pattern of {name} matches none of the {len(files)} NIfTI files",
                where=f"{config.path}: {patterns[name]}",
                fix=f"compare it with a file that is there: {files[0]}",
            )
    for scan in found.values():
        scan.expected = {name: text.replace("{patient}", scan.id) for name, text in patterns.items()}
    return Found(tuple(config.channels), classes, [found[key] for key in sorted(found)])


def _pattern_expression(name: str, pattern: str) -> re.Pattern[str]:
    """The regular expression of a file pattern: {patient} is one path part or a piece of it, the same everywhere."""
    if "{patient}" not in pattern:
        raise UnderstudyError(
            f"the pattern of {name} does not say where the patient's id stands",
            where=pattern,
            fix="write {patient} in its place, for example {patient}/{patient}_flair.nii.gz",
        )
    translated, seen = [], False
    for piece in re.split(r"(\{patient\}|\*\*/|\*)", pattern.removeprefix("./")):
        if piece == "{patient}":
            translated.append("(?P=patient)" if seen else "(?P<patient>[^/]+?)")
            seen = True
        else:
            translated.append({"**/": "(?:.*/)?", "*": "[^/]*"}.get(piece, re.escape(piece)))
    return re.compile("".join(translated))


def brats_classes(layout: str) -> tuple[LabelClass, ...]:
    """Classes of a BraTS layout by its name, background first."""
    return BACKGROUND, *(LabelClass(*entry) for entry in _BRATS_CLASSES[layout])


def _refuse_pattern_fields(config: CohortConfig, layout: str) -> None:
    """Patterns beside a layout that knows its own names would be ignored in silence; say so."""
    given = [name for name in ("channels", "labels", "classes") if getattr(config, name)]
    if given:
        raise UnderstudyError(
            f"{' and '.join(given)} given, but the layout is {layout}, which knows its own file names",
            where=config.path,
            fix="set `layout: pattern`, or remove them",
        )


def _refuse_absent_from_all(root: Path, layout: str, found: Found, files: Sequence[str]) -> None:
    """A file that no patient has is a wrong layout, not a bad patient."""
    if not found.scans:
        raise UnderstudyError(
            f"no file is named as in {layout}, or no patient has an annotation",
            where=root,
            fix=f"found for example {files[0]}; set another `layout`, or another `path`",
        )
    absent = [n for n in (*found.channels, LABELS) if not any(n in scan.files for scan in found.scans)]
    if absent:
        raise UnderstudyError(
            f"none of the {len(found.scans)} patients has {', '.join(absent)} (names as in {layout})",
            where=root,
            fix=f"if the files have other names, describe them under `cohort:` in a study file: {_EXAMPLE}",
        )


def _patient(root: Path, scan: Scan, channels: Sequence[str], site: str, subject: str) -> Patient:
    """One scan's files, as paths."""
    files = scan.files
    return Patient(
        id=scan.id,
        site=site,
        images={name: root / files[name][0] for name in channels if name in files},
        labels=root / files[LABELS][0] if LABELS in files else None,
        missing={name: root / scan.expected[name] for name in (*channels, LABELS) if name not in files},
        surplus={
            name: tuple(root / file for file in found[1:]) for name, found in files.items() if len(found) > 1
        },
        subject=subject,
    )
