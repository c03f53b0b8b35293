"""Resizing: PIL's float32 bicubic filter, and TensorFlow 1's bilinear by a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from understudy.quality.rules import InputRule, apply_rule, resized


@pytest.mark.parametrize(("edge", "size"), [(64, 99), (32, 14), (64, 20)])
def test_bicubic_is_pils_on_float_images(edge: int, size: int) -> None:
    slices = np.random.default_rng(0).integers(0, 256, (2, edge, edge)).astype(np.uint8)
    mine = apply_rule(slices, InputRule(size, copies=1)).numpy()
    for image, found in zip(slices, mine, strict=True):
        pil = Image.fromarray(image.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found[0], np.asarray(pil).clip(0, 255), atol=2e-3)


@pytest.mark.parametrize(("edge", "size"), [(8, 13), (16, 5)])
def test_tf1_is_a_loop(edge: int, size: int) -> None:
    image = np.random.default_rng(1).uniform(0, 255, (edge, edge)).astype(np.float32)
    expected = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * edge / size, j * edge / size
            y0, x0 = int(y), int(x)
            y1, x1, v, u = min(y0 + 1, edge - 1), min(x0 + 1, edge - 1), y - y0, x - x0
            top = (1 - u) * image[y0, x0] + u * image[y0, x1]
            expected[i, j] = (1 - v) * top + v * ((1 - u) * image[y1, x0] + u * image[y1, x1])
    found = resized(torch.from_numpy(image)[None, None], size, "tf1")[0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_copies_are_shifted_and_scaled_each() -> None:
    slices = np.full((1, 4, 4), 100, np.uint8)
    x = apply_rule(slices, InputRule(4, mean=(0.0, 50.0, 100.0), std=(1.0, 2.0, 4.0)))
    assert x.shape == (1, 3, 4, 4)
    assert x[0, :, 0, 0].tolist() == [100, 25, 0]
