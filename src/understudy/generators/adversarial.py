"""Adversarial training of a generator on joint images: from a slice set to a folder, resumable.

Example:
    >>> run = train(SliceSet.open("slices"), None, StyleGan2Config(resolution=32, channels=4),
    ...             GanTrainingConfig(kimg=100), Path("run"))    # doctest: +SKIP
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.checkpoints import Checkpoints, History, StopRequest
from understudy.errors import Interrupted, UnderstudyError
from understudy.files import sha256_json
from understudy.generators.joint import annotation_channels, decode
from understudy.generators.runs import is_finished, save_grid, save_model
from understudy.generators.stylegan2 import StyleGan2Config
from understudy.generators.trainer import GanTrainer, GanTrainingConfig, resolve_device
from understudy.progress import track
from understudy.slices import SliceSet

__all__ = ["GanTrainingConfig", "train"]


def train(
    slices: SliceSet,
    rows: NDArray[np.int64] | None,
    model_config: StyleGan2Config,
    config: GanTrainingConfig,
    run_dir: str | Path,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Trains a generator on rows of a slice set; the same call continues an interrupted training.

    Args:
        slices: real slices. rows: which to use (all for None). model_config: `channels` must be the set's channels
            plus those of the annotation. run_dir: gets generator.safetensors (the averaged generator), config.json,
            history.jsonl, samples-<kimg>.png and checkpoints.

    Raises:
        UnderstudyError: sizes that do not fit, no rows, another run in the folder, divergence, disk full.
        Interrupted: SIGTERM or SIGINT; the state was saved.
    """
    folder = Path(run_dir)
    rows = np.arange(len(slices)) if rows is None else np.asarray(rows, np.int64)
    _check_fit(slices, rows, model_config, config)
    identity = _identity(slices, rows, model_config, config)
    if is_finished(folder, identity):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    trainer = GanTrainer(slices, rows, model_config, config, resolve_device(device))
    checkpoints = Checkpoints(folder, identity)
    history = History(folder / "history.jsonl", "kimg")
    found = checkpoints.latest()
    if found:
        trainer.restore(*found)
    history.resume(trainer.steps * config.batch / 1000)
    with StopRequest() as stop:
        _loop(trainer, checkpoints, history, stop, progress)
    record = {
        "kind": model_config.kind, "model": model_config.model_dump(), "training": config.model_dump(),
        "identity": identity, "kimg": trainer.steps * config.batch / 1000, "seconds": trainer.seconds,
        "precision": str(trainer.dtype).removeprefix("torch."), "r1_gamma": trainer.gamma,
        "channels": list(slices.channels), "classes": [vars(c) for c in slices.classes],
        "annotation": config.annotation, "spacing": slices.spacing, "axes": slices.axes,
        "slices": slices.content_hash, "slice_count": len(rows), "torch": torch.__version__,
    }  # fmt: skip
    save_model(folder, trainer.average, record)
    checkpoints.clear()
    return folder


def _check_fit(
    slices: SliceSet, rows: NDArray[np.int64], model: StyleGan2Config, config: GanTrainingConfig
) -> None:
    channels = len(slices.channels) + annotation_channels(slices.classes, config.annotation)
    if (model.resolution, model.channels) != (slices.resolution, channels):
        raise UnderstudyError(
            f"a model for {model.channels} channels at {model.resolution} pixels, but the joint images have {channels}"
            f" channels at {slices.resolution} pixels",
            where=slices.path,
            fix="set resolution and channels of the model to those of the slices",
        )
    if not len(rows):
        raise UnderstudyError("no slices to train on", where=slices.path, fix="check the split")
    for size in (config.batch, config.batch // config.pl_shrink):
        if size % min(size, model.mbstd_group):
            raise UnderstudyError(f"batch {size} is no multiple of mbstd_group {model.mbstd_group}")


def _identity(
    slices: SliceSet, rows: NDArray[np.int64], model: StyleGan2Config, config: GanTrainingConfig
) -> str:
    """Hash of all that decides the result; intervals of records and checkpoints do not."""
    training = config.model_dump(exclude={"snapshot_kimg", "checkpoint_seconds"})
    return sha256_json(
        {
            "model": model.model_dump(),
            "training": training,
            "slices": slices.content_hash,
            "rows": rows.tolist(),
        }
    )


def _loop(
    trainer: GanTrainer, checkpoints: Checkpoints, history: History, stop: StopRequest, progress: bool
) -> None:
    """Steps until `kimg` or `max_minutes`; history, pictures and checkpoints on the way."""
    config, batch = trainer.config, trainer.config.batch
    last = math.ceil(config.kimg * 1000 / batch)
    tick, snapshot = (max(1, round(k * 1000 / batch)) for k in (config.tick_kimg, config.snapshot_kimg))
    saved = started = time.monotonic()
    before = trainer.seconds
    tick_start = (trainer.seconds, trainer.steps)
    with track(last * batch, "training generator", "images", trainer.steps * batch, progress) as meter:
        while trainer.steps < last and not (
            config.max_minutes and trainer.seconds >= config.max_minutes * 60
        ):
            if stop.requested:
                checkpoints.save(trainer.state(), trainer.steps)
                raise Interrupted(
                    f"training stopped after {trainer.steps * batch / 1000:.1f} kimg, state saved"
                )
            trainer.step()
            trainer.seconds = before + time.monotonic() - started
            figures: dict[str, float | None] = {}
            if trainer.steps % tick == 0 or trainer.steps == last:
                rate = (trainer.steps - tick_start[1]) * batch / max(1e-9, trainer.seconds - tick_start[0])
                tick_start = (trainer.seconds, trainer.steps)
                figures = trainer.take_figures() | trainer.annotated_share()
                history.append(
                    kimg=trainer.steps * batch / 1000, seconds=round(trainer.seconds, 2),
                    images_per_second=round(rate, 2), **figures,
                )  # fmt: skip
                _check_health(trainer, figures, checkpoints.folder)
            if trainer.steps % snapshot == 0 or trainer.steps == last:
                _snapshot(trainer, checkpoints.folder)
            if time.monotonic() - saved > config.checkpoint_seconds:
                checkpoints.save(trainer.state(), trainer.steps)
                saved = time.monotonic()
            shown = {k: v for k, v in figures.items() if k in ("loss_g", "loss_d") and v is not None}
            meter.advance(batch, **shown)


def _check_health(trainer: GanTrainer, figures: dict[str, float | None], folder: Path) -> None:
    """Stops a training whose weights are no numbers any more: it cannot recover."""
    if figures.get("loss_g") is None or figures.get("loss_d") is None:
        raise UnderstudyError(
            f"the training diverged (loss is not a number) at {trainer.steps * trainer.config.batch / 1000:.1f} kimg",
            where=folder,
            fix="lower the learning rates or raise r1_gamma, and train in a new folder",
        )


def _snapshot(trainer: GanTrainer, folder: Path, count: int = 12) -> None:
    """samples-<kimg>.png: the same latents each time."""
    slices = trainer.slices
    images = trainer.average.sample(count, trainer.config.seed)
    grey, labels, _ = decode(images, slices.classes, trainer.config.annotation)
    kimg = trainer.steps * trainer.config.batch / 1000
    save_grid(folder / f"samples-{kimg:08.1f}.png", grey, labels, len(slices.classes))
