"""StyleGAN 2's training step: ours against the official structure, and what each of its levers brings.

    python benchmarks/stylegan2_step.py [--threads 1] [--rounds 5] [--latent 64]
    python benchmarks/stylegan2_step.py --threads 2 --rounds 3 --base 2048 --most 128 --latent 512 --batch 16 --levers

Prints a Markdown table. Variants of one training step (the paper's objective: R1 every 16 steps, path length every 4,
style mixing, average; float32 where nothing else is said):
- official structure: `official_step.py`, the step as the official code does it with grouped convolutions;
- ours, grouped: our step with nothing but the modulated convolution replaced by the grouped one, in contiguous layout
  (a grouped convolution folds the batch into the channels, so channels-last cannot be kept);
- ours, in float32 and in bfloat16 (what `precision: auto` takes where the processor has it);
- with `--levers`, ours contiguous in place of channels-last, and in float32 as well.
Each variant lives in a process of its own, as the allocator's settings are the process's. A round is 16 steps of each,
one after the other, so that all see the same load of the machine; the medians of the rounds and of the rounds' ratios
are given, in processor time (which a loaded machine distorts less) and in wall time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from official_step import OfficialStep
from torch import Tensor

from understudy.generators.networks import stylegan2
from understudy.generators.networks.stylegan2 import StyledConv, StyleGan2Config
from understudy.generators.ops import fused
from understudy.generators.ops.resampling import blur
from understudy.generators.training import state
from understudy.generators.training.ada import AugmentConfig
from understudy.generators.training.config import StyleGan2Training
from understudy.generators.training.gan import GanState
from understudy.slices import SliceSet, SliceWriter, evenly_coded

STEPS = 16  # they hold every lazy penalty in its right share
OFFICIAL, GROUPED = "official structure", "ours, grouped"
VARIANTS = (OFFICIAL, GROUPED, "ours, float32", "ours, bfloat16")
LEVERS = ("ours, float32, contiguous",)


def grouped(x: Tensor, weight: Tensor, style: Tensor, scale: Tensor, up: bool, dtype: torch.dtype) -> Tensor:
    """`fused.modulated` and the demodulation with a kernel for each sample, as groups of one convolution."""
    n, channels, height, width = x.shape
    kernels = weight[None] * style[:, None, :, None, None] * scale[:, :, None, None, None]  # [N, O, I, k, k]
    x = x.reshape(1, n * channels, height, width)
    if up:
        x = F.conv_transpose2d(x, kernels.transpose(1, 2).flatten(0, 1), stride=2, groups=n)
        return blur(x.view(n, -1, *x.shape[-2:]), padding=1, gain=4.0)
    x = F.conv2d(x, kernels.flatten(0, 1), padding=1, groups=n)
    return x.view(n, -1, height, width)


def forward(
    self: StyledConv, x: Tensor, style: Tensor, scale: Tensor, noise: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`StyledConv.forward` with the grouped convolution."""
    x = grouped(x, self.conv.weight, style, scale, self.up, dtype)
    noise = self.noise_const if noise is None else noise
    return fused.noisy_activation(x, torch.ones_like(scale), noise, self.noise_strength, self.bias, self.clamp)


def modulate_weights() -> None:
    """From here on every modulated convolution of this process modulates its weights."""
    StyledConv.forward = forward  # type: ignore[method-assign]
    stylegan2.LAYOUT = fused.LAYOUT = torch.contiguous_format


def random_slices(folder: str, edge: int) -> SliceSet:
    """64 slices of noise with four channels and an annotation."""
    rng = np.random.default_rng(0)
    writer = SliceWriter(folder + "/slices", ["a", "b", "c", "d"], evenly_coded({1: "x"}), edge)
    images = rng.integers(0, 256, (64, 4, edge, edge), dtype=np.uint8)
    labels = rng.integers(0, 2, (64, edge, edge), dtype=np.uint8)
    writer.append(images, labels, [{"id": str(i)} for i in range(64)])
    return writer.close()


def work(variant: str, options: argparse.Namespace, pipe: Connection) -> None:
    """A process that does a round for every message and answers with (wall, processor) seconds per 1000 images; it
    begins with four rounds to warm up, and says so."""
    torch.set_num_threads(options.threads)
    kind: type[GanState] = GanState
    if variant == OFFICIAL:
        kind, state.keep_freed_memory = OfficialStep, lambda: None
    elif variant == GROUPED:
        modulate_weights()
    elif "contiguous" in variant:
        stylegan2.LAYOUT = fused.LAYOUT = torch.contiguous_format
    model = StyleGan2Config(
        resolution=options.edge, channels=5, channel_base=options.base, channel_max=options.most,
        z_dim=options.latent, w_dim=options.latent,
    )  # fmt: skip
    precision: Literal["fp32", "bf16"] = "bf16" if "bfloat16" in variant else "fp32"
    config = StyleGan2Training(batch=options.batch, precision=precision, augment=AugmentConfig(mode="off"))
    with tempfile.TemporaryDirectory() as folder:
        slices = random_slices(folder, options.edge)
        training = kind(slices, np.arange(64), model, config, torch.device("cpu"))
        if isinstance(training, OfficialStep):
            training.plain_optimisers()
        for _ in range(STEPS * 4 + 1):
            training.step()
        pipe.send(None)
        while pipe.recv():
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(STEPS):
                training.step()
            spent = np.array([time.perf_counter() - wall, time.process_time() - processor])
            pipe.send(spent * 1000 / (STEPS * options.batch))


def measure(variants: Sequence[str], options: argparse.Namespace) -> NDArray[np.float64]:
    """Seconds per 1000 images [rounds, variants, (wall, processor)]."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for variant in variants:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(variant, options, theirs), daemon=True)
        process.start()
        ours.recv()
        workers.append((process, ours))
    found: list[list[NDArray[np.float64]]] = []
    for _ in range(options.rounds):
        found.append([])
        for _, pipe in workers:
            pipe.send(True)
            found[-1].append(pipe.recv())
    for process, pipe in workers:
        pipe.send(False)
        process.join()
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latent", type=int, default=64, help="size of z and w (64: as in the golden files)")
    parser.add_argument("--edge", type=int, default=32, help="pixels along an edge of the images")
    parser.add_argument("--base", type=int, default=512, help="channel_base")
    parser.add_argument("--most", type=int, default=32, help="channel_max")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--levers", action="store_true", help="ours without some of its levers, too")
    options = parser.parse_args()
    variants = (*VARIANTS, *(LEVERS if options.levers else ()))
    times = measure(variants, options)
    middle = np.median(times, axis=0)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.edge}x{options.edge}, widths {options.base}/"
          f"{options.most}, batch {options.batch}, medians of {options.rounds} rounds of {STEPS} steps\n")  # fmt: skip
    print(
        "| step | processor s per 1000 images | wall s | images/s | official structure / this, processor | wall | ours,"
        " grouped / this |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for i, variant in enumerate(variants):
        ratios = [np.median(times[:, base, k] / times[:, i, k]) for base, k in ((0, 1), (0, 0), (1, 1))]
        told = [f"{x:.2f}" for x in (middle[i, 1], middle[i, 0])] + [f"{1000 / middle[i, 0]:.0f}"]
        print(f"| {variant} | {' | '.join([*told, *(f'{r:.2f}' for r in ratios)])} |")


if __name__ == "__main__":
    main()
