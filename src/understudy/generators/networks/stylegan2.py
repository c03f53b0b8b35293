"""StyleGAN 2 (Karras et al. 2020, arXiv 1912.04958) for any number of channels: skip generator, residual discriminator.

The official weights load, see `official`. Two things are done differently, at equal results: modulation scales the
activations instead of the weights, and the activations may be bfloat16 and channels-last.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from understudy.generators.networks.base import Gan, LatentGenerator, NetworkConfig, fresh
from understudy.generators.networks.layers import (
    Conv,
    Dense,
    MappingNetwork,
    MinibatchDeviation,
    ModulatedConv,
    Styled,
    affine_styles,
    held_as,
    normalise_second_moment,
    squared_norms,
)
from understudy.generators.ops.fused import GAIN, LAYOUT, image_product, modulated, noisy_activation
from understudy.generators.ops.resampling import upsample
from understudy.io.settings import Depth, Width


class StyleGan2Config(NetworkConfig):
    """Architecture of StyleGAN 2; the defaults are the paper's (256x256, four sequences and one annotation)."""

    kind: Literal["stylegan2"] = Field("stylegan2", description="name of the model")
    z_dim: Width = Field(512, description="size of the latent z")
    w_dim: Width = Field(512, description="size of the intermediate latent w")
    channel_base: int = Field(32768, ge=16, le=1 << 24, description="feature maps at resolution R: this / R ...")
    channel_max: Width = Field(512, description="... but at most this many")
    mapping_layers: Depth = Field(8, description="dense layers from z to w")
    mapping_rate: float = Field(0.01, gt=0, description="learning-rate multiplier of the mapping")
    w_avg_beta: float = Field(0.998, ge=0, le=1, description="decay of the mean w per batch (TF: 0.995)")
    conv_clamp: float | None = Field(256.0, gt=0, description="limit of the activations, None for none")
    mbstd_group: Width = Field(4, description="samples per group of the minibatch deviation")
    mbstd_maps: int = Field(1, ge=0, le=1024, description="channels of the minibatch deviation, 0 for none")

    def check_size(self) -> None:
        if self.channel_base < self.resolution:
            raise ValueError(f"channel_base {self.channel_base} leaves no feature map at {self.resolution} pixels")

    def width(self, resolution: int) -> int:  # feature maps
        return min(self.channel_base // resolution, self.channel_max)

    @property
    def num_ws(self) -> int:  # w vectors that the synthesis takes
        return 2 * len(self.resolutions)


def mapping_network(config: StyleGan2Config) -> MappingNetwork:
    """The mapping of StyleGAN 2 and 3."""

    def layer(inputs: int, outputs: int) -> Dense:
        return Dense(inputs, outputs, activate=True, rate=config.mapping_rate)

    sizes = [config.z_dim] + [config.w_dim] * config.mapping_layers
    return MappingNetwork(sizes, layer, normalise_second_moment, config.w_avg_beta)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU: [N, I, R, R] (or R/2 if `up`) -> [N, O, R, R]."""

    noise_const: Tensor

    def __init__(self, inputs: int, outputs: int, resolution: int, config: StyleGan2Config, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, config.w_dim)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros([]))  # one for all channels, unlike StyleGAN 1
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.up, self.clamp = up, config.conv_clamp

    def forward(self, x: Tensor, style: Tensor, scale: Tensor, noise: Tensor | None, dtype: torch.dtype) -> Tensor:
        """style [N, I] and scale [N, O] (demodulation and gain): of the channels before and after the convolution;
        noise [N, 1, R, R] ~ N(0, 1), or None for the stored noise; dtype: of the factors of the products."""
        x = modulated(x, self.conv.weight, style, self.up, dtype)  # conv(s x, w)
        noise = self.noise_const if noise is None else noise
        # times the scale, which demodulates (eq. 3); then noise, bias, leaky ReLU
        return noisy_activation(x, scale, noise, self.noise_strength, self.bias, self.clamp)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to the image channels, without demodulation: [N, I, R, R] -> float32 [N, C, R, R]."""

    def __init__(self, inputs: int, config: StyleGan2Config) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, config.channels, 1, config.w_dim)
        self.bias = nn.Parameter(torch.zeros(config.channels))
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """style [N, I]: of the input channels."""
        weight = self.conv.weight.flatten(1)  # [O, I]
        kernels = (weight * (1 / math.sqrt(weight.shape[1]))) * style[:, None, :]  # [N, O, I]
        return image_product(x, kernels, self.bias, self.clamp)


class SynthesisBlock(nn.Module):
    """All layers of one resolution; the first block starts from a learned constant."""

    def __init__(self, resolution: int, config: StyleGan2Config) -> None:
        super().__init__()
        width = config.width(resolution)
        self.first = resolution == 4
        if self.first:
            self.const = nn.Parameter(torch.randn(width, 4, 4))
        else:
            self.conv0 = StyledConv(config.width(resolution // 2), width, resolution, config, up=True)
        self.conv1 = StyledConv(width, width, resolution, config, up=False)
        self.to_image = ToImage(width, config)


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> image float32 [N, C, R, R]."""

    def __init__(self, config: StyleGan2Config) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SynthesisBlock(r, config) for r in config.resolutions)

    def forward(self, ws: Tensor, noise: list[Tensor] | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """noise: one [N, 1, R, R] per convolution, or None for the stored noise; dtype: of the activations."""
        blocks = [b for b in self.blocks if isinstance(b, SynthesisBlock)]
        convs = [c for b in blocks for c in ([b.conv1] if b.first else [b.conv0, b.conv1])]
        # convolution k takes w number k; an image layer shares its w with the next block's first convolution
        groups = [[c.conv.affine] for c in convs] + [[]]
        for i, block in enumerate(blocks):
            groups[2 * i + 1].append(block.to_image.conv.affine)
        styles = affine_styles(groups, ws)  # s of eq. 1: [N, I] for every convolution, by w number
        weights = [c.conv.weight for c in convs]
        norms = squared_norms(weights, [s[0] for s in styles[:-1]])  # eq. 3: [N, sum of O]
        scales = (norms.rsqrt() * GAIN).split([len(w) for w in weights], dim=1)
        maps: list[Tensor | None] = list(noise) if noise is not None else [None] * len(convs)
        x = blocks[0].const.to(held_as(dtype, ws.device)).expand(len(ws), -1, -1, -1)
        x = x.contiguous(memory_format=LAYOUT)
        image = torch.empty(0)
        for i, block in enumerate(blocks):
            for k in range(max(2 * i - 1, 0), 2 * i + 1):
                x = convs[k](x, styles[k][0], scales[k], maps[k], dtype)  # [N, width(R), R, R]
            part = block.to_image(x, styles[2 * i + 1][-1])  # [N, C, R, R]
            image = part if block.first else part + upsample(image)  # skip connections (fig. 7)
        return image


class Generator(Styled, LatentGenerator):
    """z [N, z_dim] -> joint image float32 [N, C, R, R]."""

    def __init__(self, config: StyleGan2Config) -> None:
        super().__init__(config.z_dim)
        self.config = config
        self.mapping = mapping_network(config)
        self.synthesis = Synthesis(config)

    def draw(self, count: int, rng: torch.Generator, mixing: float = 0.0, level: float = 0.0) -> dict[str, Tensor]:
        """What `draw_styles` gives, and noise0, ... [count, 1, R, R], one for each convolution."""
        inputs = self.draw_styles(count, rng, mixing, self.config.num_ws)
        sizes = [r for r in self.config.resolutions for _ in range(1 if r == 4 else 2)]
        for i, size in enumerate(sizes):
            inputs[f"noise{i}"] = torch.randn(count, 1, size, size, generator=rng, device=rng.device)
        return inputs

    def synthesise(
        self, inputs: Mapping[str, Tensor], level: float = 0.0, dtype: torch.dtype = torch.float32, track: bool = False
    ) -> Tensor:
        noise = [inputs[f"noise{i}"].to(self.mapping.w_avg.device) for i in range(self.config.num_ws - 1)]
        return self.synthesis(self.ws(inputs, track), noise, dtype)


class DiscriminatorBlock(nn.Module):
    """Residual block: [N, width(R), R, R] -> [N, width(R/2), R/2, R/2]; the first one reads the image."""

    def __init__(self, resolution: int, config: StyleGan2Config) -> None:
        super().__init__()
        width, narrower, clamp = config.width(resolution), config.width(resolution // 2), config.conv_clamp
        half = math.sqrt(0.5)  # so that the sum of two branches keeps the variance
        image = resolution == config.resolution
        self.from_image = Conv(config.channels, width, 1, clamp=clamp) if image else None
        self.conv0 = Conv(width, width, 3, clamp=clamp)
        self.conv1 = Conv(width, narrower, 3, down=True, gain=half, clamp=clamp)
        self.skip = Conv(width, narrower, 1, down=True, bias=False, activate=False, gain=half)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        if self.from_image is not None:
            x = self.from_image(x, dtype)
        return self.skip(x, dtype) + self.conv1(self.conv0(x, dtype), dtype)


class Discriminator(nn.Module):
    """Joint image [N, C, R, R] -> logits [N, 1], positive for real."""

    def __init__(self, config: StyleGan2Config) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(DiscriminatorBlock(r, config) for r in reversed(config.resolutions[1:]))
        width = config.width(4)
        self.deviation = MinibatchDeviation(config.mbstd_group, config.mbstd_maps)
        self.conv = Conv(width + config.mbstd_maps, width, 3, clamp=config.conv_clamp)
        self.dense = Dense(width * 16, width, activate=True)
        self.out = Dense(width, 1)

    def forward(self, image: Tensor, dtype: torch.dtype = torch.float32, batches: int = 1) -> Tensor:
        """dtype: of the activations down to 8x8; the last block is float32. batches: see MinibatchDeviation."""
        x = image.to(held_as(dtype, image.device)).contiguous(memory_format=LAYOUT)
        for block in self.blocks:
            x = block(x, dtype)
        x = x.to(torch.promote_types(dtype, torch.float32))  # [N, width(4), 4, 4]
        if self.config.mbstd_maps:
            x = self.deviation(x, batches)
        return self.out(self.dense(self.conv(x).flatten(1)))


class StyleGan2(Gan):
    def __init__(self, config: StyleGan2Config) -> None:
        super().__init__(config, Generator(config), Discriminator(config))


build = partial(fresh, StyleGan2)  # (config, seed) -> a network with fresh weights
