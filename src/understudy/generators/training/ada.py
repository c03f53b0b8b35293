"""Geometric augmentation: all channels, the annotation included, move together.

For GANs it is adaptive discriminator augmentation (Karras et al. 2020, arXiv 2006.06676): the discriminator never sees
an image that was not augmented with probability p, neither real nor synthetic; p follows how much it overfits. To a
diffusion model the movement is an input, which is zero when it is sampled (Jun et al. 2020; Karras et al. 2022,
arXiv 2206.00364, app. F.2), so that its samples are not augmented. Colour operations are left out: they would break the
relation between the sequences' intensities, which the generator has to learn.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from understudy.io.settings import Settings

FEW = 5000  # real slices below which "auto" augments


class MoveConfig(Settings, frozen=True):
    """Which operations move an image and its annotation, each with probability p."""

    p: float = Field(0.0, ge=0, lt=1, description="probability of each operation; 0: no augmentation")
    flip: bool = Field(True, description="mirror left and right")
    quarter_turns: bool = Field(False, description="turn by 90, 180 or 270 degrees")
    translate: float = Field(0.0, ge=0, le=0.5, description="whole pixels, at most this part of the edge")
    scale: float = Field(0.1, ge=0, le=8, description="isotropic scaling, standard deviation in octaves")
    stretch: float = Field(0.1, ge=0, le=8, description="anisotropic scaling, standard deviation in octaves")
    rotate: float = Field(20.0, ge=0, le=180, description="rotation, at most this many degrees")
    shift: float = Field(0.06, ge=0, le=1, description="fractional translation, standard deviation, part of the edge")


class AugmentConfig(MoveConfig, frozen=True):
    """What the discriminator's augmentation does and how its probability is controlled."""

    mode: Literal["off", "auto", "adaptive", "fixed"] = Field(
        "off", description="off, adaptive (p by overfitting), fixed p, or auto: adaptive below 5,000 slices, else off"
    )
    p: float = Field(0.0, ge=0, le=1, description="probability of each operation: constant, or at the start")
    target: float = Field(0.6, gt=0, lt=1, description="adaptive: wanted mean of sign(D(real))")
    interval: int = Field(4, ge=1, description="adaptive: steps between adjustments of p")
    kimg: float = Field(100.0, gt=0, description="adaptive: kimg in which p could go from 0 to 1 (official: 500)")
    p_max: float = Field(0.85, gt=0, le=1, description="adaptive: p stays below, as augmentation leaks near 1")
    translate: float = Field(0.125, ge=0, le=0.5, description="whole pixels, at most this part of the edge")
    scale: float = Field(0.2, ge=0, le=8, description="isotropic scaling, standard deviation in octaves")
    stretch: float = Field(0.2, ge=0, le=8, description="anisotropic scaling, standard deviation in octaves")
    rotate: float = Field(30.0, ge=0, le=180, description="rotation, at most this many degrees (official: 180)")
    shift: float = Field(0.125, ge=0, le=1, description="fractional translation, standard deviation, part of the edge")
    cutout: float = Field(0.0, ge=0, le=1, description="edge of a square set to the background, part of the edge")

    def resolved(self, slices: int) -> Self:
        """With "auto" decided for so many real slices."""
        mode = self.mode if self.mode != "auto" else "adaptive" if slices < FEW else "off"
        return self.model_copy(update={"mode": mode})


class Mover:
    """Draws how images are moved, and moves them.

    Attributes:
        p: current probability of each operation.
    """

    def __init__(self, config: MoveConfig) -> None:
        self.config, self.p = config, config.p

    def apply(self, images: Tensor, drawn: Mapping[str, Tensor], annotation: int = 0) -> Tensor:
        """images [N, C, H, W] in [-1, 1], -1 being the background -> the same shape, differentiable in `images`.

        The last `annotation` channels take the nearest pixel, which leaves a class a class; the others are interpolated
        bilinearly. Samples that no operation was drawn for are returned untouched.
        """
        if not drawn:
            return images
        matrix, active = drawn["matrix"].to(images.device), drawn["active"].to(images.device)
        grid = F.affine_grid(matrix[:, :2], list(images.shape), align_corners=False)
        channels = images.shape[1] - annotation
        parts = [(images[:, :channels], "bilinear"), (images[:, channels:], "nearest")][: 1 + bool(annotation)]
        moved = [F.grid_sample(part + 1, grid, mode, "zeros", align_corners=False) - 1 for part, mode in parts]
        return torch.where(active[:, None, None, None], torch.cat(moved, dim=1), images)

    def draw(self, count: int, resolution: int, rng: torch.Generator) -> dict[str, Tensor]:
        """What is done to each of `count` images; {} at p = 0. `rng` lives on the CPU.

        Returns:
            matrix [count, 3, 3], maps from output to input coordinates (the image is [-1, 1]^2); active [count],
            whether they do anything.
        """
        if self.p <= 0:
            return {}
        matrix, active = self._draw_matrix(count, resolution, rng)
        return {"matrix": matrix, "active": active}

    def _draw_matrix(self, count: int, resolution: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        c = self.config

        def uniform() -> Tensor:
            return torch.rand(count, generator=rng) * 2 - 1

        def normal() -> Tensor:
            return torch.randn(count, generator=rng)

        one, zero = torch.ones(count), torch.zeros(count)
        octaves, stretch, angle = normal() * c.scale, normal() * c.stretch, uniform() * math.radians(c.rotate)
        pixel = 2 / resolution
        mirror = torch.where(torch.rand(count, generator=rng) < 0.5, one, -one)
        turns = torch.randint(0, 4, (count,), generator=rng) * (math.pi / 2)
        operations = [
            (c.flip, _matrix(mirror, zero, zero, zero, one, zero)),
            (c.quarter_turns, _rotation(turns)),
            (
                c.translate > 0,
                _matrix(one, zero, (uniform() * c.translate * resolution).round() * pixel,
                        zero, one, (uniform() * c.translate * resolution).round() * pixel),
            ),
            (c.scale > 0, _matrix(torch.exp2(octaves), zero, zero, zero, torch.exp2(octaves), zero)),
            (c.rotate > 0, _rotation(angle)),
            (c.stretch > 0, _matrix(torch.exp2(stretch), zero, zero, zero, torch.exp2(-stretch), zero)),
            (c.shift > 0, _matrix(one, zero, normal() * c.shift * 2, zero, one, normal() * c.shift * 2)),
        ]  # fmt: skip
        total, active = torch.eye(3).repeat(count, 1, 1), torch.zeros(count, dtype=torch.bool)
        for wanted, matrix in operations:
            # Drawn even where the operation is switched off, so that a switch does not change the others' draws.
            chosen = torch.rand(count, generator=rng) < self.p
            if wanted:
                total = torch.where(chosen[:, None, None], total @ matrix, total)
                active |= chosen
        return total, active


class Augment(Mover):
    """Applies the discriminator's augmentation and, if adaptive, controls its probability."""

    config: AugmentConfig

    def __init__(self, config: AugmentConfig) -> None:
        super().__init__(config)
        self.p = 0.0 if config.mode == "off" else config.p
        self._signs: list[float | Tensor] = []
        self._images = 0  # real images since the last adjustment

    def observe(self, sign: float | Tensor, images: int) -> None:
        """Takes the mean of sign(D(real)) of one step of so many images; adjusts p when the interval is over.

        A tensor is read only then, as that waits for a GPU.
        """
        if self.config.mode != "adaptive":
            return
        self._signs.append(sign)
        self._images += images
        if len(self._signs) < self.config.interval:
            return
        mean = sum(map(float, self._signs)) / len(self._signs)
        direction = (mean > self.config.target) - (mean < self.config.target)
        self.p = min(max(self.p + direction * self._images / (self.config.kimg * 1000), 0.0), self.config.p_max)
        self._signs.clear()
        self._images = 0

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"p": self.p, "signs": [float(sign) for sign in self._signs], "images": self._images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`."""
        self.p, self._signs, self._images = state["p"], list(state["signs"]), state["images"]

    def apply(self, images: Tensor, drawn: Mapping[str, Tensor], annotation: int = 0) -> Tensor:
        """With the holes of cutout set to the background."""
        images = super().apply(images, drawn, annotation)
        return images.masked_fill(drawn["hole"].to(images.device), -1.0) if "hole" in drawn else images

    def draw(self, count: int, resolution: int, rng: torch.Generator) -> dict[str, Tensor]:
        """With hole [count, 1, resolution, resolution] where cutout is on: a square around a random centre."""
        drawn = super().draw(count, resolution, rng)
        if drawn and self.config.cutout > 0:
            centre = torch.rand(2, count, 1, generator=rng)
            positions = (torch.arange(resolution) + 0.5) / resolution
            rows, columns = (positions - centre).abs() < self.config.cutout / 2  # each [N, resolution]
            chosen = torch.rand(count, 1, 1, generator=rng) < self.p
            drawn["hole"] = (rows[:, :, None] & columns[:, None, :] & chosen)[:, None]
        return drawn


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """Rows (a b c), (d e f), (0 0 1), each entry [N] -> [N, 3, 3]."""
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return torch.stack([a, b, c, d, e, f, zero, zero, one], dim=1).view(-1, 3, 3)


def _rotation(angle: Tensor) -> Tensor:
    zero = torch.zeros_like(angle)
    return _matrix(angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero)


def movement(drawn: Mapping[str, Tensor]) -> Tensor | None:
    """What a network is told of `Mover.draw`: the map [N, 6] less the identity, so 0 for an image as it is."""
    if not drawn:
        return None
    matrix = drawn["matrix"][:, :2]
    return (matrix - torch.eye(3, device=matrix.device)[:2]).flatten(1)
