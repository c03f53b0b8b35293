"""The training step of the diffusion model: the network learns to find the noise in noised images (Ho et al. 2020)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.generators.diffusion.process import training_losses
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.joint import annotation_channels
from understudy.generators.training.ada import Mover, movement
from understudy.generators.training.config import DiffusionTraining
from understudy.generators.training.data import seeded_generator
from understudy.generators.training.distributed import ProcessGroup
from understudy.generators.training.state import TrainingState
from understudy.slices import SliceSet

PREVIEW_SAMPLER = SamplerConfig(kind="dpm++", steps=12)  # enough to see what has been learned


def denoising_step(diffusion: DiffusionState) -> None:
    """One training step: each image of the batch is noised at a step t of its own, drawn evenly; then the EMA.

    With augmentation the image is moved before, and the network is told how.
    """
    config, model = diffusion.config, diffusion.model
    rng = seeded_generator(config.seed, 2, diffusion.steps)
    shape = (diffusion.batch, model.channels, model.resolution, model.resolution)
    t = torch.randint(len(diffusion.process), shape[:1], generator=rng)
    noise, moved = torch.randn(shape, generator=rng), diffusion.mover.draw(diffusion.batch, model.resolution, rng)
    inputs = diffusion.local_rows({"t": t, "noise": noise, "moved": moved})
    clean = diffusion.data.batch(diffusion.steps, diffusion.batch)
    inputs["clean"] = diffusion.mover.apply(clean, inputs["moved"], diffusion.annotation_channels)
    with dropout_seed(diffusion):
        diffusion.backward_and_step("generator", inputs, partial(denoising_loss, diffusion))
    steps = diffusion.steps + 1
    ramp = (1 + steps) / (10 + steps) if config.ema_rampup else 1.0
    diffusion.finish_step(min(config.ema_beta, ramp))


def denoising_loss(diffusion: DiffusionState, part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Error of the predicted noise or velocity, and with learned variance the variational bound, of a micro-batch."""
    network = partial(diffusion.generator, dtype=diffusion.dtype, moved=movement(part["moved"]))
    process = diffusion.process
    losses = training_losses(network, process, part["clean"], part["t"], part["noise"], diffusion.config.min_snr)
    stats = {name if name == "loss" else f"loss_{name}": values.mean() for name, values in losses.items()}
    return losses["loss"].mean(), stats


@contextlib.contextmanager
def dropout_seed(diffusion: DiffusionState) -> Iterator[None]:
    """Dropout draws from torch's global generator: here from (seed, step, rank), and nobody else notices."""
    if not diffusion.model.dropout:
        yield
        return
    devices = [diffusion.device] if diffusion.device.type == "cuda" else []
    key = seeded_generator(diffusion.config.seed, 3, diffusion.steps, diffusion.processes.rank).initial_seed()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key)
        yield


class DiffusionState(TrainingState):
    """The U-Net, its EMA, and AdamW."""

    step = denoising_step
    quick_preview = False

    def __init__(
        self, slices: SliceSet, rows: NDArray[np.int64], model: Any, config: DiffusionTraining, device: torch.device,
        processes: ProcessGroup | None = None,
    ) -> None:  # fmt: skip
        if config.augment.p:
            model = model.model_copy(update={"told_movement": True})
        super().__init__(slices, rows, model, config, device, processes)
        self.mover = Mover(config.augment)
        self.annotation_channels = annotation_channels(slices.classes, config.annotation)
        self.process = model.process()
        adam = torch.optim.AdamW(
            self.generator.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.optimisers = {"generator": adam}

    def preview(self, count: int) -> Tensor:
        images: Tensor = self.ema.sample(count, self.config.seed, sampler=PREVIEW_SAMPLER, dtype=self.dtype)
        return images
