"""Milliseconds per slice of our augmentation, beside kornia and batchgeneratorsv2, in one run.

    python benchmarks/augment.py --slices 16 --threads 2 [--peers VENV/lib/python3.11/site-packages]

`--peers` names the packages of another environment (`pip install torch==2.13.0 kornia==0.9.0 batchgeneratorsv2==0.3.6`)
that are looked up after our own; peers that are absent are named, not left out in silence. All of them do the U-Net's
set of the paper (kornia has no low resolution) and a z-score; draws of parameters are included. The contestants take
turns, so that all meet the same load. "Undisturbed" is the shortest of the repeats with the same draws, on average
over the draws: what is left of it on a machine that does other work. Beside it the median, and the processor time of
all threads together. Prints Markdown tables; the last two are the share of each of our transforms, one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from understudy.segmenters import augment
from understudy.segmenters.augment import AugmentConfig, draw

Batch = tuple[torch.Tensor, torch.Tensor]
PEERS = ("kornia", "batchgeneratorsv2")
STEPS = ("move", "add_noise", "blur", "lower_resolution", "change_gamma", "fed")


def measure(
    runs: dict[str, Callable[[int], object]], slices: int, rounds: int, repeats: int
) -> list[tuple[str, float, float, float]]:
    """(name, undisturbed, median, median of processor time), milliseconds per slice.

    Each round has its own draws, and is repeated with the same ones; the undisturbed time is the shortest repeat of
    each round, on average over the rounds.
    """
    times = {name: np.zeros((rounds, repeats, 2)) for name in runs}
    for run in runs.values():
        run(0)
    for number in range(rounds):
        for repeat in range(repeats):
            for name, run in runs.items():
                torch.manual_seed(number)
                np.random.seed(number)  # noqa: NPY002 - what batchgeneratorsv2 draws from
                start, start_busy = time.perf_counter(), time.process_time()
                run(number)
                taken = time.perf_counter() - start, time.process_time() - start_busy
                times[name][number, repeat] = [t * 1e3 / slices for t in taken]
    return [
        (name, t[..., 0].min(1).mean(), float(np.median(t[..., 0])), float(np.median(t[..., 1])))
        for name, t in times.items()
    ]


def ours(config: AugmentConfig, batch: Batch) -> Callable[[int], object]:
    images, labels = batch

    def run(number: int) -> None:
        n = len(images)
        augment.apply(draw(config, 0, range(number * n, (number + 1) * n)), images, labels)
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def z_score(x: torch.Tensor) -> torch.Tensor:
    """As a user of the peers would write it."""
    return (x - x.mean((-2, -1), keepdim=True)) / x.std((-2, -1), keepdim=True)


def kornia_chain(batch: Batch) -> Callable[[int], object]:
    """The whole batch at once; low resolution has no counterpart and is left out."""
    import kornia.augmentation as K

    chain = K.AugmentationSequential(
        K.RandomAffine(degrees=30.0, scale=(0.9, 1.1, 0.9, 1.1), p=0.75),
        K.RandomGaussianNoise(std=0.025, p=0.5),
        K.RandomGaussianBlur((7, 7), (0.5, 1.0), p=0.2),
        K.RandomGamma((0.8, 1.2), p=0.3),
        data_keys=["input", "mask"],
    )
    images, labels = batch

    def run(number: int) -> None:
        x, _ = chain(images.float() / 255, labels[:, None].float())
        z_score(x)

    return run


def batchgenerators_chain(batch: Batch) -> Callable[[int], object]:
    """Sample by sample, as nnU-Net's workers call it."""
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    images, labels = batch
    angle = np.deg2rad(30)
    chain = ComposeTransforms([
        SpatialTransform(tuple(images.shape[-2:]), 0, False, p_rotation=0.75, rotation=(-angle, angle), p_scaling=0.75,
                         scaling=(0.9, 1.1), mode_seg="nearest"),
        RandomTransform(GaussianNoiseTransform((0, 0.05**2)), 0.5),
        RandomTransform(GaussianBlurTransform((0.5, 1.0), True, True), 0.2),
        RandomTransform(SimulateLowResolutionTransform((0.75, 1.0), True, True, ()), 0.25),
        RandomTransform(GammaTransform((0.8, 1.2), 0, True, 1, 0), 0.3),
    ])  # fmt: skip

    def run(number: int) -> None:
        for image, label in zip(images, labels, strict=True):
            done = chain(image=image.float() / 255, segmentation=label[None].to(torch.int16))
            z_score(done["image"])

    return run


@contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the processor time of each step of `apply` while it runs."""
    plain = {name: getattr(augment, name) for name in STEPS}

    def clocked(name: str) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            start = time.process_time()
            result = plain[name](*arguments)
            spent[name] += time.process_time() - start
            return result

        return run

    for name in STEPS:
        setattr(augment, name, clocked(name))
    try:
        yield
    finally:
        for name in STEPS:
            setattr(augment, name, plain[name])


def shares(which: str, batch: Batch, rounds: int) -> list[tuple[str, float]]:
    """(step, milliseconds of processor time per slice) on one thread, on average over the drawn and the not drawn."""
    spent: dict[str, float] = defaultdict(float)
    run, n = ours(AugmentConfig.model_validate({"set": which}), batch), len(batch[0])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run(0)
    with timed(spent):
        start = time.process_time()
        for number in range(rounds):
            run(number)
        total = time.process_time() - start
    torch.set_num_threads(before)
    spent["drawing, converting, copying"] = total - sum(spent.values())
    return [(name, seconds * 1e3 / n / rounds) for name, seconds in spent.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=8, help="slices in a batch")
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10, help="batches, each with its own draws")
    parser.add_argument("--repeats", type=int, default=6, help="of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers", help="folder of packages to look the peers up in")
    arguments = parser.parse_args()
    sys.path += [arguments.peers] if arguments.peers else []
    torch.set_num_threads(arguments.threads)
    n, edge = arguments.slices, arguments.resolution
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (n, arguments.channels, edge, edge), np.uint8))
    labels = torch.from_numpy(rng.integers(0, 4, (n, edge, edge), np.uint8))
    batch = images.to(arguments.device), labels.to(arguments.device)
    runs = {
        "understudy, U-Net set": ours(AugmentConfig(), batch),
        "understudy, Swin set": ours(AugmentConfig(set="swin"), batch),
        "understudy, z-score only": ours(AugmentConfig(enabled=False), batch),
    }
    there = [name for name in PEERS if importlib.util.find_spec(name)]
    chains = {"kornia": kornia_chain, "batchgeneratorsv2": batchgenerators_chain}
    runs |= {name: chains[name](batch) for name in there}
    print(f"{n} slices of {arguments.channels} x {edge} x {edge}, {arguments.threads} threads, "
          f"{arguments.device}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print("| augmentation | ms/slice, undisturbed | median | processor time |\n| --- | --- | --- | --- |")
    for name, *figures in measure(runs, n, arguments.rounds, arguments.repeats):
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")
    for name in PEERS:
        print(f"| {name}: not installed | | | |" if name not in there else "", end="\n" * (name not in there))
    for which in ("unet", "swin") if arguments.device == "cpu" else ():
        print(f"\n| {which} set, one thread | ms/slice |\n| --- | --- |")
        for name, figure in shares(which, batch, arguments.rounds):
            print(f"| {name} | {figure:.3f} |")


if __name__ == "__main__":
    main()
