"""How a segmenter is built, what it is trained on and how, as data; the paper's settings for both networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, TypeAdapter, model_serializer, model_validator
from pydantic import SerializerFunctionWrapHandler as Serialize

from understudy.errors import UnderstudyError
from understudy.io.settings import Settings
from understudy.segmenters.augment import AugmentConfig
from understudy.segmenters.swin import Swin, SwinConfig, build_swin
from understudy.segmenters.unet import UNet, UNetConfig, build_unet

ModelConfig = Annotated[UNetConfig | SwinConfig, Discriminator("kind")]
Network = UNet | Swin
KINDS: dict[str, type[UNetConfig] | type[SwinConfig]] = {"unet": UNetConfig, "swin": SwinConfig}
DEFAULT_KIND = "unet"

_ADAPTER: TypeAdapter[UNetConfig | SwinConfig] = TypeAdapter(ModelConfig)


def model_config(fields: Mapping[str, Any]) -> UNetConfig | SwinConfig:
    """The configuration that the fields describe, by their "kind" (a U-Net without one)."""
    return _ADAPTER.validate_python({"kind": DEFAULT_KIND, **fields})


def build_model(
    config: UNetConfig | SwinConfig, channels: int, classes: int, resolution: int, seed: int = 0
) -> Network:
    """A network with weights drawn from `seed`; the global random state is left alone.

    It maps slices [N, C, R, R] to a list of class scores, the first [N, K, R, R]; in training more follow, which the
    loss weighs by `level_weights`. `classes` include the background. An UnderstudyError where architecture and
    resolution do not fit.
    """
    if isinstance(config, SwinConfig):
        return build_swin(config, channels, classes, resolution, seed)
    return build_unet(config, channels, classes, resolution, seed)


class MixtureConfig(Settings, frozen=True):
    """What a segmenter is trained on, out of the slice sets that it is given."""

    real_share: float = Field(0.5, ge=0, le=1, description="share of real samples; 0 and 1 with `total` only")
    total: int | Literal["real"] | None = Field(
        None, description="slices, `real_share` of them real; real: as many as real training slices; None: all of both"
    )
    choose: Literal["patients", "slices"] = Field(
        "patients", description="the real slices of a `total` are those of the first patients in a random order, or any"
    )
    patients: tuple[str, ...] | None = Field(None, description="train on these real patients only; None: all")
    patient_fraction: float = Field(1.0, gt=0, le=1, description="of the real patients; smaller shares are subsets")
    patient_count: int | None = Field(None, ge=1, description="of the real patients, in the same order; None: all")
    subset_seed: int = Field(0, ge=0, description="which patients a smaller share consists of")
    synthetic_count: int | None = Field(None, ge=1, description="first n synthetic slices; None: all")
    foreground_fraction: float | None = Field(None, ge=0, le=1, description="of slices; None: as they come")

    @model_validator(mode="after")
    def _possible(self) -> MixtureConfig:
        if self.total is None and self.real_share in (0, 1):
            raise ValueError(f"`real_share` {self.real_share:g} leaves one set out: give only the other, or a `total`")
        if self.patient_count is not None and self.patient_fraction < 1:
            raise ValueError("give either `patient_count` or `patient_fraction`")
        if isinstance(self.total, int) and self.total < 1:
            raise ValueError("`total` should be 1 or more")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: Serialize) -> dict[str, Any]:
        # fields that came later are left out where they have no effect: identities and job ids do not depend on them
        unused = [*([] if self.total else ["total", "choose"]), *([] if self.patient_count else ["patient_count"])]
        return {name: value for name, value in handler(self).items() if name not in unused}


PAPER: dict[str, dict[str, Any]] = {
    "unet": {},  # the defaults of SegmenterTrainingConfig
    "swin": {
        "epochs": 25, "batch": 8, "validations": 25, "optimiser": "adamw", "lr": 6e-5, "weight_decay": 0.01,
        "schedule": "linear", "warmup_samples": 12_000,  # 1500 iterations of 8
        "clip": None, "loss": "dice_ce", "dice_background": False, "augment": {"set": "swin"},
    },
}  # fmt: skip

# Fields that came after the first release; older trainings keep their identity without them.
LATER = ("epochs", "max_minutes", "optimiser", "betas", "schedule", "loss", "validation_slices")


Beta = Annotated[float, Field(ge=0, lt=1)]


class SegmenterTrainingConfig(Settings, frozen=True):
    """How a segmenter is trained; optimiser and schedule default to the paper's for the U-Net (section 4.3)."""

    samples: int | None = Field(40_000, ge=1, description="budget, slices shown; the paper's U-Net: 30,000,000")
    epochs: float | None = Field(None, gt=0, description="budget in place of `samples`; the paper's Swin: 25")
    max_minutes: float | None = Field(None, gt=0, description="ends early; the learning rate still follows the budget")
    batch: int = Field(32, ge=1, le=1 << 16, description="slices a step; the authors' code: 48")
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="sgd (Nesterov) or adamw")
    lr: float = Field(0.05, gt=0, le=100, description="learning rate, the largest")
    momentum: float = Field(0.99, ge=0, lt=1, description="Nesterov momentum of sgd")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="of adamw")
    weight_decay: float = Field(3e-5, ge=0, description="L2 penalty (sgd), decay (adamw)")
    schedule: Literal["poly", "linear"] = Field(
        "poly", description="decay to 0: by `poly_exponent`, or linear after the warm-up"
    )
    poly_exponent: float = Field(0.9, ge=0, description="of the polynomial decay")
    warmup_samples: int = Field(0, ge=0, description="linear increase of the learning rate; the paper's Swin: 12,000")
    clip: float | None = Field(12.0, gt=0, description="largest norm of the gradient, as nnU-Net; null: any")
    loss: Literal["ce_dice", "dice_ce"] = Field(
        "ce_dice", description="cross-entropy + soft Dice of the batch (U-Net); dice_ce: MONAI's, of each slice (Swin)"
    )
    dice_background: bool = Field(True, description="the soft Dice counts the background, as the authors' U-Net")
    augment: AugmentConfig = Field(AugmentConfig(), description="augmentation")
    mixture: MixtureConfig = Field(MixtureConfig(), description="real, synthetic, or both")
    validation: Literal["real", "same_as_training"] = Field(
        "real",
        description="what the best weights are selected on: real patients whatever is trained on, or synthetic slices"
        " where only such are trained on, as the authors did",
    )
    validation_slices: int = Field(2000, ge=1, description="most synthetic slices that are held out; else a fifth")
    validations: int = Field(20, ge=1, description="times that the validation data are predicted")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    seed: int = Field(0, ge=0, description="of weights, order and augmentation")
    checkpoint_seconds: float = Field(300.0, gt=0, description="time between checkpoints, seconds")

    @model_validator(mode="before")
    @classmethod
    def _epochs_for_samples(cls, data: Any) -> Any:
        given = isinstance(data, dict) and data.get("epochs") is not None
        return {"samples": None, **data} if given else data

    @model_validator(mode="after")
    def _one_budget(self) -> SegmenterTrainingConfig:
        if (self.samples is None) == (self.epochs is None):
            raise ValueError("give either `samples` or `epochs`; the other is null")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: Serialize) -> dict[str, Any]:
        fields = type(self).model_fields
        unused = {name for name in LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in unused}

    def planned_steps(self, slices: int) -> int:
        """`steps` for an estimated number of slices, refusing nothing."""
        if self.epochs is not None:  # without the incomplete batch at the end of each round, which the paper drops
            return max(1, round(self.epochs * max(1, slices // self.batch)))
        assert self.samples is not None
        return math.ceil(self.samples / self.batch)

    def steps(self, slices: int) -> int:
        """Batches in the budget for so many training slices; an UnderstudyError where the warm-up is longer."""
        found = self.planned_steps(slices)
        if self.schedule == "linear" and self.warmup_samples >= found * self.batch:
            problem = f"a warm-up of {self.warmup_samples} samples in a training of {found * self.batch}"
            raise UnderstudyError(problem, "training.warmup_samples", "lower it, or raise the budget")
        return found

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, of `steps`."""
        if self.schedule == "poly":
            warmup = min(1.0, (step + 1) * self.batch / self.warmup_samples) if self.warmup_samples else 1.0
            return self.lr * warmup * (1 - step / steps) ** self.poly_exponent
        warm = self.warmup_samples / self.batch
        if step < warm:  # from a millionth of the rate, as in MMSegmentation
            return self.lr * (1e-6 + (1 - 1e-6) * step / warm)
        return self.lr * (1 - (step - warm) / (steps - warm))


def with_paper(kind: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a training on top of the paper's for this kind of network; `samples` replaces its epochs."""
    paper = dict(PAPER[kind])
    if training.get("samples") is not None:
        paper.pop("epochs", None)
    if isinstance(training.get("augment"), Mapping):  # some of its fields, on top of those of the network's set
        training = {**training, "augment": {**paper.get("augment", {}), **training["augment"]}}
    return {**paper, **training}


def paper_training(kind: str = DEFAULT_KIND, **changes: Any) -> SegmenterTrainingConfig:
    """The paper's training of a kind of network, with some fields changed."""
    return SegmenterTrainingConfig(**with_paper(kind, changes))


def segmenter_config(kind: str = DEFAULT_KIND, **fields: Any) -> tuple[ModelConfig, SegmenterTrainingConfig]:
    """Network and training from the fields of both."""
    own = {name: fields.pop(name) for name in list(fields) if name in KINDS[kind].model_fields}
    return model_config({"kind": kind, **own}), paper_training(kind, **fields)


def check_batch(model: ModelConfig, config: SegmenterTrainingConfig) -> None:
    """Raises UnderstudyError where the network cannot be trained with so few slices a step."""
    if model.kind == "swin" and config.batch < 2:
        problem = "UPerNet normalises over the batch and cannot be trained slice by slice"
        raise UnderstudyError(problem, "training.batch", "use at least 2")
