"""How alike are quarters of slices of different patients, and which changed copies does a release's scan find?

    python benchmarks/parts_of_slices.py --edges 32 64 128 256
    python benchmarks/parts_of_slices.py --slices prepared/slices   # of real patients, which stay where they are

Every second patient is "real", the others are "released". Prints for each size: the highest correlation of fine
structure between quarters of different patients (the limits of `understudy.release.parts` have to be above it), how
many of the released slices are refused (none should be), and of changed copies of real slices how many are found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from understudy.cohort.phantom.write import PhantomConfig, draw_patient
from understudy.release.parts import LIMITS, RealParts, quarters
from understudy.slices import SliceSet

CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "exact": lambda x, rng: x,
    "one bit": lambda x, rng: x ^ (np.arange(x[0].size).reshape(x[0].shape) == x[0].size // 3).astype(np.uint8) * 64,
    "noise, s.d. 2": lambda x, rng: np.clip(x + rng.normal(0, 2, x.shape).round(), 0, 255).astype(np.uint8),
    "noise, s.d. 5": lambda x, rng: np.clip(x + rng.normal(0, 5, x.shape).round(), 0, 255).astype(np.uint8),
    "dimmed to 80 %": lambda x, rng: (0.8 * x).astype(np.uint8),
    "gamma 0.8": lambda x, rng: (255 * (x / 255.0) ** 0.8).round().astype(np.uint8),
}


def phantoms(edge: int, patients: int) -> SliceSet:
    images, names = [], []
    for number in range(patients):
        volumes = draw_patient(PhantomConfig(shape=(edge, edge, edge * 5 // 8), seed=1), number).images
        scaled = [np.clip(v * (255 / np.percentile(v[v > 0], 99.5)), 0, 255).astype(np.uint8) for v in volumes.values()]
        for z in range(edge // 8, edge // 2, max(1, edge // 64)):
            images.append(np.stack([volume[:, :, z] for volume in scaled]))
            names.append(str(number))
    return SliceSet.from_arrays(np.stack(images), np.stack(images)[:, 0] * 0, patients=names)


def highest(a: np.ndarray, b: np.ndarray) -> float:
    """The highest correlation between quarters at the same place, of any two channels."""
    best = 0.0
    for x, y in zip(quarters(a), quarters(b), strict=True):
        units = [q[(q != 0).sum(1) >= 32].astype(np.float32) for q in (x, y)]
        if all(map(len, units)):
            first, second = (u / np.linalg.norm(u, axis=1, keepdims=True) for u in units)
            best = max(best, *(float((first[i : i + 256] @ second.T).max()) for i in range(0, len(first), 256)))
    return best


def measure(slices: SliceSet, most: int) -> None:
    people = slices.index["subject"].astype("category").cat.codes.to_numpy()
    rng = np.random.default_rng(0)
    real, released = (np.sort(rng.permutation(np.flatnonzero(people % 2 == k))[:most]) for k in (0, 1))
    images, others = slices.read(real)[0], slices.read(released)[0]
    known = SliceSet.from_arrays(images, images[:, 0] * 0)
    parts = RealParts([known], known.channels)
    limit = next(limit for least, limit in LIMITS if slices.resolution - slices.resolution // 2 >= least)
    print(f"{slices.resolution} pixels, {len(real):,} real and {len(released):,} slices of other patients")
    print(f"  highest correlation {highest(others, images):.3f}, limit {limit}")
    print(f"  refused: {len(parts.found_in(others))} of {len(others)}")
    some = images[:200]
    for name, change in CHANGES.items():
        planted = others[np.arange(len(some)) % len(others)].copy()
        planted[:, 0] = change(some, rng)[:, 0]  # one channel
        print(f"  one channel, {name}: {len(parts.found_in(planted))} of {len(some)} found", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="*", default=[64])
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--most", type=int, default=400, help="slices of each side")
    parser.add_argument("--slices", type=Path)
    asked = parser.parse_args()
    for edge in [] if asked.slices else asked.edges:
        measure(phantoms(edge, asked.patients), asked.most)
    if asked.slices:
        measure(SliceSet.open(asked.slices), asked.most)


if __name__ == "__main__":
    main()
