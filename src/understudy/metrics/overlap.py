"""Overlap of two label volumes: every class's counts from one histogram of label pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Box = tuple[slice, ...]


class Counts(NamedTuple):
    """Voxels of one class (or union of classes): in both, only in the prediction, only in the truth."""

    tp: int
    fp: int
    fn: int


def union_box(truth: NDArray[np.generic], prediction: NDArray[np.generic]) -> Box | None:
    """The smallest box that holds every non-zero voxel of both volumes [Z, Y, X]; None if there is none.

    Both are bool, or both unsigned integers of one type.
    """
    either = np.bitwise_or(truth, prediction)
    plane = np.bitwise_or.reduce(either, axis=0)
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not len(rows):
        return None
    inner = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    slices = np.flatnonzero(either[:, *inner].any(axis=(1, 2)))
    return slice(int(slices[0]), int(slices[-1]) + 1), *inner


def confusion(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Number of voxels with each pair of labels.

    Args:
        truth, prediction: uint8, same shape, class indices 0 .. classes - 1.
        classes: how many, background included, at most 256.

    Returns:
        int64 [classes, classes]: rows are the truth's label, columns the prediction's.
    """
    if classes <= 16:  # the pair fits 8 bits, which keeps the passes over the volume short
        pair = truth * np.uint8(classes % 256) + prediction
    else:
        pair = truth.astype(np.uint16) * np.uint16(classes) + prediction
    return np.bincount(pair.ravel(), minlength=classes**2).reshape(classes, classes).astype(np.int64)


def counts(table: NDArray[np.int64], members: Iterable[int]) -> Counts:
    """Counts of the union of the classes `members` from a `confusion` table."""
    inside = np.zeros(len(table), bool)
    inside[list(members)] = True
    rows, columns = table[inside], table[~inside]
    return Counts(int(rows[:, inside].sum()), int(columns[:, inside].sum()), int(rows[:, ~inside].sum()))


def dice(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """2 tp / (2 tp + fp + fn), elementwise; NaN where truth and prediction are both empty."""
    twice = 2.0 * np.asarray(tp, np.float64)
    return _quotient(twice, twice + np.add(fp, fn))


def precision(tp: ArrayLike, fp: ArrayLike) -> NDArray[np.float64]:
    """tp / (tp + fp), elementwise: how much of the prediction is true; NaN where the prediction is empty."""
    return _quotient(tp, np.add(tp, fp))


def recall(tp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """tp / (tp + fn), elementwise: how much of the truth was found; NaN where the truth is empty."""
    return _quotient(tp, np.add(tp, fn))


def _quotient(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
