"""The Frechet distance at 2048 dimensions, ours beside SciPy's matrix root (pytorch-fid, clean-fid) in one run.

Usage: OMP_NUM_THREADS=2 python benchmarks/frechet.py [--dimension 2048] [--slices 5000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from understudy.quality.distances import frechet_distance, moments

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]  # mean and covariance


def clouds(slices: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Two clouds with a spectrum that falls like one of image features."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, dimension + 1) ** -0.5
    frame = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
    a, b = (rng.normal(0, 1, (slices, dimension)) * scale for _ in range(2))
    return (a @ frame).astype(np.float32), (1.1 * b @ frame + 0.01).astype(np.float32)


def by_symmetric_eigenvalues(first: Moments, second: Moments) -> float:
    return frechet_distance(*first, *second)


def by_matrix_root(first: Moments, second: Moments) -> float:
    step = first[0] - second[0]
    root = linalg.sqrtm(first[1] @ second[1])
    return float(step @ step + np.trace(first[1] + second[1] - 2 * root.real))


def by_general_eigenvalues(first: Moments, second: Moments) -> float:
    step = first[0] - second[0]
    root = np.sqrt(linalg.eigvals(first[1] @ second[1])).real.sum()
    return float(step @ step + np.trace(first[1] + second[1]) - 2 * root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--slices", type=int, default=5000)
    options = parser.parse_args()
    a, b = clouds(options.slices, options.dimension)
    start = time.perf_counter()
    first, second = moments(a), moments(b)
    print(f"moments of 2 x {options.slices} slices: {time.perf_counter() - start:.2f} s")
    ways: list[tuple[str, Callable[[Moments, Moments], float]]] = [
        ("symmetric eigenvalues (ours)", by_symmetric_eigenvalues),
        ("eigvals(S1 S2) (torchmetrics, torch-fidelity)", by_general_eigenvalues),
        ("scipy sqrtm (pytorch-fid, clean-fid)", by_matrix_root),
    ]
    for name, way in ways:
        start, processor = time.perf_counter(), time.process_time()
        value = way(first, second)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        print(f"{name:48s} {seconds:6.2f} s ({processor:6.2f} s of processor time)   {value:.10f}")


if __name__ == "__main__":
    main()
