"""Folders as other people's programs write them (no patients)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CODES = np.array([0, 51, 102, 204], np.uint8)
# file names as the samplers in the paper's repository write them
AUTHORS = {
    "stylegan3": {"T1w": "T1/seed{i:04d}_T1.png", "T2w": "T2/seed{i:04d}_T2.png",
                  "FLAIR": "FLAIR/seed{i:04d}_flair.png",
                  "T1wGd": "T1ce/seed{i:04d}_T1ce.png", "labels": "SEG/seed{i:04d}_Seg.png"},
    "stylegan1": {"T1w": "T1/image_{i}_T1.png", "T1wGd": "T1ce/image_{i}_T1ce.png",
                  "FLAIR": "flair/image_{i}_flair.png",
                  "T2w": "T2/image_{i}_T2.png", "labels": "seg/image_{i}_seg.png"},
    "progan": {"T1w": "{i}_T1.png", "T1wGd": "{i}_T1CE.png", "T2w": "{i}_T2.png", "FLAIR": "{i}_FLAIR.png",
               "labels": "{i}_Seg.png"},
    "folders": {"T1w": "T1w/{i}.png", "T1wGd": "T1wGd/{i}.png", "T2w": "T2w/{i}.png", "FLAIR": "FLAIR/{i}.png",
                "labels": "labels/{i}.png"},
}  # fmt: skip
CHANNELS = ("T1w", "T1wGd", "T2w", "FLAIR")


def slices(n: int, edge: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 4, edge, edge] and class indices uint8 [n, edge, edge] with all three classes."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 4, edge, edge), np.uint8), rng.integers(0, 4, (n, edge, edge), np.uint8)


def save_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def png_folder(root: Path, layout: str = "stylegan3", n: int = 3, edge: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Writes a folder and returns what is in it."""
    images, labels = slices(n, edge)
    for i in range(n):
        for c, name in enumerate(CHANNELS):
            save_png(root / AUTHORS[layout][name].format(i=i), images[i, c])
        save_png(root / AUTHORS[layout]["labels"].format(i=i), CODES[labels[i]])
    return images, labels
