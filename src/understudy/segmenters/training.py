"""How a segmenter is trained, as data: budget, optimiser, schedule, loss, and the paper's settings of each network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from understudy.errors import UnderstudyError
from understudy.segmenters.augment import AugmentConfig
from understudy.segmenters.mixture_config import MixtureConfig
from understudy.segmenters.models import DEFAULT_KIND, ModelConfig, Network

WARMUP_START = 1e-6  # share of the learning rate that a linear warm-up starts from, as MMSegmentation's

PAPER: dict[str, dict[str, Any]] = {
    "unet": {},  # the defaults below
    "swin": {
        "epochs": 25,
        "batch": 8,
        "optimiser": "adamw",
        "lr": 6e-5,
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup_samples": 12_000,  # 1500 iterations of 8
        "clip": None,
        "loss": "dice_ce",
        "dice_background": False,
        "augment": {"set": "swin"},
        "validations": 25,
    },
}
"""What the paper's trainings have in other than the defaults of `SegmenterTrainingConfig`, by kind of network."""

LATER = ("epochs", "max_minutes", "optimiser", "betas", "schedule", "loss", "validation_slices")
"""Fields that came after the first release; a training is written without those that are at their default."""


class SegmenterTrainingConfig(BaseModel):
    """How a segmenter is trained; optimiser and schedule default to the paper's for the U-Net (section 4.3)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int | None = Field(
        default=40_000, ge=1, description="budget, slices shown to the network; the paper's U-Net: 30,000,000"
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        description="budget in place of `samples`, rounds through the training set; the paper's Swin: 25",
    )
    max_minutes: float | None = Field(
        default=None,
        gt=0,
        description="ends the training before the budget is used up; the learning rate still follows the budget",
    )
    batch: int = Field(default=32, ge=1, description="slices a step; the authors' code: 48")
    optimiser: Literal["sgd", "adamw"] = Field(default="sgd", description="sgd (Nesterov) or adamw")
    lr: float = Field(default=0.05, gt=0, description="learning rate, the largest")
    momentum: float = Field(default=0.99, ge=0, lt=1, description="Nesterov momentum of sgd")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="of adamw")
    weight_decay: float = Field(default=3e-5, ge=0, description="L2 penalty (sgd), decay (adamw)")
    schedule: Literal["poly", "linear"] = Field(
        default="poly", description="decay to 0 over the budget: poly by `poly_exponent`, linear after the warm-up"
    )
    poly_exponent: float = Field(default=0.9, ge=0, description="of the polynomial decay to 0 over the budget")
    warmup_samples: int = Field(
        default=0, ge=0, description="linear increase of the learning rate; the paper's Swin: 1500 steps of 8"
    )
    clip: float | None = Field(default=12.0, gt=0, description="largest norm of the gradient, as nnU-Net; null: any")
    loss: Literal["ce_dice", "dice_ce"] = Field(
        default="ce_dice",
        description="ce_dice: cross-entropy + soft Dice over the batch (U-Net); dice_ce: MONAI's DiceCELoss, the Dice"
        " of each slice with squared probabilities (Swin)",
    )
    dice_background: bool = Field(
        default=True, description="the soft Dice counts the background, as the authors' code of the U-Net"
    )
    augment: AugmentConfig = Field(default=AugmentConfig(), description="augmentation")
    mixture: MixtureConfig = Field(default=MixtureConfig(), description="real, synthetic, or both")
    validation: Literal["real", "same_as_training"] = Field(
        default="real",
        description="what the best weights are selected on: real patients whatever is trained on, or synthetic slices"
        " where only such are trained on, as the authors did",
    )
    validation_slices: int = Field(
        default=2000,
        ge=1,
        description="synthetic slices that `same_as_training` holds out at most; else a fifth of them",
    )
    validations: int = Field(default=20, ge=1, description="times that the validation data are predicted")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the hardware computes in it"
    )
    seed: int = Field(default=0, ge=0, description="of weights, order and augmentation")
    checkpoint_seconds: float = Field(default=300.0, gt=0, description="time between checkpoints, seconds")

    @model_validator(mode="before")
    @classmethod
    def _epochs_for_samples(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("epochs") is not None and "samples" not in data:
            return {**data, "samples": None}
        return data

    @model_validator(mode="after")
    def _one_budget(self) -> SegmenterTrainingConfig:
        if (self.samples is None) == (self.epochs is None):
            raise ValueError("give either `samples` or `epochs`; the other is null")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later are left out at their default: older trainings keep their identity."""
        content: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        usual = {name for name in LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in content.items() if name not in usual}

    def planned_steps(self, slices: int) -> int:
        """`steps` for a number of slices that is guessed: nothing is refused for a guess."""
        if self.epochs is not None:
            return max(1, round(self.epochs * max(1, slices // self.batch)))
        assert self.samples is not None
        return math.ceil(self.samples / self.batch)

    def steps(self, slices: int) -> int:
        """Batches in the budget, given the number of slices in the training set.

        `epochs` counts rounds without the incomplete batch at their end, which the paper drops.

        Raises:
            UnderstudyError: the warm-up is longer than the budget.
        """
        found = self.planned_steps(slices)
        if self.schedule == "linear" and self.warmup_samples >= found * self.batch:
            raise UnderstudyError(
                f"a warm-up of {self.warmup_samples} samples in a training of {found * self.batch}",
                where="training.warmup_samples",
                fix="lower it, or raise the budget",
            )
        return found

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, of `steps`."""
        if self.schedule == "poly":
            warmup = min(1.0, (step + 1) * self.batch / self.warmup_samples) if self.warmup_samples else 1.0
            return self.lr * warmup * (1 - step / steps) ** self.poly_exponent
        warm = self.warmup_samples / self.batch
        if step < warm:
            return self.lr * (WARMUP_START + (1 - WARMUP_START) * step / warm)
        return self.lr * (1 - (step - warm) / (steps - warm))


def paper_training(kind: str = DEFAULT_KIND, **changes: Any) -> SegmenterTrainingConfig:
    """The paper's training of a kind of network, with some fields changed.

    Example:
        >>> paper_training("swin", samples=1000, warmup_samples=100).optimiser
        'adamw'
    """
    return SegmenterTrainingConfig(**with_paper(kind, changes))


def with_paper(kind: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a training upon the paper's for this kind of network; `samples` takes the place of its epochs."""
    below = dict(PAPER[kind])
    if training.get("samples") is not None:
        below.pop("epochs", None)
    if isinstance(training.get("augment"), Mapping):  # some of its fields, upon those of the network's set
        training = {**training, "augment": {**below.get("augment", {}), **training["augment"]}}
    return {**below, **training}


def check_batch(model: ModelConfig, config: SegmenterTrainingConfig) -> None:
    """Raises UnderstudyError where the network cannot be trained with so few slices a step."""
    if model.kind == "swin" and config.batch < 2:
        raise UnderstudyError(
            "UPerNet normalises over the batch and cannot be trained slice by slice",
            where="training.batch",
            fix="use at least 2",
        )


def optimiser_for(network: Network, config: SegmenterTrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of a network's parameters."""
    spared = {id(parameter) for parameter in network.undecayed()}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in network.parameters() if id(p) not in spared]},
        {"params": [p for p in network.parameters() if id(p) in spared], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            groups, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=config.momentum > 0
        )
    return torch.optim.AdamW(groups, config.lr, config.betas, weight_decay=config.weight_decay)
