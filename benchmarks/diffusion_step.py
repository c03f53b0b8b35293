"""The training step of guided diffusion's U-Net: ours against the same step as the official code does it.

Run: python benchmarks/diffusion_step.py [--threads 2] [--rounds 5]. Prints a Markdown table.

The step: forward, loss, gradients, AdamW, averaged network; 64x64, 5 channels, 32 model channels, batch 8. Variants:
- official structure (below): float32 and contiguous, group norm, scale and shift, and SiLU as operations of their own,
  attention as two products around a softmax and computed again for the gradient, AdamW with torch's defaults, the
  norms of weights and gradients for the log, and averaging tensor by tensor;
- ours, the training's whole step with the reading of its images, in float32 and in bfloat16 (what
  `devices.resolve_precision` gives where the processor multiplies in it).
Each variant lives in a process of its own, as the allocator's settings are the process's. A round is 4 steps of each,
one after the other, so that all see the same load of the machine; the medians of the rounds and of the rounds' ratios
are given, in processor time (which a loaded machine distorts less) and in wall time.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F
from generator_steps import Case, make_state
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from understudy.generators.diffusion.process import training_losses
from understudy.generators.networks.unet import Attention, DiffusionConfig, ResBlock, Stage, UNet, build, sinusoids
from understudy.generators.ops.group_norm import GroupNorm

BATCH, STEPS, DECAY = 8, 4, 0.9999
VARIANTS = ("official structure", "ours, float32", "ours, bfloat16")


# --- the official structure, on the weights of our network ------------------------------------------------------------


def normalised(norm: GroupNorm, x: Tensor) -> Tensor:
    return F.group_norm(x.float(), norm.groups, norm.weight, norm.bias).type(x.dtype)


def residual(block: ResBlock, x: Tensor, code: Tensor) -> Tensor:
    h = block.conv1(F.silu(normalised(block.norm1, x)))
    scale, shift = block.film(F.silu(code))[..., None, None].chunk(2, dim=1)
    h = normalised(block.norm2, h) * (1 + scale) + shift
    h = block.conv2(block.dropout(F.silu(h)))
    return (x if block.skip is None else block.skip(x)) + h


def attended(layer: Attention, x: Tensor) -> Tensor:
    n, channels, *size = x.shape
    x = x.reshape(n, channels, -1)
    y = F.group_norm(x.float(), layer.norm.groups, layer.norm.weight, layer.norm.bias)
    y = F.conv1d(y, layer.qkv.weight[..., None], layer.qkv.bias)
    y = y.reshape(n * (channels // layer.width), 3 * layer.width, -1)
    q, k, v = y.split(layer.width, dim=1)
    scale = layer.width**-0.25
    weight = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
    y = torch.einsum("bts,bcs->bct", weight, v).reshape(n, channels, -1)
    y = F.conv1d(y, layer.project.weight[..., None], layer.project.bias)
    return (x + y).reshape(n, channels, *size)


def staged(stage: Stage, x: Tensor, code: Tensor) -> Tensor:
    for layer in stage:
        if isinstance(layer, ResBlock):
            x = residual(layer, x, code)
        elif isinstance(layer, Attention):
            x = checkpoint(attended, layer, x, use_reentrant=False)
        else:
            x = layer(x, code)
    return x


def predicted(network: UNet, x: Tensor, t: Tensor) -> Tensor:
    code = network.time[1](F.silu(network.time[0](sinusoids(t, network.config.model_channels))))
    h = network.stem(x)
    skips = [h]
    for stage in network.encoder:
        h = staged(stage, h, code)
        skips.append(h)
    h = staged(network.middle, h, code)
    for stage in network.decoder:
        h = staged(stage, torch.cat([h, skips.pop()], dim=1), code)
    return network.out(F.silu(normalised(network.norm, h)))


# --- steps ------------------------------------------------------------------------------------------------------------


def official_step(network: UNet, x: Tensor) -> Callable[[], None]:
    """A function that does one step in the official structure."""
    process, average = network.config.process(), copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)

    def step() -> None:
        t, noise = torch.randint(0, len(process), (BATCH,)), torch.randn_like(x)
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad.detach_()
                parameter.grad.zero_()
        losses = training_losses(lambda a, b: predicted(network, a, b), process, x, t, noise)
        losses["loss"].mean().backward()
        for parameter in network.parameters():
            parameter.norm(p=2).item()
            if parameter.grad is not None:
                parameter.grad.norm(p=2).item()
        optimiser.step()
        for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
            mean.mul_(DECAY).add_(parameter.detach(), alpha=1 - DECAY)

    return step


def our_step(blocks: int, precision: str, folder: str) -> Callable[[], None]:
    """A function that does one step of a training that has been going on for a while."""
    fields = {"resolution": 64, "model_channels": 32, "num_res_blocks": blocks}
    training = make_state(
        Case("diffusion", "diffusion", fields, {"batch": BATCH}), precision, folder, torch.device("cpu")
    )
    training.step()
    step: Callable[[], None] = training.step
    return step


def work(variant: str, threads: int, blocks: int, pipe: Connection) -> None:
    """A process that does a round for every message and answers with (wall, processor) seconds per 1000 images."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if variant == "official structure":
            config = DiffusionConfig(resolution=64, model_channels=32, num_res_blocks=blocks)
            step = official_step(build(config).generator, torch.randn(BATCH, 5, 64, 64).clamp(-1, 1))
        else:
            step = our_step(blocks, "bf16" if "bfloat16" in variant else "fp32", folder)
        while pipe.recv():
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(STEPS):
                step()
            spent = np.array([time.perf_counter() - wall, time.process_time() - processor])
            pipe.send(spent * 1000 / (STEPS * BATCH))


def measure(threads: int, rounds: int, blocks: int) -> NDArray[np.float64]:
    """Seconds per 1000 images [rounds, variants, (wall, processor)]; one more round before warms up."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for variant in VARIANTS:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(variant, threads, blocks, theirs), daemon=True)
        process.start()
        workers.append((process, ours))
    found: list[list[NDArray[np.float64]]] = []
    for _ in range(rounds + 1):
        found.append([])
        for _, pipe in workers:
            pipe.send(True)
            found[-1].append(pipe.recv())
    for process, pipe in workers:
        pipe.send(False)
        process.join()
    return np.array(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks per resolution")
    options = parser.parse_args()
    times = measure(options.threads, options.rounds, options.blocks)
    middle = np.median(times, axis=0)
    print(f"torch {torch.__version__}, {options.threads} threads, 64x64, batch {BATCH}, {options.blocks} blocks per")
    print(f"resolution, medians of {options.rounds} rounds of {STEPS} steps\n")
    print(
        "| step | processor s per 1000 images | wall s | official structure / this, processor | wall |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for i, variant in enumerate(VARIANTS):
        wall, processor = (np.median(times[:, 0, k] / times[:, i, k]) for k in (0, 1))
        print(f"| {variant} | {middle[i, 1]:.1f} | {middle[i, 0]:.1f} | {processor:.2f} | {wall:.2f} |")


if __name__ == "__main__":
    main()
