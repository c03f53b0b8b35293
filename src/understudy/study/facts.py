"""What is known of a cohort before anything has run: its patients, sites and split. Impossible plans are refused."""

import math
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from understudy.cohort.config import described_classes
from understudy.cohort.layouts import Cohort, brats_classes, find_patients
from understudy.cohort.phantom.write import PhantomConfig, patient_id
from understudy.cohort.splits import split_patients
from understudy.errors import UnderstudyError
from understudy.io.files import sha256_json
from understudy.io.nifti import read_header
from understudy.slices import BACKGROUND, LabelClass
from understudy.study.config.schema import Study

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Facts:
    """A cohort as the study will use it."""

    sites: dict[str, str]  # patient -> site, of all patients
    split: dict[str, str]  # patient -> train, val or test; without those whom the study leaves out
    channels: int  # their number
    classes: tuple[LabelClass, ...]  # with the background
    shape: tuple[int, int, int]  # of a patient's grid, voxels (x, y, z)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Part -> its patients."""
        return {part: sum(own == part for own in self.split.values()) for part in PARTS}

    @property
    def patients(self) -> int:
        """Patients in any part."""
        return len(self.split)

    @property
    def voxels(self) -> int:
        """Of one patient's grid."""
        return math.prod(self.shape)

    @property
    def slices_each(self) -> float:
        """About how many slices of a patient the rule keeps: half of them."""
        return max(1.0, self.shape[2] / 2)

    def by_site(self) -> dict[str, dict[str, int]]:
        """Site -> patients in each part; "" is an unknown site."""
        found = {site: dict.fromkeys(PARTS, 0) for site in sorted(set(self.sites.values()))}
        for patient, part in self.split.items():
            found[self.sites[patient]][part] += 1
        return found


def find_cohort(study: Study, name: str = "") -> Cohort | None:
    """The patients on disk of a study with one cohort (of several: its `name`), see `find_patients`; None: phantoms."""
    if study.cohort is None:
        return None
    try:
        return find_patients(study.cohort)
    except UnderstudyError as error:
        if not name:
            raise
        fix = f"{error.fix}; or leave the cohort out: `cohorts: {{{name}: null}}`"
        raise UnderstudyError(f"cohort {name}: {error.what}", where=error.where, fix=fix) from error


def phantom_classes(phantom: PhantomConfig) -> tuple[LabelClass, ...]:
    """Classes of phantoms as a study finds them, background first: they are written in this layout."""
    return described_classes(phantom.labels) if phantom.labels else brats_classes("brats2018")


def facts_of(study: Study, cohort: Cohort | None, split_seed: int) -> Facts:
    """The facts of a study with one cohort, found by `find_cohort`; the seed is used where the file gives none."""
    if cohort is None:
        phantom = study.phantom
        assert phantom is not None
        names = phantom.site_names()
        sites = {patient_id(phantom, n): names[n % len(names)] for n in range(phantom.patients)}
        channels, classes, shape = 4, phantom_classes(phantom), phantom.shape
    else:
        sites = {patient.id: patient.site for patient in cohort.patients if patient.id == patient.subject}
        channels, classes = len(cohort.channels), cohort.classes
        shape = (240, 240, 155)  # BraTS, where no header can be read; `check` will say so
        for path in cohort.patients[0].images.values():
            with suppress(OSError, ValueError, UnderstudyError):
                x, y, z = map(int, read_header(path).shape)
                shape = x, y, z
                break
    split = split_patients(cohort if cohort is not None else sites, study.split.settled(split_seed))
    split = {patient: part for patient, part in split.items() if patient in sites}  # a patient's scans are one
    if "test" not in split.values():
        what, fix = f"none of {len(sites)} patients is a test patient", "raise `test_patients`, or name `test_sites`"
        raise UnderstudyError(what, where="split of the study", fix=fix)
    return Facts(sites, split, channels, tuple(classes) or (BACKGROUND,), shape)


def refuse_too_many(study: Study, facts: Facts) -> None:
    """Raises an UnderstudyError if `fine_tune` wants more patients than train, or `ratios` more of their slices."""
    train, most = facts.counts["train"], facts.counts["train"] * facts.shape[2]
    if study.fine_tune is not None and (wanted := max(study.fine_tune.patients)) > train:
        what = f"`fine_tune` wants {wanted} real patients, but only {train} train"
        raise UnderstudyError(what, where="fine_tune.patients of the study", fix=f"use 1 to {train}")
    if study.ratios is not None and (slices := study.ratios.real_slices) > most:
        what = f"`ratios` want {slices:,} real slices, but {train} training patients have at most {most:,}"
        raise UnderstudyError(what, where="ratios.total of the study", fix="lower it, or the largest share")


def fingerprint(cohort: Cohort) -> str:
    """SHA-256 (hex) that changes with the cohort's content, from each file's name, size and end.

    gzip ends with the CRC-32 of what it holds; an uncompressed file counts with its time of modification.
    """
    entries, root = [], f"{cohort.path}{os.sep}"
    for patient in cohort.patients:
        # whose scan it is decides on which side it is
        who = [patient.id, patient.site, *([patient.subject] if patient.subject != patient.id else [])]
        for channel, path in sorted(patient.files.items()):
            name = str(path)  # as text: thousands of paths to compare take a tenth of a second
            relative = name[len(root) :] if name.startswith(root) else os.path.relpath(name, cohort.path)
            entries.append([*who, channel, relative.replace(os.sep, "/"), *_file_mark(name)])
        entries += [[patient.id, name, "missing"] for name in sorted(patient.missing)]
    return sha256_json({"layout": cohort.layout, "files": entries})


def _file_mark(path: str) -> tuple[int, str]:
    """Size in bytes, and the last 8 bytes or the time of modification; a file that cannot be read has neither."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait forever
            return -1, "unreadable"
        with open(path, "rb", buffering=0) as handle:
            if not path.endswith(".gz") or status.st_size < 18:
                return status.st_size, str(status.st_mtime_ns)
            handle.seek(-8, os.SEEK_END)
            return status.st_size, handle.read().hex()
    except OSError:
        return -1, "unreadable"  # `prepare` names it, or leaves the patient out
