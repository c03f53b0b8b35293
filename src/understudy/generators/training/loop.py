"""The loop that all generators train in: from a slice set to a folder, resumable, watched.

The trainer knows how to do a step; the loop decides when to stop, and keeps history, pictures and checkpoints.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import Interrupted, UnderstudyError
from understudy.faults import FAULTS
from understudy.generators.folder import CONFIG, is_finished, save_model, snapshot_folder
from understudy.generators.joint import annotation_channels, decode
from understudy.generators.training.config import UNTRACED, TrainingConfig
from understudy.generators.training.health import PART, check_divergence, faults, reference, summary, vital_signs
from understudy.generators.training.monitor import Board, grid, memory_mb, save_picture
from understudy.generators.training.shares import Workers
from understudy.generators.training.trainer import Trainer
from understudy.io.files import sha256_json
from understudy.runtime.checkpoints import Checkpoints, History, StopRequest
from understudy.runtime.devices import resolve_device
from understudy.runtime.progress import track
from understudy.slices import SliceSet

log = logging.getLogger(__name__)

PREVIEW = 64  # samples that the figures of a line are taken from
PICTURED = 12  # of them in a picture


def train(
    trainer_class: Callable[..., Trainer],
    slices: SliceSet,
    rows: NDArray[np.int64] | None,
    model: Any,
    config: TrainingConfig,
    run_dir: str | Path,
    device: str = "auto",
    progress: bool = True,
    workers: Workers | None = None,
) -> Path:
    """Trains a generator on rows of a slice set; the same call continues an interrupted training.

    Args:
        trainer_class: the kind's trainer.
        slices: real slices.
        rows: which to use, all for None.
        model: the kind's configuration; `channels` must be the set's channels plus those of the annotation.
        config: the kind's training.
        run_dir: gets generator.safetensors (the averaged generator), config.json, history.jsonl, samples-<kimg>.png,
            TensorBoard's files and checkpoints.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        progress: show it.
        workers: processes that share every batch; the first one writes.

    Raises:
        UnderstudyError: sizes that do not fit, no rows, another run in the folder, divergence, disk full.
        Interrupted: SIGTERM or SIGINT; the state was saved.
    """
    folder, workers = Path(run_dir), workers or Workers()
    rows = np.arange(len(slices)) if rows is None else np.asarray(rows, np.int64)
    check_fit(slices, rows, model, config)
    identity = _identity(slices, rows, model, config)
    if is_finished(folder, identity):
        _check_kept(folder, config)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    trainer = trainer_class(slices, rows, model, config, resolve_device(device), workers)
    trainer.check_parting()
    run = _Run(trainer, folder, identity)
    with StopRequest() as stop:
        _loop(trainer, run, stop, progress and workers.rank == 0)
    if workers.rank == 0:
        save_model(folder, trainer.average, run.record(), getattr(trainer, "discriminator", None))
        run.checkpoints.clear()
    run.board.close()
    workers.wait()
    return folder


def check_fit(slices: SliceSet, rows: NDArray[np.int64], model: Any, config: TrainingConfig) -> None:
    """Refuses a model whose images are not those of the slices, and a batch that makes no whole groups.

    Raises:
        UnderstudyError: says which.
    """
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
    group = getattr(model, "mbstd_group", 1)
    for size in (config.batch, *getattr(config, "batches", {}).values()):
        if size % min(size, group):
            raise UnderstudyError(f"batch {size} is no multiple of mbstd_group {group}")


def _check_kept(folder: Path, config: TrainingConfig) -> None:
    """Says so if a finished training did not keep the weights that are wanted now."""
    missing = [k for k in config.keep_weights_kimg if not (snapshot_folder(folder, k) / CONFIG).is_file()]
    if missing:
        raise UnderstudyError(
            f"the training is finished and has kept no weights at {missing[0]:g} kimg",
            where=folder,
            fix="train into another folder, or leave this point out of `keep_weights_kimg`",
        )


def _identity(slices: SliceSet, rows: NDArray[np.int64], model: Any, config: TrainingConfig) -> str:
    """Hash of all that decides the result; intervals of records and checkpoints do not."""
    return sha256_json(
        {
            "model": model.model_dump(mode="json"),
            "training": config.model_dump(mode="json", exclude=set(UNTRACED)),
            "slices": slices.content_hash,
            "rows": rows.tolist(),
        }
    )


class _Run:
    """The records of one run: history, pictures, checkpoints, TensorBoard. Only the first worker writes.

    Attributes:
        faults: what was wrong at the last line of the history.
    """

    def __init__(self, trainer: Trainer, folder: Path, identity: str) -> None:
        self.trainer, self.folder, self.identity = trainer, folder, identity
        self.writes = trainer.workers.rank == 0
        self.checkpoints = Checkpoints(folder, identity, trainer.config.checkpoints_kept)
        found = self.checkpoints.latest()
        if found:
            trainer.restore(*found)
        trainer.workers.wait()  # before the first worker writes anything anew
        self.history = History(folder / "history.jsonl", "kimg")
        if self.writes:
            self.history.resume(self.kimg)
        self.lines = History.read(self.history.path)
        self.real = reference(trainer.slices, trainer.rows, trainer.config.annotation)
        self.board = Board(folder, trainer.config.tensorboard and self.writes, trainer.images)
        self.told: list[str] = []  # faults last warned of
        self._last_line = trainer.seconds, trainer.images

    @property
    def kimg(self) -> float:
        """Thousand real images shown so far."""
        return self.trainer.images / 1000

    def save(self) -> None:
        """Writes a checkpoint."""
        if self.writes:
            self.checkpoints.save(self.trainer.state(), self.trainer.steps)

    def line(self, preview: bool) -> dict[str, Any]:
        """Adds a line to the history, with figures of samples if `preview`.

        Raises:
            UnderstudyError: the training diverged.
        """
        trainer, (seconds, images) = self.trainer, self._last_line
        self._last_line = trainer.seconds, trainer.images
        rate = (trainer.images - images) / max(1e-9, trainer.seconds - seconds)
        figures: dict[str, Any] = dict(trainer.take_figures())
        check_divergence(figures, self.kimg, self.folder)
        slices, annotation = trainer.slices, trainer.config.annotation
        if preview and self.writes:
            figures |= vital_signs(trainer.preview(PREVIEW), slices.classes, annotation, self.real)
        line = {"kimg": self.kimg, "seconds": round(trainer.seconds, 2), "images_per_second": round(rate, 2),
                "memory_mb": round(memory_mb(trainer.device), 1), **figures}  # fmt: skip
        present = faults([*self.lines, line], self.real)
        self._tell(present)
        line |= {"health": ", ".join(present)} if present else {}
        self.lines.append(line)
        if self.writes:
            self.history.append(**line)
            self.board.scalars(line | {"seconds_per_kimg": 1000 / max(rate, 1e-9)}, trainer.images)
        return line

    def _tell(self, present: list[str]) -> None:
        """Warns of faults that are new; not in the first tenth of the training, where nothing has formed yet."""
        if self.kimg < PART * self.trainer.config.kimg:
            return
        if present and present != self.told:
            log.warning(
                "after %.1f thousand images something is wrong with the generator: %s. The training goes on; if this"
                " lasts, look at samples-*.png in %s, and train longer or with another recipe",
                self.kimg,
                " and ".join(FAULTS[fault] for fault in present),
                self.folder,
            )
        self.told = present

    def snapshot(self) -> None:
        """samples-<kimg>.png: the same latents each time."""
        if not self.writes:
            return
        slices = self.trainer.slices
        joint = self.trainer.preview(PICTURED)
        images, labels, _ = decode(joint, slices.classes, self.trainer.config.annotation)
        picture = grid(images, labels, len(slices.classes))
        save_picture(self.folder / f"samples-{self.kimg:08.1f}.png", picture)
        self.board.picture(picture, self.trainer.images)

    def keep_weights(self, before: int) -> None:
        """snapshots/<kimg>kimg: the averaged generator as a finished one, if the step went over a point to keep."""
        for kimg in self.trainer.config.keep_weights_kimg:
            if self.writes and before < kimg * 1000 <= self.trainer.images:
                save_model(snapshot_folder(self.folder, kimg), self.trainer.average, self.record())

    def record(self) -> dict[str, Any]:
        """The run's config.json."""
        trainer, slices = self.trainer, self.trainer.slices
        return {
            "kind": trainer.model.kind, "model": trainer.model.model_dump(mode="json"),
            "training": trainer.config.model_dump(mode="json"), "identity": self.identity, "kimg": self.kimg,
            "steps": trainer.steps, "seconds": trainer.seconds, **trainer.record(),
            "health": summary(self.lines, self.real),
            "channels": list(slices.channels), "classes": [vars(c) for c in slices.classes],
            "annotation": trainer.config.annotation, "spacing": slices.spacing, "axes": slices.axes,
            "slices": slices.content_hash, "slice_count": len(trainer.rows), "torch": torch.__version__,
            **({} if trainer.shares == 1 else {"shares": trainer.shares}),
        }  # fmt: skip


def _loop(trainer: Trainer, run: _Run, stop: StopRequest, progress: bool) -> None:
    """Steps until `kimg` or `max_minutes`; history, pictures and checkpoints on the way."""
    config, workers = trainer.config, trainer.workers
    last = math.ceil(config.kimg * 1000)
    limit = config.max_minutes * 60 if config.max_minutes else math.inf
    saved = started = time.monotonic()
    before_start = trainer.seconds
    with track(last, "training generator", "images", trainer.images, progress) as meter:

        def ended() -> bool:
            return trainer.images >= last or workers.any(trainer.seconds >= limit)

        over = ended()
        while not over:
            if workers.any(stop.requested):
                run.save()
                raise Interrupted(f"training stopped after {run.kimg:.1f} kimg, state saved")
            before = trainer.images
            trainer.step()
            trainer.seconds = before_start + time.monotonic() - started
            run.keep_weights(before)
            over = ended()
            pictured = over or _due(before, trainer.images, config.snapshot_kimg)
            figures: dict[str, Any] = {}
            if pictured or _due(before, trainer.images, config.tick_kimg):
                figures = run.line(pictured or trainer.quick_preview)
            if pictured:
                run.snapshot()
            if time.monotonic() - saved > config.checkpoint_seconds:
                run.save()
                saved = time.monotonic()
            shown = {k: v for k, v in figures.items() if k.startswith("loss")}
            meter.advance(trainer.images - before, **shown)


def _due(before: int, images: int, every_kimg: float) -> bool:
    """Whether a step went over a multiple of `every_kimg`."""
    every = max(1, round(every_kimg * 1000))
    return images // every > before // every
