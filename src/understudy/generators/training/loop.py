"""`train`: from a slice set to the folder of a generator, resumable and watched; and the loop of its steps."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.folder import CONFIG, UNTRACED, is_finished, snapshot_folder
from understudy.generators.joint import annotation_channels
from understudy.generators.registry import network_type
from understudy.generators.training.config import TrainingConfig
from understudy.generators.training.distributed import ProcessGroup, check_devices, launch, started
from understudy.generators.training.monitor import Monitor, Watcher
from understudy.generators.training.state import TrainingState
from understudy.generators.training.until import Judge, Until
from understudy.io.files import sha256_json
from understudy.runtime.checkpoints import StopRequest
from understudy.runtime.devices import resolve_device
from understudy.runtime.progress import track
from understudy.slices import SliceSet


def train(
    slices: SliceSet,
    rows: NDArray[np.int64] | None,
    model: Any,
    config: TrainingConfig,
    run_dir: str | Path,
    device: str = "auto",
    progress: bool = True,
    devices: int = 1,
    nodes: int = 1,
    processes: ProcessGroup | None = None,
    watchers: Sequence[Watcher] = (),
    judge: Judge | None = None,
) -> Path:
    """Trains a generator on rows of a slice set; the same call continues an interrupted training.

    Args:
        slices: real slices, on disk or in memory.
        rows: which to use, all for None.
        model: the architecture, e.g. a `StyleGan2Config`; `channels` must be the set's channels plus those of the
            annotation.
        config: the training of the same kind, e.g. a `StyleGan2Training`.
        run_dir: gets generator.safetensors (the EMA generator), config.json, history.jsonl, samples-<kimg>.png,
            TensorBoard's files and checkpoints.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        devices, nodes: so many devices of each of so many machines share every batch, see `distributed`.
        processes: set in each of their processes.
        watchers: are told what happens, see `Watcher`; several processes need ones that can be pickled.
        judge: compares samples with training slices, for `until: memorization`; see `memorization.looks.Looks`.

    Returns:
        `run_dir`.

    Raises:
        UnderstudyError: sizes or devices that do not fit, no rows, another run in the folder, divergence, disk full.
        Interrupted: SIGTERM or SIGINT; the state was saved.

    Example:
        >>> train(SliceSet.open("slices"), None, StyleGan2Config(resolution=32, channels=4),
        ...       StyleGan2Training(kimg=100), "run")    # doctest: +SKIP
    """
    if processes is None and (devices * nodes != 1 or started()[1] > 1):
        check_devices(device, devices, nodes)
        arguments = {"slices": slices, "rows": rows, "model": model, "config": config, "run_dir": run_dir}
        arguments |= {"progress": progress, "watchers": watchers, "judge": judge}
        return launch(train, arguments, device, devices, nodes)
    folder, processes = Path(run_dir), processes or ProcessGroup()
    rows = np.arange(len(slices)) if rows is None else np.asarray(rows, np.int64)
    check_fit(slices, rows, model, config)
    if config.until and judge is None:
        what, fix = "`until: memorization` needs slices of validation patients", "train in a study, or give a `judge`"
        raise UnderstudyError(what, where=folder, fix=fix)
    judge = judge if config.until else None
    identity = run_identity(slices, rows, model, config, judge)
    if is_finished(folder, identity):
        check_kept_weights(folder, config)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    state = network_type(model.kind).state(slices, rows, model, config, resolve_device(device), processes)
    state.check_batches()
    until = Until(state, slices, judge) if judge else None
    monitor = Monitor(state, slices, rows, folder, identity, watchers, until)  # restores the last checkpoint
    images, saved = state.images, time.monotonic()
    last = math.ceil(config.kimg * 1000)
    shown = track(last, "training generator", "images", images, progress and monitor.writes)
    with closing(monitor), StopRequest() as stop, shown as bar:
        for _ in training_steps(state):
            losses = monitor.after_step(images)  # history, pictures of samples, snapshots
            bar.advance(state.images - images, **losses)
            images = state.images
            stopped = not state.finished and processes.any(stop.requested)
            if stopped or time.monotonic() - saved > config.checkpoint_seconds:
                monitor.save()
                saved = time.monotonic()
            if stopped:
                raise Interrupted(f"training stopped after {monitor.kimg:.1f} kimg, state saved")
    monitor.finish()
    return folder


def training_steps(state: TrainingState) -> Iterator[TrainingState]:
    """Yields the state after each step, until `kimg` images are shown, `max_minutes` are over, or its taker sets
    `finished`."""
    config, before, start = state.config, state.seconds, time.monotonic()
    images, limit = math.ceil(config.kimg * 1000), (config.max_minutes or math.inf) * 60

    def finished() -> bool:
        return state.images >= images or state.processes.any(state.seconds >= limit)

    state.finished = finished()
    while not state.finished:
        state.step()  # `gan_step` or `denoising_step`
        state.seconds = before + time.monotonic() - start
        state.finished = finished()
        yield state


def check_fit(slices: SliceSet, rows: NDArray[np.int64], model: Any, config: TrainingConfig) -> None:
    """Refuses a training of another kind, and a model for other images."""
    kind = network_type(model.kind)
    if not isinstance(config, kind.training):
        raise UnderstudyError(
            f"a {type(config).__name__} cannot train {model.kind}", fix=f"use a {kind.training.__name__}"
        )
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


def check_kept_weights(folder: Path, config: TrainingConfig) -> None:
    """Refuses a finished training that did not keep the weights that are wanted now."""
    for kimg in config.keep_weights_kimg:
        if not (snapshot_folder(folder, kimg) / CONFIG).is_file():
            raise UnderstudyError(
                f"the training is finished and has kept no weights at {kimg:g} kimg",
                where=folder,
                fix="train into another folder, or leave this point out of `keep_weights_kimg`",
            )


def run_identity(
    slices: SliceSet, rows: NDArray[np.int64], model: Any, config: TrainingConfig, judge: Judge | None = None
) -> str:
    """Hash of all that decides the result; intervals of records and checkpoints do not."""
    return sha256_json(
        {
            "model": model.model_dump(mode="json"),
            "training": config.model_dump(mode="json", exclude=set(UNTRACED)),
            "slices": slices.content_hash,
            "rows": rows.tolist(),
            **({"judge": judge.identity} if judge else {}),
        }
    )
