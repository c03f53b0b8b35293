"""Toy data: bright discs on a noisy head, in a SliceSet and a VolumeSet (no patients)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from understudy.slices import SliceSet, SliceWriter, evenly_coded
from understudy.volumes import SliceGeometry, TestVolume, VolumeSet, VolumeWriter

EDGE = 16
CHANNELS = ("T1w", "FLAIR")
CLASSES = evenly_coded({1: "lesion"})


def disc(rng: np.random.Generator, edge: int = EDGE) -> np.ndarray:
    """bool [edge, edge]: a disc of radius 2 to 4 pixels."""
    row, column = rng.uniform(edge * 0.3, edge * 0.7, 2)
    y, x = np.mgrid[:edge, :edge]
    return (y - row) ** 2 + (x - column) ** 2 < rng.uniform(2, 4) ** 2


def toy(n: int, seed: int, empty_every: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 2, 16, 16] and labels uint8 [n, 16, 16]; every third slice has no lesion."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 100, (n, 2, EDGE, EDGE)).astype(np.uint8)
    labels = np.zeros((n, EDGE, EDGE), np.uint8)
    for i in range(n):
        if i % empty_every:
            labels[i] = disc(rng)
            images[i, 1][labels[i] > 0] += 80
    return images, labels


def slice_set(
    path: Path, n: int = 48, seed: int = 0, channels: tuple[str, ...] = CHANNELS, generated: bool = False
) -> SliceSet:
    """Real toys have 6 training patients ("p0" to "p5"), generated ones have none."""
    writer = SliceWriter(path, channels, CLASSES, EDGE)
    images, labels = toy(n, seed)
    images = images[:, [CHANNELS.index(c) for c in channels]]
    rows = [{"id": str(i)} | ({} if generated else {"subject": f"p{i % 6}", "split": "train"}) for i in range(n)]
    writer.append(images, labels, rows)
    return writer.close()


def volume(subject: str, split: str, seed: int, depth: int = 6) -> TestVolume:
    images, labels = toy(depth, seed)
    geometry = SliceGeometry.fit(EDGE, EDGE, EDGE)
    return TestVolume(subject, "", split, images, np.ones(depth, bool), labels, geometry, (1.0, 1.0, 1.0), np.eye(4))


def volume_set(path: Path) -> VolumeSet:
    """Two validation patients and two test patients."""
    writer = VolumeWriter(path, CHANNELS, CLASSES)
    for number, split in enumerate(("val", "val", "test", "test")):
        writer.write(volume(f"v{number}", split, 100 + number))
    return writer.close()
