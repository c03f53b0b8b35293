"""What a user says about a cohort, and what is known of its patients before a volume is opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from understudy.errors import UnderstudyError
from understudy.exchange.spec import LABELS
from understudy.io.settings import Settings
from understudy.slices import LabelClass, evenly_coded

AUTO = "auto"
Severity = Literal["error", "warning"]  # an "error" keeps the patient out
PARTICIPANTS, PARTICIPANT_COLUMN, SITE_COLUMN = "participants.tsv", "participant_id", "site"  # as in BIDS


class CohortConfig(Settings):
    """Where the volumes are and what they are called."""

    path: Path = Field(default=Path("."), description="folder that holds the patients, at any depth")
    layout: Literal["auto", "brats2018", "brats2023", "nnunet", "bids", "pattern"] = Field(
        default="auto", description="names as in BraTS 2018-2021, BraTS 2023 and later, nnU-Net, BIDS, or patterns"
    )
    channels: dict[str, str] = Field(
        default_factory=dict,
        description="pattern: sequence -> file below `path`, with {patient}, {visit}, {site}, * and **; bids: entities"
        " and suffix, e.g. ce-gadolinium_T1w (empty: all that most patients have); BraTS, nnU-Net: leave empty",
    )
    labels: str = Field(
        default="", description="the annotation's file, as `channels`, e.g. label-lesion_mask for the layout bids"
    )
    classes: dict[int, str] = Field(
        default_factory=dict, description="label value in the file, 1 or more -> class name (empty: as the layout has)"
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


def as_before_auto(cohort: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped `CohortConfig` with the defaults of the time before `auto`: the job ids of older studies stay."""
    before = {"participants": PARTICIPANTS, "site_column": SITE_COLUMN}
    return {n: before[n] if n in before and v == AUTO else v for n, v in cohort.items()}


def described_classes(named: Mapping[int, str]) -> tuple[LabelClass, ...]:
    """Classes by label value, background first, with codes spread evenly over 0-255."""
    if not all(1 <= value <= 255 for value in named) or len(set(named.values())) < len(named):
        what = "label values must lie in 1 to 255 (0 is the background) and class names must differ"
        raise UnderstudyError(what, where=f"classes: {dict(named)}", fix="correct the label map")
    return evenly_coded(dict(named))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with, or should be known of, a cohort."""

    patient: str  # id; "" for the cohort as a whole
    file: Path
    problem: str
    fix: str
    severity: Severity = "error"

    def as_error(self) -> UnderstudyError:
        """To raise."""
        whose = f"patient {self.patient}: " if self.patient else ""
        return UnderstudyError(whose + self.problem, where=self.file, fix=self.fix)


def note(file: Path, text: str, fix: str) -> Problem:
    """A warning about the cohort as a whole."""
    return Problem("", file, text, fix, "warning")


@dataclass(frozen=True)
class Patient:
    """The files of one scan of one patient, by channel (or "labels")."""

    id: str
    site: str
    images: dict[str, Path]
    labels: Path | None
    missing: dict[str, Path] = field(default_factory=dict)  # the files that were expected
    surplus: dict[str, tuple[Path, ...]] = field(default_factory=dict)  # further files that match as well
    subject: str = ""  # the person: the id of their first scan

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", self.subject or self.id)

    @property
    def files(self) -> dict[str, Path]:
        """Channel or "labels" -> file, of those that are there."""
        return self.images | ({LABELS: self.labels} if self.labels else {})

    @property
    def folder(self) -> Path:
        """The folder of the first file, or where it should have been."""
        return next(iter([*self.files.values(), *self.missing.values()])).parent


@dataclass(frozen=True)
class Cohort:
    """Patients sorted by id, with what their files have in common."""

    patients: tuple[Patient, ...]
    channels: tuple[str, ...]
    classes: tuple[LabelClass, ...]
    layout: str
    path: Path
    trust_array_order: bool = False
    notes: tuple[Problem, ...] = ()


@dataclass
class Scan:
    """The files of one scan as a layout finds them, relative to the cohort's folder, by channel (or "labels")."""

    id: str  # unique unless a patient is in two folders
    files: dict[str, list[str]] = field(default_factory=dict)  # more than one is ambiguous
    expected: dict[str, str] = field(default_factory=dict)  # where the file should be
    person: str = ""  # common to all scans of one person; "": see `participants.persons_of`
    site: str = ""


@dataclass
class Found:
    """What a layout makes of a folder; `ignored` are files that belong to no scan, as a note says."""

    channels: tuple[str, ...]
    classes: tuple[LabelClass, ...]
    scans: list[Scan]
    notes: list[Problem] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
