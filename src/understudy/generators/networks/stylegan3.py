"""StyleGAN 3 (Karras et al. 2021, arXiv 2106.12423), configurations T and R, for any number of channels.

The image is a continuous signal in every layer, sampled with a margin around it, and every layer has a cutoff below
which it may create detail; so detail moves with the features, and does not stick to the pixels. T (3x3 kernels)
follows translations, R (1x1 kernels, radial filters) rotations too. The discriminator is StyleGAN 2's.

The official weights load, see `official`. Three things are done differently, the first two at equal results:
modulation scales the activations; weights and styles are not normalised before it, since that cancels in the
demodulation (it serves the range of float16 only); and a training pass scales by the magnitudes measured before it.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from understudy.generators.networks.base import Gan, LatentGenerator, NetworkConfig, fresh
from understudy.generators.networks.layers import (
    Dense,
    ModulatedConv,
    Styled,
    at_least_float,
    held_as,
    pointwise,
    squared_norms,
)
from understudy.generators.networks.stylegan2 import Discriminator, StyleGan2Config, mapping_network
from understudy.generators.ops.filtered_lrelu import Resampling, filtered_lrelu, lowpass
from understudy.generators.ops.fused import GAIN
from understudy.io.settings import Depth, Width

TAPS = 6  # of each filter, per sample of the signal with the lower rate


class Band(NamedTuple):
    """Place of a layer's output in the schedule (Karras et al. 2021, appendix C.1); rates in samples per image."""

    cutoff: float
    half_width: float  # of the transition band
    rate: int
    size: int  # width and height in samples, with the margin
    channels: int


class StyleGan3Config(NetworkConfig):
    """Architecture of StyleGAN 3; the defaults are T at 256x256 with four sequences and one annotation.

    R: conv_kernel=1, use_radial_filters=True, channel_base=65536, channel_max=1024, discriminator_base=32768,
    discriminator_max=512, and the training blurs what the discriminator sees at first (`resampling.gaussian_blur`).
    """

    kind: Literal["stylegan3"] = Field("stylegan3", description="name of the model")
    z_dim: Width = Field(512, description="size of the latent z")
    w_dim: Width = Field(512, description="size of the intermediate latent w")
    channel_base: int = Field(
        32768, ge=16, le=1 << 24, description="feature maps of a layer: channel_base / (2 * cutoff) ..."
    )
    channel_max: Width = Field(512, description="... but at most this many")
    mapping_layers: Depth = Field(2, description="dense layers from z to w")
    mapping_rate: float = Field(0.01, gt=0, description="learning-rate multiplier of the mapping")
    w_avg_beta: float = Field(0.998, ge=0, le=1, description="decay of the mean w per batch")
    num_layers: int = Field(14, ge=2, le=128, description="layers without the one that makes the image")
    num_critical: int = Field(2, ge=0, le=1024, description="last layers without a margin in frequency")
    first_cutoff: float = Field(2.0, gt=0, le=1024, description="of the input, cycles per image")
    first_stopband: float = Field(2**2.1, ge=1, le=1024, description="of the input, cycles per image")
    last_stopband: float = Field(2**0.3, ge=1, le=1024, description="of the last layers, in units of resolution / 2")
    margin: int = Field(10, ge=0, le=1024, description="samples around the image in all but the last layers")
    output_scale: float = Field(0.25, gt=0, description="of the image")
    conv_kernel: Literal[1, 3] = Field(3, description="size of the kernels: 3 for T, 1 for R")
    use_radial_filters: bool = Field(False, description="radial filters behind the nonlinearities, for R")
    magnitude_beta: float = Field(  # official: 0.5 ** (batch / 20000)
        0.5 ** (32 / 20000), ge=0, le=1, description="decay of the mean square of the activations per batch"
    )
    conv_clamp: float | None = Field(256.0, gt=0, description="limit of the activations, None for none (official: 256)")
    discriminator_base: int | None = Field(
        None, ge=16, description="channel_base of the discriminator, None for the same"
    )
    discriminator_max: Width | None = Field(None, description="channel_max of the discriminator, None for the same")
    mbstd_group: Width = Field(4, description="samples per group of the minibatch standard deviation")
    mbstd_maps: int = Field(1, ge=0, le=1024, description="channels of the minibatch standard deviation, 0 for none")

    def check_size(self) -> None:
        last = self.resolution / 2
        for name in ("channel_base", "discriminator_base"):
            if (width := getattr(self, name)) is not None and width < self.resolution:
                raise ValueError(f"{name} {width} leaves no feature map at {self.resolution} pixels")
        if self.num_critical >= self.num_layers:
            raise ValueError(f"num_critical must be below num_layers, {self.num_layers}")
        if not self.first_cutoff < self.first_stopband <= last * self.last_stopband:
            raise ValueError("the schedule must rise: first_cutoff < first_stopband <= last_stopband * resolution / 2")
        if self.first_cutoff >= last:
            raise ValueError(f"first_cutoff must be below resolution / 2, {last:g}")
        if self.bands[-2].rate != self.bands[-1].rate:
            raise ValueError("without critical layers the last layer must reach the full rate: add layers")

    @property
    def num_ws(self) -> int:  # w vectors that the synthesis takes: the input, the layers, the image
        return self.num_layers + 2

    @property
    def bands(self) -> list[Band]:
        """Outputs of the `num_layers` layers and of the image layer; the input has the first one's band."""
        last = self.resolution / 2
        found = []
        for index in range(self.num_layers + 1):
            part = min(index / (self.num_layers - self.num_critical), 1.0)
            cutoff = self.first_cutoff * (last / self.first_cutoff) ** part
            stopband = self.first_stopband * (last * self.last_stopband / self.first_stopband) ** part
            rate = 2 ** math.ceil(math.log2(min(2 * stopband, self.resolution)))
            size = self.resolution if index >= self.num_layers - 1 else rate + 2 * self.margin
            channels = round(min(self.channel_base / 2 / cutoff, self.channel_max))
            channels = self.channels if index == self.num_layers else channels
            found.append(Band(cutoff, max(stopband, rate / 2) - cutoff, rate, size, channels))
        return found

    @property
    def plain(self) -> StyleGan2Config:
        """The same mapping and discriminator as a configuration of StyleGAN 2."""
        return StyleGan2Config(
            resolution=self.resolution, channels=self.channels, z_dim=self.z_dim, w_dim=self.w_dim,
            mapping_layers=self.mapping_layers, mapping_rate=self.mapping_rate, w_avg_beta=self.w_avg_beta,
            channel_base=self.discriminator_base or self.channel_base,
            channel_max=self.discriminator_max or self.channel_max,
            conv_clamp=self.conv_clamp, mbstd_group=self.mbstd_group, mbstd_maps=self.mbstd_maps,
        )  # fmt: skip


class FourierInput(nn.Module):
    """w [N, w_dim] -> mixed plane waves, float32 [N, C, size, size], turned and shifted by w (appendix C.1, F.5)."""

    freqs: Tensor
    phases: Tensor
    transform: Tensor
    position: Tensor

    def __init__(self, band: Band, w_dim: int) -> None:
        super().__init__()
        self.band = band
        channels = band.channels
        direction = torch.randn(channels, 2)
        square = direction.square().sum(dim=1, keepdim=True)
        # uniform in the disc: exp(-|d|^2 / 2) of a normal pair d is uniform in [0, 1], and so is the squared radius
        freqs = direction / (square.sqrt() * (square / 4).exp()) * band.cutoff
        self.register_buffer("freqs", freqs)  # [C, 2], cycles per image, (x, y)
        self.register_buffer("phases", torch.rand(channels) - 0.5)  # [C], cycles
        # position in the image -> position in the pattern, homogeneous, in units of the image's width
        self.register_buffer("transform", torch.eye(3))
        position = (torch.arange(band.size) + 0.5 - band.size / 2) / band.rate
        self.register_buffer("position", position, persistent=False)
        self.affine = Dense(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.weight = nn.Parameter(torch.randn(channels, channels))

    def forward(self, w: Tensor) -> Tensor:
        cos, sin, x, y = self.affine(w).unbind(1)
        norm = (cos.square() + sin.square()).rsqrt()
        rotation = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2) * norm[:, None, None]  # [N, 2, 2]
        shift = torch.stack([x, y], dim=1) * norm[:, None]
        # [N, 2, 1]; the shift is in units of the turned pattern, before it is turned
        shift = rotation @ (self.transform[:2, 2] - shift)[:, :, None]
        freqs = self.freqs @ (rotation @ self.transform[:2, :2])  # [N, C, 2]
        phases = self.phases + (self.freqs @ shift)[:, :, 0]  # [N, C]
        # waves that the rate cannot carry fade out
        room = self.band.rate / 2 - self.band.cutoff
        amplitude = (1 - (freqs.norm(dim=2) - self.band.cutoff) / room).clamp(0, 1)  # [N, C]
        columns = self.position[:, None] * freqs[:, None, :, 0]  # [N, W, C]
        rows = self.position[:, None] * freqs[:, None, :, 1] + phases[:, None]  # [N, H, C]
        waves = ((columns[:, None] + rows[:, :, None]) * (2 * math.pi)).sin()  # [N, H, W, C]
        waves = (waves * amplitude[:, None, None]).permute(0, 3, 1, 2)
        return pointwise(waves, self.weight * (1 / math.sqrt(len(self.weight))))


class FilteredConv(ModulatedConv):
    """Modulated convolution and filtered leaky ReLU, [N, C, size, size] of one band -> the same of the next."""

    magnitude: Tensor

    def __init__(self, before: Band, after: Band, critical: bool, config: StyleGan3Config) -> None:
        kernel = config.conv_kernel
        super().__init__(before.channels, after.channels, kernel, config.w_dim)
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude", torch.ones([]))  # mean square of the input
        self.clamp = config.conv_clamp
        rate = max(before.rate, after.rate) * 2  # of the nonlinearity, over the higher one of input and output
        up, down = rate // before.rate, rate // after.rate
        self.up_filter = lowpass(TAPS * up, before.cutoff, before.half_width, rate)
        radial = config.use_radial_filters and not critical
        self.down_filter = lowpass(TAPS * down, after.cutoff, after.half_width, rate, radial)
        size = before.size + kernel - 1
        self.resampling = Resampling(self.up_filter, self.down_filter, up, down, size, after.size, GAIN)

    def forward(self, x: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
        """dtype: of the factors of the convolution."""
        style = self.affine(w)  # [N, I]
        scale = (squared_norms([self.weight], [style]) * self.magnitude).rsqrt()[:, :, None, None]  # [N, O, 1, 1]
        held, weight = x.dtype, self.weight.to(dtype)
        x = (x * style[:, :, None, None].to(held)).to(dtype)
        if weight.shape[-1] == 1:
            x = pointwise(x, weight.flatten(1))
        else:
            # Two pixels of padding, one of them in memory: with both left to the convolution, the gradient of
            # the weights takes up to 20 times as long on a CPU in bfloat16, twice as long in float32.
            x = F.conv2d(F.pad(x, (1, 1, 1, 1)), weight, padding=1)
        x = torch.addcmul(self.bias.to(held)[:, None, None], x.to(held), scale.to(held))
        return filtered_lrelu(x, self.resampling, self.clamp)


class ToImage(nn.Module):
    """Modulated 1x1 convolution to the image channels, without demodulation: -> float32 [N, C, R, R]."""

    magnitude: Tensor

    def __init__(self, inputs: int, config: StyleGan3Config) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, config.channels, 1, config.w_dim)
        self.bias = nn.Parameter(torch.zeros(config.channels))
        self.register_buffer("magnitude", torch.ones([]))
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        style = self.conv.affine(w) * (1 / math.sqrt(channels))  # [N, I]
        kernels = (self.conv.weight.flatten(1) * style[:, None, :]).to(x.dtype)  # [N, O, I]
        # a view of channels-last activations, and so is its gradient; the product is contiguous
        rows = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        image = at_least_float(torch.bmm(kernels, rows.mT).view(n, -1, height, width))
        image = torch.addcmul(self.bias[:, None, None], image, self.magnitude.rsqrt())
        # not by `clamp`, whose gradient takes 20 times as long on a CPU
        return image if self.clamp is None else F.hardtanh(image, -self.clamp, self.clamp)


class Synthesis(nn.Module):
    """ws [N, num_ws, w_dim] -> image float32 [N, C, R, R]."""

    def __init__(self, config: StyleGan3Config) -> None:
        super().__init__()
        bands = config.bands
        critical = config.num_layers - config.num_critical
        self.input = FourierInput(bands[0], config.w_dim)
        self.layers = nn.ModuleList(
            FilteredConv(bands[max(i - 1, 0)], bands[i], i >= critical, config) for i in range(config.num_layers)
        )
        self.to_image = ToImage(bands[-2].channels, config)
        self.beta, self.scale = config.magnitude_beta, config.output_scale

    def forward(self, ws: Tensor, dtype: torch.dtype = torch.float32, track: bool = False) -> Tensor:
        """dtype: of the factors of the convolutions; track: see `Generator.synthesise`."""
        w = ws.unbind(1)  # once: every single index would cost a gradient of the size of ws
        x = self.input(w[0]).to(held_as(dtype, ws.device))
        inputs = []
        for layer, style in zip(self.layers, w[1:-1], strict=True):
            if track:
                inputs.append(at_least_float(x.detach()).square().mean())
            x = layer(x, style, dtype)
        image: Tensor = self.to_image(x, w[-1]) * self.scale
        if track:  # at last, so that no part of a batch depends on what another one measured
            inputs.append(at_least_float(x.detach()).square().mean())
            for layer, square in zip([*self.layers, self.to_image], inputs, strict=True):
                layer.magnitude.copy_(square.lerp(layer.magnitude, self.beta))
        return image


class Generator(Styled, LatentGenerator):
    """z [N, z_dim] -> joint image float32 [N, C, R, R]."""

    def __init__(self, config: StyleGan3Config) -> None:
        super().__init__(config.z_dim)
        self.config = config
        self.mapping = mapping_network(config.plain)
        self.synthesis = Synthesis(config)

    def synthesise(
        self, inputs: Mapping[str, Tensor], level: float = 0.0, dtype: torch.dtype = torch.float32, track: bool = False
    ) -> Tensor:
        """track: move the running means, of w and of the activations' squares in front of each layer. The pass itself
        still uses the earlier ones. Each move is linear in the mean over these samples, so the buffers after parts of a
        batch (each from the same buffers before) average to those after the batch."""
        return self.synthesis(self.ws(inputs, track), dtype, track)


class StyleGan3(Gan):
    def __init__(self, config: StyleGan3Config) -> None:
        super().__init__(config, Generator(config), Discriminator(config.plain))


build = partial(fresh, StyleGan3)  # (config, seed) -> a network with fresh weights
