"""Looks during a training: what chance explains, by patients, and how often an honest training is stopped."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

import understudy as us
from understudy.generators.training.until import ALPHA, MOST, SAMPLES
from understudy.memorization.looks import Looks, by_chance, limit
from understudy.roles import Part, UnfitSets
from understudy.slices import SliceSet

Q = 0.99


def part(name: str, slices: SliceSet, first: int, last: int) -> Part:
    patients = np.unique(slices.index["subject"].to_numpy().astype(str))[first:last]
    return Part(name, slices, slices.rows(subject=list(patients)))


def test_the_limit_is_the_audits_and_at_least_all_of_few_slices() -> None:
    assert limit(np.arange(199.0), Q) == 197.0  # two of 200 may be as near
    assert limit(np.arange(50.0), Q) == 49.0


def test_chance_is_what_the_worst_held_out_patient_does() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.9, 0.3, 0.4, 0.2, 0.1])
    patients = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    assert by_chance(scores, patients, Q) == 1.0  # without the first both slices of the second are above all
    six = np.append(patients, [3, 4, 5])
    assert by_chance(np.append(scores, [0.0, 0.0, 0.0]), six, Q) == 0.25  # above all others
    assert by_chance(np.zeros(8), patients, Q) == pytest.approx(0.01)  # never below the quantile's own share


@pytest.mark.parametrize(("patients", "slices"), [(3, 40), (6, 25), (12, 31)])
@pytest.mark.parametrize("between", [0.0, 0.6])
def test_an_honest_training_is_stopped_no_more_often_than_alpha(patients: int, slices: int, between: float) -> None:
    """Patients differ by so much of the variance; samples are as new patients' slices, drawn anew at each look."""
    rng, runs, stopped = np.random.default_rng([patients, int(10 * between)]), 200, 0
    codes = np.repeat(np.arange(patients), slices)
    for _ in range(runs):
        own = rng.normal(0, between**0.5, patients)[codes]
        scores = own + rng.normal(0, (1 - between) ** 0.5, len(codes))
        share = by_chance(scores, codes, Q)
        near = rng.binomial(SAMPLES, 0.5 * (1 + _erf(-limit(scores, Q))), MOST)
        significant = near >= _needed(round(share, 6))
        stopped += bool((significant[1:] & significant[:-1]).any() or significant[-1])
    assert stopped / runs <= ALPHA


def _erf(z: float) -> float:
    return 2 * float(norm.cdf(z)) - 1


_known: dict[float, int] = {}


def _needed(share: float) -> int:
    if share not in _known:
        counts = np.arange(SAMPLES + 2)
        _known[share] = int(np.argmax(binom.sf(counts - 1, SAMPLES, share) <= ALPHA / MOST))
    return _known[share]


def test_copies_are_significant_and_new_patients_are_not() -> None:
    real, others = us.phantoms(patients=8, resolution=16), us.phantoms(patients=3, resolution=16, seed=5)
    looks = Looks(part("training", real, 0, 5), part("validation", real, 5, 8))
    copied, new = looks(*real.read(looks.training.rows[:40])), looks(*others.read(np.arange(40)))
    assert copied["p"] < 1e-6
    assert copied["too_near"] > 30
    assert new["p"] > ALPHA
    assert new["by_chance"] == copied["by_chance"] >= 0.01
    black = looks(np.zeros((3, len(real.channels), 16, 16), np.uint8), np.zeros((3, 16, 16), np.uint8))
    assert (black["of"], black["p"]) == (0, 1.0)


def test_few_or_shared_validation_patients_are_refused() -> None:
    real = us.phantoms(patients=8, resolution=16)
    with pytest.raises(UnfitSets, match="3 validation patients"):
        Looks(part("training", real, 0, 5), part("validation", real, 6, 8))
    with pytest.raises(UnfitSets, match="both sides"):
        Looks(part("training", real, 0, 5), part("validation", real, 4, 8))
