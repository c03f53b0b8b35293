"""The audit's exact nearest neighbours: against a float32 matrix product, on a slice set, and memory.

    python benchmarks/audit_search.py                             # 1,000 x 5,000 slices of 64 x 64 x 4
    python benchmarks/audit_search.py --slices DIR --queries 200  # a SliceSet (test against training)
    python benchmarks/audit_search.py --memory                    # peak memory on a set larger than what is allowed

The float32 product is what a user would write: both sets normalised, one `torch` matrix product, one argmax. Ours gives
exact scores of the same winners; "all image views" adds the centred and the per-channel views. Both start from uint8
in memory. Rounds alternate; medians. Synthetic slices are random blobs and noise. Times hold for one machine and its
number of threads, the ratio is what counts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from understudy.memorization import exact, views
from understudy.memorization.search import nearest
from understudy.roles import Part, part_of
from understudy.slices import SliceSet, SliceWriter, evenly_coded

CHANNELS = ("T1w", "T1wGd", "T2w", "FLAIR")
PAPER = (100_000, 91_271, 256 * 256 * 4)  # synthetic slices, training slices, pixels
VIEWS = {"stacked": ("stacked",), "what decides": views.TESTED, "all image views": (*views.TESTED, views.CHANNELS)}


def blobs(count: int, size: int, seed: int) -> np.ndarray:
    """uint8 [count, 4, size, size]: smooth random patches under noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 160, (count, 4, 8, 8), dtype=np.uint8)
    images = np.repeat(np.repeat(coarse, size // 8, 2), size // 8, 3)
    return images + rng.integers(0, 60, images.shape, dtype=np.uint8)


def median_seconds(run: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of every function; rounds alternate between them."""
    times: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(rounds):
        for name, function in run.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def normalised(images: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(images).flatten(1).float()
    x -= x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True)


def against_float(rounds: int) -> None:
    """The table of the 64 x 64 x 4 case."""
    queries, training = blobs(1000, 64, 1), blobs(5000, 64, 2)
    made = [SliceSet.from_arrays(x, np.zeros_like(x[:, 0]), channels=CHANNELS) for x in (queries, training)]
    sets = [part_of("slices", slices) for slices in made]
    runs: dict[str, Callable[[], object]] = {
        "float32 product and argmax": lambda: (normalised(queries) @ normalised(training).t()).argmax(1)
    }
    runs |= {f"exact, {name}": lambda names=names: nearest(*sets, views=names) for name, names in VIEWS.items()}
    theirs = (normalised(queries) @ normalised(training).t()).argmax(1).numpy()
    agree = (nearest(*sets, views=("stacked",))["stacked.row"].to_numpy() == theirs).mean()
    times = median_seconds(runs, rounds)
    base = times["float32 product and argmax"]
    print(f"1,000 x 5,000 slices of 64 x 64 x 4, {torch.get_num_threads()} threads, same winner {agree:.1%}\n")
    print("| program | s | times as fast as the float32 product |\n| --- | --- | --- |")
    for name, seconds in times.items():
        print(f"| {name} | {seconds:.3f} | {base / seconds:.2f} |")


def on_slices(path: Path, queries: int, memory: int, float_kernel: bool) -> None:
    """Time on a SliceSet, and what it would be at the paper's size."""
    slices = SliceSet.open(path)
    training = slices.rows(split="train")
    rest = slices.rows(split=["val", "validation", "test"])
    rest = rest[:: max(1, len(rest) // queries)][:queries]
    pixels = len(slices.channels) * slices.resolution**2
    if float_kernel:
        exact.kernel_is_exact = lambda device: False  # type: ignore[assignment]
    kernel = "integer" if exact.kernel_is_exact(torch.device("cpu")) else "float32"
    size = f"{slices.resolution} px, {len(slices.channels)} channels"
    print(f"{len(rest)} x {len(training)} slices of {size}, {kernel} kernel\n")
    print("| views | s | 100,000 x 91,271 at 256 x 256 x 4, h |\n| --- | --- | --- |")
    among = Part("training", slices, training)
    nearest(Part("queries", slices, rest[:2]), among)  # fills the cache of small sets
    for name, names in VIEWS.items():
        start = time.perf_counter()
        nearest(Part("queries", slices, rest), among, views=names, memory_bytes=memory)
        seconds = time.perf_counter() - start
        hours = seconds / (len(rest) * len(training) * pixels) * np.prod(np.array(PAPER, float)) / 3600
        print(f"| {name} | {seconds:.2f} | {hours:.1f} |", flush=True)


def memory_peak() -> None:
    """Peak memory of a search whose sets are larger than what is allowed."""
    allowed, count = 256 << 20, 4096
    with tempfile.TemporaryDirectory() as folder:
        writer = SliceWriter(Path(folder) / "set", CHANNELS, evenly_coded({1: "lesion"}), 128)
        for start in range(0, count, 256):
            images = blobs(256, 128, start) & 0xF0
            writer.append(images, images[:, 0] // 128, [{"id": str(start + i)} for i in range(256)])
        writer.close()
        slices = SliceSet.open(Path(folder) / "set", cache_bytes=0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rows = np.arange(0, count, 4)
        start_time = time.perf_counter()
        nearest(Part("queries", slices, rows), part_of("all", slices), skip_itself=True, memory_bytes=allowed)
        seconds = time.perf_counter() - start_time
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = count * 128 * 128 * 5 / 2**20
    print(f"set {size:,.0f} MiB, allowed {allowed >> 20} MiB: peak {after / 1024:,.0f} MiB, of which"
          f" {before / 1024:,.0f} MiB before the search ({len(rows)} x {count} pairs in {seconds:.0f} s)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=Path, help="a SliceSet with training and test slices")
    parser.add_argument("--queries", type=int, default=200, help="of the SliceSet (default 200)")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--memory-bytes", type=int, default=2 << 30, help="allowed to the search of --slices")
    parser.add_argument("--float-kernel", action="store_true", help="as on a machine without integer kernel")
    parser.add_argument("--rounds", type=int, default=5, help="of the float32 comparison (default 5)")
    arguments = parser.parse_args()
    if arguments.memory:
        memory_peak()
    elif arguments.slices:
        on_slices(arguments.slices, arguments.queries, arguments.memory_bytes, arguments.float_kernel)
    else:
        against_float(arguments.rounds)


if __name__ == "__main__":
    main()
