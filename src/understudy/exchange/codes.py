"""Annotations drawn as grey values: the nearest code of each pixel, how far it was off, and codes nobody named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError

HALF = 127.5  # a channel of one class holds the class above half of 255
_FEW = 0.005  # share of annotated pixels below which a strange value is a blot, not a code
_MUCH = 0.2  # share of the pixels far from all codes that a code which nobody named makes up
_SPIKE = 8  # times the mean of its neighbours: transitions between codes are spread out, codes are not


def nearest_codes(drawn: NDArray[Any], codes: Sequence[float]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Grey values [n, H, W] -> positions in `codes` of the nearest (the first on a tie), and the distance to it."""
    distances = np.abs(drawn[:, None].astype(np.float32) - np.asarray(codes, np.float32)[None, :, None, None])
    return distances.argmin(axis=1), distances.min(axis=1)


def strongest_class(drawn: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Channels of one class each, 0..255 [n, K, H, W] -> the strongest above half (0: none), mean distance to 0/255."""
    background = np.full_like(drawn[:, :1], HALF, dtype=np.float32)
    labels = np.concatenate([background, drawn], axis=1).argmax(axis=1)
    ideal = (labels[:, None] == np.arange(1, drawn.shape[1] + 1)[:, None, None]) * np.float32(255)
    return labels, np.abs(drawn - ideal).mean(axis=1)


class CodeWatch:
    """Grey values of all annotations read so far, to tell soft borders from codes that nobody named.

    A generator's annotation passes through all values between two codes at a border: these are spread out. A value
    that occurs far more often than its neighbours and lies far from every code is a code of its own.
    """

    def __init__(self, codes: Sequence[float], tolerance: float | None) -> None:
        self.codes = np.asarray(codes, np.float64)
        gaps = np.diff(np.sort(self.codes))
        self.tolerance = float(tolerance if tolerance is not None else min(gaps, default=255) / 4)
        self.counts = np.zeros(256, np.int64)
        self.far = self.annotated = 0

    def add(self, drawn: NDArray[Any], distance: NDArray[np.float32]) -> None:
        """Counts annotations [n, H, W] and their distances to the nearest code."""
        self.counts += np.bincount(np.clip(np.rint(drawn), 0, 255).astype(np.uint8).ravel(), minlength=256)
        self.far += int(np.count_nonzero(distance > self.tolerance))
        self.annotated += int(np.count_nonzero(drawn > self.tolerance))

    def strange(self) -> list[int]:
        """Values that look like codes that nobody named, the most frequent first."""
        values = np.arange(256)
        away = np.abs(values[:, None] - self.codes[None]).min(axis=1) > self.tolerance
        padded = np.pad(np.where(away, self.counts, 0), 3)
        around = sum(padded[3 + k : 259 + k] for k in (-3, -2, -1, 1, 2, 3)) / 6
        total = self.counts[1:].sum()
        found = away & (self.counts > _SPIKE * (around + 1)) & (self.counts > _FEW * total)
        found &= self.counts > _MUCH * self.counts[away].sum()
        found[0] = False
        return sorted(np.flatnonzero(found).tolist(), key=lambda v: -self.counts[v])

    def unused(self) -> list[int]:
        """The values of an annotation that is never near any code but the background's; [] if one is."""
        values = np.arange(256)
        away = np.abs(values[:, None] - self.codes[None, 1:]).min(axis=1, initial=np.inf)
        near = away <= self.tolerance
        if self.counts[near].any():
            return []
        drawn = np.flatnonzero(self.counts[1:]) + 1
        return sorted(drawn.tolist(), key=lambda v: -self.counts[v])

    def check(self, where: Path, names: Sequence[str], finished: bool) -> None:
        """Stops at codes that nobody named.

        Args:
            where: the file read last.
            names: of the classes, as `codes`.
            finished: all annotations have been read.

        Raises:
            UnderstudyError: unknown codes.
        """
        listed = ", ".join(f"{name} {code:g}" for name, code in zip(names, self.codes[1:], strict=True))
        unused = self.unused()
        # Early only where it looks like label values (1, 2, 4): noise of a generator may come before its first lesion.
        values = self.strange() or (unused if finished or 2 <= len(unused) <= 4 else [])
        if values:
            seen = ", ".join(f"{v} ({self.counts[v]:,} pixels)" for v in values[:5])
            raise UnderstudyError(
                f"the annotation has the value {seen}, far from every code ({listed})",
                where=where,
                fix="name the codes that are in the files (--codes NAME=VALUE,... or `codes: {NAME: VALUE}`), or"
                " correct the files",
            )
        if finished and self.far > self.annotated / 2:
            raise UnderstudyError(
                f"more than half of the annotated pixels are farther than {self.tolerance:g} grey values from every"
                f" code ({listed})",
                where=where,
                fix="name the codes that are in the files, check which channel is the annotation, or raise `tolerance`",
            )
