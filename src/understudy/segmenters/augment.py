"""Augmentation as the paper's text (section 4.3): what is done to each sample is drawn here, as plain numbers.

`draw` makes an `AugmentPlan` from (seed, sample number) alone, so any batch can be replayed, on any machine, after
any interruption. `augment_apply.apply` renders it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator
from pydantic import SerializerFunctionWrapHandler as Serialize

_STREAM = 0xA06  # keeps these draws apart from other uses of the same seed
_UNIFORMS = 16  # a fixed number a sample: switching one transform off does not change the others' draws

Input = Literal["z_score", "raw"]


def _ordered(low_high: tuple[float, float]) -> tuple[float, float]:
    if low_high[0] > low_high[1]:
        raise ValueError(f"the lower end {low_high[0]} is above the upper end {low_high[1]}")
    return low_high


Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Positive = Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_ordered)]
NotNegative = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(_ordered)]

# What the Swin's set does otherwise. Its text gives a probability for the flips only, so the other four are always
# applied; its angles are "from 0 to 30 degrees", and stay one-sided unless a flip mirrors them.
SWIN_SET: dict[str, Any] = {
    "p_rotate": 1.0, "rotate": (0.0, 30.0), "p_scale": 1.0, "scale": (0.8, 1.2), "p_noise": 0.0, "p_blur": 0.0,
    "p_low_resolution": 0.0, "p_gamma": 1.0, "p_elastic": 1.0, "flips": "either",
}  # fmt: skip

# Fields that came after the first release; older trainings keep their identity without them.
LATER = ("set", "p_elastic", "elastic_sd", "elastic_points", "input")


class AugmentConfig(BaseModel):
    """How strongly to augment; the defaults below are the U-Net's, `SWIN_SET` holds what the Swin's set has otherwise.

    For the U-Net's low resolution and gamma the paper's text gives no probability; those of the authors' code stand in
    (0.25, and 0.3 for their two gamma transforms together). Noise touches the foreground only, as in their code.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="False: only what `input` says")
    set: Literal["unet", "swin"] = Field("unet", description="whose defaults hold for the fields that are not given")
    p_rotate: Probability = Field(0.75, description="probability of a rotation; swin: 1")
    rotate: Annotated[float, Field(ge=0)] | Range = Field(
        30.0, description="largest angle, or a range, degrees; swin: 0 to 30"
    )
    p_scale: Probability = Field(0.75, description="probability of scaling; swin: 1")
    scale: Positive = Field((0.9, 1.1), description="factors of height and width, independent; swin: 0.8 to 1.2")
    p_noise: Probability = Field(0.5, description="probability of Gaussian noise; swin: 0")
    noise_sd: NotNegative = Field((0.0, 0.05), description="standard deviation of the noise, images in 0..1")
    p_blur: Probability = Field(0.2, description="probability of a Gaussian blur; swin: 0")
    blur_sd: Positive = Field((0.5, 1.0), description="standard deviation of the blur, pixels")
    p_low_resolution: Probability = Field(0.25, description="probability of a lower resolution; swin: 0")
    low_resolution: Positive = Field((0.75, 1.0), description="factor down before scaling up again, at most 1")
    p_gamma: Probability = Field(0.3, description="probability of a gamma change; swin: 1")
    gamma: Positive = Field((0.8, 1.2), description="exponent, images in 0..1")
    p_elastic: Probability = Field(0.0, description="probability of an elastic deformation; swin: 1")
    elastic_sd: float = Field(2.0, ge=0, description="standard deviation of the grid's displacements, pixels")
    elastic_points: int = Field(3, ge=2, le=64, description="points a side of the grid; 3: the U-Net paper's")
    flips: bool | Literal["either"] = Field(
        False, description="true: rows and columns, each with probability 0.5; either: one of the two with 0.5 (swin)"
    )
    quarter_turns: bool = Field(False, description="0 to 3 turns by 90 degrees; not in the paper")
    input: Input = Field(
        "z_score",
        description="what the network is fed: z_score, each slice and channel by its foreground (the U-Net's text);"
        " raw, values 0 to 255, as the authors fed the Swin (in their code, not in the text)",
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: Serialize) -> dict[str, Any]:
        known = type(self).model_fields
        unused = {name for name in LATER if self.set == "unet" and getattr(self, name) == known[name].default}
        return {name: value for name, value in handler(self).items() if name not in unused}

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_set(cls, data: Any) -> Any:
        return {**SWIN_SET, **data} if isinstance(data, dict) and data.get("set") == "swin" else data


@dataclass(frozen=True)
class AugmentPlan:
    """What is done to each of N samples."""

    angle: NDArray[np.float64]  # [N], degrees, counter-clockwise as displayed with row 0 on top; 0: not applied
    scale: NDArray[np.float64]  # [N, 2], factors of rows and columns; 1: not applied
    flip: NDArray[np.bool_]  # [N, 2], rows and columns mirrored
    turns: NDArray[np.int64]  # [N], turns by 90 degrees, counter-clockwise
    # [N, 2, P, P], displacements of rows and columns at the grid's points, pixels: the result shows what was that much
    # further on; 0: not applied
    elastic: NDArray[np.float64]
    noise_sd: NDArray[np.float64]  # [N]; 0: not applied
    noise_seed: NDArray[np.int64]  # [N]
    blur_sd: NDArray[np.float64]  # [N], pixels; 0: not applied
    zoom: NDArray[np.float64]  # [N], factor of the lower resolution; 1: not applied
    gamma: NDArray[np.float64]  # [N]; 1: not applied
    input: Input = "z_score"  # of the configuration

    def __len__(self) -> int:
        return len(self.angle)

    def part(self, rows: slice | Sequence[int]) -> AugmentPlan:
        """The plan of some of the samples, to replay them alone."""
        chosen = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "input"}
        return AugmentPlan(**chosen, input=self.input)

    def matrices(self) -> NDArray[np.float64]:
        """[N, 2, 2]: from output to input coordinates (column, row) about the centre, as `grid_sample` wants them."""
        turn = np.deg2rad(self.angle + 90.0 * self.turns)
        cos, sin = np.cos(turn), np.sin(turn)
        # the image is rotated, then scaled, then mirrored; output to input is the inverse of each, last first
        row, column = (np.where(self.flip, -1.0, 1.0) / self.scale).T
        return np.stack([np.stack([cos * column, -sin * row], -1), np.stack([sin * column, cos * row], -1)], 1)


def draw(config: AugmentConfig, seed: int, samples: Sequence[int] | NDArray[np.int64]) -> AugmentPlan:
    """Parameters of the samples with these numbers (in the order of training); each depends on (seed, number) only.

    Example:
        >>> plan = draw(AugmentConfig(), seed=0, samples=[5, 6])
        >>> bool((draw(AugmentConfig(), seed=0, samples=[6]).angle == plan.angle[1:]).all())
        True
    """
    rngs = [np.random.default_rng([seed, _STREAM, int(k)]) for k in samples]
    u = np.array([rng.random(_UNIFORMS) for rng in rngs]).reshape(len(rngs), _UNIFORMS)
    noise_seed = np.array([int(rng.integers(1 << 62)) for rng in rngs], np.int64)
    # drawn last, so that the others' draws are the same with and without it
    elastic = np.zeros((len(rngs), 2, config.elastic_points, config.elastic_points))
    if config.enabled and config.p_elastic:
        for n, rng in enumerate(rngs):
            if rng.random() < config.p_elastic:
                elastic[n] = rng.standard_normal(elastic[n].shape) * config.elastic_sd

    def maybe(p: float, switch: int, low_high: Range, column: int, neutral: float) -> NDArray[np.float64]:
        low, high = low_high
        return np.where(config.enabled & (u[:, switch] < p), low + (high - low) * u[:, column], neutral)

    angles = config.rotate if isinstance(config.rotate, tuple) else (-config.rotate, config.rotate)
    rows = maybe(config.p_scale, 2, config.scale, 3, 1.0)
    columns = maybe(config.p_scale, 2, config.scale, 4, 1.0)
    flip = u[:, 13:15] < 0.5
    if config.flips == "either":
        flip = flip[:, :1] & np.stack([flip[:, 1], ~flip[:, 1]], 1)
    return AugmentPlan(
        angle=maybe(config.p_rotate, 0, angles, 1, 0.0),
        scale=np.stack([rows, columns], 1),
        flip=flip & bool(config.flips) & config.enabled,
        turns=(u[:, 15] * 4).astype(np.int64) * (config.quarter_turns & config.enabled),
        elastic=elastic,
        noise_sd=maybe(config.p_noise, 5, config.noise_sd, 6, 0.0),
        noise_seed=noise_seed,
        blur_sd=maybe(config.p_blur, 7, config.blur_sd, 8, 0.0),
        zoom=maybe(config.p_low_resolution, 9, config.low_resolution, 10, 1.0),
        gamma=maybe(config.p_gamma, 11, config.gamma, 12, 1.0),
        input=config.input,
    )
