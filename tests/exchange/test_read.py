"""Foreign folders: every layout gives the same slices, and every fault is one clear message with the file's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from foreign import AUTHORS, CHANNELS, CODES, png_folder, save_png, slices
from PIL import Image
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from understudy.errors import Interrupted, UnderstudyError
from understudy.exchange import read
from understudy.exchange.pixels import Target, to_grey
from understudy.exchange.read import read_folder
from understudy.exchange.spec import FolderSpec
from understudy.slices import BACKGROUND, LabelClass, SliceSet, SliceWriter

CLASSES = (BACKGROUND, LabelClass("NCR/NET", 1, 51), LabelClass("ED", 2, 102), LabelClass("ET", 4, 204))
TARGET = Target(CHANNELS, CLASSES, 16)


def take(root: Path, out: Path, target: Target | None = TARGET, **fields: Any) -> SliceSet:
    return read_folder(root, FolderSpec.model_validate(fields), out, target, progress=False)


def check(found: SliceSet, images: np.ndarray, labels: np.ndarray) -> None:
    assert found.channels == CHANNELS
    got, drawn = found.read(slice(None))
    np.testing.assert_array_equal(got, images)
    np.testing.assert_array_equal(drawn, labels)
    assert found.index["code_distance"].eq(0).all()
    found.verify()


@pytest.mark.parametrize("layout", AUTHORS)
def test_the_layouts_of_the_authors_are_recognised(tmp_path: Path, layout: str) -> None:
    images, labels = png_folder(tmp_path / "in", layout, n=12)  # seed10 comes after seed9
    check(take(tmp_path / "in", tmp_path / "out"), images, labels)
    without = take(tmp_path / "in", tmp_path / "alone", target=None)
    assert without.class_names == ("NCR/NET", "ED", "ET")
    assert set(without.channels) == set(CHANNELS)


def test_a_pattern_and_names_of_ones_own(tmp_path: Path) -> None:
    images, labels = slices(3)
    for i in range(3):
        for c, token in enumerate("abcd"):
            save_png(tmp_path / "in" / f"p{i % 2}" / f"{i}.{token}.x.png", images[i, c])
        save_png(tmp_path / "in" / f"p{i % 2}" / f"{i}.e.x.png", CODES[labels[i]])
    spec = {
        "pattern": "{subject}/{id}.{channel}.x.png",
        "channels": dict(zip(CHANNELS, "abcd", strict=True)),
        "labels": "e",
    }
    found = take(tmp_path / "in", tmp_path / "out", **spec)
    check(found, images[[0, 2, 1]], labels[[0, 2, 1]])
    assert found.index["subject"].tolist() == ["p0", "p0", "p1"]


def test_a_file_for_each_class(tmp_path: Path) -> None:
    images, labels = png_folder(tmp_path / "in", "progan")
    for i in range(3):
        (tmp_path / "in" / f"{i}_Seg.png").unlink()
        for k in (1, 2, 3):
            save_png(tmp_path / "in" / f"{i}_Seg{k}.png", (labels[i] == k).astype(np.uint8) * 255)
    check(
        take(tmp_path / "in", tmp_path / "out", labels={"NCR/NET": "Seg1", "ED": "Seg2", "ET": "Seg3"}), images, labels
    )


def stack(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.concatenate([images, CODES[labels][:, None]], axis=1)


WRITERS: dict[str, Callable[[Path, np.ndarray, np.ndarray], None]] = {
    "npz": lambda p, x, y: np.savez_compressed(p / "a.npz", images=x, labels=CODES[y]),
    "npy, annotation last": lambda p, x, y: np.save(p / "a.npy", stack(x, y)),
    "npz of guided-diffusion": lambda p, x, y: np.savez(p / "s.npz", np.moveaxis(stack(x, y), 1, 3)),
    "npy and labels": lambda p, x, y: (np.save(p / "images.npy", x), np.save(p / "labels.npy", CODES[y])),
    "one file a slice": lambda p, x, y: [np.save(p / f"s{i}.npy", s) for i, s in enumerate(stack(x, y))],
    "one file a slice, labels apart": lambda p, x, y: [
        (np.save(p / f"{i}.npy", x[i]), np.savez(p / f"{i}_seg.npz", CODES[y[i]])) for i in range(len(x))
    ],
}


@pytest.mark.parametrize("kind", WRITERS)
def test_arrays_with_named_channels(tmp_path: Path, kind: str) -> None:
    images, labels = slices(3)
    WRITERS[kind](tmp_path, images[:, ::-1], labels)
    check(take(tmp_path, tmp_path / "out", channels=list(CHANNELS[::-1])), images, labels)


@pytest.mark.parametrize("named", [list(CHANNELS), dict(zip(CHANNELS, (0, 1, 3, 4), strict=True))])
def test_the_annotation_may_be_anywhere_in_an_array(tmp_path: Path, named: Any) -> None:
    images, labels = slices(3)
    joint = stack(images, labels)[:, [0, 1, 4, 2, 3]]
    np.savez(tmp_path / "a.npz", joint)
    check(take(tmp_path, tmp_path / "out", channels=named, labels=2), images, labels)
    clash = dict(zip(CHANNELS, (0, 1, 2, 4), strict=True))
    with pytest.raises(UnderstudyError, match="position 2"):
        take(tmp_path, tmp_path / "other", channels=clash, labels=2)
    with pytest.raises(ValidationError, match="counted from 0"):
        FolderSpec(channels=list(CHANNELS), labels=-1)


def test_floats_are_rounded_to_the_nearest_grey_value_and_codes_measured(tmp_path: Path) -> None:
    images, labels = slices(3)
    joint = (stack(images, labels).astype(np.float32) + 0.4) / 127.5 - 1
    np.save(tmp_path / "a.npy", np.clip(joint, -1, 1))
    found = take(tmp_path, tmp_path / "out", channels=list(CHANNELS), values=[-1, 1])
    np.testing.assert_array_equal(found.read(slice(None))[0], images)
    np.testing.assert_array_equal(found.read(slice(None))[1], labels)
    np.testing.assert_allclose(found.index["code_distance"], 0.4, atol=1e-3)
    assert found.attrs["annotation"]["mean_code_distance"] == pytest.approx(0.4, abs=1e-3)


def test_nifti_slices_and_volumes(tmp_path: Path) -> None:
    images, labels = slices(4)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    for c, name in enumerate((*CHANNELS, "seg")):
        pixels = images[:, c] if c < 4 else CODES[labels]
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "volumes").mkdir(exist_ok=True)
        for i in range(4):
            nib.save(nib.Nifti1Image(pixels[i].T, lps), tmp_path / "flat" / f"s{i}_{name}.nii.gz")
        volume = np.concatenate([np.zeros_like(pixels[:1]), pixels])  # the first slice is empty
        nib.save(nib.Nifti1Image(volume.T, lps), tmp_path / "volumes" / f"v_{name}.nii")
    check(take(tmp_path / "flat", tmp_path / "out"), images, labels)
    found = take(tmp_path / "volumes", tmp_path / "out2")
    check(found, images, labels)
    assert found.index["z"].tolist() == [1, 2, 3, 4]
    assert set(found.index["subject"]) == {"v"}


def test_a_slice_set_is_put_in_order_by_name(tmp_path: Path) -> None:
    images, labels = slices(3)
    other = (BACKGROUND, LabelClass("ED", 1, 99), LabelClass("ET", 2, 200), LabelClass("NCR/NET", 3, 255))
    writer = SliceWriter(tmp_path / "set", CHANNELS[::-1], other, 16)
    writer.append(images[:, ::-1].copy(), np.array([0, 3, 1, 2], np.uint8)[labels], [{"id": str(i)} for i in range(3)])
    writer.close()
    check(take(tmp_path / "set", tmp_path / "out"), images, labels)


def test_other_sizes_are_padded_averaged_and_voted_on_if_asked(tmp_path: Path) -> None:
    png_folder(tmp_path / "in", edge=32)
    with pytest.raises(UnderstudyError, match=r"32 x 32.*16 x 16.*\n.*\n.*--sizes fit"):
        take(tmp_path / "in", tmp_path / "out")
    found = take(tmp_path / "in", tmp_path / "out", sizes="fit")
    images, labels = slices(3, 32)
    mean = images.reshape(3, 4, 16, 2, 16, 2).mean((3, 5))
    np.testing.assert_array_equal(found.read(slice(None))[0], np.floor(mean + 0.5))
    votes = np.stack([(labels == k).reshape(3, 16, 2, 16, 2).sum((2, 4)) for k in range(4)])
    chosen = found.read(slice(None))[1]
    assert (np.take_along_axis(votes, chosen[None].astype(int), 0)[0] == votes.max(0)).all()
    png_folder(tmp_path / "odd", edge=12)
    with pytest.raises(UnderstudyError, match="square"):
        take(tmp_path / "odd", tmp_path / "out2", target=None)
    assert take(tmp_path / "odd", tmp_path / "out2", sizes="fit").resolution == 16
    with pytest.raises(UnderstudyError, match="64 x 64"):
        take(tmp_path / "odd", tmp_path / "out3", Target(CHANNELS, CLASSES, 64), sizes="fit")


def test_an_interrupted_reading_continues_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = slices(20, 4)
    np.save(tmp_path / "a.npy", stack(images, labels))
    spec, target = {"channels": list(CHANNELS)}, Target(CHANNELS, CLASSES, 4)
    monkeypatch.setattr("understudy.slices.SHARD", 8)
    monkeypatch.setattr(read, "SHARD", 8)
    whole = take(tmp_path, tmp_path / "out" / "whole", target, **spec)

    class Stop:
        requested = True
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    with monkeypatch.context() as patch:
        patch.setattr(read, "StopRequest", Stop)
        with pytest.raises(Interrupted, match="after 8 slices"):
            take(tmp_path, tmp_path / "out" / "parts", target, **spec)
    parts = take(tmp_path, tmp_path / "out" / "parts", target, **spec)
    assert parts.content_hash == whole.content_hash
    assert parts.attrs["annotation"] == whole.attrs["annotation"]
    check(parts, images, labels)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["parts", "whole"]
    assert take(tmp_path, tmp_path / "out" / "parts", target, **spec).content_hash == parts.content_hash


FLAIR = AUTHORS["stylegan3"]["FLAIR"]
SEG = AUTHORS["stylegan3"]["labels"]


def rgb(root: Path) -> None:
    Image.new("RGB", (16, 16)).save(root / FLAIR.format(i=1))


def deep(root: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(root / FLAIR.format(i=1))


def other_codes(root: Path) -> None:
    for i, label in enumerate(slices(3)[1]):
        save_png(root / SEG.format(i=i), np.array([0, 51, 153, 204], np.uint8)[label])


def label_values(root: Path) -> None:
    for i, label in enumerate(slices(3)[1]):
        save_png(root / SEG.format(i=i), np.array([0, 1, 2, 4], np.uint8)[label])


def damaged(root: Path) -> None:
    path = root / FLAIR.format(i=1)
    path.write_bytes(path.read_bytes()[:90])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing channel": (lambda r: (r / FLAIR.format(i=1)).unlink(), r"seed0001 .*FLAIR\n.*seed0001_T1.png"),
    "missing annotation": (lambda r: (r / SEG.format(i=2)).unlink(), "seed0002 .*labels"),
    "no channel at all": (
        lambda r: [p.unlink() for p in (r / "T2").iterdir()], r"seed0000 .*T2w \(and 2 more"
    ),
    "one channel smaller": (
        lambda r: save_png(r / FLAIR.format(i=1), np.zeros((16, 8), np.uint8)),
        r"seed0001_flair.png has 16 x 8 pixels, seed0001_T1.png has 16 x 16",
    ),
    "one slice larger": (
        lambda r: [save_png(r / p.format(i=1), np.zeros((32, 32), np.uint8)) for p in AUTHORS["stylegan3"].values()],
        "32 x 32",
    ),
    "colour": (rgb, r"colours \(RGB\).*\n.*seed0001_flair.png"),
    "16 bit": (deep, r"more than 8 bits.*\n.*seed0001_flair.png"),
    "unknown code": (other_codes, r"value 153 \(.*NCR/NET 51, ED 102, ET 204(.*\n)*.*--codes"),
    "label values": (label_values, r"value [124] \("),
    "damaged": (damaged, r"cannot be read(.*\n)*.*seed0001_flair.png"),
    "twice": (
        lambda r: save_png(r / "flair" / "seed0001.png", np.zeros((16, 16), np.uint8)), "two files for FLAIR of slice"
    ),
    "empty": (lambda r: [p.unlink() for p in r.glob("*/*.png")], "no image in the folder"),
    "two kinds": (lambda r: np.save(r / "x.npy", np.zeros(3)), r"15 files .*png and 1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, fault: str) -> None:
    png_folder(tmp_path / "in")
    spoil, message = FAULTS[fault]
    spoil(tmp_path / "in")
    with pytest.raises(UnderstudyError, match=message) as caught:
        take(tmp_path / "in", tmp_path / "out")
    assert caught.value.where
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


def nan(x: np.ndarray) -> np.ndarray:
    x[1, 0, 3, 3] = np.nan
    return x


ARRAY_FAULTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any], str]] = {
    "not named": (lambda x: x, {"channels": []}, "channels"),
    "NaN": (nan, {"values": [0, 255]}, r"NaN or infinite(.*\n)*.*a.npy, slice 1"),
    "out of range": (lambda x: x / 100, {"values": [-1, 1]}, r"0 to 2.55 .*-1 to 1"),
    "negative": (lambda x: x / 100 - 1, {}, r"-1 to 1.5"),
    "unit range": (lambda x: x / 255, {}, "black"),
    "too few channels": (lambda x: x[:, :3], {}, r"\(3, 3, 16, 16\) where 5"),
    "pickle": (lambda x: np.array([{}], object), {}, "pickled"),
}


@pytest.mark.parametrize("fault", ARRAY_FAULTS)
def test_what_is_wrong_with_an_array_is_said(tmp_path: Path, fault: str) -> None:
    spoil, spec, message = ARRAY_FAULTS[fault]
    np.save(tmp_path / "a.npy", spoil(stack(*slices(3)).astype(np.float32)), allow_pickle=True)
    with pytest.raises(UnderstudyError, match=message):
        take(tmp_path, tmp_path / "out", **{"channels": list(CHANNELS), **spec})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"channels": {"T1w": "T1"}}, "T1w"),
        ({"codes": {"necrosis": 51, "ED": 102, "ET": 204}}, "necrosis"),
        ({"labels": "truth"}, "seed0000 .*labels"),
        ({"pattern": "{id}-{channel}.png"}, "none of the 15"),
    ],
)
def test_a_wrong_description_is_said(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    png_folder(tmp_path / "in")
    with pytest.raises(UnderstudyError, match=message):
        take(tmp_path / "in", tmp_path / "out", **spec)
    assert take(tmp_path / "in", tmp_path / "out", codes={"NCR": 51, "ED": 102, "ET": 204}).classes == CLASSES


def test_soft_borders_of_a_generator_are_no_unknown_codes(tmp_path: Path) -> None:
    """Smooth transitions between codes, as GANs draw them, are snapped and measured, not refused."""
    images, _ = slices(3, 64)
    y, x = np.mgrid[:64, :64]
    for i in range(3):
        radius = np.hypot(y - 32, x - 28 - 2.3 * i)
        crisp = np.select([radius < 7, radius < 13, radius < 25], [51, 204, 102], 0)
        soft = gaussian_filter(crisp.astype(float), 0.8)
        for c, name in enumerate(CHANNELS):
            save_png(tmp_path / "in" / AUTHORS["stylegan3"][name].format(i=i), images[i, c])
        save_png(tmp_path / "in" / SEG.format(i=i), soft.astype(np.uint8))
    found = take(tmp_path / "in", tmp_path / "out", Target(CHANNELS, CLASSES, 64))
    assert found.index["code_distance"].between(0.5, 10).all()
    assert set(np.unique(found.read(slice(None))[1])) == {0, 1, 2, 3}
    for i in range(3):  # an image in place of the annotation
        save_png(tmp_path / "in" / SEG.format(i=i), images[i, 0])
    with pytest.raises(UnderstudyError, match="annotated pixels"):
        take(tmp_path / "in", tmp_path / "out2", Target(CHANNELS, CLASSES, 64))


def _bright_lesion(folder: Path, name: str, voxels: np.ndarray, affine: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), folder / name)
    return folder / name


def test_a_mask_lies_where_its_header_says_or_is_refused(tmp_path: Path) -> None:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    image = np.full((16, 16, 1), 60, np.uint8)
    image[3:6, 10:14] = 200
    mask = (image == 200).astype(np.uint8) * np.uint8(255)
    spec = FolderSpec(channels={"FLAIR": "flair"}, codes={"lesion": 255})
    _bright_lesion(tmp_path / "in", "a_flair.nii.gz", image, lps)
    path = _bright_lesion(tmp_path / "in", "a_seg.nii.gz", mask, np.eye(4))  # arrays align, headers do not
    with pytest.raises(UnderstudyError) as caught:
        read_folder(tmp_path / "in", spec, tmp_path / "refused", progress=False)
    assert caught.value.where == str(path)
    # stored in another order, with the header that says so
    nib.save(nib.as_closest_canonical(nib.Nifti1Image(mask, lps)), path)
    made = read_folder(tmp_path / "in", spec, tmp_path / "out", progress=False)
    images, labels = made.read(slice(None))
    np.testing.assert_array_equal(labels == 1, images[:, 0] == 200)
    assert labels.sum() == 12


def volumes(folder: Path, edges: dict[str, tuple[float, float, float]], shape: tuple[int, int, int]) -> None:
    """A file per patient with voxels of these edges (right, front, up), and an annotation of 0 and 255."""
    folder.mkdir()
    for name, size in edges.items():
        affine = np.diag([-size[0], -size[1], size[2], 1.0])
        nib.save(nib.Nifti1Image(np.full(shape, 60, np.uint8), affine), folder / f"{name}_flair.nii.gz")
        nib.save(nib.Nifti1Image(np.eye(*shape[:2])[..., None].repeat(shape[2], 2) * 255, affine),
                 folder / f"{name}_seg.nii.gz")  # fmt: skip


NIFTI = FolderSpec(channels={"FLAIR": "flair"}, codes={"lesion": 255})


@pytest.mark.parametrize("edges", [(2.0, 2.0, 5.0), (1.0, 1.5, 5.0), (1.02, 1.0, 5.0)])
def test_volumes_of_another_pixel_size_are_refused(tmp_path: Path, edges: tuple[float, float, float]) -> None:
    """Heads of another size came out without a word."""
    volumes(tmp_path / "in", {"a": (1, 1, 5), "b": (1.005, 1, 4), "c": edges}, (16, 16, 3))
    with pytest.raises(UnderstudyError, match=r"c_flair.nii.gz .* a_flair.nii.gz of 1 x 1 mm") as caught:
        read_folder(tmp_path / "in", NIFTI, tmp_path / "out", progress=False)
    assert caught.value.where == str(tmp_path / "in" / "c_flair.nii.gz")
    assert "resample" in str(caught.value.fix)
    for file in (tmp_path / "in").glob("c_*"):
        file.unlink()
    assert len(read_folder(tmp_path / "in", NIFTI, tmp_path / "two", progress=False)) == 6


def test_volumes_that_give_strips_are_refused_and_flat_files_are_not(tmp_path: Path) -> None:
    volumes(tmp_path / "coronal", {"a": (1, 5, 1)}, (16, 8, 16))
    with pytest.raises(UnderstudyError, match="coronal") as caught:
        read_folder(tmp_path / "coronal", NIFTI, tmp_path / "out", progress=False)
    assert caught.value.where == str(tmp_path / "coronal" / "a_flair.nii.gz")
    assert "understudy init" in str(caught.value.fix)
    volumes(tmp_path / "flat", {"a": (1, 5, 1)}, (16, 16, 1))
    assert len(read_folder(tmp_path / "flat", NIFTI, tmp_path / "out2", progress=False)) == 1


def test_doubts_about_headers_are_noted_once(tmp_path: Path) -> None:
    volumes(tmp_path / "in", {"a": (1, 1.3, 5), "b": (1, 1.3, 5)}, (16, 16, 3))
    for file in (tmp_path / "in").iterdir():
        image = nib.load(file)
        image.set_sform(None, 0)
        image.set_qform(None, 0)
        nib.save(image, file)
    notes = read_folder(tmp_path / "in", NIFTI, tmp_path / "out", progress=False).attrs["notes"]
    assert len([note for note in notes if "neither sform nor qform" in note]) == 1
    assert len([note for note in notes if "1.3" in note and "a_flair.nii.gz" in note]) == 1


@pytest.mark.parametrize(
    ("values", "cure"),
    [
        (lambda m: m * np.float32(0.6), "> 0.5"),
        (lambda m: m.astype(np.int16) - 1, "--codes"),
        (lambda m: m * np.int16(300), "--codes"),
    ],
)
def test_the_cure_for_an_annotation_is_not_that_for_an_image(tmp_path: Path, values: Any, cure: str) -> None:
    """--values does not scale annotations: the advice led back to the same message."""
    mask = np.eye(16, dtype=np.uint8)
    for i, scaling in enumerate(("as_is", "max", (0.0, 255.0))):
        np.savez(tmp_path / "a.npz", images=np.full((1, 1, 16, 16), 9), labels=values(mask))
        with pytest.raises(UnderstudyError, match="annotation") as caught:
            take(tmp_path, tmp_path / f"out{i}", None, channels=["FLAIR"], codes={"x": 1}, values=scaling)
        assert cure in str(caught.value.fix)
        assert "--values" not in str(caught.value.fix)


def test_divided_by_its_maximum_a_black_image_stays_black() -> None:
    spec = FolderSpec(values="max")
    np.testing.assert_array_equal(to_grey(np.zeros((2, 2), np.int16), spec, Path("a")), np.zeros((2, 2)))
    np.testing.assert_array_equal(to_grey(np.array([[0, 2], [4, 1]]), spec, Path("a")), [[0, 127.5], [255, 63.75]])
    with pytest.raises(UnderstudyError, match="from -1 to 0 cannot be divided"):
        to_grey(np.array([[-1, 0]]), spec, Path("a"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_an_annotation_of_0_and_1_may_be_of_any_type(tmp_path: Path, dtype: Any) -> None:
    mask = np.eye(16, dtype=dtype) * dtype(1)
    np.savez(tmp_path / "a.npz", images=np.full((1, 1, 16, 16), 9), labels=mask)
    found = take(tmp_path, tmp_path / "out", None, channels=["FLAIR"], codes={"lesion": 1})
    np.testing.assert_array_equal(found.read(slice(None))[1][0], np.eye(16))


def test_files_of_other_formats_are_no_numpy_files(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_text("x,y\n1,2\n")
        with pytest.raises(UnderstudyError, match="not a NumPy file") as caught:
            take(tmp_path, tmp_path / "out", None, channels=["FLAIR"])
        assert caught.value.where == str(tmp_path / name)
        (tmp_path / name).unlink()


def test_the_folder_of_a_study_is_not_a_folder_of_images(tmp_path: Path) -> None:
    """Its jobs keep arrays and pictures of their own."""
    job = tmp_path / "run" / "jobs" / "prepare-1"
    writer = SliceWriter(job / "slices", ["FLAIR"], CLASSES, 16)
    writer.append(np.ones((1, 1, 16, 16), np.uint8), np.zeros((1, 16, 16), np.uint8), [{"id": "0"}])
    writer.close()
    np.save(job / "volume.npy", np.ones((3, 1, 16, 16), np.uint8))
    for folder in (tmp_path / "run", job):
        for read_it in (lambda f: take(f, tmp_path / "out", None), SliceSet.open):
            with pytest.raises(UnderstudyError) as caught:
                read_it(folder)
            assert str(job / "slices") in str(caught.value.fix)
