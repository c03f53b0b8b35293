"""StyleGAN 2's training step: ours against the same step with grouped convolutions.

Run: python benchmarks/stylegan2_step.py [--threads 1] [--rounds 5] [--latent 512]. Prints a Markdown table.

Four variants of one training step (the paper's objective: R1 every 16 steps, path length every 4, style mixing,
average; float32 except in the last):
- official structure: `official_step.py`, the step as the official code does it with grouped convolutions;
- ours, grouped: our step with nothing but the modulated convolution replaced by the grouped one, in contiguous layout
  (a grouped convolution folds the batch into the channels, so channels-last cannot be kept);
- ours, in float32 and in bfloat16 (what `precision: auto` takes where the processor has it).
Each variant lives in a process of its own, as the allocator's settings are the process's. A round is 16 steps of each,
one after the other, so that all see the same load of the machine; the medians of the rounds and of the rounds' ratios
are given, in processor time (which a loaded machine distorts less) and in wall time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from official_step import OfficialStep
from torch import Tensor

from understudy.generators import fused, recording, stylegan2, trainer
from understudy.generators.ada import AugmentConfig
from understudy.generators.adversarial import StyleGan2Trainer
from understudy.generators.resampling import blur
from understudy.generators.stylegan2 import StyledConv, StyleGan2Config
from understudy.generators.training import StyleGan2Training
from understudy.slices import SliceSet, SliceWriter, evenly_coded

RESOLUTION, BATCH, STEPS = 32, 8, 16  # 16 steps hold every lazy penalty in its right share
VARIANTS = ("official structure", "ours, grouped", "ours, float32", "ours, bfloat16")


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
    x = grouped(x, self.conv.weight, style, scale, self.conv.up, dtype)
    noise = self.noise_const if noise is None else noise
    return fused.noisy_activation(
        x, torch.ones_like(scale), noise, self.noise_strength, self.bias, self.clamp
    )


def modulate_weights() -> None:
    """From here on every modulated convolution of this process modulates its weights."""
    StyledConv.forward = forward  # type: ignore[method-assign]
    stylegan2.LAYOUT = fused.LAYOUT = torch.contiguous_format


def random_slices(folder: str) -> SliceSet:
    """64 slices of noise with four channels and an annotation."""
    rng = np.random.default_rng(0)
    writer = SliceWriter(folder + "/slices", ["a", "b", "c", "d"], evenly_coded({1: "x"}), RESOLUTION)
    images = rng.integers(0, 256, (64, 4, RESOLUTION, RESOLUTION), dtype=np.uint8)
    labels = rng.integers(0, 2, (64, RESOLUTION, RESOLUTION), dtype=np.uint8)
    writer.append(images, labels, [{"id": str(i)} for i in range(64)])
    return writer.close()


def work(variant: str, threads: int, latent: int, pipe: Connection) -> None:
    """A process that does a round for every message and answers with (wall, processor) seconds per 1000 images; it
    begins with four rounds to warm up, and says so."""
    torch.set_num_threads(threads)
    kind: type[StyleGan2Trainer] = StyleGan2Trainer
    if variant == "official structure":
        kind, trainer.keep_freed_memory = OfficialStep, lambda: None
    elif variant == "ours, grouped":
        modulate_weights()
    model = StyleGan2Config(
        resolution=RESOLUTION, channels=5, channel_base=512, channel_max=32, z_dim=latent, w_dim=latent
    )
    precision: Literal["fp32", "bf16"] = "bf16" if "bfloat16" in variant else "fp32"
    config = StyleGan2Training(batch=BATCH, precision=precision, augment=AugmentConfig(mode="off"))
    with tempfile.TemporaryDirectory() as folder:
        training = kind(random_slices(folder), np.arange(64), model, config, torch.device("cpu"))
        if isinstance(training, OfficialStep):
            training.plain_optimisers()
        recording.TRIES = 2  # and not 32: what is measured is a training that has been going on for a while
        for _ in range(STEPS * 4 + 1):
            training.step()
        pipe.send(None)
        while pipe.recv():
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(STEPS):
                training.step()
            spent = np.array([time.perf_counter() - wall, time.process_time() - processor])
            pipe.send(spent * 1000 / (STEPS * BATCH))


def measure(threads: int, rounds: int, latent: int) -> NDArray[np.float64]:
    """Seconds per 1000 images [rounds, variants, (wall, processor)]."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for variant in VARIANTS:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(variant, threads, latent, theirs), daemon=True)
        process.start()
        ours.recv()
        workers.append((process, ours))
    found: list[list[NDArray[np.float64]]] = []
    for _ in range(rounds):
        found.append([])
        for _, pipe in workers:
            pipe.send(True)
            found[-1].append(pipe.recv())
    for process, pipe in workers:
        pipe.send(False)
        process.join()
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latent", type=int, default=512, help="size of z and w (golden files: 64)")
    options = parser.parse_args()
    times = measure(options.threads, options.rounds, options.latent)
    middle = np.median(times, axis=0)
    print(f"torch {torch.__version__}, {options.threads} threads, {RESOLUTION}x{RESOLUTION}, batch {BATCH}, medians of"
          f" {options.rounds} rounds of {STEPS} steps\n")  # fmt: skip
    print(
        "| step | processor s per 1000 images | wall s | official structure / this, processor | wall | ours, grouped"
        " / this |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for i, variant in enumerate(VARIANTS):
        ratios = [np.median(times[:, base, k] / times[:, i, k]) for base, k in ((0, 1), (0, 0), (1, 1))]
        print(
            f"| {variant} | {middle[i, 1]:.2f} | {middle[i, 0]:.2f} | {' | '.join(f'{r:.2f}' for r in ratios)} |"
        )


if __name__ == "__main__":
    main()
