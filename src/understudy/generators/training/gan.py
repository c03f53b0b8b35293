"""The training step of the four GANs: Progressive GAN, StyleGAN 1, 2 and 3.

Read `gan_step` first. What differs between them is asked of the training configuration (`config.GanTraining`) and, for
the networks that grow, follows from the level: 0 is the full resolution, 1 half of it (Karras et al. 2018, sec. 2).
"""

from __future__ import annotations

import functools
import logging
import math
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.joint import annotation_channels
from understudy.generators.networks.progressive import fade_real, resets_optimiser
from understudy.generators.ops.resampling import gaussian_blur
from understudy.generators.training.accumulation import Inputs
from understudy.generators.training.ada import Augment
from understudy.generators.training.config import GanTraining, LazyTraining
from understudy.generators.training.data import seeded_generator
from understudy.generators.training.distributed import ProcessGroup
from understudy.generators.training.losses import (
    logistic_discriminator_loss,
    logistic_generator_loss,
    path_lengths,
    r1_penalty,
    squared_gradient,
    wasserstein_generator_loss,
    wgan_gp_discriminator_loss,
)
from understudy.generators.training.state import TrainingState
from understudy.slices import SliceSet

log = logging.getLogger(__name__)

PREVIEW_BATCH = 32  # samples of a preview computed together


def gan_step(gan: GanState) -> None:
    """One training step: the turns of generator and discriminator, each with its lazy penalty, then the EMA.

    Unlike in the official codes of the growing models, the EMA is updated once, after both turns, and the mean w of
    StyleGAN 1 moves in the discriminator's turn only.
    """
    config = gan.config
    gan.grow()  # level, batch size and learning rates; nothing for StyleGAN 2 and 3
    rng = seeded_generator(config.seed, 2, gan.steps)
    for network in ("discriminator", "generator") if config.discriminator_first else ("generator", "discriminator"):
        gan.unfreeze(network)
        if network == "generator":
            gan.backward_and_step("generator", draw_fakes(gan, rng), partial(generator_loss, gan))
            if config.path_length_due(gan.steps):
                path_length_step(gan, rng)
        else:
            inputs = draw_fakes(gan, rng)
            if config.loss == "wgan-gp":  # where the gradient is penalised, between real and fake
                inputs |= gan.local_rows({"interpolates": torch.rand(gan.batch, 1, 1, 1, generator=rng)})
            inputs["real"] = draw_reals(gan, rng)
            stats = gan.backward_and_step("discriminator", inputs, partial(discriminator_loss, gan))
            gan.log({"ada_p": gan.ada.p})
            if gan.ada.config.mode == "adaptive":
                gan.ada.observe(stats["real_sign"], gan.batch)
            gan.score_offset = stats.get("middle", gan.score_offset)
            if gan.gamma and config.r1_due(gan.steps):
                gan.backward_and_step("discriminator", {"real": inputs["real"]}, partial(r1_loss, gan))
    gan.finish_step(config.ema_decay(gan.batch, gan.images + gan.batch))
    if gan.schedule:
        gan.log({"level": gan.level})


# --- losses of a micro-batch: each gives the loss and stats for the history ----------------------------------------


def generator_loss(gan: GanState, part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Non-saturating logistic loss (Goodfellow et al. 2014), or that of WGAN."""
    scores = gan.scores(fakes(gan, part))
    loss = wasserstein_generator_loss(scores) if gan.config.loss == "wgan-gp" else logistic_generator_loss(scores)
    return loss, {"loss_g": loss}


def discriminator_loss(gan: GanState, part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logistic loss, with R1 in every step for StyleGAN 1; or WGAN-GP with drift (Karras et al. 2018, app. A.1)."""
    config, real = gan.config, part["real"]
    with torch.no_grad():
        fake = fakes(gan, part, track=True)
    if config.r1_in_loss:
        fake_scores = gan.scores(fake)
        real = real.detach().requires_grad_()
        real_scores = gan.scores(real)
        squared = squared_gradient(real_scores, real, gan.level)
        loss = logistic_discriminator_loss(real_scores, fake_scores)
        stats = {"loss_d": loss, "r1": squared.mean()}
        loss = loss + r1_penalty(squared, gan.gamma)
    else:
        # one pass over two minibatches, as the minibatch deviation must not mix real with synthetic samples
        fake_scores, real_scores = gan.scores(torch.cat([fake, real]), batches=2).chunk(2)
        if config.loss == "wgan-gp":
            interpolates = real.lerp(fake, part["interpolates"]).requires_grad_()
            squared = squared_gradient(gan.scores(interpolates), interpolates, gan.level)
            loss = wgan_gp_discriminator_loss(real_scores, fake_scores, squared, config.gp_weight, config.drift)
            middle = (real_scores.mean() + fake_scores.mean()) / 2
            stats = {"loss_d": loss, "middle": middle, "gradient": squared.detach().sqrt().mean()}
        else:
            loss = logistic_discriminator_loss(real_scores, fake_scores)
            stats = {"loss_d": loss}
    return loss, stats | {"real_sign": (real_scores.detach() - gan.score_offset).sign().mean()}


def r1_loss(gan: GanState, part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """R1 of a step of its own, scaled by the interval as it comes so much more rarely (Karras et al. 2020, app. B).

    The gradient is with respect to the augmented images that the discriminator has just seen; the official code
    augments the images anew and differentiates with respect to those before it. Without augmentation it is the same.
    """
    real = part["real"].detach().requires_grad_()
    squared = squared_gradient(gan.scores(real), real, gan.level)
    return r1_penalty(squared, gan.gamma * gan.config.r1_interval), {"r1": squared.mean()}


def path_length_step(gan: GanState, rng: torch.Generator) -> None:
    """Path length regularisation (Karras et al. 2020, sec. 3.2), in a step of its own.

    The running mean is a constant to the penalty's gradient; in the official code the hundredth of it that comes from
    this batch is not.
    """
    config, resolution, count = gan.config, gan.model.resolution, gan.batch // gan.config.pl_shrink
    direction = torch.randn(count, gan.model.channels, resolution, resolution, generator=rng) / resolution
    latents = gan.generator.draw(count, rng, config.mixing)
    inputs = gan.local_rows({"latents": latents, "direction": direction, "mean": gan.path_mean})
    rows = count // gan.processes.world_size

    def lengths_of(part: dict[str, Any]) -> Tensor:
        maps = [x for name, x in part["latents"].items() if name.startswith("noise")]
        ws = gan.generator.ws(part["latents"])
        return path_lengths(gan.generator.synthesis, ws, part["direction"], maps, gan.dtype)

    @functools.cache
    def mean_length() -> Tensor:  # of the whole batch, where it is computed in parts: it is measured first
        for attempt in gan.accumulation.attempts(gan.local_batch):
            mean = torch.zeros([], device=gan.device)
            with attempt:
                for weight, part in attempt.micro_batches(inputs, rows):
                    mean += lengths_of(part).detach().mean() * weight
        gan.processes.all_reduce_mean([mean])
        return mean

    def loss(part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        whole_mean = None if len(part["direction"]) == count else mean_length()
        lengths = lengths_of(part)
        mean = lengths.detach().mean() if whole_mean is None else whole_mean
        penalty = (lengths - part["mean"].lerp(mean, config.pl_decay)).square().mean()
        return penalty * (config.pl_weight * config.pl_interval), {"pl": lengths.mean()}

    stats = gan.backward_and_step("generator", inputs, loss, rows)
    gan.path_mean = gan.path_mean.lerp(stats["pl"], config.pl_decay)


# --- what the discriminator sees -------------------------------------------------------------------------------------


def draw_fakes(gan: GanState, rng: torch.Generator) -> dict[str, Any]:
    """This process's inputs of `fakes`."""
    latents = gan.generator.draw(gan.batch, rng, gan.config.mixing, **gan.level_kwargs)
    return gan.local_rows({"latents": latents, "augmentation": draw_augmentation(gan, rng)})


def fakes(gan: GanState, drawn: Inputs, track: bool = False) -> Tensor:
    """Synthetic images, augmented; track: move the generator's running statistics."""
    images = gan.generator.synthesise(drawn["latents"], gan.level, gan.dtype, track=track)
    return augmented(gan, images, drawn["augmentation"])


def draw_reals(gan: GanState, rng: torch.Generator) -> Tensor:
    """This process's real images at the level, augmented."""
    drawn = gan.local_rows(draw_augmentation(gan, rng))
    return augmented(gan, fade_real(gan.data.batch(gan.steps, gan.batch), gan.level), drawn)


def draw_augmentation(gan: GanState, rng: torch.Generator) -> dict[str, Any]:
    """What is done to a batch of images before the discriminator sees them."""
    drawn: dict[str, Any] = {"ada": gan.ada.draw(gan.batch, gan.resolution, rng)}
    if gan.config.annotation_noise > 0:
        shape = (gan.batch, gan.annotation_channels, gan.resolution, gan.resolution)
        drawn["noise"] = torch.randn(shape, generator=rng)
    return drawn


def augmented(gan: GanState, images: Tensor, drawn: Inputs) -> Tensor:
    """Images under the operations of `draw_augmentation`, with noise on the annotation."""
    images = gan.ada.apply(images, drawn["ada"])
    if "noise" in drawn:
        noise = drawn["noise"]
        channels = noise.shape[1]
        noisy = images[:, -channels:] + noise * gan.config.annotation_noise
        images = torch.cat([images[:, :-channels], noisy], dim=1)
    return images


# --- the state -------------------------------------------------------------------------------------------------------


class GanState(TrainingState):
    """Two networks that take turns.

    Attributes:
        level: current level of growing networks, updated every few steps; 0 is the full resolution.
        path_mean: running mean of the path lengths (StyleGAN 2).
        score_offset: between the mean scores of real and synthetic images in the last step. WGAN's scores have no zero
            of their own, so for the adaptive augmentation this is where "real" begins; 0 for the others.
    """

    step = gan_step

    def __init__(
        self, slices: SliceSet, rows: NDArray[np.int64], model: Any, config: GanTraining, device: torch.device,
        processes: ProcessGroup | None = None,
    ) -> None:  # fmt: skip
        super().__init__(slices, rows, model, config, device, processes)
        self.discriminator: Any = self.network.discriminator
        networks = (("generator", self.generator), ("discriminator", self.discriminator))
        self.optimisers = {
            name: torch.optim.Adam(network.parameters(), betas=(0.0, 0.99**ratio), eps=1e-8, fused=True)
            for (name, network), ratio in zip(networks, config.lazy_ratios(), strict=True)
        }
        self.ada = Augment(config.augment.resolved(len(rows)))
        self.annotation_channels = annotation_channels(slices.classes, config.annotation)
        self.gamma = config.gamma(model.resolution)
        if advice := config.gamma_advice(model.resolution):
            log.warning(advice)
        self.path_mean = torch.zeros([], device=device)
        self.score_offset = torch.zeros([], device=device)
        self.schedule = config.schedule()
        self.set_level(self.schedule.level(0, model.resolution) if self.schedule else 0.0)

    def set_level(self, level: float) -> None:
        """Sets the level of both networks and the learning rates that belong to its resolution."""
        self.level = level
        self.level_kwargs = {"level": level} if level else {}  # only growing networks know levels
        if self.schedule:
            for network in (self.generator, self.ema):
                network.level.fill_(level)
        rates = zip(self.config.learning_rates(self.resolution), self.config.lazy_ratios(), strict=True)
        for optimiser, (rate, ratio) in zip(self.optimisers.values(), rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * ratio

    def grow(self) -> None:
        """Brings the level up to date, every few steps; drops what the optimisers have learned about gradients whenever
        layers join or leave."""
        if self.schedule is None or self.steps % self.schedule.steps_per_update:
            return
        level = self.schedule.level(self.images, self.model.resolution)
        if resets_optimiser(self.level, level):
            for optimiser in self.optimisers.values():
                optimiser.state.clear()
        self.set_level(level)

    def unfreeze(self, learning: str) -> None:
        """Only this network learns: no gradients by the other one's weights are computed."""
        for name, optimiser in self.optimisers.items():
            for parameter in optimiser.param_groups[0]["params"]:
                parameter.requires_grad = name == learning

    @property
    def resolution(self) -> int:
        """Edge of the images that the networks now work on, pixels."""
        return int(self.model.resolution) >> math.floor(self.level)

    @property
    def batch(self) -> int:
        if self.schedule:
            return self.schedule.batch_at(self.level, self.model.resolution)
        return int(self.config.batch)

    @property
    def batches(self) -> set[int]:
        """Those of all levels from the first to that reached after `kimg`."""
        if self.schedule is None:
            return {self.batch}
        resolution, images = self.model.resolution, math.ceil(self.config.kimg * 1000)
        first, last = (math.floor(self.schedule.level(n, resolution)) for n in (0, images))
        return {self.schedule.batch_at(level, resolution) for level in range(last, first + 1)}

    def check_batches(self) -> None:
        super().check_batches()
        if self.config.path_length_due(0):
            count, world_size = self.batch // self.config.pl_shrink, self.processes.world_size
            if count % world_size:
                raise UnderstudyError(
                    f"the {count} images of the path length are not divisible by the world size {world_size}",
                    fix="choose a batch that is a multiple of devices * pl_shrink, or a smaller pl_shrink",
                )

    def scores(self, images: Tensor, batches: int = 1) -> Tensor:
        """Logits [N, 1] of augmented images; batches: minibatches that they consist of."""
        images = gaussian_blur(images, self.config.blur(self.model, self.images))  # the official code: then augmented
        scores: Tensor = self.discriminator(images, dtype=self.dtype, batches=batches, **self.level_kwargs)
        return scores

    @torch.no_grad()
    def preview(self, count: int) -> Tensor:
        latents = self.ema.latents(self.config.seed, 0, count).to(self.device)
        return torch.cat([self.ema(z, dtype=self.dtype).float().cpu() for z in latents.split(PREVIEW_BATCH)])

    def record(self) -> dict[str, Any]:
        own = {"r1_gamma": self.gamma} if isinstance(self.config, LazyTraining) else {}
        return super().record() | {"augmentation": self.ada.config.mode, "ada_p": self.ada.p} | own

    def state_dict(self) -> dict[str, Any]:
        own = {"augment": self.ada.state_dict(), "level": self.level}
        return super().state_dict() | own | {"path_mean": self.path_mean, "middle": self.score_offset}

    def load_state_dict(self, steps: int, state: dict[str, Any]) -> None:
        super().load_state_dict(steps, state)
        self.ada.load_state_dict(state["augment"])
        # older checkpoints hold only what their kind needs
        self.path_mean = state.get("path_mean", self.path_mean).to(self.device)
        self.score_offset = state.get("middle", self.score_offset).to(self.device)
        self.set_level(state.get("level", 0.0))
