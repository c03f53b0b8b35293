"""Layers that the GANs share.

All weights are stored near N(0, 1) and scaled at run time (Karras et al. 2018, sec. 4.1), so that Adam moves every
layer at the same relative speed. Activations may be bfloat16: weights are kept in float32 and cast where they meet
the activations.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.generators.ops.fused import GAIN, SLOPE, Convolution, convolution, dense


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of x [N, I, H, W] (channels-last) by weight [O, I] as one matrix product, channels-last."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def held_as(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Type in which activations are kept between the products in `dtype`: CPUs add and scale bfloat16 slowly."""
    return torch.float32 if device.type == "cpu" and dtype == torch.bfloat16 else dtype


def at_least_float(x: Tensor) -> Tensor:
    """x, half precision turned into float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# --- equalised learning rate: StyleGAN 2 and 3 -----------------------------------------------------------------------


class Dense(nn.Module):
    """y = W x / sqrt(inputs) + b, [N, inputs] -> [N, outputs]; `activate`: leaky ReLU with gain sqrt(2) behind it."""

    def __init__(self, inputs: int, outputs: int, activate: bool = False, rate: float = 1, bias: float = 0) -> None:
        super().__init__()
        # rate: learning-rate multiplier, weights are stored larger by 1 / rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.activate, self.rate = activate, rate
        self.scale = rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        gain = GAIN if self.activate else 1.0
        return dense(x, self.weight, self.bias, self.scale * gain, self.rate * gain, self.activate)


class Conv(nn.Module):
    """Convolution, [N, inputs, H, W] -> [N, outputs, H/s, W/s], s = 2 if `down`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        down: bool = False,
        bias: bool = True,
        activate: bool = True,  # leaky ReLU with gain sqrt(2)
        gain: float = 1.0,  # of the output, e.g. sqrt(1/2) where two branches are added
        clamp: float | None = None,  # largest absolute value of the output for gain 1, None for no limit
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.down, self.activate = down, activate
        self.gain = gain * (GAIN if activate else 1.0)
        self.scale = self.gain / math.sqrt(inputs * kernel**2)
        self.clamp = None if clamp is None else clamp * gain

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """dtype: of the factors of the products, that of x if None."""
        options = Convolution(self.scale, self.gain, self.activate, self.clamp, self.down, dtype or x.dtype)
        return convolution(x, self.weight, self.bias, options)


# --- modulation (Karras et al. 2020, sec. 2.2) -----------------------------------------------------------------------
# Eq. 1: w' = s w; eq. 3: w'' = w' / sqrt(sum of w'^2 over inputs and taps + 1e-8). Here the activations are scaled
# instead of the weights, so that the batch is one plain convolution: conv(x, w'') = conv(s x, w) / sqrt(norms), with
# `ops.fused.modulated` for the numerator and `squared_norms` for the norms.


class ModulatedConv(nn.Module):
    """The weights of a modulated convolution: its kernel, and the affine map from w to the style s."""

    def __init__(self, inputs: int, outputs: int, kernel: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))


def squared_norms(weights: Sequence[Tensor], styles: Sequence[Tensor]) -> Tensor:
    """Eq. 3's ||w s||^2 + 1e-8, for the weights [O, I, k, k] and styles [N, I] of all convolutions at once:
    [N, sum of O]; to the power of -1/2 they scale what comes out of each convolution."""
    taps = torch.cat([w.flatten(0, 1).flatten(1) for w in weights])  # [sum of O I, k k]
    energies = taps.square().sum(1).split([w.shape[0] * w.shape[1] for w in weights])
    squares = torch.cat(list(styles), dim=1).square().split([w.shape[1] for w in weights], dim=1)
    products = [F.linear(s, e.view(w.shape[:2])) for s, e, w in zip(squares, energies, weights, strict=True)]
    return torch.cat(products, dim=1) + 1e-8


def affine_styles(groups: list[list[Dense]], ws: Tensor) -> list[tuple[Tensor, ...]]:
    """Styles [N, outputs] of the affine layers in group k by w number k of ws [N, number of groups, w_dim]."""
    # One batched product, over weights filled up with zeros to one width: in a small network the many small products
    # cost more than the zeros.
    sizes = [[len(layer.weight) for layer in group] for group in groups]
    width = max(map(sum, sizes))
    weights, biases = [], []
    for group, size in zip(groups, sizes, strict=True):
        weights += [layer.weight for layer in group] + [ws.new_zeros(width - sum(size), ws.shape[2])]
        biases += [layer.bias for layer in group] + [ws.new_zeros(width - sum(size))]
    weight = torch.cat(weights).view(len(groups), width, -1)
    bias = torch.cat(biases).view(len(groups), 1, width)
    styles = torch.baddbmm(bias, ws.transpose(0, 1), weight.mT, alpha=groups[0][0].scale)  # [groups, N, width]
    rows = zip(styles.unbind(0), sizes, strict=True)
    return [style.split([*size, width - sum(size)], dim=1)[: len(size)] for style, size in rows]


# --- equalised learning rate: Progressive GAN and StyleGAN 1, where all of the gain is in the weights, none on the bias


@cache
def _widening(scale: float, mirrored: bool, device: torch.device) -> Tensor:
    """Matrix [16, 9] from a 3x3 kernel to the 4x4 one that is both it and a 2x2 box of height `scale`."""
    line = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
    matrix = torch.kron(line, line) * scale
    return (matrix.flip(0).contiguous() if mirrored else matrix).to(device)


class ScaledConv(nn.Module):
    """Convolution with bias and leaky ReLU; resampling is folded into the kernel."""

    # Nearest-neighbour enlargement and a 3x3 convolution are together one 4x4 transposed convolution with stride 2, a
    # 3x3 convolution and 2x2 averaging are one 4x4 convolution with stride 2, both at 4/9 of the products.

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        resample: str = "",  # "up" enlarges first, "down" averages behind
        bias: bool = True,  # False leaves bias and activation to the caller
        activate: bool = True,  # leaky ReLU; its gain sqrt(2) is in the weights
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.resample, self.activate = resample, activate and bias
        self.scale = (GAIN if activate else 1.0) / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """x [N, I, H, W] -> [N, O, H', W'] in the type of x; dtype: of the factors of the products."""
        held, dtype = x.dtype, dtype or x.dtype
        outputs, inputs, kernel, _ = self.weight.shape
        if kernel == 1:  # few products, so in the type of x
            weight = (self.weight.flatten(1) * self.scale).to(held)
            y = pointwise(x, weight, None if self.bias is None else self.bias.to(held))
            return F.leaky_relu(y, SLOPE) if self.activate else y
        bias = None if self.bias is None else self.bias.to(dtype)
        if not self.resample:
            y = F.conv2d(x.to(dtype), (self.weight * self.scale).to(dtype), bias, padding=1)
        else:
            scale = self.scale / (4 if self.resample == "down" else 1)
            matrix = _widening(scale, self.resample == "up", x.device).to(self.weight.dtype)
            kernels = F.linear(self.weight.flatten(2), matrix).view(outputs, inputs, 4, 4).to(dtype)
            if self.resample == "down":
                y = F.conv2d(x.to(dtype), kernels, bias, stride=2, padding=1)
            else:  # a transposed convolution reads its kernel backwards, which `mirrored` undoes
                y = F.conv_transpose2d(x.to(dtype), kernels.transpose(0, 1), bias, stride=2, padding=1)
        y = y.to(held)
        return F.leaky_relu(y, SLOPE, inplace=True) if self.activate else y


class ScaledDense(nn.Module):
    """Dense layer, [N, inputs] -> [N, outputs]; rate: learning-rate multiplier, as of `Dense`."""

    def __init__(self, inputs: int, outputs: int, activate: bool = False, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.activate, self.rate = activate, rate
        self.scale = rate * (GAIN if activate else 1.0) / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x * self.scale, self.weight, self.bias * self.rate)
        return F.leaky_relu(y, SLOPE) if self.activate else y


# --- normalisation ---------------------------------------------------------------------------------------------------


class _PixelNorm(torch.autograd.Function):
    # in half the passes that autograd would take
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        scale = at_least_float(x).square().mean(dim=1, keepdim=True).add_(1e-8).rsqrt_().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = (grads[0] * y).mean(dim=1, keepdim=True)
        return torch.addcmul(grads[0], y, along, value=-1).mul_(scale)


def pixel_norm(x: Tensor) -> Tensor:
    """x [N, C, ...] scaled to a mean square of 1 over the channels of every pixel (Karras et al. 2018, sec. 4.2)."""
    y: Tensor = _PixelNorm.apply(x)  # type: ignore[no-untyped-call]
    return y


def normalise_second_moment(x: Tensor) -> Tensor:
    """x [N, C] scaled to a mean square of 1 in every row; twice differentiable."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class MinibatchDeviation(nn.Module):
    """Appends `maps` channels with the mean standard deviation of groups of samples (Karras et al. 2018, sec. 3).

    Sample n belongs to group n mod (N / group); N is a multiple of the group size, or smaller than it.
    """

    def __init__(self, group: int, maps: int) -> None:
        super().__init__()
        self.group, self.maps = group, maps

    def forward(self, x: Tensor, batches: int = 1) -> Tensor:
        """batches: independent batches of one size in x, e.g. 2 for real and synthetic ones at once."""
        n, c, h, w = x.shape
        size = min(self.group, n // batches)
        y = at_least_float(x).view(batches, size, -1, self.maps, c // self.maps, h, w)
        y = y - y.mean(dim=1, keepdim=True)
        y = (y.square().mean(dim=1) + 1e-8).sqrt().mean(dim=(3, 4, 5))  # [batches, N / size, maps]
        y = y[:, None].expand(-1, size, -1, -1).reshape(n, self.maps, 1, 1).expand(-1, -1, h, w)
        return torch.cat([x, y.to(x.dtype)], dim=1)


# --- from latents to styles: StyleGAN 1, 2 and 3 ---------------------------------------------------------------------


class MappingNetwork(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]; keeps the running mean of w, which truncation draws towards."""

    w_avg: Tensor

    # sizes: z_dim, widths of the layers between, w_dim. layer: makes one from its numbers of inputs and outputs.
    # normalise: what happens to z first. beta: decay of the running mean per batch.
    def __init__(
        self, sizes: Sequence[int], layer: Callable[[int, int], nn.Module], normalise: Callable[[Tensor], Tensor],
        beta: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = nn.ModuleList(layer(a, b) for a, b in itertools.pairwise(sizes))
        self.normalise, self.beta = normalise, beta
        self.register_buffer("w_avg", torch.zeros(sizes[-1]))

    def forward(self, z: Tensor) -> Tensor:
        x = self.normalise(z)
        for layer in self.layers:
            x = layer(x)
        return x


class Styled:
    """What a generator with a mapping network can do; it also has `config.num_ws`, the number of w vectors."""

    config: Any
    mapping: MappingNetwork
    synthesis: Any

    def forward(self, z: Tensor, psi: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Images with the stored noise."""
        w = self.mapping(z)
        if psi != 1.0:
            w = self.mapping.w_avg.lerp(w, psi)
        images: Tensor = self.synthesis(self.broadcast(w), dtype=dtype)
        return images

    def broadcast(self, w: Tensor) -> Tensor:
        """w [N, w_dim] -> ws [N, num_ws, w_dim]."""
        return w[:, None].expand(-1, self.config.num_ws, -1)

    def draw_styles(self, count: int, rng: torch.Generator, mixing: float, layers: int) -> dict[str, Tensor]:
        """Latents z, other [count, z_dim], and cutoff [], the first w of `other` (num_ws: none), one for the batch
        (Karras et al. 2019, sec. 3.1). layers: number of w vectors in use; styles change within them."""
        size, device = self.config.z_dim, rng.device
        z, other = (torch.randn(count, size, generator=rng, device=device) for _ in range(2))
        cutoff = torch.randint(1, layers, (), generator=rng, device=device)
        if float(torch.rand((), generator=rng, device=device)) >= mixing:
            cutoff.fill_(self.config.num_ws)
        return {"z": z, "other": other, "cutoff": cutoff}

    def ws(self, inputs: Mapping[str, Tensor], track: bool = False) -> Tensor:
        """Inputs as from `draw_styles`, or only z -> ws [N, num_ws, w_dim], mixed; track: move the running mean."""
        z, device, mix = inputs["z"], self.mapping.w_avg.device, "other" in inputs
        # both, wherever the styles change: one pass reads the weights once, and every step does the same
        both = self.mapping((torch.cat([z, inputs["other"]]) if mix else z).to(device))
        w, other = both[: len(z)], both[len(z) :]
        if track:
            average = self.mapping.w_avg  # [w_dim], moved towards the mean of w [N, w_dim]
            average.copy_(w.detach().mean(dim=0).lerp(average, self.mapping.beta))
        if not mix:
            return self.broadcast(w)
        own = torch.arange(self.config.num_ws, device=device) < inputs["cutoff"].to(device)
        return torch.where(own[:, None], w[:, None], other[:, None])
