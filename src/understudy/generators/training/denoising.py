"""Training of the diffusion model: the network learns to find the noise in noised images (facts 1.5).

Each image of a batch is noised at a step of its own, drawn evenly from all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from understudy.generators.diffusion.process import training_losses
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.networks import unet as diffusion
from understudy.generators.training.config import DiffusionTraining
from understudy.generators.training.trainer import Trainer, random_generator

PREVIEW_SAMPLER = SamplerConfig(kind="dpm++", steps=12)  # enough to see what has been learned


class DiffusionTrainer(Trainer):
    """AdamW on the error of the predicted noise, and with learned variance on the variational bound."""

    config: DiffusionTraining
    # Its operations are few and long, but not all of them use two threads. StyleGAN 2's are too short for this: there
    # the two lanes got in each other's way (6.9 s per 1000 images, 5.3 without; benchmarks/stylegan2_step.py).
    side_by_side = True
    quick_preview = False

    def _build(self) -> nn.Module:
        return diffusion.build(self.model, self.config.seed)

    def _prepare(self) -> None:
        self.process = self.model.process()
        self.optimiser = torch.optim.AdamW(
            self.generator.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True
        )

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.optimiser}

    def _numbers(self) -> Hashable:
        return ()

    def step(self) -> None:
        """One update, and the average."""
        rng = random_generator(self.config.seed, 2, self.steps)
        shape = (self.batch, self.model.channels, self.model.resolution, self.model.resolution)
        drawn = {
            "t": torch.randint(len(self.process), shape[:1], generator=rng),
            "noise": torch.randn(shape, generator=rng),
        }
        inputs = self.local(drawn) | {"clean": self.real_batch(self.steps)}
        with self._own_randomness():
            self.descend("denoising", self.optimiser, inputs, self.local_batch, self._loss)
        self._finish_step(self._average_beta())

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Dropout draws from torch's global generator: here from (seed, step, worker), and nobody else notices."""
        if not self.model.dropout:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        key = random_generator(self.config.seed, 3, self.steps, self.workers.rank).initial_seed()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(key)
            yield

    def _loss(self, part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        t, noise = part["t"].to(self.device), part["noise"].to(self.device)
        losses = training_losses(self._predict, self.process, part["clean"], t, noise, self.config.min_snr)  # each [N]
        return losses["loss"].mean(), {
            name if name == "loss" else f"loss_{name}": v.mean() for name, v in losses.items()
        }

    def _predict(self, images: Tensor, time: Tensor) -> Tensor:
        output: Tensor = self.generator(images, time, self.dtype)
        return output

    def _average_beta(self) -> float:
        beta, steps = self.config.ema_beta, self.steps + 1
        return min(beta, (1 + steps) / (10 + steps)) if self.config.ema_rampup else beta

    def preview(self, count: int) -> Tensor:
        """See `Trainer.preview`; in few steps of the sampler."""
        images: Tensor = self.average.sample(count, self.config.seed, sampler=PREVIEW_SAMPLER, dtype=self.dtype)
        return images
