"""Folders of plain images, for comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.exchange.images import open_images, patients_of
from understudy.slices import SliceWriter, evenly_coded

RNG = np.random.default_rng(0)


def grey(folder: Path, names: list[str], edge: tuple[int, int] = (16, 16)) -> list[np.ndarray]:
    images = [RNG.integers(0, 256, edge, dtype=np.uint8) for _ in names]
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return images


def test_grey_images_are_one_channel_of_patients_by_name(tmp_path: Path) -> None:
    names = ["p2_z10.png", "p2_z9.png", "p1_z1.png"]
    images = dict(zip(names, grey(tmp_path / "a", names), strict=True))
    found, note = open_images(tmp_path / "a", tmp_path / "read")
    assert found.channels == ("image",)
    assert found.index["subject"].tolist() == ["p1", "p2", "p2"]
    assert found.index["id"].tolist() == ["p1_z1", "p2_z9", "p2_z10"]
    assert "patients read off the names" in note
    expected = np.stack([images["p1_z1.png"], images["p2_z9.png"], images["p2_z10.png"]])[:, None]
    np.testing.assert_array_equal(found.read(slice(None))[0], expected)
    again, _ = open_images(tmp_path / "a", tmp_path / "read")
    assert again.content_hash == found.content_hash


def test_images_without_a_patient_in_their_names_stand_for_themselves_and_this_is_said(
    tmp_path: Path,
) -> None:
    for folder in ("a", "b"):
        grey(tmp_path / folder, ["001.png", "002.png"])
    (a, note), (b, _) = (open_images(tmp_path / f, tmp_path / "read") for f in ("a", "b"))
    assert "patient of its own" in note
    assert not set(a.index["subject"]) & set(b.index["subject"])  # the same name in two folders is no proof


def test_folders_of_patients_and_patterns() -> None:
    here = Path("here")
    assert patients_of(["p1/001", "p1/002", "p2/001"], None, here)[0] == ["p1", "p1", "p2"]
    assert patients_of(["a-x1", "a-x2"], r"^(\w)-", here)[0] == ["a", "a"]
    with pytest.raises(UnderstudyError, match="no patient by"):
        patients_of(["a"], r"^(b)", here)
    with pytest.raises(UnderstudyError, match="no regular expression"):
        patients_of(["a"], "(", here)


def test_a_pattern_for_a_slice_set_is_looked_at_and_said_to_be_of_no_use(tmp_path: Path) -> None:
    grey(tmp_path / "a", ["p1_001.png", "p1_002.png", "p2_001.png"])
    made, _ = open_images(tmp_path / "a", tmp_path / "read")
    assert "not used" in open_images(made.path, tmp_path / "more", "^(p.)_")[1]
    assert open_images(made.path, tmp_path / "more")[1] == ""
    with pytest.raises(UnderstudyError, match="no regular expression"):
        open_images(made.path, tmp_path / "more", "(")


def test_arrays_in_all_shapes_and_padded_squares(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    stack = RNG.integers(0, 256, (3, 2, 12, 16), dtype=np.uint8)
    np.savez(tmp_path / "a" / "p1.npz", images=stack)
    np.save(tmp_path / "a" / "p2.npy", stack[:2])
    found, _ = open_images(tmp_path / "a", tmp_path / "read")
    assert found.channels == ("channel 1", "channel 2")
    assert found.index["subject"].tolist() == ["p1"] * 3 + ["p2"] * 2
    images = found.read(slice(None))[0]
    np.testing.assert_array_equal(images[:3, :, 2:14], stack)
    assert not images[:, :, :2].any()
    assert not images[:, :, 14:].any()


def test_slice_sets_and_recognised_folders_pass_through(tmp_path: Path) -> None:
    writer = SliceWriter(tmp_path / "set", ["FLAIR"], evenly_coded({1: "lesion"}), 16)
    writer.append(
        np.ones((1, 1, 16, 16), np.uint8), np.zeros((1, 16, 16), np.uint8), [{"id": "0", "subject": "p"}]
    )
    made = writer.close()
    assert open_images(tmp_path / "set", tmp_path / "read")[0].content_hash == made.content_hash
    grey(tmp_path / "b", [f"{c}/p{i}_z0_{c}.png" for c in ("T1", "flair") for i in (1, 2)])
    for i in (1, 2):
        (tmp_path / "b" / "seg").mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16), 51, np.uint8)).save(tmp_path / "b" / "seg" / f"p{i}_z0_seg.png")
    found, _ = open_images(tmp_path / "b", tmp_path / "read", patients=r"^(p\d)")
    assert set(found.channels) == {"T1w", "FLAIR"}
    assert found.index["subject"].tolist() == ["p1", "p2"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: None, "no image in the folder"),
        (lambda f: (grey(f, ["p1_1.png"]), grey(f, ["p1_2.png"], (8, 8))), "8 x 8 pixels"),
        (lambda f: np.save(f / "a.npy", np.zeros((2, 8, 8))), "float64"),
        (lambda f: np.save(f / "a.npy", np.array([{}], object), allow_pickle=True), "cannot be read"),
        (lambda f: Image.new("RGB", (8, 8)).save(f / "a.png"), "colours"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, make: object, message: str) -> None:
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")  # type: ignore[operator]
    with pytest.raises(UnderstudyError, match=message):
        open_images(tmp_path / "a", tmp_path / "read")
