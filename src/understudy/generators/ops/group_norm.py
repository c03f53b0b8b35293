"""Group norm, scale and shift for each sample, and SiLU in one: what stands before every convolution of the U-Net."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _NormSilu(torch.autograd.Function):
    """silu(group norm) of channels-last x [N, C, H, W] with an affine map [N, C] for each sample, or without silu.

    torch's own gradient of the group norm takes up to 25 times as long for channels-last bfloat16 on a CPU, which
    would undo what that layout saves in the convolutions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, silu: bool) -> Tensor:
        moments = torch.stack([_sums(x), _sums(x.square())]) / (x[0].numel() // groups)  # [2, N, C]
        mean, square = moments.unflatten(2, (groups, -1)).sum(dim=3, keepdim=True)  # [N, G, 1]
        rstd = (square - mean * mean).clamp_min(0).add_(1e-5).rsqrt()
        a = weight.unflatten(1, (groups, -1)) * rstd
        a = a.to(x.dtype).to(a.dtype)  # rounded first, so that b makes up for it at the mean
        b = torch.addcmul(bias.unflatten(1, (groups, -1)), a, -mean)
        u = torch.addcmul(_pixel(b, x), x, _pixel(a, x))
        ctx.groups, ctx.silu = groups, silu
        ctx.save_for_backward(x, u if silu else None, weight, mean, rstd)
        return F.silu(u) if silu else u

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, u, weight, mean, rstd = ctx.saved_tensors
        du = torch.ops.aten.silu_backward(grads[0], u) if ctx.silu else grads[0]
        shape = (ctx.groups, -1)
        d_bias = _sums(du).unflatten(1, shape)  # [N, G, C / G]
        d_weight = (_sums(du * x).unflatten(1, shape) - mean * d_bias) * rstd  # sum of du * normalised x
        weight = weight.unflatten(1, shape)
        # Of dx = rstd (w du - mean(w du) - xhat mean(w du xhat)): what multiplies du, x and nothing.
        count = x[0].numel() // ctx.groups
        along = (weight * d_weight).sum(dim=2, keepdim=True) * (-rstd * rstd / count)
        level = (weight * d_bias).sum(dim=2, keepdim=True) * (-rstd / count) - along * mean
        dx = torch.addcmul(_pixel(level.expand_as(d_bias), x), x, _pixel(along.expand_as(d_bias), x))
        dx.addcmul_(du, _pixel(weight * rstd, x))
        return dx, d_weight.flatten(1), d_bias.flatten(1), None, None


def _sums(x: Tensor) -> Tensor:
    """Sums [N, C] over the pixels of channels-last x [N, C, H, W], in float32 or better."""
    n, c, h, w = x.shape
    # 16 parts first: each is rounded to the type of x, and so the mean of the roundings is small
    parts = x.permute(0, 2, 3, 1).reshape(n, math.gcd(16, h * w), -1, c).sum(dim=2)
    return parts.sum(dim=1, dtype=torch.promote_types(x.dtype, torch.float32))


def _pixel(values: Tensor, like: Tensor) -> Tensor:
    """values [N, G, C / G] as [N, C, 1, 1] in the type of `like`."""
    return values.flatten(1)[:, :, None, None].to(like.dtype)


class GroupNorm(nn.Module):
    """Group norm of x [N, C, H, W] in 32 groups (fewer if C is no multiple of 32), and SiLU."""

    def __init__(self, channels: int, silu: bool = True) -> None:
        super().__init__()
        self.groups = math.gcd(32, channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.silu = silu

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        """film float32 [N, 2 C]: scale and shift between norm and SiLU, norm(x) * (1 + scale) + shift."""
        n, c, h, w = x.shape
        weight, bias = self.weight.expand(n, -1), self.bias.expand(n, -1)
        if film is not None:
            scale, shift = film.chunk(2, dim=1)
            weight, bias = weight * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
        if x.dtype != torch.float32:
            y: Tensor = _NormSilu.apply(x, weight, bias, self.groups, self.silu)  # type: ignore[no-untyped-call]
            return y
        if film is None:
            y = F.group_norm(x, self.groups, self.weight, self.bias)
        else:  # the samples as channels of one: a group norm whose affine map may differ between the samples
            rows = x.reshape(1, n * c, h, w)
            y = F.group_norm(rows, n * self.groups, weight.flatten(), bias.flatten()).view(n, c, h, w)
        return F.silu(y) if self.silu else y
