"""Every patient in exactly one part, whatever the method."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from understudy.cohort.config import Cohort, Patient
from understudy.cohort.splits import SplitConfig, split_patients
from understudy.errors import UnderstudyError

COHORTS = st.dictionaries(
    st.text("abcdef0123456789", min_size=1, max_size=5),
    st.sampled_from(["", "north", "south", "east"]),
    min_size=4,
    max_size=60,
)
CONFIGS = st.builds(
    SplitConfig,
    seed=st.integers(0, 99),
    test_patients=st.sampled_from([0, 0.1, 0.2, 0.4, 1, 2]),
    validation_fraction=st.sampled_from([0, 0.1, 0.2, 0.4]),
    stratify_by_site=st.booleans(),
)


@given(COHORTS, CONFIGS, st.randoms())
def test_each_patient_has_one_part_whatever_the_order(sites, config, random):
    split = split_patients(sites, config)
    assert set(split) == set(sites)
    assert set(split.values()) <= {"train", "val", "test"}
    shuffled = list(sites.items())
    random.shuffle(shuffled)
    assert split_patients(dict(shuffled), config) == split


@given(COHORTS, CONFIGS)
def test_sizes_are_as_asked_and_test_does_not_depend_on_validation(sites, config):
    split = split_patients(sites, config)
    counts = Counter(split.values())
    asked = config.test_patients
    expected = int(asked) if asked >= 1 else max(1, np.floor(asked * len(sites) + 0.5)) if asked else 0
    assert counts["test"] == expected
    other = split_patients(sites, config.model_copy(update={"validation_fraction": 0.0}))
    assert {p for p, s in other.items() if s == "test"} == {p for p, s in split.items() if s == "test"}


def test_every_site_is_in_both_parts_in_proportion():
    sites = {f"{site}{i}": site for site, n in (("a", 20), ("b", 10), ("c", 2), ("d", 1)) for i in range(n)}
    for seed in range(20):
        split = split_patients(sites, SplitConfig(seed=seed, test_patients=6, validation_fraction=0))
        test = Counter(sites[p] for p, part in split.items() if part == "test")
        assert sum(test.values()) == 6
        assert set(test) >= {"a", "b", "c"}
        assert test["a"] >= test["b"] >= test["c"]
        assert {sites[p] for p, part in split.items() if part == "train"} >= {"a", "b", "c"}


def test_seeds_differ_and_repeat():
    sites = {f"p{i:02d}": "" for i in range(50)}
    drawn = [split_patients(sites, SplitConfig(seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_lists_are_taken_as_they_are(tmp_path):
    sites = {f"p{i}": "" for i in range(10)}
    (tmp_path / "test.txt").write_text("# held out\np1\n\np3  # also\n")
    config = SplitConfig(method="list", test=str(tmp_path / "test.txt"), validation=["p2"])
    split = split_patients(sites, config)
    assert {p for p, part in split.items() if part == "test"} == {"p1", "p3"}
    assert {p for p, part in split.items() if part == "val"} == {"p2"}
    drawn = split_patients(sites, SplitConfig(method="list", test=["p1", "p3"], validation_fraction=0.25))
    assert Counter(drawn.values()) == {"train": 6, "val": 2, "test": 2}
    trained = split_patients(sites, SplitConfig(method="list", test=["p1"], train=["p0", "p4"]))
    assert Counter(trained.values()) == {"train": 2, "val": 7, "test": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "list", "test": ["p1", "nobody"]}, "nobody"),
        ({"method": "list", "test": ["p1", "p1"]}, "p1"),
        ({"method": "list", "test": ["p1"], "train": ["p1"]}, "p1"),
        ({"method": "list"}, "empty"),
        ({"method": "list", "test": ["p1"], "validation": ["p2"], "train": ["p3"]}, "none"),
        ({"method": "list", "test": "absent.txt"}, "file not found"),
        ({"method": "list", "test": ["p0", "p1"], "validation": ["p2", "p3"]}, "left for training"),
        ({"test_patients": 2.5}, "not possible"),
        ({"test_patients": 4}, "not possible"),
        ({"test": ["p1"]}, "method is seed"),
        ({"method": "permutation"}, "no permutation given"),
        ({"method": "permutation", "permutation": "absent.mat"}, "file not found"),
    ],
)
def test_impossible_splits_are_refused(fields, message):
    with pytest.raises(UnderstudyError, match=message):
        split_patients({f"p{i}": "" for i in range(4)}, SplitConfig(**fields))


def test_a_repeated_patient_in_the_cohort_is_refused():
    patient = Patient("A", "", {}, None)
    cohort = Cohort((patient, patient), (), (), "pattern", Path("."))
    with pytest.raises(UnderstudyError, match="A named"):
        split_patients(cohort, SplitConfig())


@pytest.mark.parametrize("patients", [369, 1251])
def test_the_papers_permutation(tmp_path, patients):
    names = [f"BraTS_{i:05d}" for i in range(patients)]
    permutation = np.random.default_rng(0).permutation(patients) + 1.0  # MATLAB counts from 1, in doubles
    scipy.io.savemat(tmp_path / "p.mat", {"permutation": permutation, "seed": 3, "sizes": np.arange(7)})
    config = SplitConfig(method="permutation", permutation=str(tmp_path / "p.mat"))
    split = split_patients(dict.fromkeys(reversed(names), ""), config)
    # subjects = subjects(permutation); subjects(314:end) are the test subjects
    assert {p for p, part in split.items() if part == "test"} == {
        names[int(i) - 1] for i in permutation[patients - 56 :]
    }
    training = patients - 56
    assert Counter(split.values()) == {
        "test": 56,
        "val": round(0.2 * training),
        "train": training - round(0.2 * training),
    }
    first = split_patients(
        dict.fromkeys(names, ""), config.model_copy(update={"permutation_test": "first", "test_patients": 10})
    )
    assert first[names[int(permutation[0]) - 1]] == "test"


def test_the_papers_permuted_folder_names_are_used_where_they_fit(tmp_path):
    order = ["c", "a", "d", "b"]
    structs = np.array([(n, 0) for n in order], dtype=[("name", object), ("bytes", object)])
    # The vector contradicts the names; names are certain, positions depend on the folder's listing.
    scipy.io.savemat(tmp_path / "p.mat", {"subjects": structs, "permutation": np.array([1.0, 2, 3, 4])})
    config = SplitConfig(
        method="permutation", permutation=str(tmp_path / "p.mat"), test_patients=1, validation_fraction=0
    )
    assert split_patients(dict.fromkeys("abcd", ""), config)["b"] == "test"
    assert split_patients(dict.fromkeys("wxyz", ""), config)["z"] == "test"


def test_a_permutation_of_another_cohort_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "p.mat", {"permutation": np.arange(1.0, 370)})
    config = SplitConfig(method="permutation", permutation=str(tmp_path / "p.mat"))
    with pytest.raises(UnderstudyError, match=r"100 patients .*permutation of 369"):
        split_patients({f"p{i}": "" for i in range(100)}, config)


@given(COHORTS, st.integers(0, 99), st.sampled_from([0, 0.2, 0.4]), st.data())
def test_sites_that_test_are_seen_by_nobody_else(sites, seed, validation, data):
    there = sorted(set(sites.values()))
    chosen = data.draw(st.lists(st.sampled_from(there), min_size=1, max_size=len(there), unique=True))
    config = SplitConfig(seed=seed, test_sites=chosen, validation_fraction=validation)
    if len(chosen) == len(there):
        with pytest.raises(UnderstudyError, match="nobody is left"):
            split_patients(sites, config)
        return
    if sum(site not in chosen for site in sites.values()) == 1 and validation:
        return  # one patient cannot both train and validate
    split = split_patients(sites, config)
    assert set(split) == set(sites)
    assert {p for p, part in split.items() if part == "test"} == {p for p, s in sites.items() if s in chosen}
    assert not {sites[p] for p, part in split.items() if part != "test"} & set(chosen)


@given(COHORTS, CONFIGS, st.data())
def test_fewer_training_patients_are_part_of_more_and_leave_the_others_alone(sites, config, data):
    whole = split_patients(sites, config)
    training = {p for p, part in whole.items() if part == "train"}
    small, large = sorted(data.draw(st.tuples(*[st.integers(1, len(training))] * 2)))
    found = [split_patients(sites, config.model_copy(update={"train_patients": n})) for n in (small, large)]
    for n, split in zip((small, large), found, strict=True):
        assert {p: part for p, part in split.items() if part != "train"} == {
            p: part for p, part in whole.items() if part != "train"
        }
        assert sum(part == "train" for part in split.values()) == n
    few, more = ({p for p, part in split.items() if part == "train"} for split in found)
    assert few <= more <= training
    with pytest.raises(UnderstudyError, match="training patients wanted"):
        split_patients(sites, config.model_copy(update={"train_patients": len(training) + 1}))


def test_few_training_patients_come_from_every_site_in_proportion():
    sites = {f"{site}{i}": site for site, n in (("a", 40), ("b", 20), ("c", 10)) for i in range(n)}
    config = SplitConfig(test_patients=0, validation_fraction=0, train_patients=7)
    kept = Counter(sites[p] for p in split_patients(sites, config))
    assert kept == {"a": 4, "b": 2, "c": 1}


def test_sites_that_cannot_test_are_refused():
    with pytest.raises(UnderstudyError, match=r"nort[\s\S]*north, south"):
        split_patients({"a": "north", "b": "south"}, SplitConfig(test_sites=["nort"]))
    with pytest.raises(UnderstudyError, match="none"):
        split_patients({"a": "", "b": ""}, SplitConfig(test_sites=["north"]))
    with pytest.raises(UnderstudyError, match="the method list"):
        split_patients({"a": "n", "b": "s"}, SplitConfig(method="list", test=["a"], test_sites=["n"]))


def test_a_split_without_the_new_fields_is_written_as_before():
    assert not {"test_sites", "train_patients"} & SplitConfig().model_dump().keys()
    assert SplitConfig(test_sites=["a"]).model_dump()["test_sites"] == ["a"]
