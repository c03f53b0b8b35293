"""Slices to draw from: in rounds of a new random order each, with the network's names of channels and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.slices import SliceSet


def split_counts(k: NDArray[np.int64], share: float) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Divides the numbers 0, 1, 2, ... between two streams as evenly as possible.

    Args:
        k: numbers, int64 [n].
        share: of the first stream, 0 to 1.

    Returns:
        bool [n], k belongs to the first stream; how many numbers below k belong to the first; to the second.

    Example:
        >>> split_counts(np.arange(4), 0.5)[0].tolist()
        [False, True, False, True]
    """
    exact = Fraction(share).limit_denominator(10_000)
    before = k * exact.numerator // exact.denominator
    after = (k + 1) * exact.numerator // exact.denominator
    return after > before, before, k - before


class Pool:
    """Rows of one slice set that are drawn from in rounds.

    Args:
        rows: row numbers.
        key: with the seed, decides the order of every round.
    """

    def __init__(self, rows: NDArray[np.int64], key: Sequence[int]) -> None:
        self.rows, self.key = rows, list(key)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def draw(self, j: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the draws with numbers `j`."""
        rounds, places = np.divmod(j, len(self.rows))
        return np.array([self._order(int(r))[p] for r, p in zip(rounds, places, strict=True)], np.int64)

    def _order(self, number: int) -> NDArray[np.int64]:
        if number not in self._orders:
            rng = np.random.default_rng([*self.key, number])
            kept = {n: order for n, order in self._orders.items() if n >= number - 1}  # a batch spans two rounds
            self._orders = {**kept, number: rng.permutation(self.rows)}
        return self._orders[number]


@dataclass
class Source:
    """A slice set as seen by the network: its channels and classes put into the network's order by name.

    Attributes:
        slices: the set.
        rows: rows that may be drawn.
        channels: positions in the set of the network's channels.
        classes: uint8 [256], network class of each of the set's label values.
    """

    slices: SliceSet
    rows: NDArray[np.int64]
    channels: list[int]
    classes: NDArray[np.uint8]

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Images uint8 [n, C, R, R] and labels uint8 [n, R, R]."""
        images, labels = self.slices.read(rows)
        return images[:, self.channels], self.classes[labels]

    def foreground(self) -> NDArray[np.bool_]:
        """bool [len(rows)]: has any class but the background."""
        parts = [labels.any((1, 2)) for _, _, labels in self.slices.blocks(self.rows)]
        return np.concatenate(parts)


def channel_order(have: Sequence[str], want: Sequence[str], where: Any) -> list[int]:
    """Positions in `have` of the channels `want`, by name; more than is wanted may be there.

    Raises:
        UnderstudyError: a channel is missing.
    """
    missing = [name for name in want if name not in have]
    if missing:
        raise UnderstudyError(
            f"no channel {', '.join(missing)} among {', '.join(have)}",
            where=where,
            fix=f"use data with the channels {', '.join(want)}",
        )
    return [list(have).index(name) for name in want]


def class_table(have: Sequence[str], want: Sequence[str], where: Any) -> NDArray[np.uint8]:
    """uint8 [256]: index in `want` of each index in `have`, by name (both with the background first).

    Raises:
        UnderstudyError: a class of `have` is not among those wanted.
    """
    unknown = [name for name in have[1:] if name not in want]
    if unknown:
        raise UnderstudyError(
            f"unknown class {', '.join(unknown)}; the classes are {', '.join(want[1:])}",
            where=where,
            fix="use data with the same class names",
        )
    table = np.zeros(256, np.uint8)
    table[1 : len(have)] = [list(want).index(name) for name in have[1:]]
    return table
