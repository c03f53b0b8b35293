"""What a user says about a cohort, and what is known of it before a volume is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from understudy.errors import UnderstudyError
from understudy.slices import LabelClass, evenly_coded

UNKNOWN_SITE = ""
LABELS = "labels"  # the annotation's name among a patient's files
AUTO = "auto"
PARTICIPANTS = "participants.tsv"
SITE_COLUMN = "site"
PARTICIPANT_COLUMN = "participant_id"


class CohortConfig(BaseModel):
    """Where the volumes are and what they are called."""

    model_config = ConfigDict(extra="forbid")

    path: Path = Field(default=Path("."), description="folder that holds the patients, at any depth")
    layout: Literal["auto", "brats2018", "brats2023", "nnunet", "bids", "pattern"] = Field(
        default="auto",
        description="naming: BraTS 2018-2021, BraTS 2023 and later, an nnU-Net data set, a BIDS data set, or the"
        " patterns below (auto: find out)",
    )
    channels: dict[str, str] = Field(
        default_factory=dict,
        description="pattern layout: sequence name -> file below `path`, with {patient}, {visit}, {site}, * and **;"
        " bids: entities and"
        " suffix, e.g. ce-gadolinium_T1w (empty: all that most patients have); BraTS, nnU-Net: leave empty",
    )
    labels: str = Field(
        default="",
        description="pattern layout: file of the annotation, with the same marks; bids: entities and suffix, e.g."
        " label-lesion_mask",
    )
    classes: dict[int, str] = Field(
        default_factory=dict,
        description="label value in the file (1 or more) -> class name (empty: those of the layout)",
    )
    participants: str | None = Field(
        default=AUTO,
        description="table with each patient's site, below `path` (auto: participants.tsv if it is there; null: none)",
    )
    participant_column: str = Field(
        default=PARTICIPANT_COLUMN, description="column of `participants` with the patient's id"
    )
    site_column: str = Field(
        default=AUTO, description="column of `participants` with the site's name (auto: `site`, if the table has it)"
    )
    skip_bad_patients: bool = Field(default=False, description="leave patients with errors out instead of stopping")
    trust_array_order: bool = Field(
        default=False,
        description="take the files of one patient as aligned voxel by voxel even where their headers disagree",
    )


_BEFORE_AUTO = {"participants": PARTICIPANTS, "site_column": SITE_COLUMN}


def as_before_auto(cohort: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped `CohortConfig` as it was when `auto` had the names themselves: hashes of older studies stay."""
    return {n: _BEFORE_AUTO[n] if n in _BEFORE_AUTO and v == AUTO else v for n, v in cohort.items()}


def described_classes(named: Mapping[int, str]) -> tuple[LabelClass, ...]:
    """Classes by label value, background first, with codes spread evenly over 0-255.

    Raises:
        UnderstudyError: a value that is not in 1 to 255, two classes of one name.
    """
    wrong = [value for value in named if not 1 <= value <= 255]
    if wrong or len(set(named.values())) < len(named):
        raise UnderstudyError(
            "label values must lie in 1 to 255 (0 is the background) and class names must differ",
            where=f"classes: {dict(named)}",
            fix="correct the label map",
        )
    return evenly_coded(dict(named))


@dataclass(frozen=True)
class Note:
    """Something to know about a cohort as a whole.

    Attributes:
        text: what it is.
        fix: what to do about it.
        file: the file or folder concerned.
        severity: an "error" may hide patients: it is refused unless bad patients are skipped.
    """

    text: str
    fix: str
    file: Path
    severity: Literal["error", "warning"] = "warning"


@dataclass(frozen=True)
class Patient:
    """The files of one scan of one patient; `missing` and `surplus` are judged by `checks`."""

    id: str
    site: str
    images: dict[str, Path]
    labels: Path | None
    missing: dict[str, Path] = field(default_factory=dict)
    """channel name (or "labels") -> the file that was expected"""
    surplus: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """channel name (or "labels") -> further files that match as well"""
    subject: str = ""
    """the person: the id of the first scan where one person was scanned several times, otherwise `id`"""

    def __post_init__(self) -> None:
        if not self.subject:
            object.__setattr__(self, "subject", self.id)

    @property
    def folder(self) -> Path:
        """The folder of the patient's first file, or where it should have been."""
        files = [*self.images.values(), *([self.labels] if self.labels else []), *self.missing.values()]
        return files[0].parent


@dataclass(frozen=True)
class Cohort:
    """Patients sorted by id, with what their files have in common."""

    patients: tuple[Patient, ...]
    channels: tuple[str, ...]
    classes: tuple[LabelClass, ...]
    layout: str
    path: Path
    trust_array_order: bool = False
    notes: tuple[Note, ...] = ()


@dataclass
class Scan:
    """The files of one patient as a layout finds them, below the cohort's folder.

    Attributes:
        id: unique but for a patient who is in two folders.
        files: channel name (or "labels") -> files; more than one is ambiguous.
        expected: channel name (or "labels") -> the file that would be there, had nothing been forgotten.
        person: name that all scans of one person share; "": as the id tells.
        site: as the path tells; "" if it does not.
    """

    id: str
    files: dict[str, list[str]] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)
    person: str = ""
    site: str = UNKNOWN_SITE


@dataclass
class Found:
    """What a layout makes of a folder.

    Attributes:
        passed_over: files that belong to no scan, for a reason that a note tells.
    """

    channels: tuple[str, ...]
    classes: tuple[LabelClass, ...]
    scans: list[Scan]
    notes: list[Note] = field(default_factory=list)
    passed_over: set[str] = field(default_factory=set)
