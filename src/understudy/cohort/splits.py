"""Which patients train, validate and test: always whole patients with all their scans, so that none is on two sides."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from understudy.cohort.config import Cohort
from understudy.errors import UnderstudyError
from understudy.io.files import reading
from understudy.io.foreign import TEXT
from understudy.io.matlab import read_mat
from understudy.io.settings import Settings

PAPER_TEST_PATIENTS = 56  # of 369 (BraTS 2020) and of 1251 (BraTS 2021) patients
TEST_FRACTION = 0.2
# Streams of the seed: the test patients do not depend on the validation, nor these on how many patients train.
_TEST_STREAM, _VALIDATION_STREAM, _TRAIN_STREAM = 0, 1, 2


class SplitConfig(Settings):
    """How patients are divided into train, val and test."""

    method: Literal["seed", "list", "permutation"] = Field(
        default="seed", description="draw by seed, take the lists below, or take the paper's permutation (.mat)"
    )
    seed: int | None = Field(default=None, ge=0, description="seed of what is drawn; null: follows from the study's")
    test_patients: float | None = Field(
        default=None, ge=0, description="fraction of all if below 1, else a number; null: 0.2, or 56 with a permutation"
    )
    validation_fraction: float = Field(
        default=0.2, ge=0, lt=1, description="fraction of the patients that are left after the test patients"
    )
    stratify_by_site: bool = Field(default=True, description="draw from every site in proportion to its patients")
    test_sites: list[str] = Field(
        default_factory=list, description="method seed: all patients of these sites test, in place of `test_patients`"
    )
    train_patients: int | None = Field(
        default=None,
        ge=1,
        description="train on so many of the training patients only; fewer are part of more. null: all",
    )
    train: list[str] | str = Field(
        default_factory=list, description="method list: ids, or a text file with one per line; empty: all the others"
    )
    validation: list[str] | str = Field(
        default_factory=list, description="method list: ids or a text file; empty: drawn by seed from the others"
    )
    test: list[str] | str = Field(default_factory=list, description="method list: ids or a text file")
    permutation: str = Field(
        default="", description="method permutation: the authors' subjectPermutation_BRATS2020.mat"
    )
    permutation_test: Literal["last", "first"] = Field(
        default="last", description="which end of the permuted patients is the test part (the paper: the last 56)"
    )

    def settled(self, seed: int = 0) -> "SplitConfig":
        """The same with everything said that was left open: `seed`, where there is none, and the test patients."""
        usual = PAPER_TEST_PATIENTS if self.method == "permutation" else TEST_FRACTION
        open_fields = {"seed": seed, "test_patients": usual}
        return self.model_copy(update={n: v for n, v in open_fields.items() if getattr(self, n) is None})

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later are left out at their default: older studies keep the ids of their jobs."""
        later = ("test_sites", "train_patients")
        return {name: value for name, value in handler(self).items() if name not in later or value}


def split_patients(patients: Cohort | Mapping[str, str], config: SplitConfig) -> dict[str, str]:
    """Assigns each patient to one part.

    `permutation` follows the authors' script: patients sorted by name are taken in the order of a saved MATLAB
    `randperm` (counted from 1); the first 313 (or 1195) train, the last 56 test. If the permuted folder names in their
    file (`subjects`) are the cohort's ids, these are used instead of positions. As in the paper's code, 20 % of the
    training patients then validate, drawn here by `seed`.

    Of a person who was scanned several times, all scans train, or only the first validates or tests: intervals count
    each test volume as one person. A list that names some of the scans means these.

    Args:
        patients: a cohort, or patient id -> site ("" if unknown).

    Returns:
        Id of the scan -> "train", "val" or "test", sorted by id, of all but those that `train_patients` leaves out.
        Depends on ids, sites and config, not on order.

    Raises:
        UnderstudyError: unknown or repeated ids or sites, a permutation of another cohort, nothing left to train on.
    """
    config = config.settled()
    if isinstance(patients, Cohort):
        _refuse_repeated([patient.id for patient in patients.patients], "the cohort")
        listed = sorted((p.id, p.subject, p.site) for p in patients.patients)
    else:
        listed = sorted((patient, patient, site) for patient, site in patients.items())
    sites: dict[str, str] = {}  # of each person
    scans: dict[str, list[str]] = {}
    for scan, person, site in listed:
        sites.setdefault(person, site)
        scans.setdefault(person, []).append(scan)
    sites = dict(sorted(sites.items()))
    test, val = _held_out(config, sites, scans)
    if val is None:
        left = {patient: site for patient, site in sites.items() if patient not in test}
        fraction = config.validation_fraction
        val = _draw(left, _count(fraction, len(left)), config, _VALIDATION_STREAM) if fraction else set()
    parts = {patient: "test" if patient in test else "val" if patient in val else "train" for patient in sites}
    if "train" not in parts.values():
        what = f"no patient of {len(sites)} is left for training ({len(test)} test, {len(val)} validation)"
        raise UnderstudyError(what, where="split", fix="lower `test_patients` or `validation_fraction`")
    if config.train_patients is not None:
        parts = _fewer(parts, sites, config, config.train_patients)
    used = {i: part for s, part in parts.items() for i in (scans[s] if part == "train" else scans[s][:1])}
    return dict(sorted(used.items()))


def _held_out(
    config: SplitConfig, sites: dict[str, str], scans: dict[str, list[str]]
) -> tuple[set[str], set[str] | None]:
    """Persons who test and validate (None: to be drawn); leaves of persons in lists only the scans that are named."""
    if config.test_sites and config.method != "seed":
        what = f"`test_sites` names who tests, and so does the method {config.method}"
        raise UnderstudyError(what, where="split.test_sites", fix="remove `test_sites`, or set `method: seed`")
    if config.method == "list":
        return _read_lists(config, scans)
    if config.method == "permutation":
        return _permuted_test(config, list(sites)), None
    if given := [name for name in ("train", "validation", "test", "permutation") if getattr(config, name)]:
        what = f"{' and '.join(given)} given, but the split's method is seed"
        raise UnderstudyError(what, where="split", fix="set `method: list` (or permutation), or remove them")
    if not config.test_sites:
        return _draw(sites, _count(config.test_patients or 0, len(sites)), config, _TEST_STREAM), None
    known = sorted(set(sites.values()))
    if unknown := sorted(set(config.test_sites) - set(known)):
        there = ", ".join(known[:20]) if any(known) else "none: the cohort does not say who is from where"
        fix = f"use sites of the participants table ({there})"
        raise UnderstudyError(f"no patient is from the site {', '.join(unknown)}", where="split.test_sites", fix=fix)
    if set(known) <= set(config.test_sites):
        what = "all patients are from the sites that test, nobody is left for training"
        raise UnderstudyError(what, where="split.test_sites", fix="leave a site out")
    return {patient for patient, site in sites.items() if site in config.test_sites}, None


def _fewer(parts: dict[str, str], sites: dict[str, str], config: SplitConfig, wanted: int) -> dict[str, str]:
    """The split with so many of its training patients: a start of one order, in which the sites take turns."""
    training = [patient for patient, part in parts.items() if part == "train"]
    if wanted > len(training):
        what = f"{wanted} training patients wanted, but only {len(training)} are left for training"
        raise UnderstudyError(what, where="split.train_patients", fix=f"ask for 1 to {len(training)}")
    order = np.random.default_rng([config.seed or 0, _TRAIN_STREAM]).permutation(len(training))
    members = _by_site([training[i] for i in order], sites, config)
    # the k-th of n patients of a site stands at (k + 1/2) / n: any start of the order has the sites in proportion
    place = {p: ((k + 0.5) / len(own), site) for site, own in members.items() for k, p in enumerate(own)}
    kept = set(sorted(training, key=place.__getitem__)[:wanted])
    return {patient: part for patient, part in parts.items() if part != "train" or patient in kept}


def _by_site(patients: Iterable[str], sites: Mapping[str, str], config: SplitConfig) -> dict[str, list[str]]:
    """The patients of each site, or all in one group if the split is not stratified."""
    groups: dict[str, list[str]] = {}
    for patient in patients:
        groups.setdefault(sites[patient] if config.stratify_by_site else "", []).append(patient)
    return groups


def _count(wanted: float, total: int) -> int:
    """A fraction of `total`, halves rounded up and at least one, or a whole number."""
    if 0 < wanted < 1:
        return max(1, int(wanted * total + 0.5))
    if wanted and (wanted != int(wanted) or wanted >= total):
        what = f"{wanted:g} test patients of {total} are not possible"
        fix = "give a fraction below 1, or a whole number below the number of patients"
        raise UnderstudyError(what, where="split.test_patients", fix=fix)
    return int(wanted)


def _draw(sites: dict[str, str], count: int, config: SplitConfig, stream: int) -> set[str]:
    """Draws `count` patients, by largest remainder from each site, then one of each site that can spare one."""
    groups = dict(sorted(_by_site(sorted(sites), sites, config).items()))
    sizes = {site: len(members) for site, members in groups.items()}
    shares = {site: count * size // len(sites) for site, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda site: (-(count * sizes[site] % len(sites)), site))
    for site in by_remainder[: count - sum(shares.values())]:
        shares[site] += 1
    for site in sizes:
        richest = max(shares, key=shares.__getitem__)
        if shares[site] == 0 and sizes[site] >= 2 and shares[richest] >= 2:
            shares[site], shares[richest] = 1, shares[richest] - 1
    generator = np.random.default_rng([config.seed or 0, stream])
    orders = {site: generator.permutation(size) for site, size in sizes.items()}
    return {groups[site][i] for site, order in orders.items() for i in order[: shares[site]]}


def _read_lists(config: SplitConfig, scans: dict[str, list[str]]) -> tuple[set[str], set[str] | None]:
    """Persons who test and validate as given; drops scans that no list names of persons of whom one is named."""
    where = "the lists of the split"
    lists = {name: _read_list(getattr(config, name)) for name in ("test", "validation", "train")}
    if not lists["test"]:
        raise UnderstudyError("the list of test patients is empty", where="test", fix="give their ids")
    named = [patient for ids in lists.values() for patient in ids]
    person = {scan: subject for subject, own in scans.items() for scan in own}
    _refuse_repeated(named, where)
    if unknown := sorted(set(named) - person.keys()):
        what = f"{len(unknown)} ids are not in the cohort ({', '.join(unknown[:5])})"
        fix = f"an id of the cohort is for example {next(iter(person), '(none)')}"
        raise UnderstudyError(what, where=where, fix=fix)
    test, validation, train = ({person[scan] for scan in ids} for ids in lists.values())
    if torn := sorted((test & validation) | (test & train) | (validation & train)):
        what = f"scans of one patient are in two lists ({', '.join(scans[torn[0]])})"
        raise UnderstudyError(what, where=where, fix="put all scans of a patient into one list, or name one only")
    rest = sorted(scans.keys() - test - validation - train)
    if validation and train and rest:
        what = f"{len(rest)} patients are in none of the three lists ({', '.join(rest[:5])})"
        fix = "add them, or leave the training list empty to train on all the others"
        raise UnderstudyError(what, where="split", fix=fix)
    scans |= {subject: [scan for scan in own if scan in named] or own for subject, own in scans.items()}
    # given training ids are kept as they are; then everybody else validates
    return test, validation or (set(rest) if train else None)


def _read_list(given: list[str] | str) -> list[str]:
    """Ids as given, or the lines of a text file without comments (#)."""
    if not isinstance(given, str) or not given:
        return list(given)
    with reading(given, TEXT):
        lines = Path(given).read_text(encoding="utf-8").splitlines()
    return [text for line in lines if (text := line.split("#")[0].strip())]


def _refuse_repeated(ids: Iterable[str], where: str) -> None:
    if repeated := sorted(patient for patient, count in Counter(ids).items() if count > 1):
        raise UnderstudyError(f"{', '.join(repeated[:5])} named more than once", where, "keep each patient once")


def _permuted_test(config: SplitConfig, ids: list[str]) -> set[str]:
    """The test patients by the authors' file: a struct array with the names, or a vector that permutes 1..N."""
    path = config.permutation
    if not path:
        raise UnderstudyError("no permutation given", where="permutation", fix="give the path of the .mat file")
    vectors, named = read_mat(path)
    found = {key: v for key, v in vectors.items() if sorted(v) == list(range(1, len(v) + 1))}
    orders = [names for names in named if sorted(names) == ids][:1]
    orders = orders or [[ids[i - 1] for i in vector] for vector in found.values() if len(vector) == len(ids)]
    if len(orders) != 1:
        there = ", ".join(f"{key} of {len(vector)}" for key, vector in found.items()) or "none"
        what = f"no single permutation of the cohort's {len(ids)} patients in the file (found: {there})"
        raise UnderstudyError(what, path, "use that of this cohort (BraTS 2020: 369 patients, BraTS 2021: 1251)")
    count = _count(config.test_patients or 0, len(ids))
    return set(orders[0][len(ids) - count :] if config.permutation_test == "last" else orders[0][:count])
