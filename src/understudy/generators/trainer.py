"""One step of adversarial training: non-saturating logistic loss, lazy R1 and path length, EMA, augmentation.

The objective is StyleGAN 2's (Karras et al. 2020; facts 1.3). Everything random in a step is drawn from (seed, step),
so a run that was interrupted and continued equals an unbroken one bit by bit (on one CPU and thread count).
"""

from __future__ import annotations

import copy
import ctypes
import math
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.generators.ada import Augment, AugmentConfig
from understudy.generators.joint import Annotation, annotation_channels, decode, encode
from understudy.generators.stylegan2 import StyleGan2, StyleGan2Config, Synthesis, build
from understudy.slices import SliceSet


class GanTrainingConfig(BaseModel):
    """How a GAN is trained; the defaults are the paper's StyleGAN 2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kimg: float = Field(default=25000, gt=0, description="thousand real images shown to the discriminator")
    max_minutes: float | None = Field(
        default=None, gt=0, description="stop earlier after so much training time, minutes"
    )
    batch: int = Field(default=32, ge=2, description="images per step")
    g_lr: float = Field(
        default=0.002, gt=0, description="Adam learning rate of the generator (before the lazy correction)"
    )
    d_lr: float = Field(default=0.002, gt=0, description="Adam learning rate of the discriminator")
    r1_gamma: float | None = Field(
        default=None,
        ge=0,
        description="weight of R1; None: 0.0002 * resolution^2 / batch (the official heuristic)",
    )
    r1_interval: int = Field(default=16, ge=1, description="steps between R1 penalties")
    pl_weight: float = Field(default=2.0, ge=0, description="weight of the path length penalty, 0 for none")
    pl_interval: int = Field(default=4, ge=1, description="steps between path length penalties")
    pl_decay: float = Field(default=0.01, gt=0, le=1, description="decay of the running mean path length")
    pl_shrink: int = Field(
        default=2, ge=1, description="the path length is computed on batch / pl_shrink images"
    )
    mixing: float = Field(default=0.9, ge=0, le=1, description="probability of style mixing in a batch")
    ema_kimg: float | None = Field(
        default=None, gt=0, description="half-life of the averaged generator; None: batch * 10 / 32"
    )
    ema_rampup: float | None = Field(
        default=0.05, gt=0, description="half-life at most this part of the images so far"
    )
    annotation: Annotation = Field(
        default="coded", description="one channel of codes, or one channel per class"
    )
    annotation_noise: float = Field(
        default=0.0,
        ge=0,
        description="noise on real and synthetic annotations as D sees them, s.d. in units of [-1, 1]",
    )
    balance_classes: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="part of the real slices with an annotated class in a batch; None: as they come",
    )
    augment: AugmentConfig = Field(default=AugmentConfig(), description="discriminator augmentation")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of the activations; auto: bf16 where the processor computes in it"
    )
    tick_kimg: float = Field(
        default=1.0, gt=0, description="thousand images between two lines of the history"
    )
    snapshot_kimg: float = Field(
        default=50.0, gt=0, description="thousand images between two pictures of samples"
    )
    checkpoint_seconds: float = Field(default=120.0, gt=0, description="between checkpoints")
    seed: int = Field(default=0, ge=0, description="of weights, data order and everything drawn")

    @model_validator(mode="after")
    def _path_length_batch(self) -> GanTrainingConfig:
        if self.batch % self.pl_shrink:
            raise ValueError(f"batch {self.batch} is not a multiple of pl_shrink {self.pl_shrink}")
        return self


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of the options of mallopt(3)


def squared_gradient(
    discriminator: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Scores [N, 1] of the images and the squared norm [N] of their gradient: R1 is gamma / 2 times its mean."""
    images = images.detach().requires_grad_()
    scores = discriminator(images, dtype=dtype)
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return scores, gradient.square().sum(dim=(1, 2, 3))


def path_lengths(
    synthesis: Synthesis, ws: Tensor, noise: Tensor, maps: list[Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Length [N] of the image's gradient by w in the direction `noise` [N, C, R, R] (Karras et al. 2020, eq. 4).

    Args:
        noise: N(0, 1) divided by the resolution. maps: noise inputs of the synthesis.
    """
    if not ws.requires_grad:
        ws = ws.detach().requires_grad_()
    images = synthesis(ws, maps, dtype)
    (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Type of the activations: bfloat16 if asked for, or if "auto" and the processor multiplies in it."""
    if precision == "auto":
        if device.type == "cuda":
            return (
                torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
            )
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def resolve_device(device: str) -> torch.device:
    """ "auto" is the first GPU if there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def _generator(*key: int) -> torch.Generator:
    """A CPU generator of random numbers that depends on nothing but the key."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def _spread(images: Tensor) -> Tensor:
    """Mean over the pixels of the standard deviation between images (`std` along the batch is 10 times slower)."""
    squares = (images - images.mean(dim=0)).square().sum(dim=0)
    return (squares / (len(images) - 1)).sqrt().mean()


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory it frees: by default it gives large blocks back and faults them in again, page
    by page, in every step (a tenth of the time of small models). Does nothing under another C library."""
    try:
        tune = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, size in ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**31 - 1)):
        tune(option, size)


class GanTrainer:
    """The state of one training and its step.

    Attributes:
        steps: optimiser steps done; `steps * batch` real images were shown.
        average: exponential moving average of the generator: the result.
        figures: sums and counts since the last line of the history.
    """

    def __init__(
        self, slices: SliceSet, rows: NDArray[np.int64], model: StyleGan2Config, config: GanTrainingConfig,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.slices, self.rows, self.config, self.device = slices, rows, config, device
        self.dtype = resolve_precision(config.precision, device)
        if device.type == "cpu":
            keep_freed_memory()
        self.network: StyleGan2 = build(model, config.seed).to(device)
        self.average = copy.deepcopy(self.network.generator).requires_grad_(False)
        self.g_optimiser = self._optimiser(
            self.network.generator, config.g_lr, config.pl_interval, config.pl_weight > 0
        )
        self.d_optimiser = self._optimiser(self.network.discriminator, config.d_lr, config.r1_interval, True)
        self.augment = Augment(config.augment, config.batch)
        self.gamma = config.r1_gamma
        if self.gamma is None:
            self.gamma = 0.0002 * model.resolution**2 / config.batch
        self.path_mean = torch.zeros([], device=device)
        self.steps, self.seconds = 0, 0.0
        self.figures: dict[str, list[float]] = {}
        self._annotated = self._find_annotated() if config.balance_classes else None

    def _optimiser(self, module: nn.Module, rate: float, interval: int, lazy: bool) -> torch.optim.Adam:
        """Adam(0, 0.99); with a lazy penalty every k steps rate and betas are corrected by k / (k + 1)."""
        ratio = interval / (interval + 1) if lazy else 1.0
        betas = (0.0, 0.99**ratio)
        return torch.optim.Adam(module.parameters(), lr=rate * ratio, betas=betas, eps=1e-8, fused=True)

    def _find_annotated(self) -> NDArray[np.bool_]:
        found = [labels.any(axis=(1, 2)) for _, _, labels in self.slices.blocks(self.rows)]
        annotated: NDArray[np.bool_] = np.concatenate(found)
        if not 0 < annotated.sum() < len(annotated):
            raise UnderstudyError(
                "balance_classes needs slices with and without annotation",
                where=self.slices.path,
                fix="leave balance_classes out",
            )
        return annotated

    # --- what a step sees -------------------------------------------------------------------------------------------

    def real_batch(self, step: int) -> Tensor:
        """Real joint images [batch, C, R, R] of a step: drawn with (seed, step), so any step can be drawn again."""
        rng = np.random.default_rng([self.config.seed, 1, step])
        count = self.config.batch
        if self._annotated is None:
            rows = rng.choice(self.rows, count)
        else:
            assert self.config.balance_classes is not None
            wanted = rng.random(count) < self.config.balance_classes
            with_class = rng.choice(self.rows[self._annotated], count)
            rows = np.where(wanted, with_class, rng.choice(self.rows[~self._annotated], count))
        images, labels = self.slices.read(rows)
        return encode(images, labels, self.slices.classes, self.config.annotation).to(self.device)

    def _seen(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Images as the discriminator sees them: augmented, with noise on the annotation."""
        images = self.augment(images, rng)
        if self.config.annotation_noise > 0:
            count = annotation_channels(self.slices.classes, self.config.annotation)
            noise = torch.randn(images[:, -count:].shape, generator=rng).to(images.device)
            drawn = images[:, -count:] + noise * self.config.annotation_noise
            images = torch.cat([images[:, :-count], drawn], dim=1)
        return images

    def _ws(self, count: int, rng: torch.Generator, update_average: bool = False) -> Tensor:
        """ws [count, num_ws, w_dim] of fresh latents; one style mixing cutoff for the batch."""
        generator = self.network.generator
        z, other = (
            torch.randn(count, generator.config.z_dim, generator=rng).to(self.device) for _ in range(2)
        )
        cutoff = int(torch.randint(1, generator.config.num_ws, (), generator=rng))
        mix = float(torch.rand((), generator=rng)) < self.config.mixing
        both = generator.mapping(torch.cat([z, other]) if mix else z)  # one pass reads the weights once
        w = both[:count]
        if update_average:
            generator.mapping.update_average(w)
        return generator.mixed(w, both[count:], cutoff) if mix else generator.broadcast(w)

    def _fake(self, rng: torch.Generator, update_average: bool = False) -> Tensor:
        generator, count = self.network.generator, self.config.batch
        ws = self._ws(count, rng, update_average)
        return generator.synthesis(ws, generator.draw_noise(count, rng, self.device), self.dtype)

    # --- one step ---------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Generator, path length (lazily), discriminator, R1 (lazily), average."""
        config, step = self.config, self.steps
        rng = _generator(config.seed, 2, step)
        generator, discriminator = self.network.generator, self.network.discriminator
        generator.requires_grad_(True)
        discriminator.requires_grad_(False)
        self._generator_step(rng)
        if config.pl_weight > 0 and step % config.pl_interval == 0:
            self._path_length_step(rng)
        generator.requires_grad_(False)
        discriminator.requires_grad_(True)
        real = self._seen(self.real_batch(step), rng)
        self._discriminator_step(real, rng)
        if self.gamma and step % config.r1_interval == 0:
            self._r1_step(real)
        self.steps += 1
        self._average()

    def _generator_step(self, rng: torch.Generator) -> None:
        fake = self._fake(rng)
        loss = F.softplus(-self.network.discriminator(self._seen(fake, rng), dtype=self.dtype)).mean()
        loss.backward()
        self._update(self.g_optimiser)
        self._record(loss_g=loss)

    def _path_length_step(self, rng: torch.Generator) -> None:
        config, generator = self.config, self.network.generator
        count = config.batch // config.pl_shrink
        shape = (count, generator.config.channels, generator.config.resolution, generator.config.resolution)
        direction = torch.randn(shape, generator=rng).to(self.device) / generator.config.resolution
        maps = generator.draw_noise(count, rng, self.device)
        lengths = path_lengths(generator.synthesis, self._ws(count, rng), direction, maps, self.dtype)
        self.path_mean = self.path_mean.lerp(lengths.detach().mean(), config.pl_decay)
        penalty = (lengths - self.path_mean).square().mean()
        (penalty * (config.pl_weight * config.pl_interval)).backward()
        self._update(self.g_optimiser)
        self._record(pl=lengths.mean())

    def _discriminator_step(self, real: Tensor, rng: torch.Generator) -> None:
        discriminator = self.network.discriminator
        with torch.no_grad():
            fake = self._fake(rng, update_average=True)
            spread = _spread(fake) / _spread(real)
            fake = self._seen(fake, rng)
        # One pass, two minibatches: the deviation must not mix real with synthetic samples.
        scores_fake, scores = discriminator(torch.cat([fake, real]), dtype=self.dtype, batches=2).chunk(2)
        loss_fake, loss_real = F.softplus(scores_fake).mean(), F.softplus(-scores).mean()
        (loss_fake + loss_real).backward()
        self._update(self.d_optimiser)
        sign = float(scores.detach().sign().mean())
        self.augment.observe(sign)
        self._record(loss_d=loss_fake + loss_real, real_sign=sign, ada_p=self.augment.p, spread=spread)

    def _r1_step(self, real: Tensor) -> None:
        """R1 at the images as the discriminator sees them; scaled by the interval, as it comes so much more rarely."""
        gradient = squared_gradient(self.network.discriminator, real, self.dtype)[1].mean()
        assert self.gamma is not None
        (gradient * (self.gamma / 2 * self.config.r1_interval)).backward()
        self._update(self.d_optimiser)
        self._record(r1=gradient)

    def _update(self, optimiser: torch.optim.Adam) -> None:
        """One optimiser step with NaN gradients set to 0 and infinite ones limited, counted in the history."""
        gradients = [p.grad for p in optimiser.param_groups[0]["params"] if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        if not torch.isfinite(norms).all():
            for gradient in gradients:
                torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
            self._record(repaired_gradients=1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _average(self) -> None:
        """EMA with half-life min(ema_kimg, ema_rampup * images so far); buffers are copied."""
        config = self.config
        images = (config.ema_kimg or config.batch * 10 / 32) * 1000
        if config.ema_rampup is not None:
            images = min(images, self.steps * config.batch * config.ema_rampup)
        beta = 0.5 ** (config.batch / max(images, 1e-8))
        torch._foreach_lerp_(
            list(self.average.parameters()),
            [p.detach() for p in self.network.generator.parameters()],
            1 - beta,
        )
        for ours, theirs in zip(self.average.buffers(), self.network.generator.buffers(), strict=True):
            ours.copy_(theirs)

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def _record(self, **values: float | Tensor) -> None:
        for name, value in values.items():
            total = self.figures.setdefault(name, [0.0, 0.0])
            total[0] += float(value.detach()) if isinstance(value, Tensor) else value
            total[1] += 1

    def take_figures(self) -> dict[str, float | None]:
        """Means since the last call (a count for `repaired_gradients`), None where nothing finite was recorded."""
        means: dict[str, float | None] = {
            k: (s if k == "repaired_gradients" else s / n) for k, (s, n) in sorted(self.figures.items())
        }
        self.figures = {}
        return {k: v if v is not None and math.isfinite(v) else None for k, v in means.items()}

    @torch.no_grad()
    def annotated_share(self, count: int = 64) -> dict[str, float | None]:
        """Part of `count` samples of the averaged generator that have each class (1 pixel or more), by class name."""
        latents = self.average.latents(self.config.seed, 0, count).to(self.device)
        images = torch.cat([self.average(z, dtype=self.dtype) for z in latents.split(32)])
        labels = decode(images, self.slices.classes, self.config.annotation)[1]
        return {
            f"share_{c.name}": float((labels == i).any(axis=(1, 2)).mean())
            for i, c in enumerate(self.slices.classes)
            if i
        }

    def state(self) -> dict[str, Any]:
        """Everything a resumed training needs to be the same training."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "g_optimiser": self.g_optimiser.state_dict(),
            "d_optimiser": self.d_optimiser.state_dict(),
            "augment": self.augment.state(),
            "path_mean": self.path_mean,
            "seconds": self.seconds,
            "figures": self.figures,
        }

    def restore(self, steps: int, state: dict[str, Any]) -> None:
        """Continues from `state()` after `steps` steps."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.g_optimiser.load_state_dict(state["g_optimiser"])
        self.d_optimiser.load_state_dict(state["d_optimiser"])
        self.augment.restore(state["augment"])
        self.path_mean = state["path_mean"].to(self.device)
        self.steps, self.seconds, self.figures = steps, state["seconds"], state["figures"]
