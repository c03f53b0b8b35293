"""The way to the network's grid and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json
from understudy.io.seals import Damaged
from understudy.slices import SliceSet, SliceWriter, evenly_coded
from understudy.volumes import SliceGeometry, TestVolume, VolumeSet, VolumeWriter


def test_the_papers_padding() -> None:
    geometry = SliceGeometry.fit(240, 240, 256)
    assert (geometry.padded, geometry.place) == (256, (slice(8, 248), slice(8, 248)))
    assert geometry.pad(np.ones((1, 240, 240), np.uint8)).sum() == 240 * 240


@given(st.integers(5, 70), st.integers(5, 70), st.sampled_from([8, 16]))
def test_pad_and_restore_give_every_pixel_back(height: int, width: int, resolution: int) -> None:
    geometry = SliceGeometry.fit(height, width, min(resolution, 1 << (max(height, width) - 1).bit_length()))
    rng = np.random.default_rng(0)
    # a label that is constant in each network pixel must come back exactly where no neighbour differs
    coarse = rng.integers(0, 3, (2, geometry.resolution, geometry.resolution)).astype(np.uint8)
    scores = torch.nn.functional.one_hot(torch.from_numpy(coarse).long(), 3).permute(0, 3, 1, 2).float()
    found = geometry.restore(scores)
    f = geometry.padded // geometry.resolution
    nearest = coarse.repeat(f, 1).repeat(f, 2)
    expected = nearest[:, *geometry.place]
    assert found.shape == (2, height, width)
    if f == 1:
        np.testing.assert_array_equal(found, expected)
    else:
        inner = np.stack([ndimage.minimum_filter(c, 3) == ndimage.maximum_filter(c, 3) for c in coarse])
        same = inner.repeat(f, 1).repeat(f, 2)[:, *geometry.place]
        np.testing.assert_array_equal(found[same], expected[same])


def test_area_averaging_equals_torch_and_rounds_half_up() -> None:
    stack = np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    geometry = SliceGeometry.fit(32, 32, 8)
    mean = torch.nn.functional.avg_pool2d(torch.from_numpy(stack).double(), 4).numpy()
    np.testing.assert_array_equal(geometry.shrink_images(stack), np.floor(mean + 0.5))


def test_majority_vote_and_its_tie() -> None:
    geometry = SliceGeometry.fit(4, 4, 4)
    geometry = SliceGeometry(4, 4, 4, 2)
    labels = np.array([[[0, 0, 1, 2], [0, 3, 2, 1], [0, 0, 3, 3], [1, 1, 3, 0]]], np.uint8)
    np.testing.assert_array_equal(geometry.shrink_labels(labels, 4), [[[0, 2], [1, 3]]])


@pytest.mark.parametrize(("resolution", "message"), [(48, "power of two"), (128, "larger than the padded")])
def test_impossible_resolutions(resolution: int, message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        SliceGeometry.fit(60, 60, resolution)


def test_volume_store_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    geometry = SliceGeometry.fit(20, 12, 16)
    volume = TestVolume(
        subject="p1",
        site="A",
        split="test",
        images=rng.integers(0, 256, (5, 2, 16, 16), dtype=np.uint8),
        kept=rng.random(5) > 0.5,
        truth=rng.integers(0, 2, (5, 20, 12), dtype=np.uint8),
        geometry=geometry,
        spacing=(3.0, 1.0, 0.5),
        affine=np.diag([1.0, 0.5, 3.0, 1.0]),
    )
    writer = VolumeWriter(tmp_path, ["T1w", "FLAIR"], evenly_coded({1: "lesion"}), axes=("L", "P"))
    writer.write(volume)
    found = writer.close()
    assert (found.subjects("test"), found.subjects("val"), found.read("p1").site) == (["p1"], [], "A")
    again = VolumeSet.open(tmp_path).read("p1")
    for name in ("images", "kept", "truth", "affine"):
        np.testing.assert_array_equal(getattr(again, name), getattr(volume, name))
    assert (again.geometry, again.spacing) == (geometry, (3.0, 1.0, 0.5))
    with pytest.raises(UnderstudyError, match="p2"):
        found.read("p2")
    first = (tmp_path / "p1.npz").read_bytes()
    assert len(first) < volume.images.nbytes + volume.truth.nbytes  # compressed
    writer.write(volume)
    assert (tmp_path / "p1.npz").read_bytes() == first  # no dates in it


@pytest.mark.parametrize("geometry", [{"rows": 1 << 31}, {"padded": 1 << 20}, {"columns": -3}, {"height": 0}])
def test_sizes_that_no_volume_has_are_refused_before_room_is_made(geometry: dict[str, int], tmp_path: Path) -> None:
    volume = TestVolume(
        "p1", "", "test", images=np.zeros((2, 1, 16, 16), np.uint8), kept=np.ones(2, bool), spacing=(1.0, 1.0, 1.0),
        truth=np.zeros((2, 16, 16), np.uint8), geometry=SliceGeometry.fit(16, 16, 16), affine=np.eye(4),
    )  # fmt: skip
    writer = VolumeWriter(tmp_path, ["T1w"], evenly_coded({1: "lesion"}))
    writer.write(volume)
    writer.close()
    content = json.loads((tmp_path / "volumes.json").read_text())
    for patient in content["patients"].values():
        patient["geometry"] |= geometry
    del content["seal"]
    (tmp_path / "volumes.json").write_text(json.dumps(content))
    with pytest.raises(UnderstudyError):
        VolumeSet.open(tmp_path).read("p1")


CHANGED = {"channels": ["FLAIR", "T1w"], "axes": ["R", "A"], "spacing": [9, 9, 9], "patients": {}}


@pytest.mark.parametrize("field", ["channels", "axes", "patients"])
def test_what_gives_the_numbers_of_volumes_their_meaning_is_sealed(tmp_path: Path, field: str) -> None:
    writer = VolumeWriter(tmp_path, ("T1w", "FLAIR"), evenly_coded({1: "lesion"}), ("L", "P"))
    place = writer.close().path / "volumes.json"
    write_json(place, {**read_json(place), field: CHANGED[field] or {"p": {}}})
    with pytest.raises(Damaged, match="changed or damaged"):
        VolumeSet.open(tmp_path)


@pytest.mark.parametrize("field", ["channels", "axes", "spacing"])
def test_what_gives_the_numbers_of_slices_their_meaning_is_sealed(tmp_path: Path, field: str) -> None:
    """Names of channels turned round, other directions, another spacing."""
    writer = SliceWriter(tmp_path / "set", ("T1w", "FLAIR"), evenly_coded({1: "lesion"}), 8, (1, 1, 1), ("L", "P"))
    writer.append(np.zeros((1, 2, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint8), [{"id": "a"}])
    place = writer.close().folder / "zarr.json"
    said = read_json(place)
    write_json(place, {**said, "attributes": {**said["attributes"], field: CHANGED[field]}})
    with pytest.raises(Damaged, match="changed or damaged"):
        SliceSet.open(tmp_path / "set")
