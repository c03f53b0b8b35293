"""A small slice set and a small configuration for the generators' tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from understudy.generators.networks.stylegan2 import StyleGan2Config
from understudy.slices import SliceSet, SliceWriter, evenly_coded


@pytest.fixture
def small_model() -> StyleGan2Config:
    """Two channels and an annotation at 16x16, a few thousand weights."""
    return StyleGan2Config(
        resolution=16, channels=3, z_dim=16, w_dim=16, channel_base=128, channel_max=16, mapping_layers=2
    )


@pytest.fixture
def slices(tmp_path: Path) -> SliceSet:
    """24 slices of bright discs, every second with a square lesion."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    disc = ((rows - 7.5) ** 2 + (columns - 7.5) ** 2 < 36).astype(np.uint8)
    labels = np.zeros((24, 16, 16), np.uint8)
    for i in range(0, 24, 2):
        top, left = rng.integers(4, 9, 2)
        labels[i, top : top + 3, left : left + 3] = 1 + i % 4 // 2
    images = np.stack([disc * 120 + labels * 60, disc * 80 + labels * 20], axis=1).astype(np.uint8)
    images += rng.integers(0, 9, images.shape, dtype=np.uint8)
    writer = SliceWriter(tmp_path / "real", ["T1w", "FLAIR"], evenly_coded({1: "core", 2: "oedema"}), 16)
    writer.append(images, labels, [{"id": str(i), "subject": f"p{i % 4}", "split": "train"} for i in range(24)])
    return writer.close()
