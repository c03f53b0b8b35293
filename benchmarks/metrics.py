"""Dice, maximum Hausdorff distance and three HD95 of one 240 x 240 x 155 volume with three labels: ours and peers.

    python benchmarks/metrics.py            # the peers on the two tumours only, two minutes
    python benchmarks/metrics.py --all      # the peers on salt noise and random labels too, many minutes

The truth has 6,600 / 135,000 / 31,000 voxels of NCR / ED / ET (tumour), or 1.3 times that length in each direction
(large tumour); the prediction is shifted and deformed and has two small false-positive islands far away. Peers get
their masks or one-hot tensors ready made, outside the clock; ours gets the label volumes, and scores the union of all
classes too and all three HD95, which the peers are not asked for. Ratios are of processor time in this run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np
import torch
from medpy.metric import binary
from monai.metrics import compute_dice, compute_hausdorff_distance
from numpy.typing import NDArray
from scipy import ndimage

from understudy.metrics.overlap import scores_of_counts
from understudy.metrics.scores import score_volume

SHAPE, SPACING = (155, 240, 240), (1.0, 1.0, 1.0)
NAMES = ("NCR", "ED", "ET")
DISTANCES = ("hd", "hd95_pooled", "hd95_directed", "hd95_surfel")
VOXELS = {1: 6_600, 3: 31_000, 2: 135_000}  # label: size, from the centre outwards

Labels = NDArray[np.uint8]
Scores = dict[str, list[float]]


def smooth_noise(rng: np.random.Generator, grain: float) -> NDArray[np.float32]:
    """Smooth random field over the volume, unit variance at its nodes, `grain` voxels apart."""
    coarse = rng.standard_normal([int(n / grain) + 3 for n in SHAPE])
    factors = [n / c for n, c in zip(SHAPE, coarse.shape, strict=True)]
    return ndimage.zoom(coarse, factors, order=3).astype(np.float32)


def tumour(seed: int = 0, scale: float = 1.0) -> tuple[Labels, Labels]:
    """The truth and a prediction of ordinary quality; `scale` is of lengths."""
    sizes = {label: int(n * scale**3) for label, n in VOXELS.items()}
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in SHAPE], indexing="ij")
    depth = np.sqrt((z - 80) ** 2 + ((y - 110) / 1.1) ** 2 + (x - 100) ** 2) + 3 * smooth_noise(rng, 12)
    total = sum(sizes.values())
    inside = np.argpartition(depth.ravel(), total)[:total]
    inside = inside[np.argsort(depth.ravel()[inside])]
    truth = np.zeros(SHAPE, np.uint8)
    for label, part in zip(sizes, np.split(inside, np.cumsum(list(sizes.values()))[:-1]), strict=True):
        truth.ravel()[part] = label
    shift = [c + d + 2 * smooth_noise(rng, 20) for c, d in ((z, 1), (y, 2), (x, -1))]
    prediction = ndimage.map_coordinates(truth, shift, order=0)
    prediction[20:26, 200:206, 30:36] = 2
    prediction[130:135, 40:45, 200:205] = 3
    return truth, prediction


def large_tumour(seed: int = 0) -> tuple[Labels, Labels]:
    """2.2 times the voxels, 1.7 times the border."""
    return tumour(seed, 1.3)


def salted(seed: int = 0) -> tuple[Labels, Labels]:
    """The truth of `tumour`, and it again with random labels in 3 % of all voxels."""
    rng = np.random.default_rng(seed)
    truth = tumour(seed)[0]
    prediction, where = truth.copy(), rng.random(SHAPE) < 0.03
    prediction[where] = rng.integers(1, 4, int(where.sum()))
    return truth, prediction


def random_labels(seed: int = 0) -> tuple[Labels, Labels]:
    """Two volumes of independent uniform labels: 2.2 million border voxels a label."""
    truth, prediction = np.random.default_rng(seed).integers(0, 4, (2, *SHAPE), dtype=np.uint8)
    return truth, prediction


def ours(truth: Labels, prediction: Labels) -> Callable[[], Scores]:
    """Rows of the three classes and the foreground."""

    def run() -> Scores:
        rows = score_volume(pred=prediction, target=truth, class_names=NAMES, spacing=SPACING)[:3]
        found = {k: [r[k] for r in rows] for k in DISTANCES}
        return found | {"dice": [float(scores_of_counts(r["tp"], r["fp"], r["fn"])["dice"]) for r in rows]}

    return run


def medpy(truth: Labels, prediction: Labels) -> Callable[[], Scores]:
    """`medpy.metric.binary` label by label."""
    masks = [(prediction == k, truth == k) for k in (1, 2, 3)]
    return lambda: {
        "dice": [binary.dc(*m) for m in masks],
        "hd": [binary.hd(*m, SPACING) for m in masks],
        "hd95_pooled": [binary.hd95(*m, SPACING) for m in masks],
    }


def monai(truth: Labels, prediction: Labels) -> Callable[[], Scores]:
    """`monai.metrics.compute_*` on one-hot tensors."""
    onehot = [torch.from_numpy(np.stack([v == k for k in range(4)])[None]) for v in (prediction, truth)]
    return lambda: {
        "dice": compute_dice(*onehot, include_background=False)[0].tolist(),
        "hd": compute_hausdorff_distance(*onehot, spacing=SPACING)[0].tolist(),
        "hd95_directed": compute_hausdorff_distance(*onehot, percentile=95, spacing=SPACING)[0].tolist(),
    }


def surface_distance(truth: Labels, prediction: Labels) -> Callable[[], Scores]:
    """DeepMind's `surface_distance` label by label, Dice included."""
    import surface_distance as peer

    masks = [(truth == k, prediction == k) for k in (1, 2, 3)]

    def run() -> Scores:
        apart = [peer.compute_surface_distances(*m, SPACING) for m in masks]
        return {
            "dice": [peer.compute_dice_coefficient(*m) for m in masks],
            "hd95_surfel": [peer.compute_robust_hausdorff(a, 95) for a in apart],
        }

    return run


def timed(run: Callable[[], Scores], times: int) -> tuple[float, float, Scores]:
    """Median seconds on the clock, median seconds of processor time, and the last result."""
    clock, processor = [], []
    for _ in range(times):
        start, start_cpu = time.perf_counter(), time.process_time()
        found = run()
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
    return float(np.median(clock)), float(np.median(processor)), found


def named(module: str) -> str:
    try:
        return f"{module} {version(module.replace('_', '-'))}"
    except PackageNotFoundError:
        return module


def listed(found: Scores, name: str) -> str:
    return " / ".join(f"{v:.4f}" for v in found[name]) if name in found else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="run the peers on the noisy cases too")
    parser.add_argument("--repeats", type=int, default=9, help="runs of ours, the median counts (default 9)")
    arguments = parser.parse_args()
    columns = ("dice", *DISTANCES)
    peers = [medpy, monai, *([surface_distance] if find_spec("surface_distance") else [])]
    print(f"| case | program | s | CPU s | times ours (CPU) | {' | '.join(columns)} | differs from ours by |")
    print("| --- " * (6 + len(columns)) + "|")
    ordinary = {"tumour": tumour, "large tumour": large_tumour}
    for case, make in {**ordinary, "3 % salt": salted, "random labels": random_labels}.items():
        pair = make()
        ours(*pair)() if case in ordinary else None  # tables that are made once a process
        clock, base, reference = timed(ours(*pair), arguments.repeats if case in ordinary else 1)
        cells = " | ".join(listed(reference, c) for c in columns)
        print(f"| {case} | understudy | {clock:.3f} | {base:.3f} | 1 | {cells} | |", flush=True)
        for peer in peers if arguments.all or case in ordinary else ():
            clock, cpu, found = timed(peer(*pair), 1)
            apart = max(float(np.abs(np.subtract(found[c], reference[c])).max()) for c in found)
            cells = f"{cpu / base:.0f} | " + " | ".join(listed(found, c) for c in columns)
            name = named(peer.__name__)
            print(f"| {case} | {name} | {clock:.2f} | {cpu:.2f} | {cells} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
