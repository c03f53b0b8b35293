"""StyleGAN 3's filtered leaky ReLU and its whole generator: ours against the definition by inserted zeros.

Run: python benchmarks/filtered_lrelu.py [--threads 1] [--rounds 5]. Prints Markdown tables: processor time and wall
time of each pass in milliseconds (the smallest of all rounds; the two take turns), and how many times faster ours is.

The reference computes as the official code does on a processor, in the same run, on the same numbers: contiguous;
bias; zeros between the pixels, padding, one convolution of every channel along each axis (one 2-D convolution for
radial filters); leaky ReLU, gain, clamp; convolution; every second pixel. In the generator it has kernels modulated
for each sample and one grouped convolution, besides. Both compute in float32, ours in bfloat16 too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.generators.networks.stylegan3 import FilteredConv, StyleGan3Config, Synthesis, build
from understudy.generators.ops.filtered_lrelu import Resampling, filtered_lrelu, lowpass
from understudy.generators.ops.fused import GAIN, SLOPE
from understudy.generators.training.state import keep_freed_memory

CLAMP = 256.0
TINY = {"resolution": 32, "channels": 5, "channel_base": 512, "channel_max": 32}
RADIAL = {"conv_kernel": 1, "use_radial_filters": True}


def convolve(x: Tensor, taps: np.ndarray, gain: float = 1.0) -> Tensor:
    """Every channel by a filter, along both axes or by a 2-D one."""
    kernel = torch.from_numpy(taps).to(x.dtype)[None, None]
    if taps.ndim == 2:
        return F.conv2d(x, (kernel * gain).repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])
    kernel = (kernel * gain**0.5).repeat(x.shape[1], 1, 1)
    return F.conv2d(F.conv2d(x, kernel[:, :, None], groups=x.shape[1]), kernel[..., None], groups=x.shape[1])


def reference(x: Tensor, bias: Tensor, rise: np.ndarray, fall: np.ndarray, up: int, down: int, size: int) -> Tensor:
    n, c, h, w = x.shape
    total = (size - 1) * down + 1 - h * up + len(rise) + len(fall) - 2
    before = (total + up) // 2
    x = F.pad((x + bias.reshape(1, -1, 1, 1)).reshape(n, c, h, 1, w, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.reshape(n, c, h * up, w * up), [before, total - before] * 2)
    x = (F.leaky_relu(convolve(x, rise, up**2), SLOPE) * GAIN).clamp(-CLAMP, CLAMP)
    return convolve(x, fall)[:, :, ::down, ::down]


def reference_layer(layer: FilteredConv, x: Tensor, w: Tensor) -> Tensor:
    """One layer of the generator: a kernel for each sample, one grouped convolution, the filtered leaky ReLU."""
    n, style, weight = len(x), layer.affine(w), layer.weight
    weight = weight * weight.square().mean(dim=[1, 2, 3], keepdim=True).rsqrt()
    style = style * style.square().mean().rsqrt()
    kernels = weight[None] * style[:, None, :, None, None]
    kernels = kernels * (kernels.square().sum(dim=[2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    kernels = (kernels * layer.magnitude.rsqrt()).flatten(0, 1)
    x = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels, padding=weight.shape[-1] - 1, groups=n)
    way = layer.way
    filters = layer.up_filter, layer.down_filter
    return reference(x.reshape(n, -1, *x.shape[2:]), layer.bias, *filters, way.up, way.down, way.size_out)


def reference_synthesis(synthesis: Synthesis, ws: Tensor) -> Tensor:
    w = ws.unbind(1)
    x = synthesis.input(w[0]).contiguous()
    for layer, style in zip(synthesis.layers, w[1:-1], strict=True):
        x = reference_layer(layer, x, style)
    return synthesis.to_image(x, w[-1]) * synthesis.scale


def shortest(passes: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Name -> (processor time, wall time) of the fastest of `rounds` calls, ms."""
    found = {name: [np.inf, np.inf] for name in passes}
    for number in range(rounds + 1):
        for name, call in passes.items():
            start = time.process_time(), time.perf_counter()
            call()
            spent = time.process_time() - start[0], time.perf_counter() - start[1]
            if number:  # the first round warms up
                found[name] = [min(a, 1000 * b) for a, b in zip(found[name], spent, strict=True)]
    return {name: (a, b) for name, (a, b) in found.items()}


def passes_of(function: Callable[[Tensor], Tensor], x: Tensor, second: bool) -> dict[str, Callable[[], object]]:
    """Forward; forward and backward; and with a gradient of the gradient's square."""
    x = x.clone().requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            function(x)

    def backward() -> None:
        y = function(x)
        torch.autograd.grad(y, x, torch.ones_like(y))

    def twice() -> None:
        y = function(x)
        direction = torch.ones_like(y).requires_grad_()
        (gradient,) = torch.autograd.grad(y, x, direction, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), direction)

    return {"forward": forward, "+ backward": backward} | ({"+ second backward": twice} if second else {})


def print_rows(name: str, shape: str, ours: dict[str, Callable[[], object]], theirs: dict[str, Callable[[], object]],
               rounds: int) -> None:  # fmt: skip
    for step in ours:
        times = shortest({"reference": theirs[step], "ours": ours[step]}, rounds)
        a, b = times["reference"], times["ours"]
        cells = (name, shape, step, f"{a[0]:.1f}", f"{b[0]:.1f}", f"{a[0] / b[0]:.1f}", f"{a[1]:.1f}", f"{b[1]:.1f}",
                 f"{a[1] / b[1]:.1f}")  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


def layer_rows(name: str, count: int, channels: int, size: int, out: int, filters: tuple[np.ndarray, np.ndarray],
               up: int, rounds: int) -> None:  # fmt: skip
    x, bias = torch.randn(count, channels, size, size), torch.randn(channels)
    way = Resampling(*filters, up, 2, size, out, GAIN)
    shift = bias[:, None, None]
    fast = x.contiguous(memory_format=torch.channels_last)
    theirs = passes_of(lambda x: reference(x, bias, *filters, up, 2, out), x, True)
    ours = passes_of(lambda x: filtered_lrelu(x + shift, way, CLAMP), fast, True)
    print_rows(name, f"{count}x{channels}x{size}x{size}", ours, theirs, rounds)


def generator_rows(name: str, config: StyleGan3Config, dtype: torch.dtype, rounds: int) -> None:
    synthesis = build(config).generator.synthesis
    ws = torch.randn(8, config.num_ws, config.w_dim)

    def both(function: Callable[[], Tensor]) -> dict[str, Callable[[], object]]:
        def forward() -> None:
            with torch.no_grad():
                function()

        return {"forward": forward, "+ backward": lambda: function().square().mean().backward()}

    theirs, ours = both(lambda: reference_synthesis(synthesis, ws)), both(lambda: synthesis(ws, dtype))
    print_rows(name, f"8x{config.channels}x{config.resolution}x{config.resolution}", ours, theirs, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    columns = ("case", "shape", "pass", "reference cpu", "ours cpu", "ratio", "reference wall", "ours wall", "ratio")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    double, narrow = lowpass(12, 16, 16, 128), lowpass(24, 8, 8, 128)
    round_ = lowpass(12, 16, 16, 128, radial=True)
    cases = [
        ("12 taps, up 2, down 2", 4, 128, 84, 84, (double, double), 2),
        ("the same, radial down", 4, 128, 84, 84, (double, round_), 2),
        ("tiny T, layers 0-4", 8, 32, 38, 36, (double, double), 2),
        ("tiny T, layer 5 (up 4)", 8, 32, 38, 52, (narrow, double), 4),
        ("tiny T, layers 6-8", 8, 32, 54, 52, (double, double), 2),
        ("tiny T, layer 11", 8, 19, 54, 52, (double, double), 2),
    ]
    for name, count, channels, size, out, filters, up in cases:
        layer_rows(name, count, channels, size, out, filters, up, arguments.rounds)
    tiny_t, tiny_r = StyleGan3Config(**TINY), StyleGan3Config(**TINY, **RADIAL)
    for name, config in (("tiny T, all 15 layers", tiny_t), ("tiny R, all 15 layers", tiny_r)):
        generator_rows(name, config, torch.float32, arguments.rounds)
        generator_rows(name + ", bfloat16", config, torch.bfloat16, arguments.rounds)


if __name__ == "__main__":
    main()
