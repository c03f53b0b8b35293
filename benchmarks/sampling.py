"""Slices a second of a diffusion model as they were sampled before and as they are now, by turns.

Run: python benchmarks/sampling.py MODEL_DIR SLICES_DIR [--samples 128] [--rounds 3] [--threads 1]. The folders are
those of `sampler_steps.py`, by which the samples are judged: both ways start from the same noise.

Before: float32, blocks of 8, DPM-Solver++ in 50 steps (30 in the recipe `quick`) with quadratic spacing. Now: the
device's precision, blocks that fill it, 15 steps (12 in `quick`). Printed are processor seconds, the medians of the
rounds, and the medians of the ratios within a round, so that what else the machine does counts for all.
"""

from __future__ import annotations

import argparse
import time
from typing import Any
from unittest import mock

import numpy as np
import sampler_steps as judge
import torch
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.diffusion import samplers
from understudy.generators.diffusion.samplers import SamplerConfig

WAYS: dict[str, tuple[SamplerConfig, dict[str, Any]]] = {
    "before, 50 steps": (SamplerConfig(steps=50, spacing="quadratic"), {"dtype": torch.float32}),
    "before, 30 steps": (SamplerConfig(steps=30, spacing="quadratic"), {"dtype": torch.float32}),
    "now, 15 steps": (SamplerConfig(steps=15), {}),
    "now, 12 steps": (SamplerConfig(steps=12), {}),
}


def draw(generator: Any, way: str, count: int) -> tuple[Tensor, float]:
    """Joint images [count, C, R, R], and the processor's seconds a sample."""
    sampler, options = WAYS[way]
    block = mock.patch.object(samplers, "sampling_block", return_value=8) if options else mock.MagicMock()
    start = time.process_time()
    with block:
        images: Tensor = generator.sample(count, judge.SEED, sampler=sampler, **options)
    return images, (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a finished diffusion training")
    parser.add_argument("slices", help="folder of the slices that it was trained on")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    samples = judge.Samples(options.model)
    real = judge.Real(options.slices, samples.config)
    seconds, drawn = np.zeros((options.rounds, len(WAYS))), {}
    for row in seconds:
        for k, way in enumerate(WAYS):
            drawn[way], row[k] = draw(samples.generator, way, options.samples)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.samples} samples, {options.rounds} rounds\n")
    columns = ["", "slices a second", "of before, 50 steps", "of before, 30 steps", "code", "conv", "physical"]
    print(judge.line(columns) + "\n" + judge.line(["---"] * len(columns)))
    for k, way in enumerate(WAYS):
        images, labels, codes = judge.decode(drawn[way], samples.classes, samples.config["annotation"])
        figures = [(float(codes.mean()), float(codes.std(ddof=1)) / len(codes) ** 0.5)]
        figures += real.distance(judge.Slices(images, labels, samples.classes)).values()
        ratios = [f"{np.median(seconds[:, j] / seconds[:, k]):.1f} times" for j in (0, 1)]
        rate = f"{1 / np.median(seconds[:, k]):.2f}"
        print(judge.line([way, rate, *ratios, *(f"{v:.4g} ± {e:.2g}" for v, e in figures)]))


if __name__ == "__main__":
    try:
        main()
    except UnderstudyError as error:
        raise SystemExit(str(error)) from error
