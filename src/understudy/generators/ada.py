"""Adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676), geometric operations only.

The discriminator never sees an image that was not augmented with probability p, neither real nor synthetic; p follows
how much it overfits. All channels, the annotation included, move together. Colour operations are left out: they would
break the relation between the sequences' intensities, which the generator has to learn.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class AugmentConfig(BaseModel):
    """What the discriminator's augmentation does and how its probability is controlled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["off", "adaptive", "fixed"] = Field(
        default="off", description="off, p by overfitting, or constant p"
    )
    p: float = Field(
        default=0.0, ge=0, le=1, description="probability of each operation: constant, or at the start"
    )
    target: float = Field(default=0.6, gt=0, lt=1, description="adaptive: wanted mean of sign(D(real))")
    interval: int = Field(default=4, ge=1, description="adaptive: steps between adjustments of p")
    kimg: float = Field(
        default=100.0, gt=0, description="adaptive: thousand images in which p could go from 0 to 1"
    )
    p_max: float = Field(
        default=0.85, gt=0, le=1, description="adaptive: p stays below (augmentation leaks near 1)"
    )
    flip: bool = Field(default=True, description="mirror left and right")
    quarter_turns: bool = Field(default=False, description="turn by 90, 180 or 270 degrees")
    translate: float = Field(
        default=0.125, ge=0, le=0.5, description="whole pixels, at most this part of the edge"
    )
    scale: float = Field(default=0.2, ge=0, description="isotropic scaling, standard deviation in octaves")
    stretch: float = Field(
        default=0.2, ge=0, description="anisotropic scaling, standard deviation in octaves"
    )
    rotate: float = Field(
        default=30.0, ge=0, le=180, description="rotation, at most this many degrees (official: 180)"
    )
    shift: float = Field(
        default=0.125, ge=0, description="fractional translation, standard deviation, part of the edge"
    )
    cutout: float = Field(
        default=0.0, ge=0, le=1, description="edge of a square set to the background, part of the edge"
    )


class Augment:
    """Applies the augmentation and, if adaptive, controls its probability.

    Attributes:
        p: current probability of each operation.
    """

    def __init__(self, config: AugmentConfig, batch: int) -> None:
        self.config, self.batch = config, batch
        self.p = 0.0 if config.mode == "off" else config.p
        self._signs: list[float] = []

    def observe(self, sign: float) -> None:
        """Takes the mean of sign(D(real)) of one step; adjusts p when the interval is over."""
        if self.config.mode != "adaptive":
            return
        self._signs.append(sign)
        if len(self._signs) < self.config.interval:
            return
        mean = sum(self._signs) / len(self._signs)
        step = self.batch * self.config.interval / (self.config.kimg * 1000)
        direction = (mean > self.config.target) - (mean < self.config.target)
        self.p = min(max(self.p + direction * step, 0.0), self.config.p_max)
        self._signs.clear()

    def state(self) -> dict[str, float | list[float]]:
        """What a checkpoint needs."""
        return {"p": self.p, "signs": list(self._signs)}

    def restore(self, state: dict[str, float | list[float]]) -> None:
        """Continues from `state()`."""
        p, signs = state["p"], state["signs"]
        assert isinstance(p, float)
        assert isinstance(signs, list)
        self.p, self._signs = p, list(signs)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """images [N, C, H, W] in [-1, 1], -1 being the background -> the same shape, differentiable in `images`.

        Samples that no operation was drawn for are returned untouched. `generator` lives on the CPU.
        """
        if self.p <= 0:
            return images
        edge = images.shape[-1]
        matrix, active = self.draw(len(images), edge, generator)
        matrix, active = matrix.to(images.device), active.to(images.device)
        grid = F.affine_grid(matrix[:, :2], list(images.shape), align_corners=False)
        moved = F.grid_sample(images + 1, grid, padding_mode="zeros", align_corners=False) - 1
        images = torch.where(active[:, None, None, None], moved, images)
        return self._cut(images, generator) if self.config.cutout > 0 else images

    def draw(self, count: int, edge: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Maps from output to input coordinates [count, 3, 3] (the image is [-1, 1]^2) and whether they do anything."""
        c = self.config

        def uniform() -> Tensor:
            return torch.rand(count, generator=generator) * 2 - 1

        def normal() -> Tensor:
            return torch.randn(count, generator=generator)

        one, zero = torch.ones(count), torch.zeros(count)
        octaves, stretch, angle = normal() * c.scale, normal() * c.stretch, uniform() * math.radians(c.rotate)
        pixel = 2 / edge
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, one, -one)
        turns = torch.randint(0, 4, (count,), generator=generator) * (math.pi / 2)
        operations = [
            (c.flip, _matrix(mirror, zero, zero, zero, one, zero)),
            (c.quarter_turns, _rotation(turns)),
            (
                c.translate > 0,
                _matrix(one, zero, _whole(uniform() * c.translate * edge) * pixel,
                        zero, one, _whole(uniform() * c.translate * edge) * pixel),
            ),
            (c.scale > 0, _matrix(torch.exp2(octaves), zero, zero, zero, torch.exp2(octaves), zero)),
            (c.rotate > 0, _rotation(angle)),
            (c.stretch > 0, _matrix(torch.exp2(stretch), zero, zero, zero, torch.exp2(-stretch), zero)),
            (c.shift > 0, _matrix(one, zero, normal() * c.shift * 2, zero, one, normal() * c.shift * 2)),
        ]  # fmt: skip
        total, active = torch.eye(3).repeat(count, 1, 1), torch.zeros(count, dtype=torch.bool)
        for wanted, matrix in operations:
            # Drawn even where the operation is switched off, so that a switch does not change the others' draws.
            chosen = torch.rand(count, generator=generator) < self.p
            if wanted:
                total = torch.where(chosen[:, None, None], total @ matrix, total)
                active |= chosen
        return total, active

    def _cut(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Sets a square around a random centre to the background, with probability p."""
        n, _, h, w = images.shape
        half = self.config.cutout / 2
        centre = torch.rand(2, n, 1, generator=generator)
        rows = ((torch.arange(h) + 0.5) / h - centre[0]).abs() < half  # [N, H]
        columns = ((torch.arange(w) + 0.5) / w - centre[1]).abs() < half
        chosen = torch.rand(n, 1, 1, generator=generator) < self.p
        hole = (rows[:, :, None] & columns[:, None, :] & chosen)[:, None].to(images.device)
        return images.masked_fill(hole, -1.0)


def _whole(x: Tensor) -> Tensor:
    return x.round()


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """Rows (a b c), (d e f), (0 0 1), each entry [N] -> [N, 3, 3]."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack([a, b, c, d, e, f, zero, zero, one], dim=1).view(-1, 3, 3)


def _rotation(angle: Tensor) -> Tensor:
    zero = torch.zeros_like(angle)
    return _matrix(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)
