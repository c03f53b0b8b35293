"""The loop of all generators: resuming equals not stopping, what is recorded, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_models import SMALL, small

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.registry import load_generator, network_type
from understudy.generators.training.loop import train
from understudy.generators.training.state import TrainingState
from understudy.runtime.checkpoints import History
from understudy.slices import SliceSet

MEASURED = ("seconds", "images_per_second", "memory_mb")  # and so not the same twice
ADAPTIVE = {"mode": "adaptive", "p": 0.3, "kimg": 1, "cutout": 0.2}


def history(folder: Path) -> list[dict[str, Any]]:
    lines = History.read(folder / "history.jsonl")
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def stop_at(step: int, state: type[TrainingState], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGTERM to this very process while a step runs."""
    original = state.step

    def wrapped(self: TrainingState) -> None:
        original(self)
        if self.steps == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(state, "step", wrapped)


def equal_weights(a: Path, b: Path) -> None:
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (a, b))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("kind", SMALL)
def test_resumed_training_is_bit_identical_to_an_unbroken_one(
    kind: str, slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    special = {"augment": ADAPTIVE, "annotation_noise": 0.1} if kind != "diffusion" else {"augment": {"p": 0.5}}
    model, config = small(kind, tick_kimg=0.024, snapshot_kimg=0.048, balance_classes=0.5, **special)
    monkeypatch.setattr("understudy.generators.training.monitor.PREVIEW", 16)
    whole = train(slices, None, model, config, tmp_path / "whole", "cpu", progress=False)
    with monkeypatch.context() as patch:
        stop_at(5, network_type(kind).state, patch)
        with pytest.raises(Interrupted):
            train(slices, None, model, config, tmp_path / "broken", "cpu", progress=False)
    assert not (tmp_path / "broken" / "config.json").exists()
    broken = train(slices, None, model, config, tmp_path / "broken", "cpu", progress=False)
    equal_weights(broken, whole)
    assert history(broken) == history(whole)
    assert history(whole)[-1]["kimg"] == pytest.approx(0.096)
    assert len(list(whole.glob("samples-*.png"))) == 2
    assert not list(whole.glob("checkpoint-*"))
    generator, record = load_generator(whole)
    assert record["kind"] == kind
    assert generator.sample(3, 1).shape == (3, 3, 16, 16)


def test_finished_training_is_returned_and_another_one_refused(slices: SliceSet, tmp_path: Path) -> None:
    model, config = small("stylegan2", kimg=0.016, pl_weight=0)
    folder = train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)
    before = (folder / "generator.safetensors").stat().st_mtime_ns
    assert train(slices, None, model, config, folder, "cpu", progress=False) == folder
    assert (folder / "generator.safetensors").stat().st_mtime_ns == before
    often = config.model_copy(update={"snapshot_kimg": 1.0, "checkpoints_kept": 5})  # another way to watch it
    assert train(slices, None, model, often, folder, "cpu", progress=False) == folder
    with pytest.raises(UnderstudyError, match="another training"):
        train(slices, None, model, config.model_copy(update={"seed": 9}), folder, "cpu", progress=False)
    record = json.loads((folder / "config.json").read_text())
    assert record["channels"] == ["T1w", "FLAIR"]
    assert record["r1_gamma"] == pytest.approx(0.0002 * 16**2 / 8)
    assert record["steps"] == 2
    assert record["health"]["diversity"] > 0


def test_divergence_ends_the_training_with_advice(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: Any = network_type("stylegan2").state
    original = state.__init__

    def poisoned(self: Any, *args: Any) -> None:
        original(self, *args)
        with torch.no_grad():
            self.network.discriminator.out.bias.fill_(float("nan"))

    monkeypatch.setattr(state, "__init__", poisoned)
    model, config = small("stylegan2")
    with pytest.raises(UnderstudyError, match="diverged"):
        train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)


def test_a_collapsed_generator_is_marked_and_not_stopped(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state: Any = network_type("stylegan2").state
    monkeypatch.setattr(state, "preview", lambda self, count: torch.full((count, 3, 16, 16), -1.0))
    model, config = small("stylegan2", tick_kimg=0.008)
    folder = train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)
    health = json.loads((folder / "config.json").read_text())["health"]
    assert not health["ok"]
    assert health["faults"] == {"collapsed": pytest.approx(0.024), "empty annotation": pytest.approx(0.024)}
    lines = history(folder)
    assert "health" not in lines[1]
    assert lines[2]["health"] == "collapsed, empty annotation"
    told = [r for r in caplog.records if "something is wrong with the generator" in r.getMessage()]
    assert len(told) == 1


def test_nobody_is_warned_in_the_first_tenth_of_a_training(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state: Any = network_type("stylegan2").state
    monkeypatch.setattr(state, "preview", lambda self, count: torch.full((count, 3, 16, 16), -1.0))
    model, config = small("stylegan2", tick_kimg=0.008, kimg=0.39)
    folder = train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)
    assert next(line["kimg"] for line in history(folder) if "health" in line) == pytest.approx(0.024)
    (told,) = [r.args for r in caplog.records if "something is wrong with the generator" in r.getMessage()]
    assert isinstance(told, tuple)
    assert told[0] == pytest.approx(0.04)


def test_max_minutes_ends_the_training(slices: SliceSet, tmp_path: Path) -> None:
    model, config = small("stylegan2", kimg=1e6, max_minutes=1e-4)
    folder = train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)
    reached = json.loads((folder / "config.json").read_text())["kimg"]
    assert reached < 10
    assert (folder / f"samples-{reached:08.1f}.png").is_file()  # the end is pictured and noted wherever it comes
    assert History.read(folder / "history.jsonl")[-1]["kimg"] == reached


@pytest.mark.parametrize("update", [{"channels": 4}, {"resolution": 32}])
def test_a_model_of_another_size_is_refused(slices: SliceSet, tmp_path: Path, update: dict[str, int]) -> None:
    model, config = small("stylegan2")
    with pytest.raises(UnderstudyError, match="channels at"):
        train(slices, None, model.model_copy(update=update), config, tmp_path / "run")


def test_what_does_not_fit_together_is_refused(slices: SliceSet, tmp_path: Path) -> None:
    model, _ = small("stylegan2")
    with pytest.raises(UnderstudyError, match="cannot train stylegan2"):
        train(slices, None, model, small("diffusion")[1], tmp_path / "run")
    with pytest.raises(UnderstudyError, match="mbstd_group"):
        train(slices, None, model, small("stylegan2", batch=6)[1], tmp_path / "run")
    with pytest.raises(UnderstudyError, match="no slices"):
        train(slices, np.array([], int), *small("stylegan2"), tmp_path / "run")
