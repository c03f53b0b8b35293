"""Made-up sets and extractors for the tests of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from understudy.slices import SliceSet, SliceWriter, evenly_coded

CHANNELS = ("T1w", "FLAIR")


def images(n: int, seed: int, shift: float = 0.0, edge: int = 8) -> np.ndarray:
    """uint8 [n, 2, edge, edge]: smooth noise whose level and contrast vary from slice to slice."""
    rng = np.random.default_rng(seed)
    level = rng.normal(100 + shift, 20, (n, 2, 1, 1))
    return np.clip(level + rng.normal(0, 15, (n, 2, edge, edge)), 0, 255).astype(np.uint8)


def slice_set(
    path: Path,
    n: int,
    seed: int,
    shift: float = 0.0,
    patients: tuple[str, ...] = (),
    splits: tuple[str, ...] = (),
    channels: tuple[str, ...] = CHANNELS,
    edge: int = 8,
) -> SliceSet:
    """A set whose rows go round the patients; no patients: synthetic."""
    writer = SliceWriter(path, channels, evenly_coded({1: "lesion"}), edge)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        row: dict[str, Any] = {"id": str(i)}
        if patients:
            row["subject"] = patients[i % len(patients)]
        if splits:
            row["split"] = splits[i % len(patients)]
        rows.append(row)
    made = images(n, seed, shift, edge)[:, [CHANNELS.index(c) for c in channels]]
    writer.append(made, np.zeros((n, edge, edge), np.uint8), rows)
    return writer.close()


class Pooled:
    """Features by hand: means of the four quarters of a slice. Counts the slices that it was asked for."""

    name, sha256, dimension = "pooled", "0" * 64, 4
    channels: tuple[str, ...] | None = None

    def __init__(self, channels: tuple[str, ...] | None = None) -> None:
        self.rule: dict[str, Any] = {"resize": "none"}
        self.channels, self.seen = channels, 0
        self.dimension = 4 * len(channels or ("one",))

    def features(self, images: np.ndarray) -> np.ndarray:
        self.seen += len(images)
        half = images.shape[-1] // 2
        quarters = images.astype(np.float32).reshape(*images.shape[:-2], 2, half, 2, half).mean((-3, -1))
        return quarters.reshape(len(images), -1)
