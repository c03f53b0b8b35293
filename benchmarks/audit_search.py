"""How long a whole audit takes, and how much memory: reading, both searches, planted copies, verdict.

    python benchmarks/audit_search.py                                  # 1,000 synthetic, 5,000 training, 64 x 64 x 4
    python benchmarks/audit_search.py --paper 0.05 0.1 --folder DIR    # parts of 100,000 and 91,271, 256 x 256 x 4
    python benchmarks/audit_search.py --against ../main/src            # beside another checkout's audit, in turn

Every audit is a process of its own. Sets are random smooth slices on disk, 4 of 10 annotated; held out are a fifth as
many as are trained on. With three or more parts of the paper's size, a + b f + c f f is fitted to the seconds and gives
the whole. Processor time counts beside other programs; seconds hold on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CHANNELS, PAPER = ("T1w", "T1wGd", "T2w", "FLAIR"), (100_000, 91_271)  # synthetic and training slices
AUDIT = """
import json, resource, sys, time
import torch
torch.set_num_threads(int(sys.argv[3]))
from understudy.memorization.perform import audit
from understudy.slices import SliceSet
start = time.perf_counter()
done = audit(SliceSet.open(sys.argv[1]), SliceSet.open(sys.argv[1]), SliceSet.open(sys.argv[2]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20]))
"""


def write(folder: Path, counts: dict[str, int], edge: int, seed: int) -> Path:
    """A set with so many slices of each part of a split, 20 a patient."""
    from understudy.slices import SliceWriter, evenly_coded

    rng, number = np.random.default_rng(seed), 0
    writer = SliceWriter(folder, CHANNELS, evenly_coded({1: "lesion"}), edge)
    for split, count in counts.items():
        for start in range(0, count, 200):
            size = min(200, count - start)
            own = np.repeat(rng.normal(100, 40, (10, len(CHANNELS), 32, 32)), 20, 0)[:size]
            images = np.clip(own + rng.normal(0, 30, own.shape), 0, 255).astype(np.uint8)
            images = np.repeat(np.repeat(images, edge // 32, 2), edge // 32, 3)
            labels = np.zeros((size, edge, edge), np.uint8)
            middle = rng.integers(edge // 4, edge // 2)
            labels[np.arange(size) % 10 < 4, middle : middle + edge // 6, middle : middle + edge // 6] = 1
            names = [f"{split}{(start + i) // 20:05d}" for i in range(size)]
            rows = [{"id": f"{number + i}", "subject": names[i], "split": split} for i in range(size)]
            writer.append(images, labels, rows if split else [{"id": row["id"]} for row in rows])
            number += size
    return Path(writer.close().path)


def measured(source: Path, real: Path, made: Path, threads: int) -> tuple[float, float, float]:
    """Seconds, seconds of processors, GB at most, of an audit by the package in `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", AUDIT, str(real), str(made), str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, processors, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, processors, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", type=float, nargs="+", default=[], help="parts of the paper's size")
    parser.add_argument("--synthetic", type=int, default=1000)
    parser.add_argument("--training", type=int, default=5000)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--against", type=Path, help="`src` of another checkout, which is measured in turn")
    parser.add_argument("--folder", type=Path, help="for the sets, which are kept there (default: a temporary one)")
    given = parser.parse_args()
    sizes = [(round(f * PAPER[0]), round(f * PAPER[1]), 256) for f in given.paper]
    sizes = sizes or [(given.synthetic, given.training, given.resolution)]
    sources = {"this": Path(__file__).parents[1] / "src", **({"other": given.against} if given.against else {})}
    found = []
    print("| audit of | synthetic x training | edge | s | s of processors | GB at most |\n" + "| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as temporary:
        for synthetic, training, edge in sizes:
            folder = (given.folder or Path(temporary)) / f"{synthetic}-{training}-{edge}"
            if not (folder / "made").exists():
                write(folder / "real", {"train": training, "test": training // 5}, edge, 1)
                write(folder / "made", {"": synthetic}, edge, 2)
            for name, source in sources.items():
                took = measured(source, folder / "real", folder / "made", given.threads)
                row = f"{name} | {synthetic:,} x {training:,} | {edge} | {took[0]:.0f} | {took[1]:.0f} | {took[2]:.1f}"
                print(f"| {row} |", flush=True)
                found += [took] if name == "this" else []
    if len(given.paper) >= 3:
        f = np.array(given.paper)
        for k, what in enumerate(("seconds", "seconds of processors")):
            fitted = np.linalg.lstsq(np.stack([f**0, f, f * f], 1), np.array(found)[:, k], rcond=None)[0]
            print(f"\nthe paper's whole sets by this slope: {fitted.sum() / 60:.0f} min ({what})")


if __name__ == "__main__":
    main()
