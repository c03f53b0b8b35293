"""A training that looks at its own samples: when it stops, what it leaves, and that a resumed one is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_models import small
from test_loop import equal_weights, history, stop_at

import understudy as us
from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.joint import encode
from understudy.generators.registry import network_type
from understudy.generators.training import until
from understudy.generators.training.loop import train
from understudy.memorization.looks import Looks
from understudy.roles import Part
from understudy.slices import SliceSet

CLEAN = {"too_near": 1, "of": 200, "by_chance": 0.03, "p": 0.9}
DIRTY = {"too_near": 40, "of": 200, "by_chance": 0.03, "p": 1e-9}


class Told:
    """Finds copies at the looks that it is told."""

    identity, operations = "told", 1.0

    def __init__(self, dirty: set[int]) -> None:
        self.dirty, self.looks = dirty, 0

    def __call__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> dict[str, float]:
        self.looks += 1
        return DIRTY if self.looks in self.dirty else CLEAN


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six looks in the 96 images of a small training: after 16, 32, ... images."""
    monkeypatch.setattr(until, "planned_looks", lambda *_: 6)
    monkeypatch.setattr(until, "SAMPLES", 8)


def trained(slices: SliceSet, folder: Path, judge: Any, kind: str = "stylegan2", **training: Any) -> Path:
    model, config = small(kind, until="memorization", tick_kimg=0.024, **training)
    return train(slices, None, model, config, folder, "cpu", progress=False, judge=judge)


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


@pytest.mark.parametrize("kind", ["stylegan2", "diffusion"])
def test_two_looks_in_a_row_stop_it_and_the_state_before_them_is_left(
    kind: str, slices: SliceSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = trained(slices, tmp_path / "run", Told({2, 4, 5}), kind)  # the second alone is nothing
    model, config = small(kind, kimg=0.048)
    equal_weights(found, train(slices, None, model, config, tmp_path / "short", "cpu", progress=False))
    ended = record(found)
    assert (ended["kimg"], ended["steps"]) == (0.048, 6)
    stopping = ended["stopping"]
    assert (stopping["stopped"], stopping["kept"], stopping["budget"], stopping["planned"]) == (True, 48, 96, 6)
    assert [look["images"] for look in stopping["looks"]] == [16, 32, 48, 64, 80]
    last = history(found)[-1]
    assert (last["kimg"], last["too_near"]) == (0.08, 0.2)
    assert "40 of 200" in last["stopped"]
    assert "kept is the state after 48 images" in caplog.text
    if kind == "stylegan2":  # by which the weights are audited
        equal = tmp_path / "short" / "discriminator.safetensors"
        assert (found / "discriminator.safetensors").read_bytes() == equal.read_bytes()


@pytest.mark.parametrize("stop", [5, 7, 9])  # before, between and behind the looks that end it
def test_interrupted_it_stops_at_the_same_look_with_the_same_weights(
    stop: int, slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, judge = trained(slices, tmp_path / "whole", Told({4, 5})), Told({4, 5})
    with monkeypatch.context() as patch:
        stop_at(stop, network_type("stylegan2").state, patch)
        with pytest.raises(Interrupted):
            trained(slices, tmp_path / "broken", judge)
    broken = trained(slices, tmp_path / "broken", judge)
    equal_weights(broken, whole)
    assert history(broken) == history(whole)
    ours, theirs = record(broken)["stopping"], record(whole)["stopping"]
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_training_without_copies_is_not_changed(slices: SliceSet, tmp_path: Path) -> None:
    found = trained(slices, tmp_path / "run", Told({1, 3, 5}))
    model, config = small("stylegan2")
    equal_weights(found, train(slices, None, model, config, tmp_path / "plain", "cpu", progress=False))
    assert not record(found)["stopping"]["stopped"]
    assert len(record(found)["stopping"]["looks"]) == 6


def test_copies_at_the_last_look_alone_are_not_kept(slices: SliceSet, tmp_path: Path) -> None:
    found = record(trained(slices, tmp_path / "run", Told({6})))
    assert (found["stopping"]["stopped"], found["kimg"]) == (True, 0.08)


def test_without_a_clean_state_or_a_judge_there_is_no_generator(slices: SliceSet, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no state is clean"):
        trained(slices, tmp_path / "run", Told({1, 2}))
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(UnderstudyError, match="validation patients"):
        trained(slices, tmp_path / "none", None)


def test_a_generator_that_begins_to_copy_is_stopped_by_the_audits_own_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest slices (of other phantoms) up to half of the training, then training slices with a little noise."""
    monkeypatch.setattr(until, "SAMPLES", 40)
    real, others = us.phantoms(patients=8, resolution=16), us.phantoms(patients=3, resolution=16, seed=5)
    patients = np.unique(real.index["subject"].to_numpy().astype(str))
    training, validation = (
        Part(name, real, real.rows(subject=list(some)))
        for name, some in (("training", patients[:5]), ("validation", patients[5:]))
    )
    sides = {"new": others.read(np.arange(40)), "copied": real.read(training.rows[:40])}
    sets = {name: encode(*slices, real.classes) for name, slices in sides.items()}
    state: Any = network_type("stylegan2").state

    def preview(self: Any, count: int) -> torch.Tensor:
        made = sets["copied" if self.images > 48 else "new"][:count]
        return made + 0.02 * torch.randn(made.shape, generator=torch.Generator().manual_seed(1))

    monkeypatch.setattr(state, "preview", preview)
    model, config = small("stylegan2", until="memorization")
    model = model.model_copy(update={"channels": len(real.channels) + 1})
    judge = Looks(training, validation)
    run = train(real, training.rows, model, config, tmp_path / "run", "cpu", progress=False, judge=judge)
    found = record(run)
    assert [look["images"] for look in found["stopping"]["looks"]] == [16, 32, 48, 64, 80]
    assert (found["stopping"]["stopped"], found["stopping"]["kept"], found["steps"]) == (True, 48, 6)
