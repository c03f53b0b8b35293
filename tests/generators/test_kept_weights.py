"""Weights that a training keeps on its way: those that it would have ended with, and slices can be made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import small

from understudy.errors import UnderstudyError
from understudy.generators.folder import snapshot_folder
from understudy.generators.registry import train
from understudy.generators.sample import sample_set
from understudy.slices import SliceSet

COMMON = {"tick_kimg": 1, "snapshot_kimg": 1}


def test_kept_weights_are_those_of_a_training_that_ends_there(slices: SliceSet, tmp_path: Path) -> None:
    model, long = small("stylegan2", kimg=0.032, batch=8, keep_weights_kimg=[0.012], **COMMON)
    _, short = small("stylegan2", kimg=0.012, batch=8, **COMMON)
    made = train(slices, None, model, long, tmp_path / "long", "cpu", progress=False)
    ended = train(slices, None, model, short, tmp_path / "short", "cpu", progress=False)
    kept = snapshot_folder(made, 0.012)  # both go on to 0.016, the next whole step
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (kept, ended))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    last = load_file(made / "generator.safetensors")
    assert not all(torch.equal(ours[name], last[name]) for name in last)


def test_a_growing_generator_is_sampled_at_the_level_that_it_had(slices: SliceSet, tmp_path: Path) -> None:
    model, config = small("progan", kimg=0.064, keep_weights_kimg=[0.016], **COMMON)
    made = train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)
    kept = snapshot_folder(made, 0.016)
    assert load_file(kept / "generator.safetensors")["level"] >= load_file(made / "generator.safetensors")["level"]
    found = sample_set(kept, 3, 0, tmp_path / "samples", device="cpu", progress=False)
    assert (len(found), found.resolution) == (3, slices.resolution)


def test_a_finished_training_that_kept_nothing_says_so(slices: SliceSet, tmp_path: Path) -> None:
    model, config = small("stylegan2", kimg=0.016, batch=8, **COMMON)
    made = train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)
    late = config.model_copy(update={"keep_weights_kimg": [0.008]})
    with pytest.raises(UnderstudyError, match=r"no weights at 0\.008 kimg"):
        train(slices, None, model, late, made, "cpu", progress=False)
