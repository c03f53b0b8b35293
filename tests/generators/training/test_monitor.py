"""What a training keeps on its way: weights, pictures of samples, TensorBoard's files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_models import small

from understudy.errors import UnderstudyError
from understudy.generators.folder import snapshot_folder
from understudy.generators.registry import network_type
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


def test_stats_and_picture_share_samples_no_more_than_were_shown(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: Any = network_type("stylegan2").state
    drawn, preview = [], state.preview
    monkeypatch.setattr(state, "preview", lambda self, count: drawn.append(count) or preview(self, count))
    model, config = small("stylegan2", kimg=0.08, batch=8, tick_kimg=0.04, snapshot_kimg=0.08)
    made = train(slices, None, model, config, tmp_path / "run", "cpu", progress=False)
    assert drawn == [40, 64]
    assert [path.name for path in made.glob("samples-*.png")] == ["samples-000000.1.png"]
    drawn.clear()
    train(slices, None, model, config.model_copy(update={"kimg": 0.008}), tmp_path / "short", "cpu", progress=False)
    assert drawn == [12]


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
        board.step(8, {"loss": 1.0})
        board.snapshot(8, np.zeros((4, 4, 3), np.uint8))
        board.end()
    assert not list(tmp_path.iterdir())


class Mlflow(ModuleType):
    """Takes what the example of the documentation logs, as MLflow's functions of these names do."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.metrics: list[tuple[dict[str, float], int]] = []
        self.images: list[str] = []
        self.ended = 0

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((metrics, step))

    def log_image(self, image: np.ndarray, artifact_file: str) -> None:
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
        self.images.append(artifact_file)

    def end_run(self) -> None:
        self.ended += 1


def test_the_logger_of_the_documentation_is_told_of_steps_pictures_and_the_end(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow, names = Mlflow(), dict[str, Any]()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    page = (Path(__file__).parents[3] / "docs" / "exports.md").read_text(encoding="utf-8")
    exec(re.findall(r"```python\n(import mlflow.*?)```", page, re.DOTALL)[0], names)
    model, config = small("stylegan2", kimg=0.032, tick_kimg=0.016)
    train(slices, None, model, config, tmp_path / "run", "cpu", progress=False, watchers=[names["MLflow"]()])
    assert [step for _, step in mlflow.metrics] == [16, 32]
    assert all(set(found) >= {"loss_d", "kimg"} for found, _ in mlflow.metrics)
    assert (mlflow.images, mlflow.ended) == (["samples-32.png"], 1)


def test_what_a_watcher_raises_ends_the_training_and_it_is_told_of_the_end(slices: SliceSet, tmp_path: Path) -> None:
    class Failing:
        ended = False

        def step(self, images: int, stats: Any) -> None:
            raise ConnectionError("no server")

        def snapshot(self, images: int, picture: Any) -> None: ...

        def end(self) -> None:
            self.ended = True

    model, config = small("stylegan2", kimg=0.032, tick_kimg=0.016)
    watcher = Failing()
    with pytest.raises(ConnectionError):
        train(slices, None, model, config, tmp_path / "run", "cpu", progress=False, watchers=[watcher])
    assert watcher.ended
    assert not (tmp_path / "run" / "config.json").exists()
