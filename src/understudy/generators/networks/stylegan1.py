"""StyleGAN 1 (Karras et al. 2019, arXiv 1812.04948) for any number of channels: the generator.

The discriminator and what grows are in `progressive`. The official weights load, see `official`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.generators.networks.base import Gan, fresh
from understudy.generators.networks.layers import (
    MappingNetwork,
    ScaledConv,
    ScaledDense,
    Styled,
    at_least_float,
    held_as,
    pixel_norm,
)
from understudy.generators.networks.progressive import (
    ProgressiveConfig,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    split_level,
)
from understudy.generators.ops.fused import LAYOUT, SLOPE
from understudy.generators.ops.resampling import smooth
from understudy.io.settings import Depth, Width


class StyleGan1Config(ProgressiveConfig):
    """Architecture of StyleGAN 1; the defaults are the paper's (256x256, four sequences and one annotation)."""

    kind: Literal["stylegan1"] = Field("stylegan1", description="name of the model")
    z_dim: Width = Field(512, description="size of the latent z")
    w_dim: Width = Field(512, description="size of the intermediate latent w")
    mapping_layers: Depth = Field(8, description="dense layers from z to w")
    mapping_width: Width = Field(512, description="size of the layers between z and w")
    mapping_rate: float = Field(0.01, gt=0, description="learning-rate multiplier of the mapping")
    w_avg_beta: float = Field(0.995, ge=0, le=1, description="decay of the mean w per batch")
    psi_cutoff: int | None = Field(8, ge=0, description="truncation moves the first so many w only; None: all of them")

    @property
    def num_ws(self) -> int:  # w vectors that the synthesis takes
        return 2 * len(self.resolutions)


class _Restyle(torch.autograd.Function):
    # in half the passes over the activations that autograd would take

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        centred = x - x.mean(dim=(2, 3), keepdim=True)  # [N, C, H, W]
        squares = at_least_float(centred).square()
        inverse = squares.mean(dim=(2, 3), keepdim=True).add_(1e-8).rsqrt_()  # [N, C, 1, 1], 1 / deviation
        ctx.save_for_backward(centred, inverse, scale)
        return torch.addcmul(shift.to(x.dtype), centred, (scale * inverse).to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (g,), (centred, inverse, scale) = grads, ctx.saved_tensors
        pixels, gain = g.shape[2] * g.shape[3], scale * inverse
        by_shift = at_least_float(g.sum(dim=(2, 3), keepdim=True))
        along = at_least_float((g * centred).sum(dim=(2, 3), keepdim=True))
        mean, slope = gain * by_shift / -pixels, gain * inverse.square() * along / -pixels
        by_x = torch.addcmul(mean.to(g.dtype), g, gain.to(g.dtype)).addcmul_(centred, slope.to(g.dtype))
        return by_x, along * inverse, by_shift


def restyle(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Adaptive instance norm (eq. 1): x [N, C, H, W] normalised over the pixels of each sample and channel, times
    scale plus shift [N, C, 1, 1]."""
    y: Tensor = _Restyle.apply(x, scale, shift)  # type: ignore[no-untyped-call]
    return y


class Style(nn.Module):
    """What follows every convolution: noise, bias, leaky ReLU, instance norm, and the scale and shift that w gives."""

    noise_const: Tensor

    def __init__(self, width: int, resolution: int, config: StyleGan1Config) -> None:
        super().__init__()
        self.noise_weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.affine = ScaledDense(config.w_dim, 2 * width)
        self.register_buffer("noise_const", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """x [N, C, R, R], w [N, w_dim]; noise [N, 1, R, R] ~ N(0, 1), or None for the stored noise."""
        noise = (self.noise_const if noise is None else noise).to(x.dtype)
        x = torch.addcmul(x, noise, self.noise_weight.to(x.dtype)[:, None, None])  # one strength per channel
        x = F.leaky_relu(x + self.bias.to(x.dtype)[:, None, None], SLOPE, inplace=True)
        scale, shift = self.affine(w)[:, :, None, None].chunk(2, dim=1)  # [N, C, 1, 1]
        return restyle(x, scale + 1, shift)  # [N, C, R, R]


class SynthesisBlock(nn.Module):
    """The two layers of one resolution; the first block starts from a learned constant."""

    def __init__(self, resolution: int, config: StyleGan1Config) -> None:
        super().__init__()
        width = config.width(resolution)
        self.first = resolution == 4
        if self.first:
            self.const = nn.Parameter(torch.ones(1, width, 4, 4))
        else:
            self.conv0 = ScaledConv(config.width(resolution // 2), width, resample="up", bias=False)
        self.style0 = Style(width, resolution, config)
        self.conv1 = ScaledConv(width, width, bias=False)
        self.style1 = Style(width, resolution, config)

    def forward(self, x: Tensor, ws: tuple[Tensor, ...], noise: list[Tensor | None], dtype: torch.dtype) -> Tensor:
        """x [N, width(R/2), R/2, R/2] (anything for the first block) -> [N, width(R), R, R]; two of ws and noise."""
        if self.first:
            x = self.const.to(held_as(dtype, ws[0].device)).expand(len(ws[0]), -1, -1, -1)
            x = x.contiguous(memory_format=LAYOUT)
        else:
            x = smooth(self.conv0(x, dtype))
        x = self.style0(x, ws[0], noise[0])
        return self.style1(self.conv1(x, dtype), ws[1], noise[1])


class Generator(Styled, ProgressiveGenerator):
    """z [N, z_dim] -> joint image float32 [N, C, R, R]."""

    config: StyleGan1Config

    def __init__(self, config: StyleGan1Config) -> None:
        super().__init__(config, config.z_dim)
        sizes = [config.z_dim, *[config.mapping_width] * (config.mapping_layers - 1), config.w_dim]

        def layer(inputs: int, outputs: int) -> ScaledDense:
            return ScaledDense(inputs, outputs, activate=True, rate=config.mapping_rate)

        self.mapping = MappingNetwork(sizes, layer, pixel_norm, config.w_avg_beta)
        self.blocks = nn.ModuleList(SynthesisBlock(r, config) for r in config.resolutions)

    def forward(
        self, z: Tensor, psi: float = 1.0, dtype: torch.dtype = torch.float32, level: float | None = None
    ) -> Tensor:
        """Images with the stored noise. psi: of the first `psi_cutoff` w. level: None for that of the network."""
        ws = self.truncated(self.broadcast(self.mapping(z)), psi)  # [N, num_ws, w_dim]
        return self.full_size(self.synthesis(ws, float(self.level) if level is None else level, None, dtype))

    def truncated(self, ws: Tensor, psi: float) -> Tensor:
        """ws [N, num_ws, w_dim] with the first ones drawn towards the mean w (app. B)."""
        if psi == 1.0:
            return ws
        cutoff = self.config.num_ws if self.config.psi_cutoff is None else self.config.psi_cutoff
        return torch.cat([self.mapping.w_avg.lerp(ws[:, :cutoff], psi), ws[:, cutoff:]], dim=1)

    def synthesis(
        self, ws: Tensor, level: float, noise: list[Tensor] | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """ws [N, num_ws, w_dim] -> image float32 [N, C, A, A] at the active resolution A of a level; noise: one
        [N, 1, R, R] for each of the active layers, or None for the stored noise."""
        index, fade = split_level(level, self.config.resolutions)
        w = ws.unbind(1)  # once: every single index would cost a gradient of the size of ws
        before = x = torch.empty(0)
        for i, block in enumerate(self.blocks[: index + 1]):
            own: Any = [None, None] if noise is None else noise[2 * i : 2 * i + 2]
            before, x = x, block(x, w[2 * i : 2 * i + 2], own, dtype)  # [N, width(R), R, R]
        return self.image(x, before, index, fade)

    def draw(self, count: int, rng: torch.Generator, mixing: float = 0.0, level: float = 0.0) -> dict[str, Tensor]:
        """What `draw_styles` gives, and noise0, ... [count, 1, R, R], one for each layer of the level."""
        layers = 2 * (split_level(level, self.config.resolutions)[0] + 1)
        inputs = self.draw_styles(count, rng, mixing, layers)
        for i in range(layers):
            size = self.config.resolutions[i // 2]
            inputs[f"noise{i}"] = torch.randn(count, 1, size, size, generator=rng, device=rng.device)
        return inputs

    def synthesise(
        self, inputs: Mapping[str, Tensor], level: float = 0.0, dtype: torch.dtype = torch.float32, track: bool = False
    ) -> Tensor:
        layers = 2 * (split_level(level, self.config.resolutions)[0] + 1)
        noise = [inputs[f"noise{i}"].to(self.level.device) for i in range(layers)]
        return self.synthesis(self.ws(inputs, track), level, noise, dtype)


class StyleGan1(Gan):
    def __init__(self, config: StyleGan1Config) -> None:
        super().__init__(config, Generator(config), ProgressiveDiscriminator(config, blurred=True))


build = partial(fresh, StyleGan1)  # (config, seed) -> a network with fresh weights
