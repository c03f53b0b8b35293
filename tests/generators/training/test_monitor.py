"""What a training keeps on its way: weights, pictures of samples, TensorBoard's files."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_models import small

from understudy.errors import UnderstudyError
from understudy.generators.folder import snapshot_folder
from understudy.generators.sample import sample_set
from understudy.generators.training.loop import train
from understudy.generators.training.monitor import TensorBoardLogger, sample_grid, save_picture
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
    ours, theirs = (load_file(folder / "discriminator.safetensors") for folder in (kept, ended))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)  # for the audit of its weights
    ours = load_file(kept / "generator.safetensors")
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


def test_a_grid_has_a_row_each_channel_and_one_with_the_annotation_in_colour(tmp_path: Path) -> None:
    images = np.full((3, 2, 4, 4), 100, np.uint8)
    images[:, 1] = 50
    labels = np.zeros((3, 4, 4), np.uint8)
    labels[1, 0, 0], labels[2, 3, 3] = 1, 2
    picture = sample_grid(images, labels, 3)
    assert picture.shape == (12, 12, 3)
    assert (picture[:4] == 100).all()
    assert (picture[4:8] == 50).all()
    overlay = picture[8:]
    coloured = (overlay != overlay[..., :1]).any(axis=2)
    assert np.argwhere(coloured).tolist() == [[0, 4], [3, 11]]
    assert (overlay[0, 4] != overlay[3, 11]).any()
    save_picture(tmp_path / "p.png", picture)
    read = matplotlib.image.imread(tmp_path / "p.png")
    np.testing.assert_array_equal((read[..., :3] * 255).round(), picture)


def test_tensorboard_gets_curves_and_pictures(slices: SliceSet, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model, config = small("stylegan2", kimg=0.032, tick_kimg=0.016, tensorboard=True)
    folder = train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss_d")] == [16, 32]
    assert {"diversity", "memory_mb", "seconds_per_kimg", "share_core"} <= set(events.Tags()["scalars"])
    assert len(events.Images("samples")) == 1


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted, installed in ((False, True), (True, False)):
        with monkeypatch.context() as patch:
            if not installed:
                patch.setattr("importlib.util.find_spec", lambda name: None)
            board = TensorBoardLogger(tmp_path, wanted, 0)
        board.scalars({"loss": 1.0}, 8)
        board.picture(np.zeros((4, 4, 3), np.uint8), 8)
        board.close()
    assert not list(tmp_path.iterdir())
