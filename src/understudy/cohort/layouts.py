"""Which files belong to which patient: BraTS, nnU-Net and BIDS by their names, any other cohort by file patterns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from understudy.cohort.bids import find_bids, is_bids, without_masks
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
from understudy.cohort.visits import perhaps_one_person, person_of, persons_of
from understudy.errors import UnderstudyError
from understudy.io.folders import list_files
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
# BraTS 2020's archive calls the annotation of patient 355 W39_1998.09.19_Segm.nii.
_BRATS_STRAY_LABELS = re.compile(r"(?P<folder>(?:.*/)?(?P<patient>BraTS[^/]*))/[^/]*_Segm\.nii(\.gz)?", re.IGNORECASE)
# Folders of BraTS without annotations.
_NOT_ANNOTATED = re.compile(r"validation|testing", re.IGNORECASE)

_MARKS = ("site", "patient", "visit")  # of patterns, in the order of an id
_EXAMPLE = (
    "layout: pattern, channels: {FLAIR: '{patient}/{patient}_flair.nii.gz'}, "
    "labels: '{patient}/{patient}_seg.nii.gz', classes: {1: tumour}"
)
_NIFTI = (".nii", ".nii.gz")
_BIDS_SUBJECT = re.compile(r"(?:^|(?<=/))sub-[^/_]+", re.IGNORECASE)
# Endings of other files ("-": none) -> what to do about them.
_OTHER_FILES = {
    ".dcm .dicom .ima -": "convert DICOM files with dcm2niix -z y -o OUT FOLDER",
    ".zip .gz .tgz .tar .7z .rar .bz2": "unpack the archives",
    ".mha .mhd .nrrd .nhdr": "convert them to NIfTI, for example with 3D Slicer or SimpleITK",
    ".mgz .mgh": "convert them with FreeSurfer's mri_convert IN.mgz OUT.nii.gz",
    ".hdr .img": "convert them with FSL's fslchfiletype NIFTI_GZ FILE",
    ".tif .tiff .png .jpg .npy .npz": "get the volumes as NIfTI; `understudy read` takes slices",
}


def find_patients(config: CohortConfig) -> Cohort:
    """Finds the patients below `config.path` without opening a volume.

    A patient that lacks a file is in the cohort, with the file under `missing`, so that `check_cohort` can
    name it. Several scans of one person (visits that the ids name, sessions in BIDS) have one `subject`. NIfTI files
    that are of no patient are told in the notes.

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
        "nnunet": lambda: find_nnunet(root, files, config.classes),
        "bids": lambda: find_bids(config, root, files),
    }
    found = ways[layout]() if layout in ways else _find_brats(layout, config, root, files)
    _refuse_absent_from_all(root, layout, found, files)
    persons = persons_of(scan.id for scan in found.scans)
    persons |= {scan.id: scan.person for scan in found.scans if scan.person}
    stated = {scan.person for scan in found.scans}
    subjects = _subjects(persons, found.notes, root)
    found.notes += _perhaps_one_person(set(persons.values()) - stated, root)
    sites, doubts = read_sites(config, persons)
    patients = tuple(
        _patient(root, scan, found.channels, sites.get(scan.id) or scan.site, subjects[scan.id]) for scan in found.scans
    )
    notes = (*unreadable, *found.notes, *_of_no_patient(layout, root, files, found), *doubts)
    return Cohort(patients, found.channels, found.classes, layout, root, config.trust_array_order, notes)


def _subjects(persons: Mapping[str, str], notes: list[Note], root: Path) -> dict[str, str]:
    """Scan's id -> id of the first scan of the same person."""
    first: dict[str, str] = {}
    subjects = {scan: first.setdefault(person, scan) for scan, person in persons.items()}
    later = [(subject, scan) for scan, subject in subjects.items() if scan != subject]
    if later:
        notes.append(
            Note(
                f"{len({subject for subject, _ in later})} patients have several scans (e.g. {' and '.join(later[0])}):"
                " training uses all of them, validation and test each patient's first, and no patient is on two sides",
                "nothing, or keep one scan a patient; if they are different people, give them ids that say so",
                root,
            )
        )
    return subjects


def _perhaps_one_person(persons: Iterable[str], root: Path) -> list[Note]:
    alike = perhaps_one_person(sorted(persons))
    if not alike:
        return []
    more = f" ({len(alike)} such pairs)" if len(alike) > 1 else ""
    return [
        Note(
            f"{' and '.join(alike[0])} may be one person, who could be on two sides of the split{more}",
            "nothing, if they are different people; otherwise describe the files by `layout: pattern`, with"
            " {patient}_{visit} in the names",
            root,
        )
    ]


def _of_no_patient(layout: str, root: Path, files: Sequence[str], found: Found) -> list[Note]:
    """Says which files were not used. In BIDS, where most files are something else, of subjects without a used file."""
    used = {file for scan in found.scans for own in scan.files.values() for file in own}
    left = [file for file in files if file not in used and file not in found.passed_over]
    if layout == "bids":
        people = {file: match[0].lower() for file in files if (match := _BIDS_SUBJECT.search(file))}
        known = {people[file] for file in used}
        left = [file for file in left if file in people and people[file] not in known]
    if not left:
        return []
    fix = {
        "bids": "rename them as in BIDS (sub-01/anat/sub-01_T1w.nii.gz), if these people have images of the sequences",
        "nnunet": "nothing, or correct the file names or channel_names",
        "pattern": "nothing, if they are something else; if they are patients, rename them or write wider patterns (*)",
    }.get(layout, "nothing, if they are something else; if they are patients, name them as the others")
    text = "1 NIfTI file belongs" if len(left) == 1 else f"{len(left)} NIfTI files belong"
    return [Note(f"{text} to no patient, e.g. {left[0]}", fix, root / left[0])]


def nifti_files(root: Path) -> tuple[list[str], list[Note]]:
    """All NIfTI files below `root` as relative POSIX paths, and the folders and names that cannot be read.

    Raises:
        UnderstudyError: no such folder, no NIfTI file in it that can be seen.
    """
    if root.resolve() == Path(root.resolve().anchor):
        raise UnderstudyError(
            "this is the root of the file system, not a folder of patients",
            where=root,
            fix="point `path` at the folder that holds the patients' folders",
        )
    listing = list_files(root, _NIFTI)
    files = listing.files
    if not files and listing.problems:
        raise listing.problems[0]
    if not files:
        raise _no_nifti(root)
    unreadable = [
        Note(f"{p.what}: patients may be missing", p.fix or "", Path(p.where or root), "error")
        for p in listing.problems
    ]
    return files, unreadable


def _no_nifti(root: Path) -> UnderstudyError:
    """Says what the folder holds instead, and how that becomes NIfTI."""
    counts = Counter(PurePosixPath(file).suffix.lower() or "-" for file in list_files(root, ("",)).files)
    for endings, fix in _OTHER_FILES.items():
        there = [f"{counts[e]:,} {e}".replace("-", "without an ending") for e in endings.split() if counts[e]]
        if there:
            return UnderstudyError(
                f"no NIfTI file (.nii, .nii.gz) in the folder or below it; files: {', '.join(there)}",
                where=root,
                fix=fix,
            )
    return UnderstudyError(
        "no NIfTI file (.nii, .nii.gz) in the folder or below it",
        where=root,
        fix="point `path` at the folder that holds the patients' folders, or unpack the data first",
    )


def recognised(root: Path, files: Sequence[str]) -> str:
    """The layout whose names the files below `root` have; "" if none.

    Raises:
        UnderstudyError: names of two layouts, a folder of several data sets.
    """
    if is_nnunet(root):
        return "nnunet"
    # BIDS and others have files called _FLAIR and _seg, too
    present = [
        layout
        for layout in _BRATS_SUFFIXES
        if len({name for own in _match_brats(layout, files).values() for name in own}) >= 3
    ]
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


def _find_brats(layout: str, config: CohortConfig, root: Path, files: Sequence[str]) -> Found:
    """The scans of one BraTS release, without the folders for validation, which have no annotations."""
    suffixes = {**_BRATS_SUFFIXES[layout], LABELS: _BRATS_LABELS[layout]}
    scans = []
    notes, without, passed_over = [], [], set[str]()
    stray = {m["folder"]: m.string for file in files if (m := _BRATS_STRAY_LABELS.fullmatch(file))}
    for (patient, folder), own in sorted(_match_brats(layout, files).items()):
        if LABELS not in own and folder in stray:
            own[LABELS] = [stray[folder]]
        if LABELS not in own and _NOT_ANNOTATED.search(f"{folder}/{patient}"):
            without.append((patient, folder))
            passed_over.update(file for found in own.values() for file in found)
            continue
        expected = {name: f"{folder}/{patient}{suffix}.nii.gz".lstrip("/") for name, suffix in suffixes.items()}
        scans.append(Scan(patient, own, expected))
    if without:
        notes.append(
            Note(
                f"{len(without)} patients of the challenge's validation or test part have no annotation and are not"
                f" used (e.g. {without[0][0]})",
                "nothing, or point `path` at the training part",
                root / without[0][1],
            )
        )
    classes = described_classes(config.classes) if config.classes else brats_classes(layout)
    return Found(tuple(_BRATS_SUFFIXES[layout]), classes, scans, notes, passed_over)


def _match_brats(layout: str, files: Sequence[str]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """The files of one BraTS release: (patient, folder) -> channel -> files."""
    suffixes = {**_BRATS_SUFFIXES[layout], LABELS: _BRATS_LABELS[layout]}
    by_suffix = {suffix: name for name, suffix in suffixes.items()}
    expression = re.compile(rf"(?P<patient>.+?)(?P<suffix>{'|'.join(by_suffix)})\.nii(\.gz)?", re.IGNORECASE)
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        # Kaggle's copy has folders called like files: BraTS20_1/BraTS20_1_t1.nii/0001_brain_t1.nii
        above, _, folder_name = folder.rpartition("/")
        if expression.fullmatch(folder_name):
            folder, name = above, folder_name
        match = expression.fullmatch(name)
        if match:
            patient = found.setdefault((match["patient"], folder), {})
            patient.setdefault(by_suffix[match["suffix"].lower()], []).append(file)
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
    literal = {name: len(re.sub(r"\{\w+\}|\*", "", pattern)) for name, pattern in patterns.items()}
    marks = {name: sorted(mark for mark in _MARKS if f"{{{mark}}}" in text) for name, text in patterns.items()}
    for name in marks:
        if marks[name] != marks[LABELS]:
            raise UnderstudyError(
                f"the pattern of {name} has {' and '.join(marks[name])}, that of labels {' and '.join(marks[LABELS])}",
                where=f"{config.path}: {patterns[name]}",
                fix="write the same of {patient}, {visit} and {site} in all patterns, and * for what differs",
            )
    found: dict[tuple[str, ...], Scan] = {}
    unmatched = set(patterns)
    for file in files:
        matches = {name: match for name, e in expressions.items() if (match := e.fullmatch(file))}
        unmatched -= matches.keys()
        # p1_seg.nii.gz also fits {patient}.nii.gz, but is the annotation of p1 and not the image of a patient p1_seg
        closest = max((literal[name] for name in matches), default=0)
        for name, match in matches.items():
            if literal[name] == closest:
                scan = _scan_of(match.groupdict(), patterns, found)
                scan.files.setdefault(name, []).append(file)
    for name in patterns:
        if name in unmatched:
            raise UnderstudyError(
                f"the pattern of {name} matches none of the {len(files)} NIfTI files",
                where=f"{config.path}: {patterns[name]}",
                fix=f"compare it with a file that is there: {files[0]}",
            )
    scans, notes = sorted(found.values(), key=lambda scan: scan.id), list[Note]()
    kept = without_masks(scans, config.path, notes) if "{visit}" in config.labels else scans
    told = {file for scan in scans for own in scan.files.values() for file in own}
    return Found(tuple(config.channels), classes, kept, notes, told)


def _scan_of(marks: Mapping[str, str], patterns: Mapping[str, str], found: dict[tuple[str, ...], Scan]) -> Scan:
    """The scan whose {site}, {patient} and {visit} a file has; where a pattern names them, its id is all of them."""
    key = tuple(marks[mark] for mark in _MARKS if mark in marks)
    if key not in found:
        person = marks["patient"] if "visit" in marks else person_of(marks["patient"])
        if "site" in marks:
            person = f"{marks['site']}_{person}"
        elif "visit" not in marks:
            person = ""  # as all ids together tell
        expected = {}
        for channel, text in patterns.items():
            for mark, value in marks.items():
                text = text.replace(f"{{{mark}}}", value)
            expected[channel] = text
        found[key] = Scan("_".join(key), {}, expected, person, marks.get("site", UNKNOWN_SITE))
    return found[key]


def _pattern_expression(name: str, pattern: str) -> re.Pattern[str]:
    """The regular expression of a file pattern: {patient}, {visit} and {site} are each a path part or a piece of it."""
    if "{patient}" not in pattern:
        raise UnderstudyError(
            f"the pattern of {name} does not say where the patient's id stands",
            where=pattern,
            fix="write {patient} in its place, for example {patient}/{patient}_flair.nii.gz",
        )
    translated, seen = [], set[str]()
    for piece in re.split(r"(\{patient\}|\{visit\}|\{site\}|\*\*/|\*)", pattern.removeprefix("./")):
        mark = piece.strip("{}")
        if piece.startswith("{") and mark in _MARKS:
            translated.append(f"(?P={mark})" if mark in seen else f"(?P<{mark}>[^/]+?)")
            seen.add(mark)
        else:
            translated.append({"**/": "(?:.*/)?", "*": "[^/]*"}.get(piece, re.escape(piece)))
    return re.compile("".join(translated))


def brats_classes(layout: str) -> tuple[LabelClass, ...]:
    """Classes of a BraTS layout by its name, background first."""
    return BACKGROUND, *(LabelClass(*entry) for entry in _BRATS_CLASSES[layout])


def _refuse_pattern_fields(config: CohortConfig, layout: str) -> None:
    """Patterns beside a layout that knows its own names would be ignored in silence; say so."""
    given = [name for name in ("channels", "labels") if getattr(config, name)]
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
        surplus={name: tuple(root / file for file in found[1:]) for name, found in files.items() if len(found) > 1},
        subject=subject,
    )
