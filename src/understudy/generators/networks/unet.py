"""The U-Net of guided diffusion (Dhariwal & Nichol 2021, arXiv 2105.05233: "ADM") for any number of channels.

It predicts the noise in a noised joint image, and if asked how much variance to put back. The official weights load,
see `official`. What is done differently, at equal results: the scale and shift by time are folded into the affine map
of the group norm, attention is one fused call, and nothing is computed twice to save memory.
"""

import math
from functools import partial
from typing import Any, Literal, Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_serializer, model_validator
from pydantic import SerializerFunctionWrapHandler as Serialize
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.generators.diffusion.process import GaussianProcess, NoiseSchedule, Prediction, noise_schedule
from understudy.generators.diffusion.samplers import SamplerConfig, default_sampler, sample
from understudy.generators.networks.base import NetworkConfig, fresh, sampling_precision
from understudy.generators.ops.group_norm import GroupNorm
from understudy.io.settings import Count, Depth, Positive, Width

Module = TypeVar("Module", bound=nn.Module)
# Width of each resolution, in units of `model_channels`. Official from 64 on, at 32 as in Nichol & Dhariwal 2021.
_WIDTHS: dict[int, tuple[float, ...]] = {
    16: (1, 2, 2), 32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}  # fmt: skip


class DiffusionConfig(NetworkConfig):
    """Architecture and noise of guided diffusion; the defaults are those of the paper's authors."""

    kind: Literal["diffusion"] = Field("diffusion", description="name of the model")
    model_channels: int = Field(64, ge=2, le=1 << 14, description="unit of the widths (ADM: 256)")
    num_res_blocks: Depth = Field(3, description="residual blocks per resolution on the way down")
    channel_mult: tuple[Positive, ...] | None = Field(
        None, description="widths / model_channels; None: the official ones"
    )
    attention_resolutions: tuple[Count, ...] = Field((16, 8), description="resolutions with attention, pixels")
    num_heads: Width = Field(4, description="heads of each attention")
    num_head_channels: Width | None = Field(None, description="channels per head, instead of num_heads (ADM: 64)")
    split_heads_first: bool = Field(True, description="q, k, v of each head together (False: the new order)")
    scale_shift_norm: bool = Field(True, description="time scales and shifts, not only shifts")
    resblock_updown: bool = Field(False, description="residual blocks resample")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability of dropping an activation")
    steps: int = Field(4000, ge=1, le=1_000_000, description="diffusion steps T")
    noise_schedule: NoiseSchedule = Field("linear", description="how the noise grows over the steps")
    prediction: Prediction = Field("noise", description="the noise, or the velocity (better in short trainings)")
    learn_sigma: bool = Field(False, description="predict the variance of a step, too")
    patch: Literal[1, 2, 4] = Field(
        1, description="patch x patch pixels are the channels of one, so that the network works at a lower resolution"
    )
    rescale_timesteps: bool = Field(False, description="show the network time as if T were 1000")
    rescale_vlb: bool = Field(True, description="weigh the variational bound by T / 1000")
    told_movement: bool = Field(
        False, description="set by the training's `augment`: how an image was moved is an input"
    )

    @model_validator(mode="after")
    def _has_steps(self) -> Self:
        if self.noise_schedule == "linear" and self.steps <= 20:
            raise ValueError(f"the linear schedule needs more than 20 steps, not {self.steps}")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: Serialize) -> dict[str, Any]:
        """What came later is left out at its default: older studies keep the ids of their jobs."""
        later = (("patch", 1), ("told_movement", False))
        return {name: value for name, value in handler(self).items() if (name, value) not in later}

    def check_size(self) -> None:
        if not self.widths or self.inner >> (len(self.widths) - 1) < 2 or min(self.widths) < 1:
            raise ValueError(f"channel_mult {self.channel_mult} does not suit resolution {self.resolution}")
        for level, width in enumerate(self.widths):
            attends = self.inner >> level in self.attention_resolutions or width == self.widths[-1]
            if attends and width % (self.num_head_channels or self.num_heads):
                raise ValueError(f"attention: {width} channels cannot be divided into the heads")

    @property
    def inner(self) -> int:  # the resolution at which the network begins
        return self.resolution // self.patch

    @property
    def widths(self) -> list[int]:  # channels at inner, inner / 2, ...
        mult = _WIDTHS[max(16, self.inner)] if self.channel_mult is None else self.channel_mult
        return [int(m * self.model_channels) for m in mult]

    def process(self) -> GaussianProcess:
        """The forward process that belongs to this network."""
        betas = noise_schedule(self.noise_schedule, self.steps)
        time_scale = 1000 / self.steps if self.rescale_timesteps else 1.0
        vlb_weight = self.steps / 1000 if self.rescale_vlb else 1.0
        return GaussianProcess(betas, None, self.learn_sigma, time_scale, vlb_weight, self.prediction)


def sinusoids(t: Tensor, size: int) -> Tensor:
    """Time steps t [N] -> float32 [N, size]: cosines, then sines, of geometrically spaced frequencies."""
    half = size // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / half))
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, size % 2))


def zeroed(module: Module) -> Module:
    """The module with zero weights, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Conv(nn.Conv2d):
    """Convolution that computes in the type of its input."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.conv2d(x, weight, bias, self.stride, self.padding)


def double(x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, 2 H, 2 W], nearest neighbour."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


class ResBlock(nn.Module):
    """x [N, I, H, W] + two convolutions with the time between them -> [N, O, H, W], or twice or half the size."""

    def __init__(
        self, inputs: int, outputs: int, config: DiffusionConfig, resample: Literal["up", "down"] | None = None
    ) -> None:
        super().__init__()
        self.resample = {"up": double, "down": lambda x: F.avg_pool2d(x, 2), None: None}[resample]
        self.norm1 = GroupNorm(inputs)
        self.conv1 = Conv(inputs, outputs, 3, padding=1)
        self.film = nn.Linear(4 * config.model_channels, outputs * (2 if config.scale_shift_norm else 1))
        self.norm2 = GroupNorm(outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(Conv(outputs, outputs, 3, padding=1))
        self.skip = Conv(inputs, outputs, 1) if inputs != outputs else None
        self.scale_shift = config.scale_shift_norm

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """time float32 [N, 4 model_channels]: the activated code of the time step."""
        h = self.norm1(x)
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h, film = self.conv1(h), self.film(time)  # film [N, O] or [N, 2 O]: shift, or scale and shift
        h = self.norm2(h, film) if self.scale_shift else self.norm2(h + film[:, :, None, None].to(h.dtype))
        h = self.conv2(self.dropout(h))
        return (x if self.skip is None else self.skip(x)) + h  # [N, O, ...]


class Attention(nn.Module):
    """x [N, C, H, W] + attention of every pixel to all pixels, by heads of `width` channels."""

    def __init__(self, channels: int, config: DiffusionConfig) -> None:
        super().__init__()
        self.width = config.num_head_channels or channels // config.num_heads
        self.heads_first = config.split_heads_first
        self.norm = GroupNorm(channels, silu=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """-> [N, C, H, W]; the time is not used."""
        n, channels, height, width = x.shape
        rows = self.norm(x).flatten(2).mT  # [N, T, C], T = H W
        rows = F.linear(rows, self.qkv.weight.to(x.dtype), self.qkv.bias.to(x.dtype))
        if x.device.type == "cpu":  # where the fused call is slower in bfloat16
            rows = rows.float()
        if self.heads_first:
            rows = rows.unflatten(2, (-1, 3, self.width)).permute(3, 0, 2, 1, 4)
        else:
            rows = rows.unflatten(2, (3, -1, self.width)).permute(2, 0, 3, 1, 4)
        q, k, v = rows  # each [N, heads, T, width]
        rows = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, channels)
        rows = F.linear(rows.to(x.dtype), self.project.weight.to(x.dtype), self.project.bias.to(x.dtype))
        return x + rows.mT.unflatten(2, (height, width))


class Resample(nn.Module):
    """Nearest neighbour and convolution to twice the size, or convolution with stride 2 to half of it."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.conv, self.up = Conv(channels, channels, 3, stride=1 if up else 2, padding=1), up

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(double(x) if self.up else x)


class Stage(nn.ModuleList):
    """Layers that are called one after another with the time."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, time)
        return x


class UNet(nn.Module):
    """Noised joint image [N, C, R, R] and time step [N] -> the noise in it float32 [N, C, R, R].

    With `learn_sigma` another C channels v follow: v in [-1, 1] interpolates the logarithm of the variance.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        base, widths = config.model_channels, config.widths
        self.time = nn.ModuleList([nn.Linear(base, 4 * base), nn.Linear(4 * base, 4 * base)])
        self.stem = Conv(config.channels * config.patch**2, widths[0], 3, padding=1)

        def stage(inputs: int, outputs: int, level: int) -> Stage:
            block = ResBlock(inputs, outputs, config)
            attends = config.inner >> level in config.attention_resolutions
            return Stage([block, Attention(outputs, config)] if attends else [block])

        def resampler(width: int, way: Literal["up", "down"]) -> nn.Module:
            return ResBlock(width, width, config, way) if config.resblock_updown else Resample(width, way == "up")

        self.encoder, skips = nn.ModuleList(), [widths[0]]  # skips: channels behind the stem and each stage
        for level, width in enumerate(widths):
            if level:
                self.encoder.append(Stage([resampler(skips[-1], "down")]))
                skips.append(skips[-1])
            for _ in range(config.num_res_blocks):
                self.encoder.append(stage(skips[-1], width, level))
                skips.append(width)
        below = skips[-1]
        self.middle = Stage([ResBlock(below, below, config), Attention(below, config), ResBlock(below, below, config)])
        self.decoder = nn.ModuleList()  # each stage reads what comes from below beside one output on the way down
        for level, width in reversed(list(enumerate(widths))):
            for number in range(config.num_res_blocks + 1):
                layers = stage(below + skips.pop(), width, level)
                if level and number == config.num_res_blocks:
                    layers.append(resampler(width, "up"))
                self.decoder.append(layers)
                below = width
        self.norm = GroupNorm(widths[0])
        outputs = config.channels * (2 if config.learn_sigma else 1)  # the noise, and the variance if it is learned
        self.out = zeroed(Conv(widths[0], outputs * config.patch**2, 3, padding=1))
        # last, so that the others start as those of a plain network; without bias, so that zero is no movement
        self.movement = nn.Linear(6, 4 * base, bias=False) if config.told_movement else None

    def forward(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32, moved: Tensor | None = None) -> Tensor:
        """t: 0 ... T - 1 (see `GaussianProcess.network_time`); dtype: of the activations; moved: [N, 6], how the images
        were (`ada.movement`), None for not at all, as in sampling."""
        time = self.time[1](F.silu(self.time[0](sinusoids(t, self.config.model_channels))))
        if moved is not None:
            assert self.movement is not None
            time = time + self.movement(moved)
        time = F.silu(time)
        layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
        x = F.pixel_unshuffle(x, self.config.patch)  # [N, C P^2, R / P, R / P], P: the patch
        h = self.stem(x.to(dtype, memory_format=layout))  # [N, widths[0], R / P, R / P]
        skips = [h]
        for stage in self.encoder:
            h = stage(h, time)
            skips.append(h)
        h = self.middle(h, time)  # [N, widths[-1], R / P / 2^levels, ...]
        for stage in self.decoder:
            h = stage(torch.cat([h, skips.pop()], dim=1), time)  # the channels of the way down beside its own
        return F.pixel_shuffle(self.out(self.norm(h)).float(), self.config.patch)  # [N, C or 2 C, R, R]

    @torch.no_grad()
    def sample(
        self, count: int, seed: int, start: int = 0, psi: float = 1.0, sampler: SamplerConfig | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:  # fmt: skip
        """See `samplers.sample`; sampler: None for `default_sampler`. dtype: None for `sampling_precision`.

        Raises:
            UnderstudyError: psi is not 1, or the model does not have these steps.
        """
        if psi != 1.0:
            raise UnderstudyError("diffusion models have no truncation", where="psi", fix="leave psi at 1")
        config, training = self.config, self.training
        shape = (config.channels, config.resolution, config.resolution)
        process, device = config.process(), self.out.weight.device
        sampler = default_sampler(config.steps) if sampler is None else sampler
        dtype = sampling_precision(self, device) if dtype is None else dtype
        self.eval()  # no dropout
        try:
            return sample(lambda x, t: self(x, t, dtype), process, sampler, shape, count, seed, start, device, dtype)
        finally:
            self.train(training)


class Diffusion(nn.Module):
    """The U-Net of one configuration, as `generator`."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = UNet(config)


build = partial(fresh, Diffusion)  # (config, seed) -> a network with fresh weights
