"""The adversarial trainings whose networks grow: Progressive GAN and StyleGAN 1 (Karras et al. 2018, sec. 2).

Level, batch and learning rate follow the real images shown so far; what the optimisers have learned about gradients
is dropped whenever layers join or leave. The discriminator learns first in a step, as in the official code; unlike
there, the average follows behind the generator's turn (not between the turns), and the mean of StyleGAN 1's w moves
once a step (not in both turns).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from understudy.generators.networks import progan, stylegan1
from understudy.generators.networks.progressive import fade_real, resets_optimiser
from understudy.generators.training.config import GrowingTraining, ProGanTraining, StyleGan1Training
from understudy.generators.training.gan import GanTrainer, adam, lazy_ratio
from understudy.generators.training.losses import (
    between,
    logistic_discriminator_loss,
    r1_penalty,
    squared_gradient,
    wasserstein_generator_loss,
    wgan_gp_discriminator_loss,
)
from understudy.generators.training.trainer import annealed_beta


class _GrowingTrainer(GanTrainer):
    """Adds the schedule of levels.

    Attributes:
        level: of the networks now; held for a few steps.
    """

    config: GrowingTraining
    generator_first = False

    def _prepare(self) -> None:
        super()._prepare()
        self.schedule = self.config.schedule()
        self._set_level(self.schedule.level(0, self.model.resolution))

    def _make_optimisers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        return adam(self.generator, self.config.g_lr), adam(self.discriminator, self.config.d_lr)

    def _set_level(self, level: float) -> None:
        self.level = level
        for network in (self.generator, self.average):
            network.level.fill_(level)
        rates, config = self.config.rates, self.config
        self.g_optimiser.param_groups[0]["lr"] = rates.get(self.edge, config.g_lr)
        self.d_optimiser.param_groups[0]["lr"] = rates.get(self.edge, config.d_lr)

    @property
    def batch(self) -> int:
        """See `Trainer.batch`."""
        return self.schedule.batch_at(self.level, self.model.resolution)

    @property
    def batches(self) -> set[int]:
        """See `Trainer.batches`: those of the levels from the first to that reached after `kimg`."""
        resolution, images = self.model.resolution, math.ceil(self.config.kimg * 1000)
        first, last = (math.floor(self.schedule.level(n, resolution)) for n in (0, images))
        return {self.schedule.batch_at(level, resolution) for level in range(last, first + 1)}

    def step(self) -> None:
        """See `GanTrainer.step`; before it the level is brought up to date, every few steps."""
        if self.steps % self.schedule.steps_per_update == 0:
            level = self.schedule.level(self.images, self.model.resolution)
            if resets_optimiser(self.level, level):
                for optimiser in self._optimisers().values():
                    optimiser.state.clear()
            self._set_level(level)
        super().step()
        self.note({"level": self.level})

    def _draw_latents(self, rng: torch.Generator) -> dict[str, Tensor]:
        latents: dict[str, Tensor] = self.generator.draw(self.batch, rng, self.config.mixing, self.level)
        return latents

    def real_batch(self, step: int) -> Tensor:
        """As `Trainer.real_batch`, as the networks see them at this level [N, C, R >> floor(level), ...]."""
        return fade_real(super().real_batch(step), self.level)

    def _scores(self, images: Tensor, batches: int = 1, dtype: torch.dtype | None = None) -> Tensor:
        scores: Tensor = self.discriminator(images, dtype=dtype or self.dtype, batches=batches, level=self.level)
        return scores

    def _squared_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return squared_gradient(self.discriminator, images, self.dtype, self.level)

    def state(self) -> dict[str, Any]:
        """See `Trainer.state`."""
        return super().state() | {"level": self.level}

    def restore(self, steps: int, state: dict[str, Any]) -> None:
        """See `Trainer.restore`."""
        super().restore(steps, state)
        self._set_level(state["level"])


class ProGanTrainer(_GrowingTrainer):
    """Wasserstein loss with gradient penalty and drift (Gulrajani et al. 2017; Karras et al. 2018, app. A.1).

    Attributes:
        middle: between the mean scores of real and synthetic images, in the last step. The scores have no zero of
            their own, so that for the adaptive augmentation this is where "real" begins.
    """

    config: ProGanTraining

    def _build(self) -> nn.Module:
        return progan.build(self.model, self.config.seed)

    def _prepare(self) -> None:
        super()._prepare()
        self.middle = torch.zeros([], device=self.device)

    def _draw_more(self, rng: torch.Generator) -> dict[str, Any]:
        return self.local({"between": torch.rand(self.batch, 1, 1, 1, generator=rng)})

    def _generator_loss(self, scores: Tensor) -> Tensor:
        return wasserstein_generator_loss(scores)

    def _discriminator_loss(self, part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        fake = self._fixed_fakes(part)
        scores, scores_fake = self._scores_of_both(part, fake)
        images = between(part["real"], fake, part["between"].to(self.device))
        squared = self._squared_gradient(images)[1]
        value = wgan_gp_discriminator_loss(scores, scores_fake, squared, self.config.gp_weight, drift=self.config.drift)
        return value, {
            "loss_d": value,
            "real_sign": (scores.detach() - self.middle).sign().mean(),
            "middle": (scores.mean() + scores_fake.mean()) / 2,
            "gradient": squared.detach().sqrt().mean(),
        }

    def _follow_up(self, inputs: dict[str, Any], figures: dict[str, Tensor]) -> None:
        self.middle = figures["middle"]

    def _average_beta(self) -> float:
        return self.config.ema_beta

    def state(self) -> dict[str, Any]:
        """See `Trainer.state`."""
        return super().state() | {"middle": self.middle}

    def restore(self, steps: int, state: dict[str, Any]) -> None:
        """See `Trainer.restore`."""
        super().restore(steps, state)
        self.middle = state["middle"].to(self.device)


class StyleGan1Trainer(_GrowingTrainer):
    """Logistic loss and R1 (Mescheder et al. 2018): in the loss of every step, or, with an `r1_interval`, now and
    then in a step of its own, scaled by the interval (Karras et al. 2020, app. B)."""

    config: StyleGan1Training

    def _build(self) -> nn.Module:
        return stylegan1.build(self.model, self.config.seed)

    @property
    def _lazy(self) -> bool:
        return self.config.r1_interval > 1

    def _make_optimisers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        config, interval = self.config, self.config.r1_interval if self._lazy else None
        return adam(self.generator, config.g_lr), adam(self.discriminator, config.d_lr, interval)

    def _set_level(self, level: float) -> None:
        super()._set_level(level)
        if self._lazy:
            self.d_optimiser.param_groups[0]["lr"] *= lazy_ratio(self.config.r1_interval)

    def _follow_up(self, inputs: dict[str, Any], figures: dict[str, Tensor]) -> None:
        if self._lazy:
            self._lazy_r1(inputs, self.config.r1_gamma, self.config.r1_interval)

    def _discriminator_loss(self, part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        if self._lazy:
            return super()._discriminator_loss(part)
        fake = self._scores(self._fixed_fakes(part))
        real, squared = self._squared_gradient(part["real"])
        loss = logistic_discriminator_loss(real, fake)
        figures = {"loss_d": loss, "real_sign": real.detach().sign().mean(), "r1": squared.mean()}
        return loss + r1_penalty(squared, self.config.r1_gamma), figures

    def _average_beta(self) -> float:
        return annealed_beta(self.batch, self.images + self.batch, self.config.ema_kimg * 1000, rampup=None)
