"""The adversarial trainings: what the four GANs share, and StyleGAN 2 and 3.

The objective is the non-saturating logistic loss unless a model says otherwise (Goodfellow et al. 2014; facts 1).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.generators.joint import annotation_channels
from understudy.generators.networks import stylegan2, stylegan3
from understudy.generators.networks.alias_free import blur_images
from understudy.generators.training.ada import Augment
from understudy.generators.training.config import GanTraining, StyleGan2Training, StyleGan3Training
from understudy.generators.training.losses import (
    logistic_discriminator_loss,
    logistic_generator_loss,
    path_lengths,
    r1_penalty,
    squared_gradient,
)
from understudy.generators.training.shares import Inputs
from understudy.generators.training.trainer import Trainer, annealed_beta, random_generator

log = logging.getLogger(__name__)

_PREVIEW_BATCH = 32  # samples of a preview computed together
_BLUR_SIGMA = 10.0  # of configuration R at the start, pixels (Karras et al. 2021, appendix F.1)


class GanTrainer(Trainer):
    """Two networks that take turns. A subclass gives losses, penalties, averaging and what the discriminator sees."""

    config: GanTraining
    level = 0.0  # of a growing model: 0 is the full resolution
    generator_first = True

    def _prepare(self) -> None:
        self.discriminator: Any = self.network.discriminator
        self.g_optimiser, self.d_optimiser = self._make_optimisers()
        self._turns = [(p, True) for p in self.generator.parameters()]
        self._turns += [(p, False) for p in self.discriminator.parameters()]
        self.augment = Augment(self.config.augment.resolved(len(self.rows)))

    def _make_optimisers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """Those of the generator and of the discriminator."""
        raise NotImplementedError

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.g_optimiser, "discriminator": self.d_optimiser}

    @property
    def group(self) -> int:
        """Samples in a group of the minibatch standard deviation."""
        return int(self.model.mbstd_group)

    # --- what a step sees -------------------------------------------------------------------------------------------

    def _draw_seen(self, count: int, edge: int, rng: torch.Generator) -> dict[str, Any]:
        """What is done to `count` images before the discriminator sees them."""
        drawn: dict[str, Any] = {"augment": self.augment.draw(count, edge, rng)}
        if self.config.annotation_noise > 0:
            channels = annotation_channels(self.slices.classes, self.config.annotation)
            drawn["noise"] = torch.randn(count, channels, edge, edge, generator=rng)
        return drawn

    def _seen(self, images: Tensor, drawn: Inputs) -> Tensor:
        """Images as the discriminator sees them: augmented, with noise on the annotation."""
        images = self.augment.apply(images, drawn["augment"])
        if "noise" in drawn:
            noise = drawn["noise"].to(images.device)
            count = noise.shape[1]
            noisy = images[:, -count:] + noise * self.config.annotation_noise
            images = torch.cat([images[:, :-count], noisy], dim=1)
        return images

    @property
    def edge(self) -> int:
        """Edge of the images that the networks now work on, pixels."""
        return int(self.model.resolution) >> math.floor(self.level)

    def _draw_latents(self, rng: torch.Generator) -> dict[str, Tensor]:
        latents: dict[str, Tensor] = self.generator.draw(self.batch, rng, self.config.mixing)
        return latents

    def _draw_fakes(self, rng: torch.Generator) -> dict[str, Any]:
        """This worker's inputs of synthetic images as the discriminator sees them."""
        return self.local({"latents": self._draw_latents(rng), "seen": self._draw_seen(self.batch, self.edge, rng)})

    def _fakes(self, drawn: Inputs, track: bool = False) -> Tensor:
        """Synthetic images as the discriminator sees them; track: move the generator's running statistics."""
        images = self.generator.synthesise(drawn["latents"], self.level, self.dtype, track=track)
        return self._seen(images, drawn["seen"])

    def _reals(self, rng: torch.Generator) -> Tensor:
        """This worker's real images as the discriminator sees them."""
        drawn = self.local(self._draw_seen(self.batch, self.edge, rng))
        return self._seen(self.real_batch(self.steps), drawn)

    def _scores(self, images: Tensor, batches: int = 1, dtype: torch.dtype | None = None) -> Tensor:
        """Logits [N, 1] of images as they are seen."""
        scores: Tensor = self.discriminator(images, dtype=dtype or self.dtype, batches=batches)
        return scores

    # --- one step ---------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """The generator's turn, the discriminator's (or the other way round), and the average."""
        rng = random_generator(self.config.seed, 2, self.steps)
        for generator_learns in (self.generator_first, not self.generator_first):
            for parameter, learns in self._turns:
                parameter.requires_grad = learns == generator_learns
            if generator_learns:
                self._generator_turn(rng)
            else:
                self._discriminator_turn(rng)
        self._finish_step(self._average_beta())

    def _generator_turn(self, rng: torch.Generator) -> None:
        def loss(part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            value = self._generator_loss(self._scores(self._fakes(part)))
            return value, {"loss_g": value}

        self.descend("generator", self.g_optimiser, self._draw_fakes(rng), self.local_batch, loss)

    def _discriminator_turn(self, rng: torch.Generator) -> None:
        inputs = self._draw_fakes(rng) | self._draw_more(rng) | {"real": self._reals(rng)}
        figures = self.descend("discriminator", self.d_optimiser, inputs, self.local_batch, self._discriminator_loss)
        self.note({"ada_p": self.augment.p})
        if self.augment.config.mode == "adaptive":
            self.augment.observe(float(figures["real_sign"]), self.batch)
        self._follow_up(inputs, figures)

    def _draw_more(self, rng: torch.Generator) -> dict[str, Any]:
        """What else of the discriminator's turn is random."""
        return {}

    def _follow_up(self, inputs: dict[str, Any], figures: dict[str, Tensor]) -> None:
        """What comes behind the discriminator's loss, whose inputs and figures these are."""

    def _generator_loss(self, scores: Tensor) -> Tensor:
        return logistic_generator_loss(scores)

    def _discriminator_loss(self, part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        real, fake = self._scores_of_both(part, self._fixed_fakes(part))
        value = logistic_discriminator_loss(real, fake)
        return value, {"loss_d": value, "real_sign": real.detach().sign().mean()}

    def _squared_gradient(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of images as they are seen, and the squared norm of the gradient by them."""
        return squared_gradient(self._scores, images, self.dtype)

    def _lazy_r1(self, inputs: dict[str, Any], gamma: float, interval: int) -> None:
        """R1 in a step of its own every `interval` steps, scaled by the interval (Karras et al. 2020, app. B)."""
        if gamma and self.steps % interval == 0:
            loss = partial(self._r1, weight=gamma * interval)
            self.descend("r1", self.d_optimiser, {"real": inputs["real"]}, self.local_batch, loss)

    def _r1(self, part: dict[str, Any], weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        squared = self._squared_gradient(part["real"])[1]
        return r1_penalty(squared, weight), {"r1": squared.mean()}

    @torch.no_grad()
    def _fixed_fakes(self, part: dict[str, Any]) -> Tensor:
        return self._fakes(part, track=True)

    def _scores_of_both(self, part: dict[str, Any], fake: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the real and of the synthetic images, from one pass over two minibatches: the deviation must not
        mix real with synthetic samples."""
        scores_fake, scores = self._scores(torch.cat([fake, part["real"]]), batches=2).chunk(2)
        return scores, scores_fake

    def _average_beta(self) -> float:
        """Weight of the averaged generator so far, after this step."""
        raise NotImplementedError

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def preview(self, count: int) -> Tensor:
        """See `Trainer.preview`."""
        latents = self.average.latents(self.config.seed, 0, count).to(self.device)
        return torch.cat([self._preview(z).float().cpu() for z in latents.split(_PREVIEW_BATCH)])

    def _preview(self, z: Tensor) -> Tensor:
        images: Tensor = self.average(z, dtype=self.dtype)
        return images

    def record(self) -> dict[str, Any]:
        """See `Trainer.record`."""
        return super().record() | {"augmentation": self.augment.config.mode, "ada_p": self.augment.p}

    def state(self) -> dict[str, Any]:
        """See `Trainer.state`."""
        return super().state() | {"augment": self.augment.state()}

    def restore(self, steps: int, state: dict[str, Any]) -> None:
        """See `Trainer.restore`."""
        super().restore(steps, state)
        self.augment.restore(state["augment"])


class _LazyTrainer(GanTrainer):
    """StyleGAN 2 and 3: R1 every few steps, scaled by the interval as it comes so much more rarely.

    R1 takes the gradient by the images that the discriminator sees, in the loss just before; the official code augments
    them anew and takes the gradient by the images before that. Without augmentation both are the same.
    """

    config: StyleGan2Training | StyleGan3Training

    def _prepare(self) -> None:
        super()._prepare()
        self.gamma = self.config.gamma(self.model.resolution)
        if advice := self.config.gamma_advice(self.model.resolution):
            log.warning(advice)

    def _make_optimisers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        config = self.config
        return adam(self.generator, config.g_lr), adam(self.discriminator, config.d_lr, config.r1_interval)

    def _follow_up(self, inputs: dict[str, Any], figures: dict[str, Tensor]) -> None:
        self._lazy_r1(inputs, self.gamma, self.config.r1_interval)

    def _average_beta(self) -> float:
        config = self.config
        half_life = (config.ema_kimg or config.batch * 10 / 32) * 1000
        return annealed_beta(self.batch, self.images + self.batch, half_life, config.ema_rampup)

    def record(self) -> dict[str, Any]:
        """See `Trainer.record`."""
        return super().record() | {"r1_gamma": self.gamma}


class StyleGan2Trainer(_LazyTrainer):
    """With path length regularisation (Karras et al. 2020, sec. 3.2).

    The running mean is a constant to the penalty's gradient; in the official code the hundredth of it that comes from
    this batch is not.

    Attributes:
        path_mean: running mean of the path lengths.
    """

    config: StyleGan2Training

    def _numbers(self) -> Hashable:
        return ()

    def _build(self) -> nn.Module:
        return stylegan2.build(self.model, self.config.seed)

    def _prepare(self) -> None:
        super()._prepare()
        self.path_mean = torch.zeros([], device=self.device)

    def _make_optimisers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        config = self.config
        g_optimiser = adam(self.generator, config.g_lr, config.pl_interval if config.pl_weight > 0 else None)
        return g_optimiser, super()._make_optimisers()[1]

    def _generator_turn(self, rng: torch.Generator) -> None:
        super()._generator_turn(rng)
        if self.config.pl_weight > 0 and self.steps % self.config.pl_interval == 0:
            self._path_length_phase(rng)

    def check_parting(self) -> None:
        """See `Trainer.check_parting`; the images of the path length are parted, too."""
        super().check_parting()
        world, count = self.workers.world, self.batch // self.config.pl_shrink
        if self.config.pl_weight > 0 and count % world:
            raise UnderstudyError(
                f"the {count} images of the path length cannot be parted among {world} devices",
                fix="choose a batch that is a multiple of devices * pl_shrink, or a smaller pl_shrink",
            )

    def _path_length_phase(self, rng: torch.Generator) -> None:
        config, count, edge = self.config, self.batch // self.config.pl_shrink, self.model.resolution
        direction = torch.randn(count, self.model.channels, edge, edge, generator=rng) / edge
        latents = self.generator.draw(count, rng, config.mixing)
        inputs = self.local({"latents": latents, "direction": direction, "mean": self.path_mean})
        local, kept = count // self.workers.world, list[Tensor]()
        # The penalty needs the mean of the whole batch; where that comes in parts, it is measured first.
        parted = self.workers.world * self.shares > 1
        means = [self._mean_length(inputs, local, kept)] if parted else []

        def loss(part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            whole = len(part["direction"]) == count
            if not whole and not means:  # memory has just run out
                means.append(self._mean_length(inputs, local, kept))
            lengths = kept.pop() if kept else self._path_lengths(part)
            mean = lengths.detach().mean() if whole else means[0]
            penalty = (lengths - part["mean"].lerp(mean, config.pl_decay)).square().mean()
            return penalty * (config.pl_weight * config.pl_interval), {"pl": lengths.mean()}

        figures = self.descend("path length", self.g_optimiser, inputs, local, loss)
        self.path_mean = self.path_mean.lerp(figures["pl"], config.pl_decay)

    def _mean_length(self, inputs: dict[str, Any], count: int, kept: list[Tensor]) -> Tensor:
        """Mean of the path lengths of all workers' inputs; count: rows of this worker, kept: gets its lengths if they
        are one share. There is no room for the graphs of several, which are computed again."""

        def measure(weight: float, part: dict[str, Any]) -> Tensor:
            lengths = self._path_lengths(part)
            kept.extend([lengths] if weight == 1 else [])
            return lengths.detach().mean() * weight

        parts = self.each_share(inputs, count, lambda group: [measure(*share) for share in group])
        mean = torch.stack(parts).sum()
        self.workers.mean([mean])
        return mean

    def _path_lengths(self, part: dict[str, Any]) -> Tensor:
        latents, generator = part["latents"], self.generator
        maps = [x.to(self.device) for name, x in latents.items() if name.startswith("noise")]
        direction = part["direction"].to(self.device)
        return path_lengths(generator.synthesis, generator.ws(latents), direction, maps, self.dtype)

    def state(self) -> dict[str, Any]:
        """See `Trainer.state`."""
        return super().state() | {"path_mean": self.path_mean}

    def restore(self, steps: int, state: dict[str, Any]) -> None:
        """See `Trainer.restore`."""
        super().restore(steps, state)
        self.path_mean = state["path_mean"].to(self.device)


class StyleGan3Trainer(_LazyTrainer):
    """Without path length and mixing; in configuration R the discriminator sees blurred images at first.

    The blur is behind the augmentation, in the official code before it.
    """

    config: StyleGan3Training

    def _build(self) -> nn.Module:
        return stylegan3.build(self.model, self.config.seed)

    @property
    def blur_sigma(self) -> float:
        """Of the blur in this step, pixels."""
        sigma, kimg = self.config.blur_sigma, self.config.blur_kimg or self.config.batch * 200 / 32
        sigma = (_BLUR_SIGMA if self.model.use_radial_filters else 0.0) if sigma is None else sigma
        return sigma * max(1 - self.images / (kimg * 1000), 0.0)

    def _scores(self, images: Tensor, batches: int = 1, dtype: torch.dtype | None = None) -> Tensor:
        return super()._scores(blur_images(images, self.blur_sigma), batches, dtype)


def adam(module: nn.Module, rate: float, interval: int | None = None) -> torch.optim.Adam:
    """Adam(0, 0.99); with a lazy penalty every `interval` steps rate and betas are corrected by `lazy_ratio`."""
    ratio = lazy_ratio(interval) if interval else 1.0
    betas = (0.0, 0.99**ratio)
    return torch.optim.Adam(module.parameters(), lr=rate * ratio, betas=betas, eps=1e-8, fused=True)


def lazy_ratio(interval: int) -> float:
    """Correction for a penalty that adds a step to every `interval` steps (Karras et al. 2020, app. B)."""
    return interval / (interval + 1)
