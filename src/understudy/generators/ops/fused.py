"""Layers as single nodes of the autograd graph: products, bias, leaky ReLU and clamp, forward and backward.

A training step of a small network is some thousand operations of a few microseconds each, so what counts is their
number. Each node is one layer: its forward pass works in place, its backward pass reads the masks of leaky ReLU and
clamp from the output, and consists of differentiable operations on the inputs (R1, path length). The gain sqrt(2) of
the leaky ReLU is folded into what comes before it: the leaky ReLU is positively homogeneous.

`plain_*` is the reference of each function: the tests compare them, and it runs on other devices, see `fused_on`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.generators.ops.resampling import blur, downsample, spread

SLOPE = 0.2  # of the leaky ReLU, everywhere
GAIN = math.sqrt(2)  # keeps the variance through a leaky ReLU (He)
# Of activations and gradients: faster convolutions on a CPU, and elementwise operations on mixed layouts take 20 times
# as long.
LAYOUT = torch.channels_last
_leaky_relu_backward = torch.ops.aten.leaky_relu_backward.default
_hardtanh_backward = torch.ops.aten.hardtanh_backward.default
_convolution_backward = torch.ops.aten.convolution_backward.default
_this_pass = torch._C._current_graph_task_id  # number of the backward pass that a node runs in
_inputs_only = set[int]()  # backward passes, by autograd's number, that leave out the gradients by weights


def input_gradient(total: Tensor, x: Tensor) -> Tensor:
    """Gradient of a scalar by x, itself differentiable, leaving out the gradients by weights on the way to it.

    Autograd does not tell a node which of its gradients will be used; without this they are computed for nothing.
    """
    passes: list[int] = []  # not a mark of the thread: a GPU's nodes run in a thread of autograd's

    def mark(gradient: Tensor) -> None:  # the pass begins here, at its root
        passes.append(_this_pass())
        _inputs_only.add(passes[-1])

    handle = total.register_hook(mark)
    try:
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    finally:
        handle.remove()
        _inputs_only.difference_update(passes)
    return gradient


def _weights_wanted() -> bool:
    return _this_pass() not in _inputs_only


def fused_on(x: Tensor) -> bool:
    """Whether the nodes run here, and not their references: on a CPU, where the tests compare the two; on CUDA, where
    no test of ours runs yet; not inside `torch.compile`, which fuses."""
    return x.device.type in ("cpu", "cuda", "meta") and not torch.compiler.is_compiling()


class _NoGraph:
    """Stands for the context of a node where no gradient will be asked for: a node costs as much as an operation."""

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def _node(kind: Any, plain: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """The output of a node of this kind, or of its plain reference."""
    if not fused_on(inputs[0]):
        return plain(*inputs)
    y: Tensor = kind.apply(*inputs) if torch.is_grad_enabled() else kind.forward(_NoGraph(), *inputs)
    return y


def _activated(y: Tensor, activate: bool, clamp: float | None) -> Tensor:
    y = F.leaky_relu(y, SLOPE) if activate else y
    return y if clamp is None else y.clamp(-clamp, clamp)


def _activate_(y: Tensor, activate: bool, clamp: float | None) -> Tensor:
    """Leaky ReLU and clamp in place. Not by `clamp`, whose gradient takes 20 times as long on a CPU."""
    if activate:
        F.leaky_relu_(y, SLOPE)
    return y if clamp is None else F.hardtanh_(y, -clamp, clamp)


def _masked(gradient: Tensor, y: Tensor, activate: bool, clamp: float | None) -> Tensor:
    """The gradient before leaky ReLU and clamp from the one behind them, whose output was y."""
    if torch.is_grad_enabled():
        y = y.detach()  # piecewise linear: y does not contribute to second derivatives
    if gradient.ndim == 4:
        gradient = gradient.contiguous(memory_format=LAYOUT)
    masked = gradient if clamp is None else _hardtanh_backward(gradient, y, -clamp, clamp)
    return _leaky_relu_backward(masked, y, SLOPE, True) if activate else masked


def _scaled(gradient: Tensor, scale: float, like: Tensor) -> Tensor:
    """A weight's gradient times a factor; in the weight's type and contiguous, or autograd would copy it."""
    gradient = gradient.to(like.dtype)
    if torch.is_grad_enabled():
        return gradient * scale
    return torch.mul(gradient, scale, out=torch.empty(gradient.shape, dtype=gradient.dtype, device=gradient.device))


def _rows(x: Tensor) -> Tensor:
    """x [N, C, H, W] as [N H W, C], a view if it is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _unrow(rows: Tensor, like: Tensor) -> Tensor:
    """[N H W, C] as channels-last [N, C, H, W]."""
    n, _, height, width = like.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


# --- dense layer -----------------------------------------------------------------------------------------------------


def dense(x: Tensor, weight: Tensor, bias: Tensor, scale: float, rate: float, activate: bool) -> Tensor:
    """leaky_relu(scale * x W^T + rate * b), without the leaky ReLU unless `activate`: [N, I] -> [N, O]."""
    return _node(_Dense, plain_dense, x, weight, bias, scale, rate, activate)


def plain_dense(x: Tensor, weight: Tensor, bias: Tensor, scale: float, rate: float, activate: bool) -> Tensor:
    return _activated(scale * F.linear(x, weight) + rate * bias, activate, None)


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, scale: float, rate: float, activate: bool) -> Tensor:
        y = _activate_(torch.addmm(bias, x, weight.t(), beta=rate, alpha=scale), activate, None)
        ctx.save_for_backward(x, weight, y)
        ctx.factors = scale, rate, activate
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        scale, rate, activate = ctx.factors
        want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
        gradient = _masked(grads[0], y, activate, None)
        by_bias = gradient.sum(0) * rate if want_bias and _weights_wanted() else None
        gradient = gradient * scale  # few rows: scaling that of the weights would cost a pass over them
        by_weight = gradient.t() @ x if want_weight and _weights_wanted() else None
        return gradient @ weight if want_x else None, by_weight, by_bias, None, None, None


# --- convolution -----------------------------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """What `convolution` computes besides its tensors."""

    scale: float  # of the weights
    gain: float  # of the bias
    activate: bool  # leaky ReLU, without a gain of its own
    clamp: float | None  # largest absolute value of the output
    down: bool  # filter by [1, 3, 3, 1] and take every second position
    dtype: torch.dtype  # of the factors of the products


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, options: Convolution) -> Tensor:
    """x [N, I, H, W] (channels-last), weight [O, I, k, k] -> [N, O, H/s, W/s], s = 2 if `down`, else 1."""
    # Downsampling filters first and then takes every second position inside the convolution; the two keep one padding,
    # so that a 3x3 kernel sees exactly what it would see with the filter folded into it, at a quarter of the products.
    return _node(_Convolution, plain_convolution, x, weight, bias, options)


def plain_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, o: Convolution) -> Tensor:
    filtered = _filtered(x, weight.shape[-1], o)
    shift = None if bias is None else (bias * o.gain).to(filtered.dtype)
    stride, padding = (2, 0) if o.down and weight.shape[-1] > 1 else (1, weight.shape[-1] // 2)
    y = F.conv2d(filtered, (weight * o.scale).to(filtered.dtype), shift, stride, padding)
    return _activated(y.to(x.dtype), o.activate, o.clamp)


def _filtered(x: Tensor, size: int, o: Convolution) -> Tensor:
    """What the kernel is multiplied with; a 1x1 kernel has few products and stays in the type of x."""
    if size == 1:
        return downsample(x) if o.down else x
    return (blur(x, size // 2 + 1) if o.down else x).to(o.dtype)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, o: Convolution) -> Tensor:
        filtered = _filtered(x, weight.shape[-1], o)
        # in the type and layout of the products: else each of them would lay it out anew
        scaled = (weight * o.scale).to(filtered.dtype, memory_format=LAYOUT)
        shift = None if bias is None else (bias * o.gain).to(filtered.dtype)
        if weight.shape[-1] == 1:
            y = _unrow(F.linear(_rows(filtered), scaled.flatten(1), shift), filtered)
        else:
            stride, padding = (2, 0) if o.down else (1, weight.shape[-1] // 2)
            y = F.conv2d(filtered, scaled, shift, stride, padding).to(x.dtype)
        y = _activate_(y, o.activate, o.clamp)
        ctx.save_for_backward(x, weight, filtered, scaled, y)
        ctx.options = o
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, filtered, scaled, y = ctx.saved_tensors
        o, size = ctx.options, weight.shape[-1]
        if torch.is_grad_enabled():  # the saved ones are not connected with the inputs
            scaled = (weight * o.scale).to(filtered.dtype, memory_format=LAYOUT)
            filtered = _filtered(x, size, o)
        gradient = _masked(grads[0], y, o.activate, o.clamp)
        want = [ctx.needs_input_grad[0], *(w and _weights_wanted() for w in ctx.needs_input_grad[1:3])]
        if size == 1:
            by_x, by_weight, by_bias = _pointwise_gradients(gradient, filtered, scaled, want)
        else:
            stride, padding = (2, 0) if o.down else (1, size // 2)
            by_x, by_weight, by_bias = _convolution_backward(
                gradient.to(filtered.dtype), filtered, scaled, [len(weight)],
                [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, want,
            )  # fmt: skip
        if by_x is not None:
            by_x = by_x.to(x.dtype)
            if o.down:
                by_x = spread(by_x) if size == 1 else blur(by_x, 2 - size // 2)
        by_weight = None if by_weight is None else _scaled(by_weight, o.scale, weight)
        by_bias = None if by_bias is None else _scaled(by_bias, o.gain, weight)
        return by_x, by_weight, by_bias, None


def _pointwise_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, want: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a 1x1 convolution as matrix products."""
    rows, kernel = _rows(gradient), weight.flatten(1)
    by_x = by_weight = None
    # An image has few channels: a product with few columns takes five times as long as its transpose.
    if want[0] and kernel.shape[1] < 8:
        by_x = (kernel.t() @ rows.view(len(x), -1, len(kernel)).mT).view_as(x)
    elif want[0]:
        by_x = _unrow(rows @ kernel, gradient)
    if want[1]:
        product = (_rows(x).t() @ rows).t() if kernel.shape[1] < len(kernel) else rows.t() @ _rows(x)
        by_weight = product[:, :, None, None]
    return by_x, by_weight, rows.sum(0) if want[2] else None


# --- modulated convolution -------------------------------------------------------------------------------------------


def modulated(x: Tensor, weight: Tensor, style: Tensor, up: bool, dtype: torch.dtype) -> Tensor:
    """Convolution of x [N, I, H, W] times style [N, I] by weight [O, I, k, k], after the doubling of the resolution
    if `up` (transposed convolution, then the [1, 3, 3, 1] filter). dtype: of the factors of the products."""
    return _node(_Modulated, plain_modulated, x, weight, style, up, dtype)


def plain_modulated(x: Tensor, weight: Tensor, style: Tensor, up: bool, dtype: torch.dtype) -> Tensor:
    styled = _styled(x, style, dtype)
    if not up:
        return F.conv2d(styled, weight.to(dtype), padding=weight.shape[-1] // 2).to(x.dtype)
    return blur(F.conv_transpose2d(styled, weight.transpose(0, 1).to(dtype), stride=2).to(x.dtype), 1, 4.0)


def _styled(x: Tensor, style: Tensor, dtype: torch.dtype) -> Tensor:
    return (x * style.to(x.dtype)[:, :, None, None]).to(dtype)


def _factor(weight: Tensor, up: bool, dtype: torch.dtype) -> Tensor:
    return (weight.transpose(0, 1) if up else weight).to(dtype, memory_format=LAYOUT)


class _Modulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, style: Tensor, up: bool, dtype: torch.dtype) -> Tensor:
        styled, factor = _styled(x, style, dtype), _factor(weight, up, dtype)
        if up:
            y = blur(F.conv_transpose2d(styled, factor, stride=2).to(x.dtype), padding=1, gain=4.0)
        else:
            y = F.conv2d(styled, factor, padding=weight.shape[-1] // 2).to(x.dtype)
        ctx.save_for_backward(x, weight, style, styled, factor)
        ctx.up, ctx.dtype = up, dtype
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, style, styled, factor = ctx.saved_tensors
        if torch.is_grad_enabled():  # the saved ones are not connected with the inputs
            styled, factor = _styled(x, style, ctx.dtype), _factor(weight, ctx.up, ctx.dtype)
        gradient = grads[0].contiguous(memory_format=LAYOUT)
        want = ctx.needs_input_grad[1] and _weights_wanted()
        stride, padding = [1, 1], [weight.shape[-1] // 2] * 2
        if ctx.up:
            gradient = blur(gradient, padding=2, gain=4.0)
            stride, padding = [2, 2], [0, 0]
        by_styled, by_weight, _ = _convolution_backward(
            gradient.to(ctx.dtype), styled, factor, None, stride, padding, [1, 1], ctx.up, [0, 0], 1,
            [True, want, False],
        )  # fmt: skip
        by_styled = by_styled.to(x.dtype)
        by_style = (by_styled * x).sum((2, 3)).to(style.dtype)
        by_x = by_styled * style.to(x.dtype)[:, :, None, None]
        if want:
            by_weight = (by_weight.transpose(0, 1) if ctx.up else by_weight).to(weight.dtype)
        return by_x, by_weight if want else None, by_style, None, None


# --- what follows a modulated convolution ----------------------------------------------------------------------------


def noisy_activation(
    x: Tensor, scale: Tensor, noise: Tensor, strength: Tensor, bias: Tensor, clamp: float | None
) -> Tensor:
    """clamp(leaky_relu(scale x + sqrt(2) (strength noise + bias))) of x [N, C, R, R], scale [N, C] (with the gain
    sqrt(2)), noise [N, 1, R, R] or [R, R], strength [] and bias [C]."""
    return _node(_NoisyActivation, plain_noisy_activation, x, scale, noise, strength, bias, clamp)


def plain_noisy_activation(
    x: Tensor, scale: Tensor, noise: Tensor, strength: Tensor, bias: Tensor, clamp: float | None
) -> Tensor:
    shift = GAIN * (strength * noise + bias[:, None, None])  # [N, C, R, R]
    return _activated(x * scale.to(x.dtype)[:, :, None, None] + shift.to(x.dtype), True, clamp)


class _NoisyActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, noise: Tensor, strength: Tensor, bias: Tensor, clamp: float | None
    ) -> Tensor:
        shift = (noise * (strength * GAIN)).to(x.dtype)
        y = torch.addcmul(shift, x, scale.to(x.dtype)[:, :, None, None])
        y = _activate_(y.add_((bias * GAIN).to(x.dtype)[:, None, None]), True, clamp)
        ctx.save_for_backward(x, scale, noise, y)
        ctx.clamp = clamp
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, noise, y = ctx.saved_tensors
        gradient = _masked(grads[0], y, True, ctx.clamp)
        by_scale = (gradient * x).sum((2, 3)).to(scale.dtype)
        by_strength = by_bias = None
        if _weights_wanted() and (ctx.needs_input_grad[3] or ctx.needs_input_grad[4]):
            rows = gradient.permute(0, 2, 3, 1).flatten(1, 2)  # [N, H W, C]
            by_strength = (noise.to(x.dtype).reshape(-1, 1, rows.shape[1]) @ rows).to(scale.dtype).sum() * GAIN
            by_bias = gradient.sum((0, 2, 3)).to(scale.dtype) * GAIN
        factor = scale.to(x.dtype)[:, :, None, None]
        by_x = gradient * factor if torch.is_grad_enabled() else gradient.mul_(factor)
        return by_x, by_scale, None, by_strength, by_bias, None


# --- image layer -----------------------------------------------------------------------------------------------------


def image_product(x: Tensor, kernels: Tensor, bias: Tensor, clamp: float | None) -> Tensor:
    """1x1 convolution of x [N, I, R, R] (channels-last) by a kernel for each sample [N, O, I], plus bias [O], clamped:
    a contiguous image, float32 [N, O, R, R]."""
    return _node(_ImageProduct, plain_image_product, x, kernels, bias, clamp)


def plain_image_product(x: Tensor, kernels: Tensor, bias: Tensor, clamp: float | None) -> Tensor:
    y = torch.einsum("nihw,noi->nohw", x, kernels.to(x.dtype)).to(bias.dtype) + bias[:, None, None]
    return _activated(y, False, clamp)


class _ImageProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, bias: Tensor, clamp: float | None) -> Tensor:
        n, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        y = torch.baddbmm(bias.to(x.dtype)[:, None], kernels.to(x.dtype), rows.mT).to(bias.dtype)
        y = _activate_(y, False, clamp)
        ctx.save_for_backward(x, kernels, y)
        ctx.clamp = clamp
        return y.view(n, -1, height, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, kernels, y = ctx.saved_tensors
        n, channels, height, width = x.shape
        gradient = _masked(grads[0].reshape(y.shape), y, False, ctx.clamp)
        rows = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        narrow = gradient.to(x.dtype)
        by_x = (narrow.mT @ kernels.to(x.dtype)).view(n, height, width, channels).permute(0, 3, 1, 2)
        by_kernels = (narrow @ rows).to(kernels.dtype)
        wanted = ctx.needs_input_grad[2] and _weights_wanted()
        return by_x, by_kernels, gradient.sum((0, 2)) if wanted else None, None
