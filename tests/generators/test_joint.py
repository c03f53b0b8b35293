"""Joint images: exact round trip, nearest codes, distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.generators.joint import Annotation, annotation_channels, decode, encode
from understudy.slices import BACKGROUND, LabelClass, evenly_coded

BRATS = (BACKGROUND, LabelClass("NCR", 1, 51), LabelClass("ED", 2, 102), LabelClass("ET", 4, 204))


@pytest.mark.parametrize("annotation", ["coded", "one_hot"])
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, 5), channels=st.integers(1, 4))
def test_decode_undoes_encode(annotation: Annotation, seed: int, classes: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    described = evenly_coded({i + 1: f"c{i}" for i in range(classes)})
    images = rng.integers(0, 256, (2, channels, 4, 4), dtype=np.uint8)
    labels = rng.integers(0, classes + 1, (2, 4, 4), dtype=np.uint8)
    joint = encode(images, labels, described, annotation)
    assert joint.shape[1] == channels + annotation_channels(described, annotation)
    assert joint.min() >= -1
    assert joint.max() <= 1
    found_images, found_labels, distance = decode(joint, described, annotation)
    np.testing.assert_array_equal(found_images, images)
    np.testing.assert_array_equal(found_labels, labels)
    np.testing.assert_allclose(distance, 0, atol=1e-4)


def test_annotations_go_to_the_nearest_code_and_the_distance_is_the_mean() -> None:
    values = torch.tensor([[0.0, 20.0, 30.0, 90.0], [160.0, 250.0, -40.0, 51.0]]) / 127.5 - 1
    joint = torch.stack([torch.zeros_like(values), values])[None]
    _, labels, distance = decode(joint, BRATS)
    assert labels[0].tolist() == [[0, 0, 1, 2], [3, 3, 0, 1]]
    assert distance[0] == pytest.approx(np.mean([0, 20, 21, 12, 44, 46, 0, 0]), abs=1e-3)


def test_one_hot_takes_the_strongest_channel_above_one_half() -> None:
    drawn = torch.tensor([[0.2, -0.1, -1.0], [0.5, -0.2, 1.0]])[:, None, :]  # [2 classes, H = 1, W = 3]
    joint = torch.cat([torch.zeros(1, 1, 3), drawn])[None]
    _, labels, distance = decode(joint, evenly_coded({1: "a", 2: "b"}), "one_hot")
    assert labels[0].tolist() == [[2, 0, 2]]
    expected = 127.5 * np.mean([1.2, 0.5, 0.9, 0.8, 0.0, 0.0])
    assert distance[0] == pytest.approx(expected, abs=1e-3)


def test_grey_values_are_clamped_and_rounded() -> None:
    joint = torch.tensor([-1.5, -1 + 0.6 / 127.5, 1.5, -1.0]).view(1, 1, 1, 4)
    images, _, _ = decode(torch.cat([joint, -torch.ones_like(joint)], dim=1), BRATS)
    assert images.ravel().tolist() == [0, 1, 255, 0]


def test_a_label_without_a_class_is_refused() -> None:
    with pytest.raises(UnderstudyError, match="label 4"):
        encode(np.zeros((1, 1, 2, 2), np.uint8), np.full((1, 2, 2), 4, np.uint8), BRATS)
