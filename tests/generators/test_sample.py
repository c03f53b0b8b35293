"""Sampling to a slice set: the same samples for any batch, interrupted or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.adversarial import GanTrainingConfig, train
from understudy.generators.sample import sample_set
from understudy.generators.stylegan2 import Generator, StyleGan2Config
from understudy.slices import SliceSet


@pytest.fixture
def model_dir(slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path) -> Path:
    config = GanTrainingConfig(kimg=0.008, batch=8, pl_weight=0)
    return train(slices, None, small_model, config, tmp_path / "gan", "cpu", progress=False)


def test_samples_do_not_depend_on_the_batch(model_dir: Path, slices: SliceSet, tmp_path: Path) -> None:
    a, b = (
        sample_set(model_dir, 50, 3, tmp_path / f"s{batch}", batch=batch, device="cpu", progress=False)
        for batch in (7, 50)
    )
    assert a.content_hash == b.content_hash
    assert (a.channels, a.classes, a.resolution) == (slices.channels, slices.classes, 16)
    assert list(a.index["sample"]) == list(range(50))
    assert a.index["code_distance"].between(0, 64).all()
    assert a.index["id"].is_unique


def test_a_longer_set_begins_with_the_shorter_one(model_dir: Path, tmp_path: Path) -> None:
    a = sample_set(model_dir, 10, 3, tmp_path / "a", device="cpu", progress=False)
    b = sample_set(model_dir, 20, 3, tmp_path / "b", device="cpu", progress=False)
    for x, y in zip(a.read(np.arange(10)), b.read(np.arange(10)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_interrupted_sampling_continues(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sample_set(model_dir, 600, 3, tmp_path / "whole", batch=100, device="cpu", progress=False)
    original, calls = Generator.sample, []

    def failing(self: Generator, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 5:
            raise Interrupted("killed")
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "sample", failing)
        with pytest.raises(Interrupted):
            sample_set(model_dir, 600, 3, tmp_path / "broken", batch=100, device="cpu", progress=False)
    with pytest.raises(UnderstudyError):
        SliceSet.open(tmp_path / "broken")
    broken = sample_set(model_dir, 600, 3, tmp_path / "broken", batch=100, device="cpu", progress=False)
    assert broken.content_hash == whole.content_hash


def test_a_finished_set_is_returned_and_another_one_refused(model_dir: Path, tmp_path: Path) -> None:
    first = sample_set(model_dir, 5, 3, tmp_path / "s", device="cpu", progress=False)
    assert (
        sample_set(model_dir, 5, 3, tmp_path / "s", device="cpu", progress=False).content_hash
        == first.content_hash
    )
    with pytest.raises(UnderstudyError, match="other samples"):
        sample_set(model_dir, 5, 4, tmp_path / "s", device="cpu", progress=False)


def test_damaged_or_absent_generators_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="not found"):
        sample_set(tmp_path / "nothing", 5, 3, tmp_path / "s", progress=False)
    weights = model_dir / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UnderstudyError, match="cannot be loaded"):
        sample_set(model_dir, 5, 3, tmp_path / "s", progress=False)
