"""Which files belong to which patient: BraTS folders by their names, any other cohort by file patterns."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from understudy.errors import UnderstudyError
from understudy.lazy import pandas as pd
from understudy.slices import BACKGROUND, LabelClass, evenly_coded

UNKNOWN_SITE = ""

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
LABELS = "labels"  # the annotation's name among a patient's files

_EXAMPLE = (
    "layout: pattern, channels: {FLAIR: '{patient}/{patient}_flair.nii.gz'}, "
    "labels: '{patient}/{patient}_seg.nii.gz', classes: {1: tumour}"
)


class CohortConfig(BaseModel):
    """Where the volumes are and what they are called."""

    model_config = ConfigDict(extra="forbid")

    path: Path = Field(default=Path("."), description="folder that holds the patients, at any depth")
    layout: Literal["auto", "brats2018", "brats2023", "pattern"] = Field(
        default="auto",
        description="naming: BraTS 2018-2021, BraTS 2023 and later, or the patterns below (auto: find out)",
    )
    channels: dict[str, str] = Field(
        default_factory=dict,
        description="pattern layout: sequence name -> file below `path`, with {patient}, * and ** ; BraTS: leave empty",
    )
    labels: str = Field(
        default="", description="pattern layout: file of the annotation, with {patient}, * and **"
    )
    classes: dict[int, str] = Field(
        default_factory=dict, description="pattern layout: label value in the file (1 or more) -> class name"
    )
    participants: str = Field(
        default="participants.tsv",
        description="table with each patient's site, below `path` (used if it is there)",
    )
    participant_column: str = Field(
        default="participant_id", description="column of `participants` with the patient's id"
    )
    site_column: str = Field(default="site", description="column of `participants` with the site's name")
    skip_bad_patients: bool = Field(
        default=False, description="leave patients with errors out instead of stopping"
    )
    trust_array_order: bool = Field(
        default=False,
        description="take the files of one patient as aligned voxel by voxel even where their headers disagree",
    )


@dataclass(frozen=True)
class Patient:
    """The files of one patient; `missing` and `surplus` are judged by `checks`."""

    id: str
    site: str
    images: dict[str, Path]
    labels: Path | None
    missing: dict[str, Path] = field(default_factory=dict)
    """channel name (or "labels") -> the file that was expected"""
    surplus: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """channel name (or "labels") -> further files that match as well"""

    @property
    def folder(self) -> Path:
        """The folder of the patient's first file."""
        return next(iter([*self.images.values(), *([self.labels] if self.labels else [])])).parent


@dataclass(frozen=True)
class Cohort:
    """Patients sorted by id, with what their files have in common."""

    patients: tuple[Patient, ...]
    channels: tuple[str, ...]
    classes: tuple[LabelClass, ...]
    layout: str
    path: Path
    trust_array_order: bool = False


def find_patients(config: CohortConfig) -> Cohort:
    """Finds the patients below `config.path` without opening a volume.

    A patient that lacks a file is in the cohort, with the file under `missing`, so that `check_cohort` can
    name it.

    Raises:
        UnderstudyError: no such folder, no NIfTI file, no layout recognised, a pattern without {patient} or
            that matches nothing, a sequence that no patient has, a participants table without its columns.
    """
    root = Path(config.path)
    files = _nifti_files(root)
    if config.layout == "pattern" or (config.layout == "auto" and config.channels):
        layout, found = "pattern", _match_patterns(config, files)
        channels = tuple(config.channels)
        classes = _described_classes(config)
    else:
        _refuse_pattern_fields(config)
        layout = _recognise(root, files) if config.layout == "auto" else config.layout
        found = _match_brats(layout, files)
        channels = tuple(_BRATS_SUFFIXES[layout])
        classes = brats_classes(layout)
    _refuse_absent_from_all(root, layout, found, channels, files)
    sites = _read_sites(config)
    patients = tuple(
        _patient(root, layout, config, channels, sites, key, found[key]) for key in sorted(found)
    )
    return Cohort(patients, channels, classes, layout, root, config.trust_array_order)


# A patient's files before they are judged: (id, folder or "") -> channel name -> files below the root.
_Found = dict[tuple[str, str], dict[str, list[str]]]


def _nifti_files(root: Path) -> list[str]:
    """All NIfTI files below `root` as sorted relative POSIX paths; hidden ones (macOS writes `._x.nii.gz`) apart."""
    if not root.exists():
        raise UnderstudyError("the cohort's folder does not exist", where=root, fix="correct `path`")
    if not root.is_dir():
        raise UnderstudyError(
            "the cohort's path is a file, not a folder",
            where=root,
            fix="give the folder that holds the patients",
        )
    files = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix()
        files += [
            name if below == "." else f"{below}/{name}"
            for name in names
            if name.endswith((".nii", ".nii.gz")) and not name.startswith(".")
        ]
    if not files:
        raise UnderstudyError(
            "no NIfTI file (.nii, .nii.gz) in the folder or below it",
            where=root,
            fix="point `path` at the folder that holds the patients' folders, or unpack the data first",
        )
    return sorted(files)


def _recognise(root: Path, files: list[str]) -> str:
    """The BraTS release whose names the files have."""
    matches = {layout: len(_match_brats(layout, files)) for layout in _BRATS_SUFFIXES}
    present = [layout for layout, count in matches.items() if count]
    if len(present) == 1:
        return present[0]
    if present:
        raise UnderstudyError(
            "the folder mixes the names of BraTS 2018-2021 (_t1ce) and of BraTS 2023 and later (-t1c)",
            where=root,
            fix="set `layout: brats2018` or `layout: brats2023`, or keep the releases in separate folders",
        )
    raise UnderstudyError(
        f"the file names are not those of BraTS (found for example {', '.join(files[:3])})",
        where=root,
        fix=f"describe them under `cohort:` in a study file, for example: {_EXAMPLE}",
    )


def _match_brats(layout: str, files: list[str]) -> _Found:
    """Groups the files of one BraTS release by folder and name."""
    suffixes = {**_BRATS_SUFFIXES[layout], LABELS: _BRATS_LABELS[layout]}
    by_suffix = {suffix: name for name, suffix in suffixes.items()}
    expression = re.compile(rf"(?P<patient>.+?)(?P<suffix>{'|'.join(by_suffix)})\.nii(\.gz)?")
    found: _Found = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        match = expression.fullmatch(name)
        if match:
            patient = found.setdefault((match["patient"], folder), {})
            patient.setdefault(by_suffix[match["suffix"]], []).append(file)
    return found


def _match_patterns(config: CohortConfig, files: list[str]) -> _Found:
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
    found: _Found = {}
    for name, pattern in {**config.channels, LABELS: config.labels}.items():
        expression = _pattern_expression(name, pattern)
        matches = [match for file in files if (match := expression.fullmatch(file))]
        if not matches:
            raise UnderstudyError(
                f"the pattern of {name} matches none of the {len(files)} NIfTI files",
                where=f"{config.path}: {pattern}",
                fix=f"compare it with a file that is there: {files[0]}",
            )
        for match in matches:
            found.setdefault((match["patient"], ""), {}).setdefault(name, []).append(match.string)
    return found


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


def _described_classes(config: CohortConfig) -> tuple[LabelClass, ...]:
    """Classes of a described cohort, by label value, with codes spread evenly over 0-255."""
    values = sorted(config.classes)
    wrong = [value for value in values if not 1 <= value <= 255]
    if wrong or len(set(config.classes.values())) < len(values):
        raise UnderstudyError(
            "label values must lie in 1 to 255 (0 is the background) and class names must differ",
            where=f"classes: {config.classes}",
            fix="correct the label map",
        )
    return evenly_coded(config.classes)


def _refuse_pattern_fields(config: CohortConfig) -> None:
    """Patterns beside a BraTS layout would be ignored in silence; say so."""
    given = [name for name in ("channels", "labels", "classes") if getattr(config, name)]
    if given:
        raise UnderstudyError(
            f"{' and '.join(given)} given, but the layout is {config.layout}, which knows its own file names",
            where=config.path,
            fix="set `layout: pattern`, or remove them",
        )


def _refuse_absent_from_all(
    root: Path, layout: str, found: _Found, channels: tuple[str, ...], files: list[str]
) -> None:
    """A file that no patient has is a wrong layout, not a bad patient."""
    if not found:
        raise UnderstudyError(
            f"no file is named as in {layout}",
            where=root,
            fix=f"found for example {files[0]}; set another `layout`",
        )
    absent = [name for name in (*channels, LABELS) if not any(name in patient for patient in found.values())]
    if absent:
        raise UnderstudyError(
            f"none of the {len(found)} patients has {', '.join(absent)} (names as in {layout})",
            where=root,
            fix=f"if these are not BraTS folders, describe the files under `cohort:` in a study file: {_EXAMPLE}",
        )


def _patient(
    root: Path,
    layout: str,
    config: CohortConfig,
    channels: tuple[str, ...],
    sites: dict[str, str],
    key: tuple[str, str],
    files: dict[str, list[str]],
) -> Patient:
    """Assembles one patient from the files found."""
    patient, folder = key
    missing = {}
    for name in (*channels, LABELS):
        if name not in files:
            if layout == "pattern":
                expected = {**config.channels, LABELS: config.labels}[name].replace("{patient}", patient)
            else:
                suffix = {**_BRATS_SUFFIXES[layout], LABELS: _BRATS_LABELS[layout]}[name]
                expected = f"{folder}/{patient}{suffix}.nii.gz".lstrip("/")
            missing[name] = root / expected
    return Patient(
        id=patient,
        site=sites.get(patient, sites.get(f"sub-{patient}", UNKNOWN_SITE)),
        images={name: root / files[name][0] for name in channels if name in files},
        labels=root / files[LABELS][0] if LABELS in files else None,
        missing=missing,
        surplus={
            name: tuple(root / file for file in found[1:]) for name, found in files.items() if len(found) > 1
        },
    )


def _read_sites(config: CohortConfig) -> dict[str, str]:
    """Site of each patient; empty if there is no table and none was asked for."""
    path = Path(config.path) / config.participants
    asked = config.model_fields_set
    if not path.is_file():
        if "participants" in asked:
            raise UnderstudyError(
                "the table of participants does not exist", where=path, fix="correct `participants`"
            )
        return {}
    try:
        table = pd.read_csv(
            path, sep="," if path.suffix == ".csv" else "\t", dtype=str, keep_default_na=False
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UnderstudyError(
            f"the table of participants cannot be read ({error})",
            where=path,
            fix="save it as tab-separated text",
        ) from error
    columns = [config.participant_column]
    # BIDS tables often have no site: that is only wrong if somebody asked for the column.
    if config.site_column in table or "site_column" in asked:
        columns.append(config.site_column)
    absent = [column for column in columns if column not in table]
    if absent:
        raise UnderstudyError(
            f"the table of participants has no column {', '.join(absent)}",
            where=path,
            fix=f"set `participant_column` and `site_column`; it has {', '.join(map(str, table.columns))}",
        )
    repeated = table[columns[0]][table[columns[0]].duplicated()]
    if len(repeated):
        raise UnderstudyError(
            f"the table of participants names {repeated.iloc[0]} twice",
            where=path,
            fix="keep one row per patient",
        )
    if len(columns) == 1:
        return {}
    return dict(zip(table[columns[0]], table[columns[1]].replace("", UNKNOWN_SITE), strict=True))
