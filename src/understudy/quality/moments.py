"""Mean and covariance of features, streamed: float64, added block by block, merged in any grouping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError

Floats = NDArray[np.float64]

BLOCK = 4096  # rows that are turned into float64 at a time


@dataclass
class Moments:
    """Count, mean [d] and scatter [d, d] (sum of outer products of deviations from the mean).

    Deviations are kept rather than raw outer products (Chan et al. 1979): the same memory, and features far from zero
    lose no digits.
    """

    count: int
    mean: Floats
    scatter: Floats

    @classmethod
    def empty(cls, dimension: int) -> Moments:
        """Of no vectors yet."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Moments:
        """Of vectors [n, d], which may be a file mapped into memory."""
        found = cls.empty(features.shape[1])
        for start in range(0, len(features), BLOCK):
            found.add(features[start : start + BLOCK])
        return found

    def add(self, features: NDArray[np.floating]) -> None:
        """Adds vectors [n, d]."""
        block = np.asarray(features, np.float64)
        if not len(block):
            return
        mean = block.mean(axis=0)
        block = block - mean
        self.merge(Moments(len(block), mean, block.T @ block))

    def merge(self, other: Moments) -> None:
        """Adds the vectors that another collection has seen."""
        total = self.count + other.count
        if not total:
            return
        step = other.mean - self.mean
        self.mean = self.mean + step * (other.count / total)
        self.scatter += other.scatter + np.outer(step, step) * (self.count * other.count / total)
        self.count = total

    @property
    def covariance(self) -> Floats:
        """Unbiased (n - 1), [d, d].

        Raises:
            UnderstudyError: fewer than two vectors.
        """
        if self.count < 2:
            raise UnderstudyError(f"a covariance needs two slices, not {self.count}", fix="give more slices")
        return self.scatter / (self.count - 1)
