"""Whose slices the real ones are: read off names, shown in numbers, and doubted where they cannot be right."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_json
from understudy.io.folders import natural
from understudy.slices import SliceSet

EACH = "(.*)"  # --patients '(.*)': every slice is another patient's
ONE_A_VOLUME = "one for each volume"
_EXAMPLE = "--patients '^(.+)_z[0-9]+$'"
# What stands behind the patient in the name of a slice: "p01_z045", "sub-3_slice-012", "case7-45", "p01/045".
_SLICE_NUMBER = re.compile(r"[_\-. /]+(?:slice|sl|z|s)?[_\-. ]?\d+$", re.IGNORECASE)
# The test of neighbours, see `neighbours`.
_MAX_PATIENTS = 64  # patients that are looked at
_RUN_LENGTH = 16  # of them in a row, where there are more
_MIN_DISTANCE = 4  # places between a patient and the others, so that a person cut in two or three is no other
_MIN_OTHERS, _MAX_OTHERS = 5, 8  # patients that a pair is compared with
_MAX_SLICES = 160  # of a patient
_THUMBNAIL = 16  # pixels
_MIN_CONTRAST = 0.5  # of the median contrast; fainter slices look alike whoever they are of
_QUANTILE = 0.25  # of each slice's best correlation within its patient
_MIN_PAIRS = 3  # pairs that are found
_MIN_SHARE = 0.1  # of all pairs
_ALPHA = 0.01  # probability of so many by chance


class Patients(NamedTuple):
    """The patient of each slice, and how they were told apart."""

    subjects: list[str]  # in the order of the slices
    # "set" (the set or the folder says it), "pattern" (the user's), "each" (every slice is of another patient, as the
    # user says), "volumes" (each is another patient's, as far as anybody knows), "names", or "nowhere" (each slice
    # counts as a patient of its own)
    found: Literal["set", "each", "pattern", "volumes", "names", "nowhere"]
    how: str  # the same in words

    def counts(self) -> dict[str, int]:
        """Slices of each patient, in the order of the names."""
        return dict(sorted(Counter(self.subjects).items(), key=lambda entry: natural(entry[0])))

    def table(self) -> str:
        """In one line: "608 slices of 21 patients, HOW: a (30), b (28), c (31), ...; 12 to 57 each, median 29"."""
        counts = self.counts()
        sizes = list(counts.values())
        first = ", ".join(f"{name} ({count})" for name, count in islice(counts.items(), 3))
        rest = f", ...; {min(sizes)} to {max(sizes)} each, median {np.median(sizes):g}" if len(sizes) > 3 else ""
        words = ("slice" if len(self.subjects) == 1 else "slices", "patient" if len(counts) == 1 else "patients")
        return f"{len(self.subjects):,} {words[0]} of {len(counts):,} {words[1]}, {self.how}: {first}{rest}"

    def question(self) -> str:
        """What to ask where the patients are hardly right: one, or as many as there are slices; else ""."""
        different, slices = len(set(self.subjects)), len(self.subjects)
        if slices > 1 and different in (1, slices):
            many = "one patient" if different == 1 else "as many patients as slices"
            return f"is that right, {many}? If not, say with --pattern what stands for {{subject}} in the names"
        return ""


def patients_of(names: Sequence[str], pattern: str | None, where: Path) -> Patients:
    """The patient of each slice by its name.

    `pattern` is a regular expression whose first group is the patient. None: the slices that differ in a number at the
    end of their name are one patient's, if this leaves more than one.
    """
    if pattern is None:
        short = [_SLICE_NUMBER.sub("", name) for name in names]
        if all(short) and 1 < len(set(short)) < len(names):
            return Patients(short, "names", "by their names without the number at the end")
        mark = sha256_json(str(where.absolute()))[:8]  # the same name in two folders is no proof of one patient
        return Patients([f"{mark}/{name}" for name in names], "nowhere", "one an image, since their names tell none")
    expression = compiled(pattern)
    matches = [expression.search(name) for name in names]
    subjects = [match[1 if expression.groups else 0] if match else "" for match in matches]
    if odd := next((name for name, subject in zip(names, subjects, strict=True) if not subject), None):
        fix = f"the first group is the patient in every name, e.g. {_EXAMPLE}"
        raise UnderstudyError(f"the slice {odd!r} has no patient by --patients '{pattern}'", where=where, fix=fix)
    return Patients(subjects, "each" if pattern == EACH else "pattern", f"by --patients '{pattern}'")


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression; raises an UnderstudyError if it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        what = f"'{pattern}' is not a valid regular expression ({error})"
        raise UnderstudyError(what, where="--patients", fix=f"write e.g. {_EXAMPLE}") from error


def doubt(slices: SliceSet, patients: Patients, where: Path) -> UnderstudyError | None:
    """Why the patients are probably wrong, as an error with its cure; None if nothing speaks against them."""
    if patients.found == "each":
        return None
    names = slices.index["id"].astype(str).tolist() if "id" in slices.index else []
    different, how = len(set(patients.subjects)), patients.how + (f"; a slice is called {names[0]!r}" if names else "")
    fix, sure = f"say which part of a name is the patient, e.g. {_EXAMPLE}", "; if they are right, add --trust-patients"
    if patients.found != "set" and 1 < different == len(names):
        fix += f"; if every slice is of another patient, --patients '{EACH}'"
        return UnderstudyError(f"there are as many patients as slices ({different:,}), {how}", where=where, fix=fix)
    if patients.found in ("pattern", "names") and different == 1 < len(names):
        return UnderstudyError(f"all {len(names):,} slices are of one patient, {how}", where=where, fix=fix + sure)
    alike, pairs = neighbours(slices)
    if not alike:
        return None
    fix = "read it again with the patients' names" if patients.found == "set" else fix
    what = f"{alike} of {pairs} pairs of patients look like neighbouring slices of one person ({how})"
    return UnderstudyError(what, where=where, fix=fix + sure)


def neighbours(slices: SliceSet) -> tuple[int, int]:
    """How many pairs of patients, in the order of their names, look like one; (0, pairs) unless more than by chance.

    A pair looks like one person if the best correlation between their slices is no lower than that of neighbouring
    slices of one patient (lower quartile of each slice's best), and higher than with every one of 8 other patients of
    similar names, so that differences between hospitals do no harm. Reported are at least 3 pairs, a tenth of all and
    most of those that pass the first condition, unless chance gives as many once in 100 times.
    """
    from scipy.stats import binom  # takes long, and `plan` imports this module

    subjects = slices.index["subject"].astype(str).to_numpy()
    names = sorted(set(subjects.tolist()), key=natural)
    starts, length = [0], len(names)
    if length > _MAX_PATIENTS:
        starts, length = (
            np.linspace(0, len(names) - _RUN_LENGTH, _MAX_PATIENTS // _RUN_LENGTH).astype(int).tolist(),
            _RUN_LENGTH,
        )
    own: list[NDArray[np.float32]] = []  # each slice's correlation with the most similar other one of its patient
    found: list[tuple[float, float, int]] = []  # correlation with the next patient, best of the others, how many others
    for start in starts:
        run = [_marks(slices, np.flatnonzero(subjects == name)) for name in names[start : start + length]]
        least = _MIN_CONTRAST * float(np.median(np.concatenate([contrast for _, contrast in run])))
        bright = [marks[(contrast >= least) & (contrast > 0)] for marks, contrast in run]
        for marks in bright:
            if len(marks) > 1:
                products = marks @ marks.T
                np.fill_diagonal(products, -1)
                own.append(np.asarray(products.max(axis=1)))
        for i in range(len(bright) - 1):
            places = sorted(range(len(bright)), key=lambda j: abs(j - i))
            far = [j for j in places if abs(j - i) >= _MIN_DISTANCE]
            others_at = (far if len(far) >= _MIN_OTHERS else [j for j in places if abs(j - i) > 1])[:_MAX_OTHERS]
            if others_at and len(bright[i]):
                others = max(_best(bright[i], bright[j]) for j in others_at)
                found.append((_best(bright[i], bright[i + 1]), others, len(others_at)))
    if not own or not found:
        return 0, len(found)
    within = float(np.quantile(np.concatenate(own), _QUANTILE))
    near = [(following, others, count) for following, others, count in found if max(following, others) >= within]
    alike = sum(following > others for following, others, _ in near)
    chance = float(np.mean([1 / (1 + count) for *_, count in near])) if near else 0.0
    many = alike >= max(_MIN_PAIRS, _MIN_SHARE * len(found)) and 2 * alike > len(near)
    return (alike if many and binom.sf(alike - 1, len(near), chance) < _ALPHA else 0), len(found)


def _marks(slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slices at low resolution, mean 0 and length 1 [n, D], and their contrast [n]."""
    if len(rows) > _MAX_SLICES:
        rows = rows[np.linspace(0, len(rows) - 1, _MAX_SLICES).astype(int)]
    images, _ = slices.read(rows)
    step = max(1, images.shape[-1] // _THUMBNAIL)
    edge = images.shape[-1] // step
    cut = images[..., : edge * step, : edge * step].reshape(*images.shape[:2], edge, step, edge, step)
    marks = cut.mean((3, 5), dtype=np.float32).reshape(len(rows), -1)
    marks -= marks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(marks, axis=1)
    return marks / np.maximum(length, 1e-6)[:, None], length


def _best(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float((one @ other.T).max()) if len(one) and len(other) else -1.0
