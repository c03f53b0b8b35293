"""The paper's U-Net: nnU-Net's 2D network (MONAI's DynUNet) at any number of channels, classes and resolution.

Two 3x3 convolutions a stage, each followed by affine instance normalisation and leaky ReLU 0.01; a strided convolution
on the way down, a transposed one on the way up; deep supervision (paper, section 4.3). The authors' code differs from
their text in padding, order of layers and supervision: this follows the text.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.io.settings import Settings, Width


class UNetConfig(Settings, frozen=True):
    """The architecture; channels, classes and resolution come from the data."""

    kind: Literal["unet"] = Field("unet", description="name of the architecture")
    filters: tuple[Width, ...] | None = Field(
        None, description="of each stage, highest resolution first; None: by width"
    )
    width: Width = Field(32, description="filters of the first stage, doubled at every stage")
    max_width: Width | None = Field(None, description="None: 4 x resolution, at most 512 as nnU-Net")
    depth: int | None = Field(None, ge=3, le=16, description="stages; None: down to 4 x 4 pixels, as nnU-Net")
    deep_supervision: int = Field(5, ge=1, description="levels, from the highest, that the loss is applied to")

    def stages(self, resolution: int) -> tuple[int, ...]:
        """Filters of each stage for slices of so many pixels; an UnderstudyError where the depth does not fit them."""
        most = (resolution // 4).bit_length()  # 4 pixels at the lowest stage, nnU-Net's rule: 7 for 256, 5 for 64
        depth = len(self.filters) if self.filters else self.depth or most
        if depth < 3 or resolution % (1 << (depth - 1)) or resolution >> (depth - 1) < 2:
            problem = f"a U-Net of {depth} stages does not fit slices of {resolution} x {resolution} pixels"
            fix = f"use 3 to {max(3, most)} stages and a resolution of at least 16, a power of two"
            raise UnderstudyError(problem, "model.depth", fix)
        widest = self.max_width or max(self.width, min(512, 4 * resolution))  # 512: nnU-Net's limit in 2D
        return self.filters or tuple(min(widest, self.width << stage) for stage in range(depth))


def level_weights(levels: int) -> tuple[float, ...]:
    """0.5^d for d = 0 .. levels - 1, normalised to sum 1 (paper, section 4.3)."""
    total = sum(0.5**d for d in range(levels))
    return tuple(0.5**d / total for d in range(levels))


class _NormEachSlice(torch.autograd.Function):
    """Instance normalisation of channels-last tensors on the CPU as batch normalisation of one slice at a time.

    torch's own kernel copies to channels-first and back around every call, which costs more than bf16 convolutions
    gain from channels-last (a training step at 64x64, batch 32: 0.58 s with it, 0.43 s with this).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        out, means, inverses = torch.empty_like(x), [], []
        for one, into in zip(x.split(1), out.split(1), strict=True):
            normed, mean, inverse = torch.native_batch_norm(one, weight, bias, None, None, True, 0.0, eps)
            into.copy_(normed)
            means.append(mean)
            inverses.append(inverse)
        ctx.save_for_backward(x, weight, torch.stack(means), torch.stack(inverses))
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, inverses = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        out, scale, shift = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        for n in range(len(x)):
            one = slice(n, n + 1)
            to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
                gradient[one], x[one], weight, None, None, means[n], inverses[n], True, ctx.eps, [True] * 3
            )
            out[one] = to_x
            scale += to_weight
            shift += to_bias
        return out, scale, shift, None


class SliceNorm(nn.InstanceNorm2d):
    """`InstanceNorm2d` (same parameters, same result) that is fast on channels-last tensors on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same, each slice and channel normalised."""
        if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last):
            return _NormEachSlice.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return super().forward(x)


def dynunet_arguments(channels: int, classes: int, filters: Sequence[int], levels: int) -> dict[str, Any]:
    """What MONAI's DynUNet is built from: nnU-Net's 2D network, with outputs at so many levels in training."""
    stages, levels = len(filters), min(levels, len(filters) - 1)
    return {
        "spatial_dims": 2, "in_channels": channels, "out_channels": classes, "kernel_size": [3] * stages,
        "strides": [1] + [2] * (stages - 1), "upsample_kernel_size": [2] * (stages - 1), "filters": list(filters),
        "norm_name": ("INSTANCE", {"affine": True}), "deep_supervision": levels > 1,
        "deep_supr_num": max(1, levels - 1),
    }  # fmt: skip


class UNet(nn.Module):
    """DynUNet that returns its deep supervision outputs at their own resolution."""

    def __init__(self, channels: int, classes: int, filters: tuple[Width, ...], levels: int) -> None:
        with torch.random.fork_rng(devices=[]):  # this import draws random numbers
            from monai.networks.nets import DynUNet  # takes seconds

        super().__init__()
        levels = min(levels, len(filters) - 1)
        self.level_weights = level_weights(levels)  # of the outputs in the loss, highest resolution first
        self.body = DynUNet(**dynunet_arguments(channels, classes, filters, levels))
        for module in self.body.modules():
            if type(module) is nn.InstanceNorm2d:
                module.__class__ = SliceNorm

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, C, R, R] -> class scores [N, K, R / 2^d, R / 2^d] of each level d; in evaluation mode only of level 0."""
        # DynUNet's own forward up-samples every output to R x R; the loss is wanted at each level's resolution
        outputs = [self.body.output_block(self.body.skip_layers(x))]
        heads = self.body.heads
        if self.training and self.body.deep_supervision:
            outputs += heads
        for level in range(len(heads)):  # DynUNet would keep the last batch's graph alive
            heads[level] = x.new_empty(0)
        return outputs

    def undecayed(self) -> list[nn.Parameter]:
        """Parameters without weight decay: none, as in nnU-Net."""
        return []


def build_unet(config: UNetConfig, channels: int, classes: int, resolution: int, seed: int = 0) -> UNet:
    """A new network with He-initialised weights; see `config.build_model`."""
    filters = config.stages(resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(channels, classes, filters, config.deep_supervision)
