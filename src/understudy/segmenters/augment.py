"""Augmentation as the paper's text: parameters are drawn first, then applied to the whole batch on its device.

`draw` makes an `AugmentPlan` from (seed, sample number) alone, so any batch can be replayed, on any machine, after
any interruption; `apply` renders it. Image and label go through the same grid, the image bilinearly and the label
by nearest neighbour. Order as in the paper (4.3): rotation and scaling, noise, blur, low resolution, gamma, z-score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch.nn import functional as F

_STREAM = 0xA06  # keeps these draws apart from other uses of the same seed
_UNIFORMS = 16  # a fixed number a sample: switching one transform off does not change the others' draws
_BLUR_RADIUS = 3  # pixels: three standard deviations of the widest blur

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class AugmentConfig(BaseModel):
    """How strongly to augment; the defaults are the paper's text (section 4.3).

    For low resolution and gamma the text gives no probability; those of the authors' code stand in (0.25, and 0.3
    for their two gamma transforms together). Noise touches the foreground only, as in their code.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="False: z-score only")
    p_rotate: Probability = Field(default=0.75, description="probability of a rotation")
    rotate: float = Field(default=30.0, ge=0, le=180, description="largest angle, degrees, either way")
    p_scale: Probability = Field(default=0.75, description="probability of scaling")
    scale: Range = Field(default=(0.9, 1.1), description="factor of height and of width, drawn independently")
    p_noise: Probability = Field(default=0.5, description="probability of Gaussian noise")
    noise_sd: Range = Field(
        default=(0.0, 0.05), description="standard deviation of the noise, images in 0..1"
    )
    p_blur: Probability = Field(default=0.2, description="probability of a Gaussian blur")
    blur_sd: Range = Field(default=(0.5, 1.0), description="standard deviation of the blur, pixels")
    p_low_resolution: Probability = Field(default=0.25, description="probability of a lower resolution")
    low_resolution: Range = Field(default=(0.75, 1.0), description="factor down before scaling up again")
    p_gamma: Probability = Field(default=0.3, description="probability of a gamma change")
    gamma: Range = Field(default=(0.8, 1.2), description="exponent, images in 0..1")
    flips: bool = Field(
        default=False, description="mirror rows and columns, each with probability 0.5; not in the paper"
    )
    quarter_turns: bool = Field(default=False, description="0 to 3 turns by 90 degrees; not in the paper")


@dataclass(frozen=True)
class AugmentPlan:
    """What is done to each of N samples; a value that changes nothing stands for "not applied".

    Attributes:
        angle: float64 [N], degrees, counter-clockwise as displayed with row 0 on top; 0.
        scale: float64 [N, 2], factors of rows and columns; 1.
        flip: bool [N, 2], rows and columns mirrored; False.
        turns: int64 [N], turns by 90 degrees, counter-clockwise; 0.
        noise_sd: float64 [N]; 0.
        noise_seed: int64 [N].
        blur_sd: float64 [N], pixels; 0.
        zoom: float64 [N]; 1.
        gamma: float64 [N]; 1.
    """

    angle: NDArray[np.float64]
    scale: NDArray[np.float64]
    flip: NDArray[np.bool_]
    turns: NDArray[np.int64]
    noise_sd: NDArray[np.float64]
    noise_seed: NDArray[np.int64]
    blur_sd: NDArray[np.float64]
    zoom: NDArray[np.float64]
    gamma: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.angle)

    def take(self, which: Sequence[int]) -> AugmentPlan:
        """The plan of some of the samples, to replay them alone."""
        return AugmentPlan(**{f.name: getattr(self, f.name)[list(which)] for f in fields(self)})

    def matrices(self) -> NDArray[np.float32]:
        """[N, 2, 3]: from output to input coordinates (column, row) in -1..1, as `grid_sample` wants them."""
        turn = np.deg2rad(self.angle + 90.0 * self.turns)
        cos, sin = np.cos(turn), np.sin(turn)
        # the image is rotated, then scaled, then mirrored; output to input is the inverse of each, last first
        sign = np.where(self.flip, -1.0, 1.0) / self.scale  # [N, 2] rows, columns
        row, column = sign[:, 0], sign[:, 1]
        zero = np.zeros(len(self))
        matrix = [[cos * column, -sin * row, zero], [sin * column, cos * row, zero]]
        return np.stack([np.stack(line, -1) for line in matrix], 1).astype(np.float32)


def draw(config: AugmentConfig, seed: int, samples: Sequence[int] | NDArray[np.int64]) -> AugmentPlan:
    """Parameters of the samples with these numbers (in the order of training); each depends on (seed, number) only.

    Example:
        >>> plan = draw(AugmentConfig(), seed=0, samples=[5, 6])
        >>> bool((draw(AugmentConfig(), seed=0, samples=[6]).angle == plan.angle[1:]).all())
        True
    """
    draws = [np.random.default_rng([seed, _STREAM, int(k)]) for k in samples]
    u = np.array([rng.random(_UNIFORMS) for rng in draws]).reshape(len(draws), _UNIFORMS)
    noise_seed = np.array([int(rng.integers(1 << 62)) for rng in draws], np.int64)

    def maybe(p: float, switch: int, low_high: Range, column: int, neutral: float) -> NDArray[np.float64]:
        low, high = low_high
        on = config.enabled & (u[:, switch] < p)
        return np.where(on, low + (high - low) * u[:, column], neutral)

    rows = maybe(config.p_scale, 2, config.scale, 3, 1.0)
    columns = maybe(config.p_scale, 2, config.scale, 4, 1.0)
    flips = (u[:, 13:15] < 0.5) & config.flips & config.enabled
    turns = (u[:, 15] * 4).astype(np.int64) * (config.quarter_turns & config.enabled)
    return AugmentPlan(
        angle=maybe(config.p_rotate, 0, (-config.rotate, config.rotate), 1, 0.0),
        scale=np.stack([rows, columns], 1),
        flip=flips,
        turns=turns,
        noise_sd=maybe(config.p_noise, 5, config.noise_sd, 6, 0.0),
        noise_seed=noise_seed,
        blur_sd=maybe(config.p_blur, 7, config.blur_sd, 8, 0.0),
        zoom=maybe(config.p_low_resolution, 9, config.low_resolution, 10, 1.0),
        gamma=maybe(config.p_gamma, 11, config.gamma, 12, 1.0),
    )


def apply(plan: AugmentPlan, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Renders a plan.

    Args:
        plan: of N samples.
        images: uint8 [N, C, H, H].
        labels: uint8 [N, H, H] class indices, on the same device.

    Returns:
        float32 [N, C, H, H], z-scored per slice and channel, and uint8 [N, H, H].
    """
    x, labels = move(plan, images.float() / 255, labels)
    for change in (add_noise, blur, lower_resolution, change_gamma):
        x = change(plan, x)
    return normalise(x), labels


def normalise(x: torch.Tensor) -> torch.Tensor:
    """Z-score per slice and channel with the mean and sd of its foreground (> 0): float [N, C, H, W], x >= 0.

    As in the authors' code the background does not count, or the size of the head would set the contrast. Channels
    that are constant become 0.
    """
    flat = x.flatten(2)
    count = flat.sign().sum(-1).clamp_(min=1)  # sign + sum: eight times faster here than count_nonzero
    mean = flat.sum(-1) / count
    variance = torch.linalg.vector_norm(flat, dim=-1).square() / count - mean.square()
    scale = variance.clamp(min=1e-7).rsqrt()
    scale = torch.where(variance > 1e-7, scale, 0.0)
    return torch.addcmul((-mean * scale)[..., None, None], x, scale[..., None, None])


def move(plan: AugmentPlan, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotates, scales, mirrors: float [N, C, H, H] bilinearly, uint8 [N, H, H] by nearest neighbour; zeros outside."""
    matrices = plan.matrices()
    if np.array_equal(matrices, np.broadcast_to(np.eye(2, 3, dtype=np.float32), matrices.shape)):
        return x, labels
    edge = x.shape[-1]
    m = torch.from_numpy(matrices).to(x.device)[..., None, None]  # [N, 2, 3, 1, 1]
    at = (torch.arange(edge, device=x.device) * 2 + 1) / edge - 1
    grid = x.new_empty(len(plan), edge, edge, 2)  # by hand: affine_grid is 60 times slower on the CPU
    for axis in range(2):
        torch.add(m[:, axis, 0] * at[None, None, :], m[:, axis, 1] * at[None, :, None], out=grid[..., axis])
    moved = F.grid_sample(x, grid, mode="bilinear", align_corners=False)
    codes = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return moved, codes[:, 0].to(labels.dtype)


def add_noise(plan: AugmentPlan, x: torch.Tensor) -> torch.Tensor:
    """Adds Gaussian noise where x > 0, independent per pixel and channel, and cuts off below 0."""
    for n in np.flatnonzero(plan.noise_sd > 0):
        generator = torch.Generator(x.device).manual_seed(int(plan.noise_seed[n]))
        noise = torch.empty_like(x[n]).normal_(0, float(plan.noise_sd[n]), generator=generator)
        x[n] = noise.mul_(x[n].sign()).add_(x[n]).clamp_(min=0)
    return x


def blur(plan: AugmentPlan, x: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with a separate standard deviation per sample; edges are continued outwards."""
    which = np.flatnonzero(plan.blur_sd > 0)
    if not len(which):
        return x
    r = _BLUR_RADIUS
    offsets = np.arange(-r, r + 1)
    kernel = np.exp(-0.5 * (offsets / plan.blur_sd[which, None]) ** 2)
    kernel /= kernel.sum(1, keepdims=True)
    square = torch.from_numpy((kernel[:, :, None] * kernel[:, None, :]).astype(np.float32)).to(x.device)
    part = x[which]
    n, c, h, w = part.shape
    padded = F.pad(part, (r, r, r, r), mode="replicate").reshape(1, n * c, h + 2 * r, w + 2 * r)
    weights = square.repeat_interleave(c, 0)[:, None]  # one 7x7 pass is faster here than two 1D passes
    x[which] = F.conv2d(padded, weights, groups=n * c).view(n, c, h, w)
    return x


def lower_resolution(plan: AugmentPlan, x: torch.Tensor) -> torch.Tensor:
    """Scales each sample down by its factor and up again, both bilinearly."""
    size = x.shape[-2:]
    for n in np.flatnonzero(plan.zoom < 1):
        small = [max(1, round(edge * float(plan.zoom[n]))) for edge in size]
        low = F.interpolate(x[n : n + 1], size=small, mode="bilinear", align_corners=False)
        x[n : n + 1] = F.interpolate(low, size=size, mode="bilinear", align_corners=False)
    return x


def change_gamma(plan: AugmentPlan, x: torch.Tensor) -> torch.Tensor:
    """x ** gamma, for x >= 0; 0 and 1 stay what they are."""
    for n in np.flatnonzero(plan.gamma != 1):
        x[n].pow_(float(plan.gamma[n]))
    return x
