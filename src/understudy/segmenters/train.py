"""Trains a segmenter on real slices, synthetic slices or both (paper, section 4.3).

Everything random comes from (seed, sample number): an interrupted run that is started again continues from its last
checkpoint and ends in the same weights, bit for bit, as an unbroken one. Only `max_minutes`, which ends a training by
the clock, cannot be repeated; the record says where it ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from understudy import __version__
from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import atomic_path, read_json, sha256_file, sha256_json, write_json
from understudy.io.seals import are_intact, file_hash
from understudy.metrics.overlap import confusion
from understudy.runtime.checkpoints import Checkpoints, History, StopRequest
from understudy.runtime.devices import resolve_device, resolve_precision
from understudy.runtime.memory import FIX, OutOfMemory, current, is_out_of_memory, release_memory
from understudy.runtime.progress import track
from understudy.segmenters.augment import apply, draw
from understudy.segmenters.config import (
    ModelConfig,
    Network,
    SegmenterTrainingConfig,
    build_model,
    check_batch,
    paper_training,
)
from understudy.segmenters.losses import backward, batch_norms, segmentation_loss
from understudy.segmenters.mixing import Mixture, Prefetcher, Source, channel_order, class_table
from understudy.segmenters.predict import FORMAT, WEIGHTS, Segmenter, load
from understudy.segmenters.unet import UNetConfig
from understudy.slices import SliceSet
from understudy.volumes import VolumeSet

TRAINING = "training of a segmenter"  # in the record of what memory was too small for
LOG_STEPS = 20  # steps between lines of the history
CACHE_BYTES = 1 << 29  # validation volumes stay in memory up to this size
_STREAM = 0x5E6  # keeps these draws apart from other uses of the same seed

Labels = NDArray[np.uint8]
HeldOut = VolumeSet | SliceSet | None


def train(
    real: SliceSet | None, synthetic: SliceSet | None = None, model: ModelConfig | None = None,
    config: SegmenterTrainingConfig | None = None, validation: HeldOut = None, device: str = "auto",
    progress: bool = True,
) -> Segmenter:  # fmt: skip
    """Trains in memory and returns the best segmenter; arguments and `record` as `train_segmenter` has them."""
    model = model or UNetConfig()
    config = config or paper_training(model.kind)
    mixture = _training_set(real, synthetic, model, config)
    training = Training(mixture, model, config, validation, resolve_device(device))
    with track(training.steps * config.batch, "training segmenter", "samples", 0, progress) as meter:
        for line in training.run():
            meter.advance(config.batch, **line)
    training.network.load_state_dict(training.best["weights"])
    training.model.record = training.record()
    return training.model


def train_segmenter(
    real: SliceSet | None, synthetic: SliceSet | None, model_config: ModelConfig | None = None,
    config: SegmenterTrainingConfig | None = None, run_dir: str | Path = "segmenter", validation: HeldOut = None,
    device: str = "auto", progress: bool = True, initial: str | Path | None = None,
) -> Path:  # fmt: skip
    """Trains, or continues, or returns at once what was finished before: the folder `run_dir`.

    Args:
        real, synthetic: patients' slices (those of the split "train" are used) and generated ones; one may be None.
        model_config, config: network and training; None: the U-Net, and the paper's training of this kind.
        run_dir: folder of checkpoints, `history.jsonl` and, at the end, `segmenter.safetensors` and `config.json`,
            which records `outcome` ("trained" or "collapsed", and in `collapse` how), `ended` ("budget", "time" or
            "collapse") and `validated_on`, which data selected the weights.
        validation: selects the best weights: volumes (patients of the split "val"), or slices; None: the last are kept.
        initial: folder of a finished segmenter of the same network, whose weights this training starts from, and whose
            order of channels and classes it keeps; None: new weights from the seed.

    Raises:
        Interrupted: SIGTERM or SIGINT; a checkpoint was written.
        UnderstudyError: data that do not fit together, a folder of another training, disk full.
    """
    folder, model = Path(run_dir), model_config or UNetConfig()
    config = config or paper_training(model.kind)
    start, begun = None, {}
    if initial is not None:
        start, weights = load(initial, "cpu"), sha256_file(Path(initial) / WEIGHTS)
        begun = {"initial": {"weights_sha256": weights, "outcome": start.record["outcome"]}}
    mixture = _training_set(real, synthetic, model, config, start)
    held_out = sha256_file(validation.path / "volumes.json") if isinstance(validation, VolumeSet) else None
    decisive = {
        "format": FORMAT, "model": model.model_dump(mode="json"), "sources": mixture.sources,
        "training": config.model_dump(mode="json", exclude={"checkpoint_seconds"}),
        "validation": validation.content_hash if isinstance(validation, SliceSet) else held_out,
    }  # fmt: skip
    identity = sha256_json(decisive | begun)
    if (folder / "config.json").is_file() and (folder / WEIGHTS).is_file():
        before = read_json(folder / "config.json", dict)
        if before.get("identity") != identity:
            raise UnderstudyError("the folder holds a segmenter of another training", folder, "use another folder")
        if are_intact(folder, before):  # else the weights were changed: it begins anew
            return folder
    training = Training(mixture, model, config, validation, resolve_device(device), start, folder)
    checkpoints = Checkpoints(folder, identity)
    _run(training, checkpoints, progress)
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(training.best["weights"], temporary)
    hashes = {WEIGHTS: file_hash(folder / WEIGHTS)}
    content = {"identity": identity, "sha256": hashes, **training.record(), **begun}
    if checkpoints.damaged:
        content["damaged_checkpoints"] = checkpoints.damaged
    write_json(folder / "config.json", content)  # the last: the result is complete
    checkpoints.clear()
    return folder


def _training_set(
    real: SliceSet | None, synthetic: SliceSet | None, model: ModelConfig, config: SegmenterTrainingConfig,
    start: Segmenter | None = None,
) -> Mixture:  # fmt: skip
    """The training samples, checked against the network and the segmenter to start from."""
    check_batch(model, config)
    if start is None:
        return Mixture(real, synthetic, config.mixture, config.seed)
    if start.record["model"] != model.model_dump(mode="json"):
        raise UnderstudyError("the segmenter to continue from is another network", "initial", "use the same `model`")
    mixture = Mixture(real, synthetic, config.mixture, config.seed, (start.channels, start.classes))
    if start.resolution != mixture.resolution:
        sizes = f"the segmenter to continue from takes {start.resolution} pixels, the slices have {mixture.resolution}"
        raise UnderstudyError(sizes, "initial", "train both at the same resolution")
    return mixture


def _run(training: Training, checkpoints: Checkpoints, progress: bool) -> None:
    """From the last checkpoint to the end, with a history beside the checkpoints."""
    config, history = training.config, History(checkpoints.folder)
    if found := checkpoints.latest():
        training.restore(found[1])
    history.resume(checkpoints.history)
    saved = time.monotonic()
    with (
        StopRequest() as stop,
        track(training.steps * config.batch, "training segmenter", "samples", training.samples, progress) as meter,
    ):
        for line in training.run():
            if line:
                history.append(samples=training.samples, **training.speed(), **line)
            meter.advance(config.batch, **line)
            if stop.requested or time.monotonic() - saved > config.checkpoint_seconds:
                checkpoints.save(training.state(), training.samples, history.text)
                saved = time.monotonic()
            if stop.requested:
                raise Interrupted(f"{checkpoints.folder}: stopped after {training.samples} samples")


class Training:
    """The state of one training; `run` takes its steps, everything else (files, bar, signals) is outside."""

    def __init__(
        self, mixture: Mixture, model_config: ModelConfig, config: SegmenterTrainingConfig, held_out: HeldOut,
        device: torch.device, start: Segmenter | None = None, folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.mixture, self.model_config, self.config = mixture, model_config, config
        self.device, self.folder = device, folder
        channels, classes, resolution = mixture.channels, mixture.classes, mixture.resolution
        network = build_model(model_config, len(channels), len(classes), resolution, config.seed)
        if start is not None:
            network.load_state_dict(start.network.state_dict())
        self.network: Network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimiser_for(self.network, config)
        self.validation = validation_for(config, mixture, held_out)
        self.steps = config.steps(mixture.slices)
        dtype = resolve_precision(config.precision, device)
        self.model = Segmenter(self.network, channels, classes, resolution, device, dtype, {}, config.augment.input)
        self.step, self.seconds, self.waited = 0, 0.0, 0.0
        self.losses = torch.zeros((), device=device)  # sum since the last line of the history
        # the selected weights; found: foreground pixels in the validation data
        self.best: dict[str, Any] = {"samples": 0, "val_dice": None, "found": 0, "weights": self._weights()}
        self.ended, self.collapse = "budget", ""  # or "time", "collapse"; how it collapsed
        # at least one slice in a part, or two where they are normalised together
        self._most_parts = max(1, config.batch // (2 if batch_norms(self.network) else 1))
        self.parts = min(current().least_parts, self._most_parts)  # more than one where memory ran out
        self._record_parts()

    @property
    def samples(self) -> int:
        """Slices shown so far."""
        return self.step * self.config.batch

    def _weights(self) -> dict[str, Tensor]:
        return {name: t.detach().cpu().clone().contiguous() for name, t in self.network.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """All that the next step depends on; the random draws depend on the step alone."""
        own = {name: getattr(self, name) for name in ("step", "seconds", "waited", "losses", "best", "parts")}
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), **own}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.waited = state["step"], state["seconds"], state["waited"]
        self.losses, self.best = state["losses"].to(self.device), state["best"]
        self.parts = max(self.parts, state["parts"])
        self._record_parts()

    def run(self) -> Iterator[dict[str, Any]]:
        """Trains to the end of the budget or of the time, or until the loss is no longer finite; selects `best`.

        Yields:
            After each step a line for the history; {} for most steps.
        """
        started, seconds, waited = time.monotonic(), self.seconds, self.waited
        batches = Prefetcher(self.mixture.read, self.config.batch, self.step, self.steps)
        for numbers, images, labels in batches:
            self.losses += self.train_step(numbers, images, labels)
            self.step += 1
            self.waited = waited + batches.waited
            self.seconds = seconds + time.monotonic() - started
            if self.seconds >= 60 * (self.config.max_minutes or math.inf) and self.step < self.steps:
                self.ended = "time"
            yield self._line()
            if self.ended != "budget":
                break
        if not self.validation and self.ended != "collapse":  # then the last weights are the best
            weights = self._weights()
            if all(bool(t.isfinite().all()) for t in weights.values()):
                self.best = {"samples": self.samples, "val_dice": None, "found": 1, "weights": weights}
            else:
                self.ended, self.collapse = "collapse", "the last step left weights that are not finite"
        if not self.collapse and not self.best["found"]:
            self.collapse = "the best weights find nothing in any of the validation data"

    def train_step(self, numbers: NDArray[np.int64], images: NDArray[np.uint8], labels: Labels) -> Tensor:
        """One update on the samples with these numbers, uint8 [N, C, R, R] and [N, R, R]; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step, self.steps)
        self.network.train()  # a validation may have left it in evaluation mode
        plan = draw(self.config.augment, self.config.seed, numbers)  # of (seed, sample number) alone
        moved = (torch.from_numpy(array).to(self.device, non_blocking=True) for array in (images, labels))
        x, target = apply(plan, *moved)
        loss = self._backward(x, target)
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        return loss

    def _backward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, and its gradient in the parameters' `grad`; in smaller parts where memory runs out."""
        config, levels = self.config, self.network.level_weights
        devices = [self.device] if self.device.type == "cuda" else []

        def forward(piece: Tensor, part: int) -> Sequence[Tensor]:
            # what the network draws (dropout, skipped blocks) follows from (seed, step) and leaves no trace
            own = np.random.SeedSequence([config.seed, _STREAM, self.step, *([part] if part else [])])
            autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.model.dtype == torch.bfloat16)
            with torch.random.fork_rng(devices=devices), autocast:
                torch.manual_seed(int(own.generate_state(1, np.uint64)[0] >> 1))
                found: Sequence[Tensor] = self.network(piece)
            return found

        def loss(outputs: Sequence[Tensor]) -> Tensor:
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
            release_memory()  # outside of `except`: the exception keeps what fills the memory
            self._record_parts()

    def _record_parts(self) -> None:
        if self.parts > 1:
            effect = "the same up to rounding"
            if batch_norms(self.network):
                effect = "other results, slices are normalised within a part"
            current().divide(TRAINING, -(-self.config.batch // self.parts), self.config.batch, effect)

    def _line(self) -> dict[str, Any]:
        """A line of the history every few steps and at validations, {} in between."""
        last = self.step == self.steps or self.ended == "time"
        turn, turn_before = (step * self.config.validations // self.steps for step in (self.step, self.step - 1))
        validate = bool(self.validation) and (last or turn > turn_before)
        if self.step % LOG_STEPS and not validate and not last:
            return {}
        loss = float(self.losses) / (self.step % LOG_STEPS or LOG_STEPS)  # waits for a GPU
        line = {"loss": loss, "lr": self.config.rate(self.step - 1, self.steps)}
        if not self.step % LOG_STEPS:
            self.losses = torch.zeros_like(self.losses)
        if not math.isfinite(loss):
            self.ended = "collapse"
            self.collapse = f"the loss was not finite ({loss}) within {self.samples} samples"
            return {"collapsed": True, "lr": line["lr"]}  # NaN is not JSON
        if validate:
            scores, found = self.validation.scores(self.model)
            line |= scores
            if self.best["val_dice"] is None or scores["val_dice"] > self.best["val_dice"]:
                self.best = {"samples": self.samples, "val_dice": scores["val_dice"], "found": found}
                self.best["weights"] = self._weights()
        return line

    def speed(self) -> dict[str, float]:
        """Seconds so far, samples a second, and the share of the time that the training waited for the next batch."""
        seconds = max(1e-9, self.seconds)
        rate, share = round(self.samples / seconds, 1), round(self.waited / seconds, 4)
        return {"seconds": round(self.seconds, 3), "samples_per_second": rate, "waiting_share": share}

    def record(self) -> dict[str, Any]:
        """What `config.json` says of the finished training."""
        speed = self.speed()
        return {
            "format": FORMAT, "software_version": __version__, "torch": torch.__version__, "device": str(self.device),
            "precision": "bf16" if self.model.dtype == torch.bfloat16 else "fp32",
            "model": self.model_config.model_dump(mode="json"), "training": self.config.model_dump(mode="json"),
            "channels": list(self.mixture.channels), "classes": list(self.mixture.classes),
            "resolution": self.mixture.resolution, "sources": self.mixture.sources,
            "validated_on": self.validation.record,
            "outcome": "collapsed" if self.collapse else "trained", "collapse": self.collapse or None,
            "ended": self.ended, "samples": self.samples, "budget_samples": self.steps * self.config.batch,
            "best_samples": self.best["samples"], "best_val_dice": self.best["val_dice"],
            "seconds": speed["seconds"], "waiting_share": speed["waiting_share"],
            **({} if self.parts == 1 else {"parts": self.parts}),
        }  # fmt: skip


def optimiser_for(network: Network, config: SegmenterTrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of the configuration; weight decay spares what the network names."""
    spared = {id(parameter) for parameter in network.undecayed()}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if id(p) not in spared]},
        {"params": [p for p in network.parameters() if id(p) in spared], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimiser == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(groups, config.lr, config.momentum, 0, config.weight_decay, nesterov)
    return torch.optim.AdamW(groups, config.lr, config.betas, weight_decay=config.weight_decay)


# --- what the best weights are selected on ---


@dataclass(frozen=True)
class Validation:
    """Mean Dice over cases: volumes of patients, or slices. False without any."""

    classes: tuple[str, ...]
    record: dict[str, Any]  # what the data are, for the result
    cases: Callable[[Segmenter], Iterator[tuple[Labels, Labels]]]  # prediction and truth of each

    def __bool__(self) -> bool:
        return 0 not in self.record.values()

    def scores(self, model: Segmenter) -> tuple[dict[str, float], int]:
        """({"val_dice": mean over classes and cases, "val_dice_<class>": ...}, foreground pixels predicted)."""
        dice, found, count = [], 0, len(self.classes)
        for pred, truth in self.cases(model):
            table = confusion(pred, truth, count)
            sizes = table.sum(0) + table.sum(1)  # [K], of both masks together; where both are empty the Dice is 1
            dice.append(np.divide(2 * table.diagonal(), sizes, out=np.ones(count), where=sizes > 0)[1:])
            found += int(table[:, 1:].sum())
        each = np.array(dice).mean(axis=0)  # [classes]
        named = {f"val_dice_{name}": float(value) for name, value in zip(self.classes[1:], each, strict=True)}
        return {"val_dice": float(each.mean()), **named}, found


def validation_for(config: SegmenterTrainingConfig, mixture: Mixture, held_out: HeldOut) -> Validation:
    """Real patients for every training, so that all settings are selected on the same; with `same_as_training`,
    synthetic slices for a training on such alone, which are taken out of the mixture."""
    classes = mixture.classes
    if config.validation == "same_as_training" and set(mixture.sources) == {"synthetic"}:
        source, rows = mixture.hold_out(0.2, config.validation_slices)  # the paper's share of images
        return Validation(classes, {"kind": "synthetic", "slices": len(rows)}, partial(_slices, source, rows))
    if isinstance(held_out, SliceSet):
        rows = np.arange(len(held_out))
        source = Source(held_out, rows, mixture.channels, classes)
        return Validation(classes, {"kind": "real", "slices": len(rows)}, partial(_slices, source, rows))
    subjects = held_out.subjects("val") if held_out else []
    record = {"kind": "real" if subjects else "none", "patients": len(subjects)}
    if held_out is None or not subjects:
        return Validation(classes, record, lambda model: iter(()))
    order = channel_order(held_out.channels, mixture.channels, held_out.path)
    table = class_table([c.name for c in held_out.classes], classes, held_out.path)
    return Validation(classes, record, partial(_patients, held_out, subjects, order, table, {}))


def _slices(source: Source, rows: NDArray[np.int64], model: Segmenter) -> Iterator[tuple[Labels, Labels]]:
    for start in range(0, len(rows), 64):
        images, truth = source.read(rows[start : start + 64])
        pred = model.probabilities(np.ascontiguousarray(images)).argmax(1).to(torch.uint8).numpy()
        yield from zip(pred, truth, strict=True)


def _patients(
    volumes: VolumeSet, subjects: Sequence[str], order: list[int], table: Labels, cache: dict[str, Any],
    model: Segmenter,
) -> Iterator[tuple[Labels, Labels]]:  # fmt: skip
    """At the network's resolution; slices that the rule drops stay empty."""
    for subject in subjects:
        if subject in cache:
            images, truth, kept = cache[subject]
        else:
            volume = volumes.read(subject)
            truth, kept = table[volume.labels_at_network(len(volumes.classes))], volume.kept
            images = np.ascontiguousarray(volume.images[kept][:, order])
            if sum(held.nbytes for held, _, _ in cache.values()) + images.nbytes <= CACHE_BYTES:
                cache[subject] = images, truth, kept
        pred = np.zeros_like(truth)
        if kept.any():
            pred[kept] = model.probabilities(images).argmax(1).numpy()
        yield pred, truth
