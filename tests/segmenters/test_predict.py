from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from torch import nn

from understudy.errors import UnderstudyError
from understudy.segmenters.config import SegmenterTrainingConfig
from understudy.segmenters.predict import Segmenter, load, predict, predict_volume
from understudy.segmenters.train import train_segmenter
from understudy.segmenters.unet import UNetConfig
from understudy.slices import SliceSet
from understudy.volumes import SliceGeometry, TestVolume, VolumeSet

CPU = torch.device("cpu")


class Oracle(nn.Module):
    """Says that a pixel belongs to class 1 where channel `channel` is bright: knows the truth of the toys below."""

    def __init__(self, channel: int = 0) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        bright = 20 * x[:, self.channel] - 10  # z-scores of a mask: negative outside, positive inside
        return [torch.stack([-bright, bright], 1)]


def oracle(channel: int = 0, channels: tuple[str, ...] = ("FLAIR",), resolution: int = 64) -> Segmenter:
    return Segmenter(Oracle(channel), channels, ("background", "lesion"), resolution, CPU, torch.float32, {})


def ellipsoid(padded_to: int, resolution: int, shape: tuple[int, int, int] = (10, 120, 100)) -> TestVolume:
    """A volume whose single channel shows its truth (intensity 200 inside, 50 outside)."""
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    truth = (((z - 5) / 4) ** 2 + ((y - 70) / 25) ** 2 + ((x - 40) / 18) ** 2 < 1).astype(np.uint8)
    geometry = SliceGeometry.fit(shape[1], shape[2], resolution)
    assert geometry.padded == padded_to
    image = np.where(truth, 200, 50).astype(np.uint8)[:, None]
    return TestVolume(
        "p", "", "test", geometry.shrink_images(geometry.pad(image)), np.ones(shape[0], bool), truth, geometry,
        (1.0, 1.0, 1.0), np.eye(4))  # fmt: skip


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize(("resolution", "least"), [(128, 1.0), (64, 0.97), (32, 0.93)])
def test_a_network_that_knows_the_truth_gets_it_back_on_the_original_grid(resolution: int, least: float) -> None:
    volume = ellipsoid(128, resolution)
    model = oracle(resolution=resolution)
    # slices without lesion are constant inside the head, where the z-score says nothing
    shown = volume.truth.any((1, 2))
    predicted = predict_volume(model, volume, ["FLAIR"])
    assert predicted.shape == volume.truth.shape
    assert predicted.dtype == np.uint8
    assert dice(predicted[shown] > 0, volume.truth[shown] > 0) >= least


def test_the_batch_does_not_matter() -> None:
    volume = ellipsoid(128, 64)
    np.testing.assert_array_equal(
        predict_volume(oracle(), volume, batch=3), predict_volume(oracle(), volume, batch=100)
    )


def test_channels_are_matched_by_name() -> None:
    one = ellipsoid(128, 64)
    noise = np.random.default_rng(0).integers(40, 60, one.images.shape).astype(np.uint8)
    volume = replace(one, images=np.concatenate([noise, one.images, noise], 1))
    model = oracle(channel=1, channels=("T1w", "FLAIR"))
    got = predict_volume(model, volume, ["T2w", "FLAIR", "T1w"])
    expected = predict_volume(oracle(), one)
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(UnderstudyError, match="no channel T1w"):
        predict_volume(model, volume, ["T2w", "FLAIR"])
    with pytest.raises(UnderstudyError, match="3 channels"):
        predict_volume(model, volume)


def test_classes_are_matched_by_name() -> None:
    volume = ellipsoid(128, 64)
    got = predict_volume(oracle(), volume, classes=["background", "oedema", "lesion"])
    assert set(np.unique(got)) == {0, 2}
    with pytest.raises(UnderstudyError, match="unknown class lesion"):
        predict_volume(oracle(), volume, classes=["background", "oedema"])


def test_another_resolution_is_refused() -> None:
    with pytest.raises(UnderstudyError, match="64 pixels"):
        predict_volume(oracle(resolution=32), ellipsoid(128, 64))


def test_trained_saved_loaded(real: SliceSet, volumes: VolumeSet, tmp_path: Path) -> None:
    config = SegmenterTrainingConfig(samples=480, batch=8, momentum=0.9, precision="fp32", validations=4)
    folder = train_segmenter(
        real, None, UNetConfig(width=4, max_width=8), config, tmp_path / "run", volumes, "cpu", progress=False
    )
    model = load(folder, "cpu")
    assert (model.channels, model.classes, model.dtype) == (toys.CHANNELS, ("background", "lesion"), torch.float32)
    names = [c.name for c in volumes.classes]
    tested = [volumes.read(subject) for subject in volumes.subjects("test")]
    labels = [predict_volume(model, volume, volumes.channels, names) for volume in tested]
    found = [dice(pred > 0, volume.truth > 0) for pred, volume in zip(labels, tested, strict=True)]
    assert len(found) == 2
    assert np.mean(found) > 0.5
    np.testing.assert_array_equal(predict(model, tested[0].images, volumes.channels), labels[0])
    with pytest.raises(UnderstudyError, match="FLAIR"):
        predict(model, tested[0].images, ["T1w"])


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no finished segmenter"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "something"}')
    (tmp_path / "segmenter.safetensors").write_bytes(b"rubbish")
    with pytest.raises(UnderstudyError, match="this version"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"format": "understudy-segmenter-1", "model": {"width": 4}, "channels": ["a"], "classes": ["b", "c"],'
        ' "resolution": 16}'
    )
    with pytest.raises(UnderstudyError, match="cannot be loaded"):
        load(tmp_path)


def test_slices_that_the_rule_drops_stay_empty_unless_asked_for() -> None:
    volume = ellipsoid(128, 128)
    lesion = np.flatnonzero(volume.truth.any(axis=(1, 2)))
    kept = np.ones(len(volume.truth), bool)
    kept[lesion[:2]] = False
    volume = replace(volume, kept=kept)
    left_out, all_of_it = (
        predict_volume(oracle(resolution=128), volume),
        predict_volume(oracle(resolution=128), volume, dropped="predict"),
    )
    assert not left_out[~kept].any()
    np.testing.assert_array_equal(left_out[kept], all_of_it[kept])
    np.testing.assert_array_equal(all_of_it[lesion], volume.truth[lesion])
