"""kill -9 in the middle of training and of sampling, for each kind: run again, the result is an unbroken run's."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import SMALL, small

from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.sample import sample_set
from understudy.generators.training.loop import train
from understudy.runtime.checkpoints import History
from understudy.slices import SHARD, SliceSet

COUNT = 2 * SHARD + 3  # samples: some whole shards and a started one


def train_in(folder: Path, slices: Path, kind: str, every: float = 1e-6) -> None:
    """A training of about 16 steps that saves its state `every` so many seconds: after each step."""
    model, config = small(kind, kimg=0.128, tick_kimg=0.024, checkpoint_seconds=every)
    train(SliceSet.open(slices), None, model, config, folder, "cpu", progress=False)


def losses(folder: Path) -> list[dict[str, Any]]:
    lines = History.read(folder / "history.jsonl")
    return [{k: v for k, v in line.items() if k == "kimg" or k.startswith("loss")} for line in lines]


def sample_in(folder: Path, model: Path, kind: str) -> None:
    sampler = SamplerConfig(steps=2) if kind == "diffusion" else None
    sample_set(model, COUNT, 7, folder, device="cpu", progress=False, sampler=sampler)


def killed(work: Callable[..., None], folder: Path, *arguments: Any, sign: str) -> Path:
    """Does the work in a real process, kills that at the first file like `sign`, and gives the folder it leaves.

    The process is forked from a server, so that five kinds pay for the imports once. Where the work was over before
    the kill arrived, another folder is tried.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["understudy.generators.training.loop", "understudy.generators.sample"])
    for attempt in range(5):
        target = folder / str(attempt)
        process = context.Process(target=work, args=(target, *arguments))
        process.start()
        while process.is_alive() and not list(folder.glob(f"{attempt}{sign}")):
            time.sleep(0.001)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return target
        assert process.exitcode == 0
    raise AssertionError("the work was always over before the kill arrived")


@pytest.mark.parametrize("kind", SMALL)
def test_killed_training_and_sampling_continue(kind: str, slices: SliceSet, tmp_path: Path) -> None:
    """The networks are bit-identical, and so are all sampled slices and labels (`content_hash`)."""
    whole, real = tmp_path / "whole", slices.path
    train_in(whole, real, kind, every=120)
    broken = killed(train_in, tmp_path / "broken", real, kind, sign="/checkpoint-*[5-9].pt")
    assert list(broken.glob("checkpoint-*.pt"))
    assert not (broken / "config.json").exists()
    train_in(broken, real, kind)
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (broken, whole))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert losses(broken) == losses(whole)  # lines after the checkpoint are written again

    sample_in(tmp_path / "samples", whole, kind)
    partial = killed(sample_in, tmp_path / "cut", whole, kind, sign=".partial/parts/*.parquet")
    assert not (partial / "index.parquet").exists()
    assert partial.with_name(f"{partial.name}.partial").is_dir()
    sample_in(partial, whole, kind)
    made, remade = SliceSet.open(tmp_path / "samples"), SliceSet.open(partial)
    assert len(remade) == COUNT
    assert remade.content_hash == made.content_hash
    remade.verify()
