"""Milliseconds per slice of our augmentation, beside kornia and batchgeneratorsv2 where they are installed.

    python benchmarks/augment.py --slices 16 --threads 2

Prints a Markdown table: the shortest and the median time of `--rounds` rounds, draws of parameters included, and
the processor time of all threads together, the only figure that means something on a machine that does other work.
The peers' figures in our facts (4 x 256 x 256, another machine): kornia 0.9.0 7.2 ms, batchgeneratorsv2 0.3.6 7.1 ms.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from understudy.segmenters import augment, augment_apply


def measure(run: Callable[[int], object], slices: int, rounds: int) -> tuple[float, float, float]:
    """Milliseconds per slice: shortest, median, median of processor time; `run` gets the number of the round."""
    run(rounds)
    times, busy = [], []
    for number in range(rounds):
        start, start_busy = time.perf_counter(), time.process_time()
        run(number)
        times.append((time.perf_counter() - start) * 1e3 / slices)
        busy.append((time.process_time() - start_busy) * 1e3 / slices)
    return min(times), statistics.median(times), statistics.median(busy)


def kornia_chain() -> Callable[[torch.Tensor, torch.Tensor], object]:
    """The same transforms in kornia (low resolution has no counterpart and is left out)."""
    import kornia.augmentation as K

    chain = K.AugmentationSequential(
        K.RandomAffine(degrees=30.0, scale=(0.9, 1.1, 0.9, 1.1), p=0.75),
        K.RandomGaussianNoise(std=0.025, p=0.5),
        K.RandomGaussianBlur((7, 7), (0.5, 1.0), p=0.2),
        K.RandomGamma((0.8, 1.2), p=0.3),
        data_keys=["input", "mask"],
    )
    return lambda images, labels: chain(images.float() / 255, labels[:, None].float())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=16, help="slices in a batch")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    n, edge = arguments.slices, arguments.resolution
    rng = np.random.default_rng(0)
    shape = (n, arguments.channels, edge, edge)
    images = torch.from_numpy(rng.integers(0, 256, shape, np.uint8)).to(arguments.device)
    labels = torch.from_numpy(rng.integers(0, 4, (n, edge, edge), np.uint8)).to(arguments.device)
    config = augment.AugmentConfig()

    def ours(number: int) -> object:
        result = augment_apply.apply(
            augment.draw(config, 0, range(number * n, (number + 1) * n)), images, labels
        )
        if images.is_cuda:
            torch.cuda.synchronize()
        return result

    rows = [("understudy, paper's transforms", *measure(ours, n, arguments.rounds))]
    plain = augment.draw(augment.AugmentConfig(enabled=False), 0, range(n))
    rows.append(
        (
            "of this z-score",
            *measure(lambda _: augment_apply.apply(plain, images, labels), n, arguments.rounds),
        )
    )
    if importlib.util.find_spec("kornia"):
        chain = kornia_chain()
        rows.append(("kornia", *measure(lambda _: chain(images, labels), n, arguments.rounds)))
    load = os.getloadavg()[0]
    print(f"{n} slices of {arguments.channels} x {edge} x {edge}, {arguments.threads} threads, "
          f"{arguments.device}, torch {torch.__version__}, load {load:.1f}\n")  # fmt: skip
    print("| augmentation | ms/slice, shortest | median | processor time |\n| --- | --- | --- | --- |")
    for name, *figures in rows:
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")


if __name__ == "__main__":
    main()
