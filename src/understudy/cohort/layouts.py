"""Which files belong to which patient: BraTS, nnU-Net and BIDS by their names, any other cohort by file patterns."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from understudy.cohort.bids import bids_images, find_bids, without_masks
from understudy.cohort.config import Cohort, CohortConfig, Found, Patient, Problem, Scan, described_classes, note
from understudy.cohort.nnunet import find_nnunet, is_nnunet
from understudy.cohort.participants import perhaps_one_person, person_of, persons_of, read_sites
from understudy.errors import UnderstudyError
from understudy.exchange.spec import BRATS_CODES, LABELS, pattern_text
from understudy.io.files import read_json
from understudy.io.folders import list_files
from understudy.slices import BACKGROUND, LabelClass

# What each BraTS release calls its files; the channel names are those of the paper.
_BRATS = {
    "brats2018": {"T1w": "_t1", "T1wGd": "_t1ce", "T2w": "_t2", "FLAIR": "_flair", LABELS: "_seg"},
    "brats2023": {"T1w": "-t1n", "T1wGd": "-t1c", "T2w": "-t2w", "FLAIR": "-t2f", LABELS: "-seg"},
}
# BraTS 2020's archive calls the annotation of patient 355 W39_1998.09.19_Segm.nii.
_BRATS_STRAY_LABELS = re.compile(r"(?P<folder>(?:.*/)?(?P<patient>BraTS[^/]*))/[^/]*_Segm\.nii(\.gz)?", re.IGNORECASE)
_NOT_ANNOTATED = re.compile(r"validation|testing", re.IGNORECASE)  # folders of BraTS without annotations
_PLACEHOLDERS = ("site", "patient", "visit")  # of patterns, in the order of an id
EXAMPLE = (
    "layout: pattern, channels: {FLAIR: '{patient}/{patient}_flair.nii.gz'}, "
    "labels: '{patient}/{patient}_seg.nii.gz', classes: {1: tumour}"
)
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

    A patient that lacks a file is in the cohort, with the file under `missing`. Several scans of one person (visits in
    the names, sessions in BIDS) have one `subject`. The notes name NIfTI files that belong to no patient.

    Raises:
        UnderstudyError: no NIfTI file, no layout recognised, patterns that match nothing, no table of sites.
    """
    root = config.path
    files, notes = nifti_files(root)
    layout: str = config.layout
    if layout == "auto":
        layout = "pattern" if config.channels else recognised(root, files)
    if not layout:
        what = f"the file names are not those of BraTS, nnU-Net or BIDS (found {', '.join(files[:3])})"
        fix = f"`understudy init {root}` guesses a study file; or write under `cohort:`, e.g. {EXAMPLE}"
        raise UnderstudyError(what, where=root, fix=fix)
    if (config.channels or config.labels) and layout not in ("pattern", "bids"):
        what = f"channels or labels given, but the layout is {layout}, which knows its own file names"
        raise UnderstudyError(what, where=root, fix="set `layout: pattern`, or remove them")
    finders = {"pattern": _find_by_patterns, "nnunet": find_nnunet, "bids": find_bids}
    found = finders.get(layout, partial(_find_brats, layout))(config, files)
    if not found.scans:
        what = f"no file is named as in {layout}, or no patient has an annotation"
        raise UnderstudyError(what, where=root, fix=f"set another `layout` or `path`; found for example {files[0]}")
    if absent := [n for n in (*found.channels, LABELS) if not any(n in scan.files for scan in found.scans)]:
        what = f"none of the {len(found.scans)} patients has {', '.join(absent)} (names as in {layout})"
        fix = f"if the files have other names, describe them under `cohort:`: {EXAMPLE}"
        raise UnderstudyError(what, where=root, fix=fix)
    _refuse_missing_phantoms(root, len(found.scans))
    notes += found.notes
    patients, doubts = _patients(config, found, notes)
    notes += [*_unused(layout, root, files, found), *doubts]
    return Cohort(patients, found.channels, found.classes, layout, root, config.trust_array_order, tuple(notes))


def _refuse_missing_phantoms(root: Path, found: int) -> None:
    """Raises an UnderstudyError if a folder of `understudy phantom` lacks patients that it lists."""
    described: Any = {}
    with suppress(UnderstudyError):  # absent, or another program's
        described = read_json(root / "dataset.json")
    if isinstance(described, dict) and "phantom" in described and described.get("patients") != found:
        what = f"{found} phantoms are there, {described.get('patients')} were drawn"
        raise UnderstudyError(what, where=root, fix="draw what is missing: the same `understudy phantom` again")


def _patients(config: CohortConfig, found: Found, notes: list[Problem]) -> tuple[tuple[Patient, ...], list[Problem]]:
    """The scans with persons and sites, and what is doubtful about the table of sites."""
    root = config.path
    persons = persons_of(scan.id for scan in found.scans)
    persons |= {scan.id: scan.person for scan in found.scans if scan.person}
    first: dict[str, str] = {}  # person -> id of the first scan
    subjects = {scan: first.setdefault(person, scan) for scan, person in persons.items()}
    if later := [(subject, scan) for scan, subject in subjects.items() if scan != subject]:
        count = len({subject for subject, _ in later})
        text = f"{count} patients have several scans, all on one side of the split (e.g. {' and '.join(later[0])})"
        notes.append(note(root, text, "nothing; if they are different people, give them ids that say so"))
    # persons that the layout names are certain
    if alike := perhaps_one_person(sorted(set(persons.values()) - {scan.person for scan in found.scans})):
        more = f" ({len(alike)} such pairs)" if len(alike) > 1 else ""
        text = f"{' and '.join(alike[0])} may be one person, who could be on two sides of the split{more}"
        fix = "nothing, if they are two people; otherwise `layout: pattern` with {patient}_{visit} in the names"
        notes.append(note(root, text, fix))
    sites, doubts = read_sites(config, persons)
    patients = tuple(
        Patient(
            id=scan.id,
            site=sites.get(scan.id) or scan.site,
            images={name: root / scan.files[name][0] for name in found.channels if name in scan.files},
            labels=root / scan.files[LABELS][0] if LABELS in scan.files else None,
            missing={n: root / scan.expected[n] for n in (*found.channels, LABELS) if n not in scan.files},
            surplus={n: tuple(root / file for file in own[1:]) for n, own in scan.files.items() if len(own) > 1},
            subject=subjects[scan.id],
        )
        for scan in found.scans
    )
    return patients, doubts


def _unused(layout: str, root: Path, files: Sequence[str], found: Found) -> list[Problem]:
    """Names files without a patient. In BIDS, where most files are something else, only of subjects without images."""
    used = {file for scan in found.scans for own in scan.files.values() for file in own}
    left = [file for file in files if file not in used and file not in found.ignored]
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
    return [note(root / left[0], f"{text} to no patient, e.g. {left[0]}", fix)]


def nifti_files(root: Path) -> tuple[list[str], list[Problem]]:
    """All NIfTI files below `root` as relative POSIX paths, and an error for what cannot be read."""
    if root.resolve() == Path(root.resolve().anchor):
        raise UnderstudyError("this is the root of the file system", where=root, fix="give the patients' folder")
    listing = list_files(root, (".nii", ".nii.gz"))
    if listing.files:
        found = [(Path(p.where or root), f"{p.what}: patients may be missing", p.fix or "") for p in listing.problems]
        return listing.files, [Problem("", *problem) for problem in found]
    if listing.problems:
        raise listing.problems[0]
    what = "no NIfTI file (.nii, .nii.gz) in the folder or below it"
    counts = Counter(PurePosixPath(file).suffix.lower() or "-" for file in list_files(root, ("",)).files)
    for endings, fix in _OTHER_FILES.items():
        there = [f"{counts[e]:,} {e}".replace("-", "without an ending") for e in endings.split() if counts[e]]
        if there:
            raise UnderstudyError(f"{what}; files: {', '.join(there)}", where=root, fix=fix)
    raise UnderstudyError(what, where=root, fix="point `path` at the patients' folder, or unpack the data first")


def recognised(root: Path, files: Sequence[str]) -> str:
    """The layout whose names the files below `root` have; "" if none."""
    if is_nnunet(root):
        return "nnunet"
    # at least three kinds of files: BIDS and others have files called _FLAIR and _seg, too
    present = [x for x in _BRATS if len({name for own in _match_brats(x, files).values() for name in own}) >= 3]
    if len(present) > 1:
        fix = "set `layout: brats2018` or `layout: brats2023`, or separate the folders"
        raise UnderstudyError("the folder mixes the names of BraTS 2018-2021 and of BraTS 2023", where=root, fix=fix)
    if present or bids_images(files):
        return (present or ["bids"])[0]
    if sets := sorted(path.parent.name for path in root.glob("*/dataset.json") if is_nnunet(path.parent)):
        what = f"the folder holds data sets of nnU-Net ({', '.join(sets[:5])}), not one itself"
        raise UnderstudyError(what, where=root, fix=f"point `path` at one of them, for example {root / sets[0]}")
    return ""


def brats_classes(layout: str) -> tuple[LabelClass, ...]:
    """Classes of a BraTS layout by its name, background first; the enhancing tumour is label 3 since 2023."""
    sources = (1, 2, 4) if layout == "brats2018" else (1, 2, 3)
    return BACKGROUND, *(LabelClass(n, s, code) for s, (n, code) in zip(sources, BRATS_CODES.items(), strict=True))


def _find_brats(layout: str, config: CohortConfig, files: Sequence[str]) -> Found:
    """The scans of one BraTS release, without the folders for validation, which have no annotations."""
    scans, without, ignored = [], [], set[str]()
    stray = {m["folder"]: m.string for file in files if (m := _BRATS_STRAY_LABELS.fullmatch(file))}
    for (patient, folder), own in sorted(_match_brats(layout, files).items()):
        if LABELS not in own and folder in stray:
            own[LABELS] = [stray[folder]]
        if LABELS not in own and _NOT_ANNOTATED.search(f"{folder}/{patient}"):
            without.append((patient, folder))
            ignored.update(file for found in own.values() for file in found)
        else:
            expected = {n: f"{folder}/{patient}{suffix}.nii.gz".lstrip("/") for n, suffix in _BRATS[layout].items()}
            scans.append(Scan(patient, own, expected))
    notes = []
    if without:
        text = f"{len(without)} patients of the validation or test part have no annotation (e.g. {without[0][0]})"
        notes.append(note(config.path / without[0][1], text, "nothing: they are not used"))
    classes = described_classes(config.classes) if config.classes else brats_classes(layout)
    return Found(tuple(_BRATS[layout])[:-1], classes, scans, notes, ignored)


def _match_brats(layout: str, files: Sequence[str]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """(patient, folder) -> channel -> files."""
    by_suffix = {suffix: name for name, suffix in _BRATS[layout].items()}
    expression = re.compile(rf"(?P<patient>.+?)(?P<suffix>{'|'.join(by_suffix)})\.nii(\.gz)?", re.IGNORECASE)
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        # Kaggle's copy has folders called like files: BraTS20_1/BraTS20_1_t1.nii/0001_brain_t1.nii
        above, _, folder_name = folder.rpartition("/")
        if expression.fullmatch(folder_name):
            folder, name = above, folder_name
        if match := expression.fullmatch(name):
            patient = found.setdefault((match["patient"], folder), {})
            patient.setdefault(by_suffix[match["suffix"].lower()], []).append(file)
    return found


def _find_by_patterns(config: CohortConfig, files: Sequence[str]) -> Found:
    if lacking := [name for name in ("channels", "labels", "classes") if not getattr(config, name)]:
        what = f"layout: pattern needs {' and '.join(lacking)}"
        raise UnderstudyError(what, where=config.path, fix=f"for example {EXAMPLE}")
    if LABELS in config.channels:
        raise UnderstudyError(f"a channel cannot be called {LABELS!r}", where="channels", fix="choose another name")
    classes = described_classes(config.classes)
    patterns = {**config.channels, LABELS: config.labels}
    marks = {name: sorted(mark for mark in _PLACEHOLDERS if f"{{{mark}}}" in text) for name, text in patterns.items()}
    if bare := next((name for name, own in marks.items() if "patient" not in own), None):
        fix = "write for example {patient}/{patient}_flair.nii.gz"
        raise UnderstudyError(f"the pattern of {bare} has no {{patient}}", where=patterns[bare], fix=fix)
    for name, own in marks.items():
        if own != marks[LABELS]:
            what = f"the pattern of {name} has {' and '.join(own)}, that of labels {' and '.join(marks[LABELS])}"
            fix = "write the same of {patient}, {visit} and {site} in all patterns, * for what differs"
            raise UnderstudyError(what, where=f"{config.path}: {patterns[name]}", fix=fix)
    expressions = {name: re.compile(pattern_text(pattern, _PLACEHOLDERS)) for name, pattern in patterns.items()}
    literal = {name: len(re.sub(r"\{\w+\}|\*", "", pattern)) for name, pattern in patterns.items()}
    found: dict[tuple[str, ...], Scan] = {}
    unmatched = dict(patterns)
    for file in files:
        matches = {name: match for name, e in expressions.items() if (match := e.fullmatch(file))}
        unmatched = {name: pattern for name, pattern in unmatched.items() if name not in matches}
        # p1_seg.nii.gz also fits {patient}.nii.gz, but is the annotation of p1 and not the image of a patient p1_seg
        closest = max((literal[name] for name in matches), default=0)
        for name, match in matches.items():
            if literal[name] == closest:
                values = match.groupdict()
                key = tuple(values[mark] for mark in _PLACEHOLDERS if mark in values)
                if key not in found:
                    found[key] = _scan_of(values, "_".join(key), patterns)
                found[key].files.setdefault(name, []).append(file)
    if absent := next(iter(unmatched), ""):
        what = f"the pattern of {absent} matches none of the {len(files)} NIfTI files"
        raise UnderstudyError(what, where=f"{config.path}: {patterns[absent]}", fix=f"compare it with {files[0]}")
    scans, notes = sorted(found.values(), key=lambda scan: scan.id), list[Problem]()
    kept = without_masks(scans, config.path, notes) if "{visit}" in config.labels else scans
    matched = {file for scan in scans for own in scan.files.values() for file in own}
    return Found(tuple(config.channels), classes, kept, notes, matched)


def _scan_of(marks: Mapping[str, str], scan: str, patterns: Mapping[str, str]) -> Scan:
    """The scan with a file's {site}, {patient} and {visit}, and the files that it should have."""
    person = marks["patient"] if "visit" in marks else person_of(marks["patient"])
    if "site" in marks:
        person = f"{marks['site']}_{person}"
    elif "visit" not in marks:
        person = ""  # as all ids together tell
    expected = dict(patterns)
    for mark, value in marks.items():
        expected = {channel: text.replace(f"{{{mark}}}", value) for channel, text in expected.items()}
    return Scan(scan, {}, expected, person, marks.get("site", ""))
