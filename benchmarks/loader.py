"""How long a training waits for its slices, and what memory the reading takes.

    python benchmarks/loader.py --threads 2

Slices of noise on a head, four sequences, on disk and never held in memory (`cache_bytes=0`). First table: a training
of the default U-Net as `understudy` runs it, the share of its time that it waited for the next batch as it records
it (`waiting_share`), and what reading a batch takes on its own. Second: the largest resident memory of a process that
reads 200 batches in the order of a training, for one set and one four times as long. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from understudy.io.files import read_json
from understudy.segmenters.config import MixtureConfig, SegmenterTrainingConfig
from understudy.segmenters.mixing import Mixture
from understudy.segmenters.train import train_segmenter
from understudy.slices import SliceSet, SliceWriter, evenly_coded

CHANNELS = ("T1w", "T1wGd", "T2w", "FLAIR")
READING = """
import sys
from pathlib import Path
from understudy.segmenters.config import MixtureConfig
from understudy.segmenters.mixing import Mixture, Prefetcher
from understudy.slices import SliceSet
mixture = Mixture(SliceSet.open(sys.argv[1], cache_bytes=0), None, MixtureConfig(), 0)
for _ in Prefetcher(mixture.read, int(sys.argv[2]), 0, 200):
    pass
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])
"""


def make(path: Path, count: int, edge: int) -> Path:
    """A set of `count` slices, 40 a patient."""
    rng = np.random.default_rng(0)
    writer = SliceWriter(path, CHANNELS, evenly_coded({1: "a", 2: "b", 3: "c"}), edge)
    y, x = np.mgrid[:edge, :edge] / edge - 0.5
    head, lesion = y**2 + x**2 < 0.16, (y - 0.1) ** 2 + x**2 < 0.01
    labels = np.broadcast_to(lesion.astype(np.uint8), (64, edge, edge)).copy()
    for start in range(0, count, 64):
        images = rng.normal(120, 12, (64, len(CHANNELS), edge, edge)).clip(1, 255) * head
        rows = [{"id": str(i), "subject": f"p{i // 40}", "split": "train"} for i in range(start, start + 64)]
        writer.append(images.astype(np.uint8), labels, rows)
    writer.close()
    return path


def training(folder: Path, path: Path, batch: int, steps: int) -> tuple[float, float, float]:
    """Milliseconds of a step, of reading a batch alone, and the share of the time that was waited."""
    slices = SliceSet.open(path, cache_bytes=0)
    mixture, times = Mixture(slices, None, MixtureConfig(), 0), []
    for k in range(5):
        start = time.perf_counter()
        mixture.read(np.arange(k * batch, (k + 1) * batch))
        times.append(time.perf_counter() - start)
    config = SegmenterTrainingConfig(samples=batch * steps, batch=batch)
    run = train_segmenter(slices, None, None, config, folder, None, "cpu", progress=False)
    record = read_json(run / "config.json")
    return record["seconds"] * 1e3 / steps, min(times) * 1e3, record["waiting_share"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{arguments.threads} threads, load {os.getloadavg()[0]:.1f}\n")
        print("| slices | batch | ms/step | ms to read a batch | waited |\n| --- | --- | --- | --- | --- |")
        for edge, batch in ((64, 32), (256, 4)):
            path = make(folder / f"set{edge}", 512, edge)
            step, read, share = training(folder / f"run{edge}", path, batch, arguments.steps)
            print(f"| 4 x {edge} x {edge} | {batch} | {step:.0f} | {read:.1f} | {share:.2%} |", flush=True)
        print("\n| slices of 4 x 64 x 64 | MB uncompressed | resident memory, MB |\n| --- | --- | --- |")
        for count in (2560, 10240):
            path = make(folder / f"set{count}", count, 64)
            done = subprocess.run([sys.executable, "-c", READING, path, "32"], capture_output=True, text=True,
                                  check=True)  # fmt: skip
            print(f"| {count} | {count * 5 * 64 * 64 / 1e6:.0f} | {int(done.stdout) / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    main()
