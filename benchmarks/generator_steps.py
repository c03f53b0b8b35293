"""The training step of all five generators: time and memory, beside what the official loops take.

Run: python benchmarks/generator_steps.py [--quick | --larger] [--precision auto] [--threads 2] [--rounds 5]. Prints a
Markdown table.

The step is the whole of it: reading the batch, both networks, every penalty, Adam, the average; without augmentation.
A round is 16 steps, so that each lazy penalty (R1 every 16 steps, path length every 4) has its right share; a round
before them warms up; medians are over the rounds. One job at
a time, each in a process of its own: the allocator's settings and the peak memory are the process's.
- default: 32x32, 5 channels, batch 8, tiny widths (channel_base 512 and channel_max 32, or fmap_base 512 and fmap_max
  64), Progressive GAN and StyleGAN 1 at level 0; diffusion at 64x64 with 32 model channels, batch 8.
- --quick: the recipe `quick` at 32x32, as users train on a CPU, with its batches and augmentation.
- --larger: StyleGAN 2 at 32x32 with 2048/128, batch 16 and 64, and at 64x64 with 4096/128, batch 16, in images/s.
--latent is the size of z, w and of the layers between them; Progressive GAN's z is as wide as its first layer, as in
the official code. --blocks is the number of residual blocks per resolution of the diffusion
model; with one, our copy of the official structure takes what is quoted (diffusion_step.py --blocks 1).

The official figures are quoted, not measured here: from the project's measurements of the official loops in float32 on
two idle cores. Their ratio to our wall time says something only on a like machine with nothing else running; processor
time, the sum over the threads, shows how far the wall time can be trusted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.generators.registry import network_type
from understudy.generators.training.ada import AugmentConfig
from understudy.generators.training.monitor import memory_mb
from understudy.names import display_name
from understudy.slices import SliceSet, SliceWriter, evenly_coded

STEPS, SLICES = 16, 64


@dataclass(frozen=True)
class Case:
    """One training to measure.

    Attributes:
        model, training: fields of the kind's configurations.
        quoted: of the official loop, seconds per 1000 images (images per second in the larger cases); None: unknown.
        wanted: how many times faster ours has to be; None: nothing is asked for.
    """

    name: str
    kind: str
    model: dict[str, Any]
    training: dict[str, Any]
    quoted: float | None = None
    wanted: float | None = None


def tiny_cases(latent: int, blocks: int) -> list[Case]:
    """The five generators in the sizes of the golden files, StyleGAN 3 in both configurations."""
    narrow = {"channel_base": 512, "channel_max": 32, "z_dim": latent, "w_dim": latent}
    growing = {"fmap_base": 512, "fmap_max": 64}
    grown = {"start_resolution": 32, "batches": {}}
    mapping = {"z_dim": latent, "w_dim": latent, "mapping_width": latent}
    radial = {"conv_kernel": 1, "use_radial_filters": True}
    unet = {"resolution": 64, "model_channels": 32, "num_res_blocks": blocks}
    return [
        Case("Progressive GAN", "progan", growing, grown, 57, 3),
        Case("StyleGAN 1", "stylegan1", growing | mapping, grown, 40, 3),
        Case("StyleGAN 2", "stylegan2", narrow, {}, 12, 3),
        Case("StyleGAN 3-T", "stylegan3", narrow, {}, 100, 3),
        Case("StyleGAN 3-R", "stylegan3", narrow | radial, {}),
        Case("diffusion", "diffusion", unet, {}, 71, 2),
    ]


def larger_cases(latent: int) -> list[Case]:
    """StyleGAN 2 in the sizes that it is trained in on two cores."""
    latents = {"z_dim": latent, "w_dim": latent}
    small = {"channel_base": 2048, "channel_max": 128} | latents
    large = {"resolution": 64, "channel_base": 4096, "channel_max": 128} | latents
    return [
        Case("StyleGAN 2, 32x32, 2048/128, batch 16", "stylegan2", small, {"batch": 16}, 48),
        Case("StyleGAN 2, 32x32, 2048/128, batch 64", "stylegan2", small, {"batch": 64}, 48),
        Case("StyleGAN 2, 64x64, 4096/128, batch 16", "stylegan2", large, {"batch": 16}, 15),
    ]


def quick_cases() -> list[Case]:
    """The recipe `quick`; the networks that grow at their full resolution."""
    cases = []
    for kind in ("progan", "stylegan1", "stylegan2", "stylegan3", "diffusion"):
        recipe = network_type(kind).recipe("quick")
        grown = {"start_resolution": 32} if kind in ("progan", "stylegan1") else {}
        cases.append(Case(display_name(kind), kind, recipe["model"], recipe["training"] | grown))
    return cases


def noise_slices(folder: str | Path, resolution: int) -> SliceSet:
    """Slices of noise with four channels, every second one with an annotation."""
    rng = np.random.default_rng(0)
    writer = SliceWriter(Path(folder) / "slices", ["a", "b", "c", "d"], evenly_coded({1: "x"}), resolution)
    images = rng.integers(0, 256, (SLICES, 4, resolution, resolution), dtype=np.uint8)
    labels = rng.integers(0, 2, (SLICES, resolution, resolution), dtype=np.uint8)
    labels[::2] = 0
    writer.append(images, labels, [{"id": str(i)} for i in range(SLICES)])
    return writer.close()


def make_state(case: Case, precision: str, folder: str | Path, device: torch.device) -> Any:
    """The case's training on slices of noise, without augmentation unless the case has it."""
    kind = network_type(case.kind)
    model = kind.config(**({"resolution": 32, "channels": 5} | case.model))
    fields = {"batch": 8, "augment": AugmentConfig(mode="off"), "precision": precision} | case.training
    if case.kind == "diffusion":
        fields.pop("augment", None)
    config = kind.training(**fields)
    slices = noise_slices(folder, model.resolution)
    return kind.state(slices, np.arange(len(slices)), model, config, device)


def process_mb(peak: bool) -> float:
    """Memory that this process has now, or at most had, MB. Not from getrusage, which starts with the parent's peak."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return memory_mb(torch.device("cpu"))
    found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status.read_text())
    return int(found[1]) / 1e3 if found else memory_mb(torch.device("cpu"))


@dataclass(frozen=True)
class Result:
    """What a case took.

    Attributes:
        times: [rounds, (wall, processor)], seconds per 1000 images.
        peak: of the process, MB. imports: of it what was there before the training was made.
    """

    times: NDArray[np.float64]
    peak: float
    imports: float
    precision: str


def work(case: Case, precision: str, threads: int, rounds: int, pipe: Connection) -> None:
    """In a process of its own: trains and sends a `Result`."""
    torch.set_num_threads(threads)
    imports = process_mb(peak=False)
    with tempfile.TemporaryDirectory() as folder:
        training = make_state(case, precision, folder, torch.device("cpu"))
        times = []
        for _ in range(STEPS):
            training.step()
        for _ in range(rounds):
            images, wall, processor = training.images, time.perf_counter(), time.process_time()
            for _ in range(STEPS):
                training.step()
            spent = np.array([time.perf_counter() - wall, time.process_time() - processor])
            times.append(spent * 1000 / (training.images - images))
        dtype = str(training.dtype).removeprefix("torch.")
        pipe.send(Result(np.array(times), process_mb(peak=True), imports, dtype))


def measure(case: Case, precision: str, threads: int, rounds: int) -> Result:
    """Runs `work` in a fresh process.

    Raises:
        EOFError: it failed; its own message is above.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(case, precision, threads, rounds, theirs), daemon=True)
    process.start()
    theirs.close()  # so that a worker that dies ends the wait
    try:
        result: Result = ours.recv()
        return result
    finally:
        process.join()


def tiny_row(case: Case, result: Result) -> str:
    """A line of the table, seconds per 1000 images."""
    wall, processor = np.median(result.times, axis=0)
    ratio = "" if case.quoted is None else f"{case.quoted / wall:.2f}"
    cells = [case.name, result.precision, f"{wall:.2f}", f"{processor:.2f}", case.quoted, ratio, case.wanted,
             f"{result.peak:.0f}", f"{result.peak - result.imports:.0f}"]  # fmt: skip
    return markdown(["" if cell is None else cell for cell in cells])


def larger_row(case: Case, result: Result) -> str:
    """A line of the table, images per second."""
    wall, processor = 1000 / np.median(result.times, axis=0)
    assert case.quoted is not None
    return markdown(
        [case.name, result.precision, f"{wall:.1f}", f"{processor:.1f}", case.quoted, f"{wall / case.quoted:.2f}",
         f"{result.peak:.0f}", f"{result.peak - result.imports:.0f}"]
    )  # fmt: skip


def markdown(cells: Sequence[object]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def header(larger: bool) -> list[str]:
    """The names of the columns."""
    unit = "images/s" if larger else "s per 1000 images"
    per_processor = "images per processor second" if larger else "processor s per 1000 images"
    names = ["training", "precision", f"{unit}, wall", per_processor, f"official, {unit} (quoted, not measured)"]
    names += ["ours is faster by"] + ([] if larger else ["wanted"])
    return [*names, "peak memory, MB", "of it above the imports"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the recipe `quick` at 32x32")
    parser.add_argument("--larger", action="store_true", help="StyleGAN 2 in the sizes of real trainings")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latent", type=int, help="size of z and w (default: 64 as in the golden files, --larger 512)")
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks per resolution, diffusion")
    parser.add_argument("--only", default="", help="cases whose name contains this, e.g. 'StyleGAN 3'")
    return parser.parse_args()


def main() -> None:
    options = parse()
    latent = options.latent or (512 if options.larger else 64)
    cases = larger_cases(latent) if options.larger else tiny_cases(latent, options.blocks)
    cases = quick_cases() if options.quick else cases
    sizes = "recipe quick" if options.quick else f"latent {latent}"
    if not options.larger and not options.quick:
        sizes += f", batch 8, diffusion with {options.blocks} blocks per resolution"
    print(f"torch {torch.__version__}, {options.threads} threads, {sizes}; medians of {options.rounds} rounds of"
          f" {STEPS} steps\n")  # fmt: skip
    columns = header(options.larger)
    print(markdown(columns))
    print(markdown(["---"] * len(columns)))
    row = larger_row if options.larger else tiny_row
    for case in cases:
        if options.only in case.name:
            result = measure(case, options.precision, options.threads, options.rounds)
            print(row(case, result), flush=True)


if __name__ == "__main__":
    main()
