"""Progressive GAN (Karras et al. 2018, arXiv 1710.10196) for any number of channels: the generator.

The discriminator and what grows are in `progressive`. The official weights load, see `official`.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.generators.networks.base import Gan, fresh
from understudy.generators.networks.layers import ScaledConv, held_as, pixel_norm
from understudy.generators.networks.progressive import (
    ProgressiveConfig,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    split_level,
)
from understudy.generators.ops.fused import GAIN, LAYOUT, SLOPE
from understudy.io.settings import Width


class ProGanConfig(ProgressiveConfig):
    """Architecture of Progressive GAN; the defaults are the paper's (256x256, four sequences and one annotation)."""

    kind: Literal["progan"] = Field("progan", description="name of the model")
    z_dim: Width | None = Field(None, description="size of the latent z; None: feature maps of the dense layers")

    @property
    def latent_size(self) -> int:
        return self.z_dim or self.width(2)


class First(nn.Module):
    """z [N, Z] -> [N, width(4), 4, 4]: a dense layer with one bias per channel, then a convolution."""

    def __init__(self, config: ProGanConfig) -> None:
        super().__init__()
        self.width = config.width(4)
        self.weight = nn.Parameter(torch.randn(self.width * 16, config.latent_size))
        self.bias = nn.Parameter(torch.zeros(self.width))
        self.scale = GAIN / 4 / math.sqrt(config.latent_size)  # a quarter of He's gain, as in the official code
        self.conv = ScaledConv(self.width, self.width)

    def forward(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        x = F.linear(pixel_norm(z) * self.scale, self.weight).view(-1, self.width, 4, 4)  # [N, width(4), 4, 4]
        x = F.leaky_relu(x + self.bias[:, None, None], SLOPE)
        x = pixel_norm(x).to(held_as(dtype, z.device), memory_format=LAYOUT)
        return pixel_norm(self.conv(x, dtype))


class Block(nn.Module):
    """[N, width(R/2), R/2, R/2] -> [N, width(R), R, R]."""

    def __init__(self, resolution: int, config: ProGanConfig) -> None:
        super().__init__()
        width = config.width(resolution)
        self.conv0 = ScaledConv(config.width(resolution // 2), width, resample="up")  # doubles, then convolves
        self.conv1 = ScaledConv(width, width)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return pixel_norm(self.conv1(pixel_norm(self.conv0(x, dtype)), dtype))


class Generator(ProgressiveGenerator):
    """z [N, Z] -> joint image float32 [N, C, R, R]."""

    def __init__(self, config: ProGanConfig) -> None:
        super().__init__(config, config.latent_size)
        self.first = First(config)
        self.blocks = nn.ModuleList(Block(r, config) for r in config.resolutions[1:])

    def forward(
        self, z: Tensor, psi: float = 1.0, level: float | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """level: None for that of the network. An UnderstudyError for psi other than 1."""
        if psi != 1.0:
            raise UnderstudyError(f"Progressive GAN cannot truncate its latents (psi {psi})", fix="use psi 1")
        return self.full_size(self.synthesise({"z": z}, float(self.level) if level is None else level, dtype))

    def synthesise(
        self, inputs: Mapping[str, Tensor], level: float = 0.0, dtype: torch.dtype = torch.float32, track: bool = False
    ) -> Tensor:
        index, fade = split_level(level, self.config.resolutions)
        before = x = self.first(inputs["z"].to(self.level.device), dtype)  # [N, width(4), 4, 4]
        for block in self.blocks[:index]:
            before, x = x, block(x, dtype)  # [N, width(R), R, R]
        return self.image(x, before, index, fade)


class ProGan(Gan):
    def __init__(self, config: ProGanConfig) -> None:
        super().__init__(config, Generator(config), ProgressiveDiscriminator(config, blurred=False))


build = partial(fresh, ProGan)  # (config, seed) -> a network with fresh weights
