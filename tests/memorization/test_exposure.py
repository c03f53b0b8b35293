"""Who is exposed: chance by hand, simulated honest generators, one patient copied twenty times."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from made import ALARMS
from scipy.stats import betabinom, false_discovery_control

from understudy.memorization.exposure import Chance, beside_each
from understudy.memorization.words import readers
from understudy.names import percent

TRAINING = np.array([f"T{i}" for i in range(20)])
VOTES = np.array(["T1", "T1", "T2", "T3", "T4", "T5", "T6", "T7"])


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "audit_concentration.py"
    spec = importlib.util.spec_from_file_location("audit_of_patients", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit_of_patients"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_chance_where_every_slice_is_flagged_is_the_beta_binomial_law() -> None:
    """With a rate of 1 only the votes say how many lie beside a patient."""
    chance = Chance(slices=10, rate=1.0, high=1.0, heldout=1000, votes=8)
    for flagged, votes in ((3, 0), (6, 2), (10, 5)):
        exact = max(betabinom.sf(flagged - 1, 10, votes + 1, 8 - votes), chance.smallest(flagged))
        assert chance.p_value(flagged, votes) == pytest.approx(exact, rel=0.02)
    assert chance.p_value(0, 0) == 1
    assert chance.expected(2) == pytest.approx(10 * 3 / 9, rel=0.01)
    assert chance.smallest(2) == pytest.approx(1 / 45)  # ways to choose 2 of 10


def test_one_patient_copied_twenty_times_is_found_and_not_named() -> None:
    flagged = np.repeat(["T0", "T1", "T2"], [20, 2, 1])
    found = beside_each(flagged, np.repeat(TRAINING, 25), VOTES, TRAINING, ALARMS, heldout=12)
    assert found.patients.loc[found.patients["exposed"], "patient"].tolist() == ["T0"]
    table = found.patients.set_index("patient")
    assert (table["exposed"] == (false_discovery_control(table["p"]) <= 0.05)).all()
    assert table.loc["T1", "p"] > table.loc["T2", "p"] / 10
    told = found.as_dict()
    assert {name: told[name] for name in ("count", "of", "testable")} == {"count": 1, "of": 20, "testable": True}
    assert told["worst"]["flagged"] == 20
    assert 20 < told["worst"]["at_most"] < 45
    assert "T0" not in str(told)
    images, weights = readers({"exposed": told, "membership": None})
    assert images.startswith("For a recipient of the images: 1 of 20 training patients has more flagged slices")
    assert f"false discovery rate {percent(0.05)}" in images
    assert "not examined" in weights


def test_what_cannot_be_shown_is_said() -> None:
    none = beside_each(TRAINING[:1], np.repeat(TRAINING, 5), VOTES, TRAINING, ALARMS, heldout=12).as_dict()
    assert (none["count"], none["testable"]) == (0, False)
    assert "no single one could" in readers({"exposed": none})[0]
    assert "cannot be told" in readers({"exposed": None})[0]


def test_simulated_honest_generators_expose_nobody_and_who_is_copied_is_found(simulation: ModuleType) -> None:
    """Hubs, patients who are alike within, and few held out; then one of 20 patients copied 50 times, and all."""
    exposed, world = simulation.exposed, simulation.World
    assert exposed(world(), 8)[0] == 0
    assert exposed(world(heldout=8), 8)[0] <= 0.05
    assert exposed(world(whole=40), 6)[0] <= 0.05
    wrong, found = exposed(world(copies=0.05), 8)
    assert wrong <= 0.05
    assert found > 0.6
    assert exposed(world(copies=0.2, of_all=True), 3)[1] > 0.5
