"""How often does an audit say "copies found" of slices of patients whom no generator saw?

    python benchmarks/new_patients.py --slices DIR --sets 100   # a SliceSet of real patients
    python benchmarks/new_patients.py --sets 100                # phantoms

Patients are divided at random into three: training, held-out, and those whose slices play the synthetic set.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

import understudy as us
from understudy.slices import SliceSet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=Path, help="a SliceSet of real patients (default: phantoms)")
    parser.add_argument("--resolution", type=int, default=32, help="of phantoms (default 32)")
    parser.add_argument("--sets", type=int, default=100)
    given = parser.parse_args()
    slices = SliceSet.open(given.slices) if given.slices else us.phantoms(patients=48, resolution=given.resolution)
    subjects, index = slices.index["subject"].to_numpy(), slices.index.drop(columns=["split"], errors="ignore")
    names, said, rates = np.unique(subjects), Counter(), []
    for seed in range(given.sets):
        thirds = np.array_split(np.random.default_rng(seed).permutation(names), 3)
        parts = [
            SliceSet.from_arrays(slices.images[m], slices.labels[m], index=index[m].reset_index(drop=True),
                                 channels=slices.channels, classes=slices.classes, spacing=slices.spacing)
            for m in (np.isin(subjects, third) for third in thirds)
        ]  # fmt: skip
        done = us.audit(train=parts[0], held_out=parts[1], synthetic=parts[2], copies=10, splits=10, resamples=500)
        said[done.verdict.kind] += 1
        rates.append(done.numbers["flags"]["rate"])
        if done.verdict.kind == "copies_found":
            print(f"set {seed}: {done.verdict.headline}", flush=True)
    q = np.quantile(rates, [0.025, 0.5, 0.975])
    print(f"{given.sets} sets of new patients, {slices.resolution} pixels: {dict(said)}")
    print(f"flagged: mean {np.mean(rates):.2%}, median {q[1]:.2%}, 95 % of the sets {q[0]:.2%} to {q[2]:.2%}")


if __name__ == "__main__":
    main()
