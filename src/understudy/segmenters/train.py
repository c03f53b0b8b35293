"""Trains a segmenter on real slices, synthetic slices or both (paper 4.3).

    from understudy.segmenters.train import SegmenterTrainingConfig, train_segmenter
    train_segmenter(real=SliceSet.open("slices"), synthetic=None, run_dir="runs/real-0",
                    validation=VolumeSet.open("volumes"), config=SegmenterTrainingConfig(samples=40_000))

The budget counts samples, never time, so a study can be repeated. Everything random comes from (seed, sample number):
an interrupted run that is started again continues from its last checkpoint and ends in the same weights, bit for
bit, as an unbroken one.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file

from understudy import __version__
from understudy.checkpoints import Checkpoints, History, StopRequest
from understudy.errors import Interrupted, UnderstudyError
from understudy.files import atomic_path, read_json, sha256_file, sha256_json, write_json
from understudy.progress import Meter, track
from understudy.segmenters.augment import AugmentConfig, apply, draw
from understudy.segmenters.losses import segmentation_loss
from understudy.segmenters.mixing import Mixture, MixtureConfig, channel_order, class_table
from understudy.segmenters.predict import FORMAT, Segmenter, choose_device, choose_precision
from understudy.segmenters.unet import UNetConfig, build
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

LOG_STEPS = 20  # steps between lines of the history
CACHE_BYTES = 1 << 29  # validation volumes stay in memory up to this size


class SegmenterTrainingConfig(BaseModel):
    """How a segmenter is trained; optimiser and schedule default to the paper's (section 4.3)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(
        default=40_000, ge=1, description="budget, slices shown to the network; the paper: 30,000,000"
    )
    batch: int = Field(default=32, ge=1, description="slices a step; the authors' code: 48")
    lr: float = Field(default=0.05, gt=0, description="initial learning rate")
    momentum: float = Field(default=0.99, ge=0, lt=1, description="Nesterov momentum")
    weight_decay: float = Field(default=3e-5, ge=0, description="L2 penalty")
    poly_exponent: float = Field(
        default=0.9, ge=0, description="of the polynomial decay to 0 over the budget"
    )
    warmup_samples: int = Field(
        default=0, ge=0, description="linear increase of the learning rate; the paper: 0"
    )
    clip: float = Field(default=12.0, gt=0, description="largest norm of the gradient, as nnU-Net")
    dice_background: bool = Field(
        default=True, description="the soft Dice counts the background, as the authors' code"
    )
    augment: AugmentConfig = Field(default=AugmentConfig(), description="augmentation")
    mixture: MixtureConfig = Field(default=MixtureConfig(), description="real, synthetic, or both")
    # `same_as_training` (select on synthetic slices when training on them, as the authors did) belongs here
    validation: Literal["real"] = Field(default="real", description="what the best weights are selected on")
    validations: int = Field(default=20, ge=1, description="times that the validation patients are predicted")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the hardware computes in it"
    )
    seed: int = Field(default=0, ge=0, description="of weights, order and augmentation")
    checkpoint_seconds: float = Field(default=300.0, gt=0, description="time between checkpoints, seconds")

    @property
    def steps(self) -> int:
        """Batches in the budget."""
        return math.ceil(self.samples / self.batch)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warmup = min(1.0, (step + 1) * self.batch / self.warmup_samples) if self.warmup_samples else 1.0
        return self.lr * warmup * (1 - step / self.steps) ** self.poly_exponent


def train_segmenter(
    real: SliceSet | None,
    synthetic: SliceSet | None,
    model_config: UNetConfig | None = None,
    config: SegmenterTrainingConfig | None = None,
    run_dir: str | Path = "segmenter",
    validation: VolumeSet | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Trains, or continues, or returns at once what was finished before.

    Args:
        real: slices of patients; those of the split "train" are used. None: train on synthetic ones only.
        synthetic: generated slices. None: train on real ones only.
        model_config: the network.
        config: the training.
        run_dir: folder of checkpoints, `history.jsonl` and, at the end, `segmenter.safetensors` and `config.json`.
        validation: volumes whose patients of the split "val" select the best weights; None: the last are kept.
        device: "auto", "cpu", "cuda", ...
        progress: show a bar.

    Returns:
        `run_dir`. `config.json` records `outcome`: "trained", or "collapsed" (the loss stopped being finite, or the
        best weights find no lesion in any validation patient), so that such a run can be counted.

    Raises:
        Interrupted: SIGTERM or SIGINT; a checkpoint was written.
        UnderstudyError: data that do not fit together, a folder of another training, disk full.
    """
    model_config, config, folder = (
        model_config or UNetConfig(),
        config or SegmenterTrainingConfig(),
        Path(run_dir),
    )
    mixture = Mixture(real, synthetic, config.mixture, config.seed)
    identity = _identity(mixture, model_config, config, validation)
    if _finished(folder, identity):
        return folder
    training = _Training(mixture, model_config, config, folder, identity, validation, choose_device(device))
    with (
        StopRequest() as stop,
        track(
            config.steps * config.batch, f"segmenter {folder.name}", "samples", training.samples, progress
        ) as meter,
    ):
        training.run(stop, meter)
    training.finish()
    return folder


def _identity(
    mixture: Mixture, model_config: UNetConfig, config: SegmenterTrainingConfig, validation: VolumeSet | None
) -> str:
    """Hash of all that decides the result."""
    return sha256_json(
        {
            "format": FORMAT,
            "model": model_config.model_dump(mode="json"),
            "training": config.model_dump(mode="json", exclude={"checkpoint_seconds"}),
            "sources": mixture.sources,
            "validation": sha256_file(validation.path / "volumes.json") if validation else None,
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


class _Validation:
    """Mean 3D Dice over the validation patients at the network's resolution; slices that the rule drops stay empty."""

    def __init__(self, volumes: VolumeSet | None, mixture: Mixture) -> None:
        self._volumes, self._classes = volumes, mixture.classes
        self.subjects = volumes.subjects("val") if volumes else []
        self._cache: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]] = {}
        self._cached = 0
        if volumes and self.subjects:
            self._order = channel_order(volumes.channels, mixture.channels, volumes.path)
            self._table = class_table([c.name for c in volumes.classes], mixture.classes, volumes.path)

    def _read(self, subject: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
        if subject in self._cache:
            return self._cache[subject]
        assert self._volumes is not None
        volume = self._volumes.read(subject)
        truth = self._table[volume.labels_at_network(len(self._volumes.classes))]
        found = np.ascontiguousarray(volume.images[volume.kept][:, self._order]), truth, volume.kept
        if self._cached + found[0].nbytes <= CACHE_BYTES:
            self._cache[subject], self._cached = found, self._cached + found[0].nbytes
        return found

    def __call__(self, model: Segmenter) -> tuple[dict[str, float], int]:
        """({"val_dice": mean over classes and patients, "val_dice_<class>": ...}, foreground voxels predicted).

        A class that neither truth nor prediction contains scores 1, one that only one of them contains 0 (design 4).
        """
        scores, found = [], 0
        for subject in self.subjects:
            images, truth, kept = self._read(subject)
            predicted = np.zeros_like(truth)
            if kept.any():
                predicted[kept] = model.probabilities(images).argmax(1).numpy()
            found += int((predicted > 0).sum())
            scores.append([_dice(truth == k, predicted == k) for k in range(1, len(self._classes))])
        each = np.mean(scores, axis=0)
        named = {f"val_dice_{name}": float(v) for name, v in zip(self._classes[1:], each, strict=True)}
        return {"val_dice": float(each.mean()), **named}, found


def _dice(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    size = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / size if size else 1.0


class _Training:
    """The state of one run and what is done to it."""

    def __init__(
        self,
        mixture: Mixture,
        model_config: UNetConfig,
        config: SegmenterTrainingConfig,
        folder: Path,
        identity: str,
        validation: VolumeSet | None,
        device: torch.device,
    ) -> None:
        self.mixture, self.model_config, self.config, self.folder = mixture, model_config, config, folder
        self.identity, self.device = identity, device
        self.precision = choose_precision(config.precision, device)
        network = build(
            model_config, len(mixture.channels), len(mixture.classes), mixture.resolution, config.seed
        )
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            config.lr,
            config.momentum,
            weight_decay=config.weight_decay,
            nesterov=True,
        )
        self.validate = _Validation(validation, mixture)
        self.model = Segmenter(
            self.network, mixture.channels, mixture.classes, mixture.resolution, device, self.precision, {}
        )
        self.checkpoints = Checkpoints(folder, identity)
        self.history = History(folder / "history.jsonl", "samples")
        self.step, self.seconds, self.losses = 0, 0.0, torch.zeros((), device=device)
        self.best: dict[str, Any] = {"samples": 0, "val_dice": None, "found": 0, "weights": self._weights()}
        self.collapsed = False
        self._restore()

    @property
    def samples(self) -> int:
        """Slices shown so far."""
        return self.step * self.config.batch

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: t.detach().cpu().clone().contiguous() for name, t in self.network.state_dict().items()}

    def _restore(self) -> None:
        found = self.checkpoints.latest()
        if found:
            state = found[1]
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.losses, self.best = state["losses"].to(self.device), state["best"]
        self.history.resume(self.samples)

    def save(self) -> None:
        """Writes a checkpoint with all that the next step depends on; the random draws depend on the step alone."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "best": self.best,
        }
        self.checkpoints.save(state, self.samples)

    def run(self, stop: StopRequest, meter: Meter) -> None:
        """Trains to the end of the budget, or until the loss is no longer finite."""
        saved = started = time.monotonic()
        before = self.seconds
        with ThreadPoolExecutor(1) as reader:  # reads the next batch from disk while this one is trained on
            batch = self._ahead(reader)
            while self.step < self.config.steps and not self.collapsed:
                images, labels = batch.result()
                numbers = self._numbers()
                self.losses += self.train_step(numbers, images, labels)
                self.step += 1
                batch = self._ahead(reader)
                self.seconds = before + time.monotonic() - started
                meter.advance(self.config.batch, **self._report())
                if stop.requested or time.monotonic() - saved > self.config.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
                if stop.requested:
                    raise Interrupted(f"{self.folder}: stopped after {self.samples} samples")

    def _numbers(self) -> NDArray[np.int64]:
        return np.arange(self.samples, self.samples + self.config.batch)

    def _ahead(self, reader: ThreadPoolExecutor) -> Future[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        return reader.submit(self.mixture.read, self._numbers())

    def train_step(
        self, numbers: NDArray[np.int64], images: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> torch.Tensor:
        """One update on the samples with these numbers; returns the loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step)
        self.network.train()
        plan = draw(config.augment, config.seed, numbers)
        x, target = apply(
            plan, torch.from_numpy(images).to(self.device), torch.from_numpy(labels).to(self.device)
        )
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = self.network(x)
        loss = segmentation_loss(outputs, target, self.network.level_weights, config.dice_background)  # type: ignore[arg-type]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        return loss.detach()

    def _report(self) -> dict[str, Any]:
        """Adds a line to the history every few steps and at validations; returns figures for the bar."""
        config = self.config
        turn = self.step * config.validations // config.steps
        validate = turn > (self.step - 1) * config.validations // config.steps and bool(
            self.validate.subjects
        )
        if self.step % LOG_STEPS and not validate and self.step < config.steps:
            return {}
        since = self.step % LOG_STEPS or LOG_STEPS
        loss = float(self.losses) / since
        line: dict[str, Any] = {"loss": loss, "lr": config.rate(self.step - 1)}
        if not math.isfinite(loss):
            self.collapsed = True
            line = {"collapsed": True, "lr": line["lr"]}  # NaN is not JSON
        elif validate:
            line |= self._select()
        if not self.step % LOG_STEPS:
            self.losses = torch.zeros_like(self.losses)
        self.history.append(
            samples=self.samples,
            seconds=round(self.seconds, 3),
            samples_per_second=round(self.samples / max(1e-9, self.seconds), 1),
            **line,
        )
        return line

    def _select(self) -> dict[str, float]:
        """Predicts the validation patients and keeps the weights if they are the best so far."""
        scores, found = self.validate(self.model)
        if self.best["val_dice"] is None or scores["val_dice"] > self.best["val_dice"]:
            self.best = {
                "samples": self.samples,
                "val_dice": scores["val_dice"],
                "found": found,
                "weights": self._weights(),
            }
        return scores

    def finish(self) -> None:
        """Writes the result: the weights, then the record that makes it complete; the checkpoints go."""
        if not self.validate.subjects and not self.collapsed:
            self.best = {"samples": self.samples, "val_dice": None, "found": 1, "weights": self._weights()}
        with atomic_path(self.folder / "segmenter.safetensors") as temporary:
            save_file(self.best["weights"], temporary)
        collapsed = self.collapsed or not self.best["found"]
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
                "validation_patients": len(self.validate.subjects),
                "outcome": "collapsed" if collapsed else "trained",
                "samples": self.samples,
                "best_samples": self.best["samples"],
                "best_val_dice": self.best["val_dice"],
                "precision": self.precision,
                "device": str(self.device),
                "torch": torch.__version__,
                "seconds": round(self.seconds, 3),
            },
        )
        self.checkpoints.clear()
