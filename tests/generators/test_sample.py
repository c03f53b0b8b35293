"""Sampling to a slice set: the same samples for any batch, interrupted or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from small_models import small

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.networks.base import in_blocks, sampling_block
from understudy.generators.networks.stylegan2 import Generator, StyleGan2Config
from understudy.generators.registry import load_generator
from understudy.generators.sample import sample_set
from understudy.generators.training.config import StyleGan2Training
from understudy.generators.training.loop import train
from understudy.io.files import read_json, sha256_file, write_json
from understudy.io.seals import Damaged
from understudy.slices import SliceSet


@pytest.fixture
def model_dir(slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path) -> Path:
    config = StyleGan2Training(kimg=0.008, batch=8, pl_weight=0, tensorboard=False)
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


def test_blocks_fill_a_device_and_no_more() -> None:
    cpu = torch.device("cpu")
    found = {r: [sampling_block(r, dtype, cpu) for dtype in (torch.float32, torch.bfloat16)] for r in (16, 32, 64, 512)}
    assert found == {16: [128, 256], 32: [32, 64], 64: [8, 16], 512: [1, 1]}


@pytest.mark.parametrize(("start", "count", "largest"), [(0, 5, 64), (13, 300, 64), (70, 1, 64), (3, 20, 1), (0, 0, 8)])
def test_a_sample_has_the_same_neighbours_whatever_is_asked_for(start: int, count: int, largest: int) -> None:
    found = in_blocks(lambda numbers: torch.tensor([[n, numbers.start, len(numbers)] for n in numbers]), start, count,
                      largest)  # fmt: skip
    assert found.tolist() == [
        [n, *next((f, size) for f, size in BLOCKS[largest] if f <= n < f + size)] for n in range(start, start + count)
    ]


BLOCKS = {  # first sample and size
    1: [(n, 1) for n in range(40)],
    8: [],
    64: [(0, 8), (8, 8), (16, 16), (32, 32), *((first, 64) for first in range(64, 512, 64))],
}


@pytest.mark.parametrize(("asked", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_samples_have_the_precision_of_the_training(
    asked: Any, dtype: torch.dtype, slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path
) -> None:
    config = StyleGan2Training(kimg=0.008, batch=8, pl_weight=0, tensorboard=False, precision=asked)
    folder = train(slices, None, small_model, config, tmp_path / "gan", "cpu", progress=False)
    network, _ = load_generator(folder)
    assert torch.equal(network.sample(3, 0), network.sample(3, 0, dtype=dtype))
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    assert not torch.equal(network.sample(3, 0), network.sample(3, 0, dtype=other))


def test_a_longer_set_begins_with_the_shorter_one(model_dir: Path, tmp_path: Path) -> None:
    a = sample_set(model_dir, 10, 3, tmp_path / "a", device="cpu", progress=False)
    b = sample_set(model_dir, 20, 3, tmp_path / "b", device="cpu", progress=False)
    for x, y in zip(a.read(np.arange(10)), b.read(np.arange(10)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_training_on_slices_in_memory_is_that_on_a_folder(
    model_dir: Path, slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path
) -> None:
    config = StyleGan2Training(kimg=0.008, batch=8, pl_weight=0, tensorboard=False)
    run = train(slices.subset(np.arange(24)), None, small_model, config, tmp_path / "run", "cpu", progress=False)
    assert sha256_file(run / "generator.safetensors") == sha256_file(model_dir / "generator.safetensors")


def test_interrupted_sampling_continues(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert sample_set(model_dir, 5, 3, tmp_path / "s", device="cpu", progress=False).content_hash == first.content_hash
    with pytest.raises(UnderstudyError, match="other samples"):
        sample_set(model_dir, 5, 4, tmp_path / "s", device="cpu", progress=False)


def test_damaged_or_absent_generators_are_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="not found"):
        sample_set(tmp_path / "nothing", 5, 3, tmp_path / "s", progress=False)
    weights = model_dir / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UnderstudyError, match="changed or damaged"):
        sample_set(model_dir, 5, 3, tmp_path / "s", progress=False)


def test_an_ensemble_is_sampled_in_turn(
    model_dir: Path, slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path
) -> None:
    config = StyleGan2Training(kimg=0.008, batch=8, pl_weight=0, tensorboard=False, seed=5)
    other = train(slices, None, small_model, config, tmp_path / "other", "cpu", progress=False)
    alone = [sample_set(d, 5, 3, tmp_path / d.name / "s", device="cpu", progress=False) for d in (model_dir, other)]
    both = sample_set([model_dir, other], 9, 3, tmp_path / "both", batch=4, device="cpu", progress=False)
    for i in range(9):
        for mixed, single in zip(both.read([i]), alone[i % 2].read([i // 2]), strict=True):
            np.testing.assert_array_equal(mixed, single)
    assert both.index["id"].is_unique
    assert both.index["generator"].nunique() == 2
    with pytest.raises(UnderstudyError, match="duplicate"):
        sample_set([other, other], 9, 3, tmp_path / "twice", device="cpu", progress=False)
    onehot = config.model_copy(update={"annotation": "one_hot"})
    third = train(
        slices, None, small_model.model_copy(update={"channels": 4}), onehot, tmp_path / "third", "cpu", progress=False
    )
    with pytest.raises(UnderstudyError, match="differ in annotation"):
        sample_set([other, third], 9, 3, tmp_path / "mixed", device="cpu", progress=False)


def test_the_sampler_of_a_diffusion_model_is_a_choice(model_dir: Path, slices: SliceSet, tmp_path: Path) -> None:
    few = SamplerConfig(kind="ddim", steps=5)
    with pytest.raises(UnderstudyError, match="sampled in one pass"):
        sample_set(model_dir, 2, 0, tmp_path / "s", sampler=few, progress=False)
    model, config = small("diffusion", kimg=0.008)
    folder = train(slices, None, model, config, tmp_path / "diffusion", "cpu", progress=False)
    a, b = (
        sample_set(folder, 3, 0, tmp_path / name, device="cpu", progress=False, sampler=sampler)
        for name, sampler in (("a", few), ("b", SamplerConfig(kind="ddim", steps=10)))
    )
    assert a.attrs["sampler"]["steps"] == 5
    assert a.content_hash != b.content_hash
    with pytest.raises(UnderstudyError, match="other samples"):
        sample_set(folder, 3, 0, tmp_path / "a", device="cpu", progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_are_no_numbers_are_not_sampled(model_dir: Path, tmp_path: Path, value: float) -> None:
    weights = safetensors.torch.load_file(model_dir / "generator.safetensors")
    next(iter(weights.values())).view(-1)[-1] = value
    safetensors.torch.save_file(weights, model_dir / "generator.safetensors")
    config = read_json(model_dir / "config.json")
    write_json(model_dir / "config.json", {**config, "sha256": {}})  # as a diverged training would have written them
    with pytest.raises(UnderstudyError, match="NaN, infinite, or above") as caught:
        sample_set(model_dir, 4, 3, tmp_path / "out", device="cpu", progress=False)
    assert caught.value.where == str(model_dir / "generator.safetensors")
    assert not (tmp_path / "out").exists()


def test_samples_that_are_no_numbers_are_not_written(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Generator.sample
    monkeypatch.setattr(Generator, "sample", lambda self, *args: original(self, *args) * np.inf)
    with pytest.raises(UnderstudyError, match=r"samples of stylegan2-\w+ are NaN"):
        sample_set(model_dir, 4, 3, tmp_path / "out", device="cpu", progress=False)
    assert not (tmp_path / "out").exists()


def test_weights_that_were_changed_are_neither_used_nor_taken_for_finished(
    model_dir: Path, slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path
) -> None:
    path = model_dir / "generator.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    with pytest.raises(Damaged, match="changed or damaged"):
        sample_set(model_dir, 4, 3, tmp_path / "out", device="cpu", progress=False)
    config = StyleGan2Training(kimg=0.008, batch=8, pl_weight=0, tensorboard=False)
    train(slices, None, small_model, config, model_dir, "cpu", progress=False)
    assert path.read_bytes() == whole
