"""Folders of images, for comparisons: what is in them, whose slices they are, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from foreign import save_png
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.exchange.read import Opened, open_images
from understudy.exchange.spec import FolderSpec
from understudy.slices import SliceWriter, evenly_coded

RNG = np.random.default_rng(0)


def grey(folder: Path, names: list[str], edge: tuple[int, int] = (16, 16)) -> list[np.ndarray]:
    images = [RNG.integers(0, 256, edge, dtype=np.uint8) for _ in names]
    for name, image in zip(names, images, strict=True):
        save_png(folder / name, image)
    return images


def take(folder: Path, patients: str | None = None, real: bool = True, **fields: Any) -> Opened:
    """The folder `a`, read into its neighbour."""
    return open_images(folder / "a", folder / "read", FolderSpec.model_validate(fields), patients, real)


def subjects(opened: Opened) -> list[str]:
    return list(opened.slices.index["subject"])


def test_grey_images_are_one_channel_of_patients_by_name(tmp_path: Path) -> None:
    names = ["p2_z10.png", "p2_z9.png", "p1_z1.png"]
    images = dict(zip(names, grey(tmp_path / "a", names), strict=True))
    opened = take(tmp_path)
    assert opened.slices.channels == ("image",)
    assert subjects(opened) == ["p1", "p2", "p2"]
    assert opened.slices.index["id"].tolist() == ["p1_z1", "p2_z9", "p2_z10"]
    assert opened.patients is not None
    assert opened.patients.found == "names"
    expected = np.stack([images["p1_z1.png"], images["p2_z9.png"], images["p2_z10.png"]])[:, None]
    np.testing.assert_array_equal(opened.slices.read(slice(None))[0], expected)
    assert take(tmp_path).slices.content_hash == opened.slices.content_hash


def test_the_same_name_in_two_folders_is_no_proof_of_one_patient(tmp_path: Path) -> None:
    grey(tmp_path / "1" / "a", ["001.png", "002.png"])
    grey(tmp_path / "2" / "a", ["001.png", "002.png"])
    one, other = take(tmp_path / "1"), take(tmp_path / "2")
    assert one.patients is not None
    assert one.patients.found == "nowhere"
    assert not set(subjects(one)) & set(subjects(other))


def test_whose_synthetic_slices_are_is_not_asked(tmp_path: Path) -> None:
    grey(tmp_path / "a", ["p1_001.png", "p2_001.png"])
    opened = take(tmp_path, real=False)
    assert opened.patients is None
    assert "subject" not in opened.slices.index


def test_options_that_a_slice_set_does_not_need_are_named(tmp_path: Path) -> None:
    writer = SliceWriter(tmp_path / "a", ["FLAIR"], evenly_coded({1: "lesion"}), 16)
    rows = [{"id": "0", "subject": "p"}]
    made = writer
    made.append(np.ones((1, 1, 16, 16), np.uint8), np.zeros((1, 16, 16), np.uint8), rows)
    made.close()
    opened = take(tmp_path, "^(p.)_", codes={"lesion": 3})
    assert [note for note in opened.notes if "--codes" in note]
    assert [note for note in opened.notes if "--patients" in note]
    assert opened.patients is not None
    assert (opened.patients.found, subjects(opened)) == ("set", ["p"])
    assert take(tmp_path).notes == []
    with pytest.raises(UnderstudyError) as caught:
        take(tmp_path, "(")
    assert caught.value.where == "--patients"


def test_images_with_masks_beside_them_are_annotated(tmp_path: Path) -> None:
    """As in the LGG collection of Kaggle: `NAME_1.png` and `NAME_1_mask.png`."""
    images = grey(tmp_path / "a", [f"C_{k}_{z}.png" for k in (1, 2) for z in (1, 2)])
    masks = [RNG.integers(0, 2, (16, 16)).astype(np.uint8) for _ in images]
    for k, mask in enumerate(masks):
        save_png(tmp_path / "a" / f"C_{k // 2 + 1}_{k % 2 + 1}_mask.png", mask * 255)
    for reading in ({}, {"channels": {"image": "{id}.png"}, "labels": "{id}_mask.png"}):
        opened = take(tmp_path, codes={"lesion": 255}, **reading)  # type: ignore[arg-type]
        found, labels = opened.slices.read(slice(None))
        np.testing.assert_array_equal(found[:, 0], images)
        np.testing.assert_array_equal(labels, masks)
        assert opened.slices.class_names == ("lesion",)
        assert subjects(opened) == ["C_1", "C_1", "C_2", "C_2"]


def test_a_recognised_folder_needs_no_annotation(tmp_path: Path) -> None:
    grey(tmp_path / "a", [f"{c}/p{i}_z0_{c}.png" for c in ("T1", "flair") for i in (1, 2)])
    opened = take(tmp_path, patients=r"^(p\d)")
    assert set(opened.slices.channels) == {"T1w", "FLAIR"}
    assert subjects(opened) == ["p1", "p2"]
    assert opened.slices.class_names == ()
    assert [note for note in opened.notes if "--labels" in note]


def test_channels_of_a_folder_are_chosen_by_name(tmp_path: Path) -> None:
    images = grey(tmp_path / "a", [f"{c}/p{i}_{c}.png" for c in ("T1", "flair") for i in (1, 2)])
    opened = take(tmp_path, channels=["FLAIR"])
    np.testing.assert_array_equal(opened.slices.read(slice(None))[0][:, 0], images[2:])
    assert [note for note in opened.notes if "2 files" in note]  # T1w's


STACK = RNG.integers(0, 256, (30, 64, 48), dtype=np.uint8)
CHANNELS = RNG.integers(0, 256, (3, 64, 48), dtype=np.uint8)
IMAGE = STACK[0]


@pytest.mark.parametrize(
    ("arrays", "fields", "channels", "count"),
    [
        ([IMAGE], {}, 1, 1),
        ([STACK], {}, 1, 30),  # 30 are no channels
        ([STACK, CHANNELS], {}, 1, 33),  # so that 3 are none either
        ([CHANNELS.transpose(1, 2, 0)], {}, 3, 1),  # 3 are no pixels
        ([CHANNELS[None]], {}, 3, 1),
        ([CHANNELS[None].transpose(0, 2, 3, 1)], {}, 3, 1),
        ([CHANNELS[:, None]], {}, 1, 3),
        ([CHANNELS[:1]], {}, 1, 1),
        ([CHANNELS], {"channels": ["a", "b", "c"]}, 3, 1),
        ([CHANNELS], {"channels": ["image"]}, 1, 3),
        ([CHANNELS * 0], {"channels": ["a", "b"]}, 2, 1),  # and the annotation
        ([CHANNELS * 0], {"labels": 0}, 2, 1),
    ],
)
def test_an_array_is_read_as_the_only_thing_that_it_can_be(
    tmp_path: Path, arrays: list[np.ndarray], fields: dict[str, Any], channels: int, count: int
) -> None:
    (tmp_path / "a").mkdir()
    for i, array in enumerate(arrays):
        np.save(tmp_path / "a" / f"p{i}.npy", array)
    if "labels" in fields:
        fields = {"layout": "array", **fields}
        with pytest.raises(UnderstudyError, match="can be read"):
            take(tmp_path, real=False, **fields)
        fields["channels"] = ["a", "b"]
    slices = take(tmp_path, real=False, **fields).slices
    assert (len(slices.channels), len(slices)) == (channels, count)
    images = slices.read(slice(None))[0][:, :, :, 8:56]  # padded to 64 x 64
    if channels == 1:
        np.testing.assert_array_equal(images[:, 0], np.concatenate([a.reshape(-1, 64, 48) for a in arrays]))
    elif "labels" not in fields and arrays[0].any():
        np.testing.assert_array_equal(images[0], CHANNELS)


@pytest.mark.parametrize(
    ("array", "fields", "cures"),
    [
        (CHANNELS, {}, ("--channels NAME1,NAME2,NAME3", "--channels image")),
        (CHANNELS[:2], {"channels": ["image"]}, ("array[:, None]", "array[None]")),
    ],
)
def test_an_array_that_can_be_two_things_is_refused(
    tmp_path: Path, array: np.ndarray, fields: dict[str, Any], cures: tuple[str, ...]
) -> None:
    """[3, 64, 64] as three slices of one channel makes three patients' worth of slices out of one."""
    (tmp_path / "a").mkdir()
    for name in ("p03_z012.npy", "p03_z013.npy"):
        np.save(tmp_path / "a" / name, array)
    with pytest.raises(UnderstudyError) as caught:
        take(tmp_path, **fields)
    assert caught.value.where == str(tmp_path / "a" / "p03_z012.npy")
    assert all(cure in str(caught.value.fix) for cure in cures)


def test_arrays_of_named_channels_are_slices_of_the_patients_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for patient in range(4):
        for z in range(3):
            np.save(tmp_path / "a" / f"p{patient:02d}_z{z:03d}.npy", CHANNELS)
    opened = take(tmp_path, channels=["T1w", "T1wGd", "FLAIR"])
    assert opened.slices.channels == ("T1w", "T1wGd", "FLAIR")
    assert opened.patients is not None
    assert opened.patients.counts() == {f"p{k:02d}": 3 for k in range(4)}


def test_more_arrays_than_files_may_be_open(tmp_path: Path) -> None:
    import resource

    (tmp_path / "a").mkdir()
    for i in range(120):
        np.save(tmp_path / "a" / f"p{i}_1.npy", IMAGE[:16, :16])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        assert len(take(tmp_path, real=False).slices) == 120
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cycle(folder: Path) -> None:
    grey(folder, ["p1_1.png"])
    (folder / "again").symlink_to(folder, target_is_directory=True)


def test_a_cycle_of_links_ends_and_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    cycle(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("")
    opened = take(tmp_path)
    assert len(opened.slices) == 1
    assert [note for note in opened.notes if "1 other files" in note and "notes.txt" in note]


def deep(folder: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "a.png")


def dangling(folder: Path) -> None:
    (folder / "a.png").symlink_to(folder / "gone.png")


def pointer(folder: Path) -> None:
    (folder / "a.png").write_text("version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("make", "what", "cure"),
    [
        (lambda f: None, "no image in the folder", "path"),
        (lambda f: (f / "x.jpg").touch(), "1 .jpg", "PNG"),
        (lambda f: (grey(f, ["p1_1.png"]), grey(f, ["p1_2.png"], (8, 8))), "8 x 8 pixels", "same size"),
        (lambda f: np.save(f / "a.npy", np.ones((20, 16, 16)) / 2), "black", "--values"),
        (lambda f: np.save(f / "a.npy", np.array([{}], object), allow_pickle=True), "pickled", "numpy.save"),
        (lambda f: (f / "a.npy").symlink_to(f / "gone.npy"), "link to", "git annex get"),
        (lambda f: Image.new("RGB", (8, 8)).save(f / "a.png"), "colours", "grey"),
        (lambda f: Image.new("P", (8, 8)).save(f / "a.png"), "palette", "grey"),
        (deep, "more than 8 bits", "0-255"),
        (dangling, "link to", "git annex get"),
        (pointer, "Git LFS", "git lfs pull"),
        (lambda f: (f / "a.png").write_bytes(b""), "cannot be read", "intact copy"),
        (lambda f: (f / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 50), "cannot be read", "intact copy"),
        (lambda f: grey(f, ["T1/x_T1.png", "T1/y_T1.png", "Seg/x_Seg.png"]), "slice y", "--labels"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_error_with_the_place_and_the_cure(
    tmp_path: Path, make: Callable[[Path], object], what: str, cure: str
) -> None:
    (tmp_path / "a").mkdir()
    make(tmp_path / "a")
    with pytest.raises(UnderstudyError, match=what) as caught:
        take(tmp_path)
    assert str(caught.value.where).startswith(str(tmp_path / "a"))
    assert cure in str(caught.value.fix)


def nifti(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        volume = nib.Nifti1Image(RNG.integers(1, 256, (16, 16, 4), dtype=np.uint8), np.eye(4))
        nib.save(volume, folder / f"{name}.nii.gz")


UNKNOWN_CHANNELS = {
    "folder a patient": ["p{i}/p{i}_dwi", "p{i}/p{i}_roi"],
    "names of channels alone": ["p{i}/dwi", "p{i}/roi"],
    "one folder": ["p{i}-DWI", "p{i}-roi"],
    "mask beside the image": ["p{i}", "p{i}_roi"],
    "folder a channel": ["dwi/p{i}", "roi/p{i}"],
}


@pytest.mark.parametrize("names", UNKNOWN_CHANNELS.values(), ids=UNKNOWN_CHANNELS)
@pytest.mark.parametrize("real", [True, False])
def test_masks_and_channels_of_unknown_names_are_no_patients(tmp_path: Path, names: list[str], real: bool) -> None:
    """Every NIfTI file, masks included, was taken for a patient."""
    nifti(tmp_path / "a", [name.format(i=i) for i in range(3) for name in names])
    with pytest.raises(UnderstudyError, match=r"6 files") as caught:
        take(tmp_path, real=real)
    assert "--channels" in str(caught.value.fix)
    assert len(take(tmp_path, real=real, channels=["image"]).slices) == 24


@pytest.mark.parametrize(
    "names", [["p1", "p2"], ["case_001", "case_002"], ["p0_z01", "p0_z02", "p1_z01", "p1_z02"], ["left", "right"]]
)
def test_images_of_their_own_are_not_taken_for_channels(tmp_path: Path, names: list[str]) -> None:
    grey(tmp_path / "a", [f"{name}.png" for name in names])
    assert len(take(tmp_path, real=False).slices) == len(names)


def test_volumes_are_patients_unless_a_pattern_says_otherwise(tmp_path: Path) -> None:
    nifti(tmp_path / "a", ["p0_v1", "p0_v2", "p1_v1"])
    told = take(tmp_path).patients
    assert told is not None
    assert (told.found, len(told.counts())) == ("volumes", 3)  # nobody said so
    by_pattern = take(tmp_path, "^(p.)").patients
    assert by_pattern is not None
    assert (by_pattern.found, by_pattern.counts()) == ("pattern", {"p0": 8, "p1": 4})


@pytest.mark.parametrize("shape", [(64, 64, 12), (48, 64, 12), (240, 240, 155), (64, 12, 64), (64, 64, 12, 2)])
def test_a_volume_is_not_cut_along_its_first_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """[H, W, Z] was read as H slices of W x Z pixels."""
    (tmp_path / "a").mkdir()
    array = np.ones(shape, np.uint8)
    np.save(tmp_path / "a" / "p0.npy", array)
    with pytest.raises(UnderstudyError) as caught:
        take(tmp_path, real=False)
    assert caught.value.where == str(tmp_path / "a" / "p0.npy")
    cures = (np.moveaxis(array, 2, 0), array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1))
    assert "moveaxis(array, 2, 0)" in str(caught.value.fix)
    for i, cured in enumerate(cures if shape[1] != 12 else cures[1:]):
        (tmp_path / str(i) / "a").mkdir(parents=True)
        np.save(tmp_path / str(i) / "a" / "p0.npy", cured)
        assert len(take(tmp_path / str(i), real=False).slices) == len(cured)


def test_an_annotation_that_nobody_named_has_to_look_like_one(tmp_path: Path) -> None:
    """[3, H, W] with two names: the third channel, an image, was taken for the annotation."""
    (tmp_path / "a").mkdir()
    image = RNG.integers(1, 256, (3, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "a" / "p0.npy", image)
    with pytest.raises(UnderstudyError) as caught:
        take(tmp_path, real=False, channels=["a", "b"])
    assert "--channels a,b,NAME" in str(caught.value.fix)
    assert "--labels 2" in str(caught.value.fix)
    image[2] = RNG.choice([0, 51, 102, 204], (16, 16))
    np.save(tmp_path / "a" / "p0.npy", image)
    slices = take(tmp_path, real=False, channels=["a", "b"]).slices
    assert (slices.channels, slices.class_names) == (("a", "b"), ("NCR/NET", "ED", "ET"))
    assert slices.read(slice(None))[1].max() == 3
