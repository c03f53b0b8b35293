"""Are flags concentrated on few training patients? Against closed forms, all orders of small cases, and simulation."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import fisher_exact

from understudy.memorization.concentration import VOTERS, concentration, smallest_p, votes_of
from understudy.memorization.config import CONCENTRATED
from understudy.memorization.conformal import Null


def names(**counts: int) -> np.ndarray:
    return np.array([name for name, n in counts.items() for _ in range(n)])


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "audit_concentration.py"
    spec = importlib.util.spec_from_file_location("audit_concentration", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit_concentration"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_one_patient_is_fishers_exact_test_times_the_patients_that_could_have_been_the_worst() -> None:
    flagged, votes = names(a=20, b=2), names(a=1, b=2, c=3, d=2)
    found = concentration(flagged, np.concatenate([flagged, names(a=8, e=70)]), votes)
    assert found is not None
    table = [[20, 2], [1, 7]]
    assert found.p == pytest.approx(3 * 4 * fisher_exact(table, alternative="greater").pvalue, rel=1e-9)
    assert (found.patients, found.hit, found.flagged, found.same, found.votes) == (1, 20, 22, 1, 8)
    assert found.share_of_all == 0.28
    assert found.found


def test_two_patients_that_share_the_flags_are_found_together() -> None:
    found = concentration(names(a=20, b=20), names(a=20, b=20, c=60), names(c=3, d=3, e=2))
    assert found is not None
    expected = 3 * math.comb(5, 2) * fisher_exact([[40, 0], [0, 8]], alternative="greater").pvalue
    assert (found.patients, found.hit) == (2, 40)
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_a_hub_of_new_patients_too_is_no_concentration() -> None:
    found = concentration(names(hub=22), names(hub=500), names(hub=6, b=2))
    assert found is not None
    assert not found.found
    assert found.same == 6


def test_no_flags_or_no_votes_are_no_test() -> None:
    assert concentration(names(), names(a=5), names(a=2)) is None
    assert concentration(names(a=2), names(a=5), names()) is None


@pytest.mark.parametrize(
    ("law", "flags", "voters"), [((0.5, 0.3, 0.2), 6, 4), ((0.8, 0.1, 0.05, 0.05), 5, 3), ((0.25,) * 4, 5, 4)]
)
def test_whatever_the_hubs_are_a_false_alarm_is_as_rare_as_p_says(
    law: tuple[float, ...], flags: int, voters: int
) -> None:
    """All outcomes where flags and votes are drawn from one law, with their probabilities: P(p <= level) <= level."""

    def outcomes(n: int) -> list[tuple[np.ndarray, float]]:
        found = []
        for counts in itertools.product(range(n + 1), repeat=len(law)):
            if sum(counts) == n:
                ways = math.factorial(n) / math.prod(math.factorial(c) for c in counts)
                chance = ways * math.prod(p**c for p, c in zip(law, counts, strict=True))
                found.append((np.repeat([f"T{i}" for i in range(len(law))], counts), chance))
        return found

    tests = [(concentration(f, f, v), of_f * of_v) for f, of_f in outcomes(flags) for v, of_v in outcomes(voters)]
    assert sum(chance for _, chance in tests) == pytest.approx(1)
    for level in (0.01, 0.05, 0.1, 0.3):
        assert sum(chance for t, chance in tests if t is not None and t.p <= level) <= level


def test_the_smallest_p_value_is_reached_and_says_how_many_patients_it_takes() -> None:
    for flags, voters in ((22, 2), (5, 8), (7, 5)):
        found = concentration(names(a=flags), names(a=flags), names(b=voters))
        assert found is not None
        assert found.p == pytest.approx(found.smallest_p) == pytest.approx(smallest_p(flags, voters))
    # flags, all beside one patient, below which p <= 0.01 cannot be reached with so many held-out patients
    fewest = {k: next(f for f in range(1, 500) if smallest_p(f, k) <= CONCENTRATED) for k in (1, 2, 3, 5, 8)}
    assert fewest == {1: 199, 2: 19, 3: 9, 5: 5, 8: 4}


def test_each_patient_has_one_vote_that_of_its_nearest_slice_in_the_view_where_it_is_nearest() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.9], [0.2, 0.3], [0.1, 0.2], [0.3, np.nan]])
    nearest = np.array([["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"], ["i", "j"]])
    null = Null(scores, np.array([0, 0, 1, 1, 2]))
    # slices 0 (first view) and 1 (second) are both the nearest of all: the one of the higher score votes
    assert votes_of(null, nearest, 0.99).tolist() == ["a", "f", "i"]


def test_the_nearest_patients_vote_and_more_where_more_reach_the_level_of_flags() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 50)
    scores = rng.normal(0, 1, (2000, 1)) + np.linspace(3, -3, 40)[patients][:, None]
    near = np.array([f"T{p}" for p in patients])[:, None]
    few = votes_of(Null(scores, patients), near, 0.99)
    assert len(few) == VOTERS
    assert {int(name[1:]) for name in few} <= set(range(20))
    alike = rng.normal(0, 1, (2000, 1))
    many = votes_of(Null(alike, patients), near, 0.99)
    top = {f"T{p}" for p in patients[np.argsort(-alike[:, 0])[:20]]}
    assert set(many) == top
    assert len(many) == len(top) > VOTERS


def test_simulated_honest_generators_are_left_alone_and_copies_of_one_patient_are_found(simulation: ModuleType) -> None:
    """Hubs, patients who are alike within, and few held out; copies of all patients alike are not concentrated."""
    called, world = simulation.called, simulation.World
    assert called(world(unlike=0.6, hub=0.0), 40) <= 0.05
    assert called(world(), 25) == 0
    assert called(world(whole=40), 20) <= 0.05
    assert called(world(copies=0.05, of_all=True), 20) == 0
    assert called(world(copies=0.05), 25) > 0.7
