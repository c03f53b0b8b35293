"""How each of the five generators is trained. The defaults are those of Table 7 of Akbar et al. 2024; where it is
silent, those of the official code. Progress is counted in real images, as the batch of a growing model changes."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_serializer, model_validator
from pydantic import SerializerFunctionWrapHandler as Serialize

from understudy.generators.joint import Annotation
from understudy.generators.networks.progressive import LevelSchedule
from understudy.generators.training.ada import AugmentConfig, MoveConfig
from understudy.io.settings import Count, Positive, Settings


class TrainingConfig(Settings, frozen=True):
    """What the trainings of all generators have in common."""

    kimg: float = Field(25000, gt=0, le=1e9, description="thousand real images shown")
    max_minutes: float | None = Field(None, gt=0, description="stop earlier, minutes of training")
    until: Literal["memorization"] | None = Field(
        None, description="stop earlier, where samples come too near to training slices, and keep the state before"
    )
    batch: int = Field(32, ge=2, le=1 << 16, description="images per step, on all devices together")
    micro_batch: int | None = Field(
        None, ge=1, le=1 << 16, description="images at once (gradient accumulation), None for all"
    )
    annotation: Annotation = Field("coded", description="one channel of codes, or one channel per class")
    balance_classes: float | None = Field(
        None, gt=0, lt=1, description="part of a batch with an annotated class; None: as it comes"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device computes in it")
    tick_kimg: float = Field(1.0, gt=0, description="thousand images between two lines of the history")
    snapshot_kimg: float = Field(50.0, gt=0, description="thousand images between two pictures of samples")
    checkpoint_seconds: float = Field(120.0, gt=0, description="between checkpoints")
    checkpoints_kept: int = Field(2, ge=1, description="the last so many checkpoints are kept")
    keep_weights_kimg: list[Positive] = Field([], description="points at which the EMA generator is kept as well")
    tensorboard: bool = Field(True, description="also write curves and pictures for TensorBoard, if it is installed")
    seed: int = Field(0, ge=0, description="of weights, data order and everything drawn")

    def unused(self) -> set[str]:
        """Fields that came later and are off: trainings from before there were any keep their identity."""
        return set() if self.until else {"until"}

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: Serialize) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name not in self.unused()}


class GanTraining(TrainingConfig, ABC):
    """What the trainings of the GANs have in common, and what `gan_step` asks of each of them.

    One with the loss wgan-gp has fields `gp_weight` and `drift`; one whose `r1_due` may be true has `r1_interval`; one
    whose `path_length_due` may be true has `pl_weight`, `pl_interval`, `pl_decay` and `pl_shrink`.
    """

    loss: ClassVar[Literal["logistic", "wgan-gp"]] = "logistic"
    discriminator_first: ClassVar[bool] = False  # which network learns first in a step

    g_lr: float = Field(0.002, gt=0, le=10, description="Adam learning rate of the generator")
    d_lr: float = Field(0.002, gt=0, le=10, description="Adam learning rate of the discriminator")
    mixing: float = Field(0.0, ge=0, le=1, description="probability of style mixing in a batch")
    annotation_noise: float = Field(
        0.0, ge=0, le=2, description="noise on the annotations that D sees, s.d. in [-1, 1]"
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="discriminator augmentation")

    @abstractmethod
    def ema_decay(self, batch: int, images: int) -> float:
        """Weight of the EMA so far, in a step of `batch` images after which `images` were shown."""

    def schedule(self) -> LevelSchedule | None:
        """How the resolution grows; None: it does not."""
        return None

    def learning_rates(self, resolution: int) -> tuple[float, float]:
        """Of generator and discriminator while the networks work at a resolution, before `lazy_ratios`."""
        return self.g_lr, self.d_lr

    def lazy_ratios(self) -> tuple[float, float]:
        """Factors on the rates of generator and discriminator for lazy penalties, see `lazy_ratio`."""
        return 1.0, 1.0

    def gamma(self, resolution: int) -> float:
        """Weight of R1; 0 for none."""
        return 0.0

    def r1_due(self, step: int) -> bool:
        """Whether lazy R1 follows the discriminator's loss in this step, with `gamma` times `r1_interval`."""
        return False

    @property
    def r1_in_loss(self) -> bool:
        """Whether R1 is part of every step's loss."""
        return False

    def path_length_due(self, step: int) -> bool:
        """Whether the path length penalty follows the generator's loss in this step."""
        return False

    def blur(self, model: Any, images: int) -> float:
        """Of what the discriminator sees after so many real images, pixels."""
        return 0.0

    def gamma_advice(self, resolution: int) -> str | None:
        """A warning about the weight of R1, or None."""
        return None


class LazyTraining(GanTraining):
    """StyleGAN 2 and 3: lazy R1, and an EMA whose half-life grows with the images so far."""

    gamma_factor: ClassVar[float]  # R1's weight is this times resolution^2 / batch

    r1_gamma: float | None = Field(None, ge=0, description="weight of R1; None: by resolution^2 / batch")
    # of both; to change it for one of them, give that class a field of its own
    r1_interval: int = Field(16, ge=1, description="steps between R1 penalties")
    ema_kimg: float | None = Field(None, gt=0, description="half-life of the EMA generator; None: batch * 10 / 32")
    ema_rampup: float | None = Field(0.05, gt=0, description="half-life at most this part of the images so far")

    def ema_decay(self, batch: int, images: int) -> float:
        return decay_of_half_life(batch, images, (self.ema_kimg or self.batch * 10 / 32) * 1000, self.ema_rampup)

    def lazy_ratios(self) -> tuple[float, float]:
        return 1.0, lazy_ratio(self.r1_interval)

    def gamma(self, resolution: int) -> float:
        return self.gamma_factor * resolution**2 / self.batch if self.r1_gamma is None else self.r1_gamma

    def r1_due(self, step: int) -> bool:
        return step % self.r1_interval == 0

    def gamma_advice(self, resolution: int) -> str | None:
        # 100 times off, because what works is known to differ tenfold and more between data sets
        guide = self.gamma_factor * resolution**2 / self.batch
        if self.r1_gamma is None or guide / 100 <= self.r1_gamma <= guide * 100:
            return None
        setting = f"{resolution} pixels and batch {self.batch}"
        return f"r1_gamma {self.r1_gamma:g} is far from {guide:.3g}, the guide for {setting}"


class StyleGan2Training(LazyTraining):
    """StyleGAN 2 (Karras et al. 2020); g_lr and d_lr are before the correction for the lazy penalties."""

    kind: Literal["stylegan2"] = Field("stylegan2", description="what is trained")

    gamma_factor: ClassVar[float] = 0.0002

    mixing: float = Field(0.9, ge=0, le=1, description="probability of style mixing in a batch")
    pl_weight: float = Field(2.0, ge=0, description="weight of the path length penalty, 0 for none")
    pl_interval: int = Field(4, ge=1, description="steps between path length penalties")
    pl_decay: float = Field(0.01, gt=0, le=1, description="decay of the running mean path length")
    pl_shrink: int = Field(2, ge=1, description="the path length is computed on batch / pl_shrink images")

    @model_validator(mode="after")
    def _path_length_batch(self) -> Self:
        if self.batch % self.pl_shrink:
            raise ValueError(f"batch {self.batch} is not a multiple of pl_shrink {self.pl_shrink}")
        return self

    def lazy_ratios(self) -> tuple[float, float]:
        return lazy_ratio(self.pl_interval) if self.pl_weight > 0 else 1.0, lazy_ratio(self.r1_interval)

    def path_length_due(self, step: int) -> bool:
        return self.pl_weight > 0 and step % self.pl_interval == 0


class StyleGan3Training(LazyTraining):
    """StyleGAN 3 (Karras et al. 2021): no path length, no mixing; configuration R shows D blurred images at first."""

    kind: Literal["stylegan3"] = Field("stylegan3", description="what is trained")

    gamma_factor: ClassVar[float] = 0.001  # the official values: 2 at 256, 8.2 at 512 pixels, batch 32

    g_lr: float = Field(0.0025, gt=0, le=10, description="Adam learning rate of the generator")
    blur_sigma: float | None = Field(None, ge=0, description="what D sees first, pixels; None: 10 for R, 0 for T")
    blur_kimg: float | None = Field(None, gt=0, description="the blur fades in so many kimg; None: batch * 200 / 32")

    def blur(self, model: Any, images: int) -> float:
        sigma = self.blur_sigma
        if sigma is None:
            sigma = 10.0 if model.use_radial_filters else 0.0  # Karras et al. 2021, app. F.1
        return sigma * max(1 - images / ((self.blur_kimg or self.batch * 200 / 32) * 1000), 0.0)


class GrowingTraining(GanTraining):
    """Progressive GAN and StyleGAN 1, whose resolution grows (Karras et al. 2018, sec. 2)."""

    discriminator_first: ClassVar[bool] = True

    batch: int = Field(8, ge=2, le=1 << 16, description="images per step, where `batches` says nothing else")
    batches: dict[Count, Count] = Field({}, description="images per step by active resolution")
    g_lr: float = Field(0.001, gt=0, le=10, description="Adam learning rate of the generator")
    d_lr: float = Field(0.001, gt=0, le=10, description="Adam learning rate of the discriminator")
    rates: dict[Count, Positive] = Field({}, description="rate of both by active resolution")
    start_resolution: int = Field(4, ge=4, description="first resolution; the full one for no growth")
    stabilise_kimg: float = Field(600, ge=0, description="thousand images at a resolution before the next fades in")
    fade_kimg: float = Field(600, ge=0, description="thousand images in which a resolution fades in")

    @model_validator(mode="after")
    def _possible_schedule(self) -> Self:
        self.schedule()
        return self

    def schedule(self) -> LevelSchedule:
        return LevelSchedule(
            start_resolution=self.start_resolution, stabilise_kimg=self.stabilise_kimg, fade_kimg=self.fade_kimg,
            batch=self.batch, batches=self.batches,
        )  # fmt: skip

    def learning_rates(self, resolution: int) -> tuple[float, float]:
        return self.rates.get(resolution, self.g_lr), self.rates.get(resolution, self.d_lr)


class ProGanTraining(GrowingTraining):
    """Progressive GAN (Karras et al. 2018): the official preset for one GPU."""

    loss: ClassVar[Literal["logistic", "wgan-gp"]] = "wgan-gp"

    kind: Literal["progan"] = Field("progan", description="what is trained")
    kimg: float = Field(12000, gt=0, le=1e9, description="thousand real images shown")
    batches: dict[Count, Count] = Field(
        {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16}, description="by active resolution"
    )
    gp_weight: float = Field(10.0, ge=0, description="weight of the gradient penalty (lambda)")
    drift: float = Field(0.001, ge=0, description="weight of the squared scores of real images")
    ema_beta: float = Field(0.999, ge=0, lt=1, description="decay of the EMA generator per step")

    def ema_decay(self, batch: int, images: int) -> float:
        return self.ema_beta


class StyleGan1Training(GrowingTraining):
    """StyleGAN 1 (Karras et al. 2019): logistic loss and R1; the batch is 16 at 128 pixels and above."""

    kind: Literal["stylegan1"] = Field("stylegan1", description="what is trained")
    batch: int = Field(16, ge=2, le=1 << 16, description="images per step, where `batches` says nothing else")
    batches: dict[Count, Count] = Field({4: 256, 8: 256, 16: 128, 32: 64, 64: 32}, description="by active resolution")
    start_resolution: int = Field(8, ge=4, description="resolution that the training starts with")
    rates: dict[Count, Positive] = Field(
        {128: 0.0015, 256: 0.002, 512: 0.003}, description="rate of both by active resolution"
    )
    mixing: float = Field(0.9, ge=0, le=1, description="probability of style mixing in a batch")
    r1_gamma: float = Field(10.0, ge=0, description="weight of R1")
    r1_interval: int = Field(1, ge=1, description="steps between R1 penalties; 1: in every step's loss")
    ema_kimg: float = Field(10.0, gt=0, description="half-life of the EMA generator")

    def ema_decay(self, batch: int, images: int) -> float:
        return decay_of_half_life(batch, images, self.ema_kimg * 1000, rampup=None)

    def lazy_ratios(self) -> tuple[float, float]:
        return 1.0, 1.0 if self.r1_in_loss else lazy_ratio(self.r1_interval)

    def gamma(self, resolution: int) -> float:
        return self.r1_gamma

    def r1_due(self, step: int) -> bool:
        return not self.r1_in_loss and step % self.r1_interval == 0

    @property
    def r1_in_loss(self) -> bool:
        return self.r1_interval == 1


class DiffusionTraining(TrainingConfig):
    """Guided diffusion's U-Net (Dhariwal & Nichol 2021), as its code trains it."""

    kind: Literal["diffusion"] = Field("diffusion", description="what is trained")
    kimg: float = Field(7800, gt=0, le=1e9, description="thousand real images shown")
    batch: int = Field(12, ge=1, le=1 << 16, description="images per step, on all devices together (code: 32)")
    lr: float = Field(1e-4, gt=0, le=10, description="AdamW learning rate")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    ema_beta: float = Field(0.9999, ge=0, lt=1, description="decay of the EMA network per step")
    ema_rampup: bool = Field(False, description="decay at most (1 + steps) / (10 + steps)")
    min_snr: float | None = Field(None, gt=0, description="loss weighted by min(SNR, this) / SNR (Hang et al. 2023: 5)")
    augment: MoveConfig = Field(MoveConfig(), description="image and annotation are moved, and the network is told how")

    def unused(self) -> set[str]:
        return super().unused() | (set() if self.augment.p else {"augment"})


def lazy_ratio(interval: int) -> float:
    """Correction of Adam for a penalty that adds a step to every `interval` steps (Karras et al. 2020, app. B)."""
    return interval / (interval + 1)


def decay_of_half_life(batch: int, images: int, half_life: float, rampup: float | None) -> float:
    """Weight of the EMA so far after a step of `batch` images: it halves every `half_life` images.

    Args:
        images: shown so far, this step included. rampup: the half-life is at most this part of them.
    """
    if rampup is not None:
        half_life = min(half_life, images * rampup)
    return math.pow(0.5, batch / max(half_life, 1e-8))
