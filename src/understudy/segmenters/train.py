"""Trains a segmenter on real slices, synthetic slices or both (paper 4.3).

    from understudy.segmenters.train import SegmenterTrainingConfig, train_segmenter
    train_segmenter(real=SliceSet.open("slices"), synthetic=None, run_dir="runs/real-0",
                    validation=VolumeSet.open("volumes"), config=SegmenterTrainingConfig(samples=40_000))

Everything random comes from (seed, sample number): an interrupted run that is started again continues from its last
checkpoint and ends in the same weights, bit for bit, as an unbroken one. Only `max_minutes`, which ends a training by
the clock, cannot be repeated; the record says where it ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from understudy import __version__
from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import atomic_path, read_json, sha256_file, sha256_json, write_json
from understudy.runtime.checkpoints import Checkpoints, History, StopRequest
from understudy.runtime.devices import resolve_device
from understudy.runtime.memory import FIX, OutOfMemory, current, is_out_of_memory, release_memory
from understudy.runtime.progress import Meter, track
from understudy.segmenters.augment import draw
from understudy.segmenters.augment_apply import apply
from understudy.segmenters.initial import Initial, initial_from, same_size
from understudy.segmenters.loader import Ahead
from understudy.segmenters.losses import segmentation_loss
from understudy.segmenters.mixing import Mixture
from understudy.segmenters.models import build_model
from understudy.segmenters.parts import backward, normalises_over_the_batch
from understudy.segmenters.predict import FORMAT, Segmenter, choose_precision
from understudy.segmenters.swin import SwinConfig
from understudy.segmenters.training import SegmenterTrainingConfig, check_batch, optimiser_for, paper_training
from understudy.segmenters.unet import UNetConfig
from understudy.segmenters.validation import validation_for
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

TRAINING = "training of a segmenter"  # in the record of what memory was too small for
LOG_STEPS = 20  # steps between lines of the history
_STREAM = 0x5E6  # keeps these draws apart from other uses of the same seed

__all__ = ["SegmenterTrainingConfig", "train_segmenter"]

Model = UNetConfig | SwinConfig


def train_segmenter(
    real: SliceSet | None,
    synthetic: SliceSet | None,
    model_config: Model | None = None,
    config: SegmenterTrainingConfig | None = None,
    run_dir: str | Path = "segmenter",
    validation: VolumeSet | None = None,
    device: str = "auto",
    progress: bool = True,
    initial: str | Path | None = None,
) -> Path:
    """Trains, or continues, or returns at once what was finished before.

    Args:
        real: slices of patients; those of the split "train" are used. None: train on synthetic ones only.
        synthetic: generated slices. None: train on real ones only.
        model_config: the network.
        config: the training; None: the paper's for this kind of network.
        run_dir: folder of checkpoints, `history.jsonl` and, at the end, `segmenter.safetensors` and `config.json`.
        validation: volumes whose patients of the split "val" select the best weights; None: the last are kept.
        device: "auto", "cpu", "cuda", ...
        progress: show a bar.
        initial: folder of a finished segmenter of the same network, whose weights this training goes on from; None:
            new weights from the seed. Channels and classes keep its order.

    Returns:
        `run_dir`. `config.json` records `outcome`: "trained", or "collapsed" and in `collapse` what happened (the loss
        stopped being finite, or the best weights find nothing in any of the validation data), so that such a run
        can be counted; it has weights that can be used either way. `ended` says what ended it: "budget", "time" or
        "collapse"; `validated_on` which kind of data selected the weights.

    Raises:
        Interrupted: SIGTERM or SIGINT; a checkpoint was written.
        UnderstudyError: data that do not fit together, a folder of another training, disk full.
    """
    model_config, folder = model_config or UNetConfig(), Path(run_dir)
    config = config or paper_training(model_config.kind)
    check_batch(model_config, config)
    start = None if initial is None else initial_from(initial, model_config.model_dump(mode="json"))
    names = None if start is None else (start.channels, start.classes)
    mixture = Mixture(real, synthetic, config.mixture, config.seed, names)
    if start is not None:
        same_size(start, mixture.resolution)
    identity = _identity(mixture, model_config, config, validation, start)
    if _finished(folder, identity):
        return folder
    where = resolve_device(device)
    training = _Training(mixture, model_config, config, folder, identity, validation, where, start)
    with (
        StopRequest() as stop,
        track(training.steps * config.batch, "training segmenter", "samples", training.samples, progress) as meter,
    ):
        training.run(stop, meter)
    training.finish()
    return folder


def _identity(
    mixture: Mixture,
    model_config: Model,
    config: SegmenterTrainingConfig,
    validation: VolumeSet | None,
    start: Initial | None,
) -> str:
    """Hash of all that decides the result."""
    given = {} if start is None else {"initial": start.record}
    return sha256_json(
        {
            "format": FORMAT,
            "model": model_config.model_dump(mode="json"),
            "training": config.model_dump(mode="json", exclude={"checkpoint_seconds"}),
            "sources": mixture.sources,
            "validation": sha256_file(validation.path / "volumes.json") if validation else None,
            **given,
        }
    )


def _finished(folder: Path, identity: str) -> bool:
    """The result is there.

    Raises:
        UnderstudyError: it is that of another training.
    """
    if not ((folder / "config.json").is_file() and (folder / "segmenter.safetensors").is_file()):
        return False
    if read_json(folder / "config.json").get("identity") != identity:
        raise UnderstudyError(
            "the folder holds a segmenter of another training", where=folder, fix="use another folder"
        )
    return True


class _Training:
    """The state of one run and what is done to it."""

    def __init__(
        self,
        mixture: Mixture,
        model_config: Model,
        config: SegmenterTrainingConfig,
        folder: Path,
        identity: str,
        validation: VolumeSet | None,
        device: torch.device,
        start: Initial | None = None,
    ) -> None:
        self.start = start
        self.mixture, self.model_config, self.config, self.folder = mixture, model_config, config, folder
        self.identity, self.device = identity, device
        self.precision = choose_precision(config.precision, device)
        network = build_model(
            model_config, len(mixture.channels), len(mixture.classes), mixture.resolution, config.seed
        )
        if start is not None:
            start.load_into(network)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimiser_for(self.network, config)
        self.validate = validation_for(config, mixture, validation)
        self.steps = config.steps(mixture.slices)
        self.model = Segmenter(
            self.network,
            mixture.channels,
            mixture.classes,
            mixture.resolution,
            device,
            self.precision,
            {},
            config.augment.input,
        )
        self.checkpoints = Checkpoints(folder, identity)
        self.history = History(folder / "history.jsonl", "samples")
        self.step, self.seconds, self.losses = 0, 0.0, torch.zeros((), device=device)
        self.best: dict[str, Any] = {"samples": 0, "val_dice": None, "found": 0, "weights": self._weights()}
        self.waited = 0.0  # seconds, for data
        self.ended, self.collapse = "budget", ""
        self.parts = min(current().least_parts, self._most_parts)  # of a batch; more where memory ran out
        self._restore()
        self._note_parts()

    @property
    def samples(self) -> int:
        """Slices shown so far."""
        return self.step * self.config.batch

    @property
    def waiting_share(self) -> float:
        """Share of the time that the training waited for the next batch."""
        return round(self.waited / max(1e-9, self.seconds), 4)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: t.detach().cpu().clone().contiguous() for name, t in self.network.state_dict().items()}

    def _restore(self) -> None:
        found = self.checkpoints.latest()
        if found:
            state = found[1]
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.waited = state["step"], state["seconds"], state.get("waited", 0.0)
            self.losses, self.best = state["losses"].to(self.device), state["best"]
            self.parts = max(self.parts, state.get("parts", 1))
        self.history.resume(self.samples)

    def save(self) -> None:
        """Writes a checkpoint with all that the next step depends on; the random draws depend on the step alone."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "waited": self.waited,
            "losses": self.losses,
            "best": self.best,
            "parts": self.parts,
        }
        self.checkpoints.save(state, self.samples)

    def run(self, stop: StopRequest, meter: Meter) -> None:
        """Trains to the end of the budget or of the time, or until the loss is no longer finite."""
        saved = started = time.monotonic()
        before = self.seconds
        waited = self.waited
        with Ahead(self.mixture.read, self.config.batch, self.step, self.steps) as batches:
            while self.step < self.steps and self.ended == "budget":
                self.losses += self.train_step(*batches.next())
                self.step += 1
                self.waited = waited + batches.waited
                self.seconds = before + time.monotonic() - started
                if self.seconds >= 60 * (self.config.max_minutes or math.inf) and self.step < self.steps:
                    self.ended = "time"
                meter.advance(self.config.batch, **self._report())
                if stop.requested or time.monotonic() - saved > self.config.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
                if stop.requested:
                    raise Interrupted(f"{self.folder}: stopped after {self.samples} samples")

    def train_step(
        self, numbers: NDArray[np.int64], images: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> torch.Tensor:
        """One update on the samples with these numbers; returns the loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step, self.steps)
        self.network.train()
        plan = draw(config.augment, config.seed, numbers)
        x, target = apply(plan, torch.from_numpy(images).to(self.device), torch.from_numpy(labels).to(self.device))
        loss = self._gradient(x, target)
        if config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        return loss

    def _gradient(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, and its gradient in the parameters' `grad`; in smaller parts where memory runs out."""
        config, levels = self.config, self.network.level_weights

        def forward(piece: torch.Tensor, part: int) -> Sequence[torch.Tensor]:
            autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
            with self._own_random(part), autocast:
                found: Sequence[torch.Tensor] = self.network(piece)
            return found

        def loss(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
            return segmentation_loss(outputs, target, levels, config.dice_background, config.loss)

        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return backward(self.network, forward, loss, x, self.parts)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if 2 * self.parts > self._most_parts:
                    raise OutOfMemory(f"memory runs out in {TRAINING}", where=self.folder, fix=FIX) from error
            self.parts *= 2
            release_memory()
            self._note_parts()

    @property
    def _most_parts(self) -> int:
        """Parts of at least one slice, or of two that can be normalised together."""
        least = 2 if normalises_over_the_batch(self.network) else 1
        return max(1, self.config.batch // least)

    def _note_parts(self) -> None:
        if self.parts > 1:
            same = not normalises_over_the_batch(self.network)
            effect = "the same up to rounding" if same else "other results, slices are normalised within a part"
            current().divide(TRAINING, -(-self.config.batch // self.parts), self.config.batch, effect)

    @contextmanager
    def _own_random(self, part: int = 0) -> Iterator[None]:
        """What the network draws itself (dropout, skipped blocks) follows from (seed, step), and leaves no trace."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            own = np.random.SeedSequence([self.config.seed, _STREAM, self.step, *([part] if part else [])])
            torch.manual_seed(int(own.generate_state(1, np.uint64)[0] >> 1))
            yield

    def _report(self) -> dict[str, Any]:
        """Adds a line to the history every few steps and at validations; returns figures for the bar."""
        last = self.step == self.steps or self.ended == "time"
        turn, turn_before = (step * self.config.validations // self.steps for step in (self.step, self.step - 1))
        validate = bool(self.validate) and (last or turn > turn_before)
        if self.step % LOG_STEPS and not validate and not last:
            return {}
        since = self.step % LOG_STEPS or LOG_STEPS
        loss = float(self.losses) / since
        line: dict[str, Any] = {"loss": loss, "lr": self.config.rate(self.step - 1, self.steps)}
        if not math.isfinite(loss):
            self.ended = "collapse"
            self.collapse = f"the loss was not finite ({loss}) within {self.samples} samples"
            line = {"collapsed": True, "lr": line["lr"]}  # NaN is not JSON
        elif validate:
            line |= self._select()
        if not self.step % LOG_STEPS:
            self.losses = torch.zeros_like(self.losses)
        self.history.append(
            samples=self.samples,
            seconds=round(self.seconds, 3),
            samples_per_second=round(self.samples / max(1e-9, self.seconds), 1),
            waiting_share=self.waiting_share,
            **line,
        )
        return line

    def _select(self) -> dict[str, float]:
        """Predicts the validation data and keeps the weights if they are the best so far."""
        scores, found = self.validate(self.model)
        if self.best["val_dice"] is None or scores["val_dice"] > self.best["val_dice"]:
            self.best = {
                "samples": self.samples,
                "val_dice": scores["val_dice"],
                "found": found,
                "weights": self._weights(),
            }
        return scores

    def _settle(self) -> None:
        """Chooses the last weights where nothing else could choose, and says how the training collapsed, if it did."""
        if not self.validate and self.ended != "collapse":
            weights = self._weights()
            if all(bool(t.isfinite().all()) for t in weights.values()):
                self.best = {"samples": self.samples, "val_dice": None, "found": 1, "weights": weights}
            else:
                self.ended, self.collapse = "collapse", "the last step left weights that are not finite"
        if not self.collapse and not self.best["found"]:
            self.collapse = "the best weights find nothing in any of the validation data"

    def finish(self) -> None:
        """Writes the result: the weights, then the record that makes it complete; the checkpoints go."""
        self._settle()
        with atomic_path(self.folder / "segmenter.safetensors") as temporary:
            save_file(self.best["weights"], temporary)
        write_json(
            self.folder / "config.json",
            {
                "format": FORMAT,
                "software_version": __version__,
                "identity": self.identity,
                "model": self.model_config.model_dump(mode="json"),
                "training": self.config.model_dump(mode="json"),
                "channels": list(self.mixture.channels),
                "classes": list(self.mixture.classes),
                "resolution": self.mixture.resolution,
                "sources": self.mixture.sources,
                "validated_on": self.validate.record,
                "outcome": "collapsed" if self.collapse else "trained",
                "collapse": self.collapse or None,
                "ended": self.ended,
                "samples": self.samples,
                "budget_samples": self.steps * self.config.batch,
                "best_samples": self.best["samples"],
                "best_val_dice": self.best["val_dice"],
                "precision": self.precision,
                "device": str(self.device),
                "torch": torch.__version__,
                "seconds": round(self.seconds, 3),
                "waiting_share": self.waiting_share,
                **({} if self.start is None else {"initial": self.start.record}),
                **({} if self.parts == 1 else {"parts": self.parts}),
            },
        )
        self.checkpoints.clear()
