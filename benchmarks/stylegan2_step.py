"""StyleGAN 2's training step: modulation of the activations (ours) against modulation of the weights.

Run: python benchmarks/stylegan2_step.py [--threads 2] [--rounds 3]. Prints a Markdown table.

Both are the same training step of this package with the paper's objective (R1 every 16 steps, path length every 4,
style mixing, average); only the modulated convolution differs. Modulating the weights gives every sample its own
kernel, computed by one grouped convolution for the batch in the usual contiguous layout (a grouped convolution folds
the batch into the channels, so channels-last cannot be kept). A round
is 16 steps of each, one after the other, so that both see the same load of the machine; processor time is printed
beside wall time for the same reason.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.generators import stylegan2
from understudy.generators.layers import ModulatedConv, blur
from understudy.generators.stylegan2 import StyleGan2Config
from understudy.generators.trainer import GanTrainer, GanTrainingConfig
from understudy.slices import SliceSet, SliceWriter, evenly_coded

RESOLUTION, BATCH, STEPS = 32, 8, 16  # 16 steps hold every lazy penalty in its right share


def grouped(self: ModulatedConv, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The same layer with a kernel for each sample, as groups of one convolution."""
    n, channels, height, width = x.shape
    kernels = self.weight[None] * self.affine(w)[:, None, :, None, None]  # [N, O, I, k, k]
    if self.demodulate:
        kernels = kernels * (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    else:
        kernels = kernels / (kernels[0, 0].numel() ** 0.5)
    kernels, size = kernels.to(x.dtype), self.weight.shape[-1]
    x = x.reshape(1, n * channels, height, width)
    if self.up:
        x = F.conv_transpose2d(x, kernels.transpose(1, 2).flatten(0, 1), stride=2, groups=n)
        x = blur(x.view(n, -1, *x.shape[-2:]), padding=1, gain=4.0)
    else:
        x = F.conv2d(x, kernels.flatten(0, 1), padding=size // 2, groups=n)
        x = x.view(n, -1, *x.shape[-2:])
    return x, torch.ones(1, 1, 1, 1)


@contextmanager
def weight_modulation() -> Iterator[None]:
    """Inside the block every modulated convolution modulates its weights."""
    ours: Callable[..., tuple[Tensor, Tensor | None]] = ModulatedConv.forward
    ModulatedConv.forward = grouped  # type: ignore[method-assign]
    stylegan2.LAYOUT = torch.contiguous_format
    try:
        yield
    finally:
        ModulatedConv.forward = ours  # type: ignore[method-assign]
        stylegan2.LAYOUT = torch.channels_last


def random_slices(folder: str) -> SliceSet:
    """64 slices of noise with four channels and an annotation."""
    rng = np.random.default_rng(0)
    writer = SliceWriter(folder + "/slices", ["a", "b", "c", "d"], evenly_coded({1: "x"}), RESOLUTION)
    images = rng.integers(0, 256, (64, 4, RESOLUTION, RESOLUTION), dtype=np.uint8)
    labels = rng.integers(0, 2, (64, RESOLUTION, RESOLUTION), dtype=np.uint8)
    writer.append(images, labels, [{"id": str(i)} for i in range(64)])
    return writer.close()


def seconds(trainer: GanTrainer, modulate_weights: bool) -> tuple[float, float]:
    """(wall, processor) seconds of `STEPS` steps."""
    with weight_modulation() if modulate_weights else nullcontext():
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            trainer.step()
        return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = StyleGan2Config(
        resolution=RESOLUTION, channels=5, channel_base=512, channel_max=32, z_dim=64, w_dim=64
    )
    variants = [("weights, float32", "fp32", True), ("activations, float32", "fp32", False),
                ("activations, bfloat16 (default here)", "bf16", False)]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        slices = random_slices(folder)
        trainers = [
            GanTrainer(slices, np.arange(64), model, GanTrainingConfig(batch=BATCH, precision=p), torch.device("cpu"))
            for _, p, _ in variants
        ]  # fmt: skip
        rounds = [
            [seconds(t, v[2]) for t, v in zip(trainers, variants, strict=True)]
            for _ in range(options.rounds + 1)
        ][1:]  # the first warms up
    best = (
        np.min(np.array(rounds), axis=0) / (STEPS * BATCH) * 1000
    )  # [variant, (wall, processor)], s per 1000 images
    print(f"torch {torch.__version__}, {options.threads} threads, {RESOLUTION}x{RESOLUTION}, batch {BATCH}, best of"
          f" {options.rounds} rounds of {STEPS} steps\n")  # fmt: skip
    print(
        "| modulation of | s per 1000 images | processor s per 1000 images | times faster (processor time) |"
    )
    print("| --- | --- | --- | --- |")
    for (name, _, _), (wall, processor) in zip(variants, best, strict=True):
        print(
            f"| {name} | {wall:.2f} | {processor:.2f} | {best[0, 1] / processor:.2f} ({best[0, 0] / wall:.2f} wall) |"
        )


if __name__ == "__main__":
    main()
