"""What a package may hold, by format: ids planted everywhere, what is not on the list, and clean packages."""

from __future__ import annotations

import base64
import io
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import EVERYWHERE, FORMS, IDS, OF_LAYOUT, OF_MODELS, OF_SLICES, SECRETS, Plant, places

from understudy.exchange.description import certificate_of
from understudy.release.content import LAYOUTS
from understudy.release.scan import scan
from understudy.release.words import Words
from understudy.slices import SliceSet

Packages = dict[str, Path]


@pytest.fixture(scope="module")
def words() -> Words:
    return Words(SECRETS)


def findings(package: Path, words: Words, real: list[SliceSet] | None = None) -> list[str]:
    return scan(package, certificate_of(package), real or [], words).findings


def copy(package: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(package, folder)
    (folder / "evidence.html").write_text("<!doctype html><p>evidence</p>")  # it is long, and searched each time
    return folder


# the places of every package are tried in one layout, those of a layout in it
TRIED: dict[str, dict[str, Plant]] = {**OF_LAYOUT, "model": OF_MODELS, "": EVERYWHERE | OF_SLICES}


@pytest.mark.parametrize("layout", TRIED)
def test_no_planted_id_passes(packages: Packages, words: Words, tmp_path: Path, layout: str) -> None:
    turns = itertools.cycle(itertools.product(IDS, FORMS))
    for number, (place, plant) in enumerate(TRIED[layout].items()):
        word, form = next(itertools.islice(turns, number % 3, None))
        folder = copy(packages[layout or "sliceset"], tmp_path / "copy")
        plant(folder, FORMS[form](word))
        found = findings(folder, words)
        assert found, (place, form, word)
        assert not any(word in text for text in found), (place, found)


COHORTS = {
    "numbers": [str(i) for i in range(200)],
    "letters": list("abcdefghijklmnopqrstuvwxyz"),
    "padded": [f"{i:04d}" for i in range(200)],
    "six digits": [f"{i:06d}" for i in range(0, 10**6, 1999)],
    "patients": [f"patient_{i}" for i in range(200)],
    "BIDS": [f"sub-{i:02d}" for i in range(200)],
    "BraTS": [f"BraTS20_Training_{i:03d}" for i in range(370)],
    "slices as they are named in memory": [f"slice{i:06d}" for i in range(200)],
    "channels": ["T1w", "T1"],
}


@pytest.mark.parametrize("cohort", COHORTS)
def test_a_clean_package_passes_whatever_patients_are_called(packages: Packages, cohort: str) -> None:
    words = Words(dict.fromkeys(COHORTS[cohort], "a patient's id"))
    for layout in ("sliceset", "model"):
        assert findings(packages[layout], words) == []


@pytest.mark.parametrize("layout", [*LAYOUTS, "model"])
def test_a_clean_package_passes(packages: Packages, words: Words, layout: str) -> None:
    assert findings(packages[layout], words) == []


def test_every_format_was_tried(packages: Packages) -> None:
    assert set(packages) == {*TRIED} - {""} == {*LAYOUTS, "model"}
    assert len(FORMS) >= 50
    assert all(len(places(layout)) >= 50 for layout in packages)


# --- real slices ----------------------------------------------------------------------------------------------------


@pytest.fixture
def real(packages: Packages) -> SliceSet:
    return SliceSet.open(packages["png"].parent / "inputs" / "real")


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["data/FLAIR/syn999999_FLAIR.png", "data/more.png", "data/FLAIR/more.npy", "x.nii.gz"])
def test_another_file_of_pixels_is_refused(
    packages: Packages, words: Words, real: SliceSet, tmp_path: Path, name: str
) -> None:
    folder = copy(packages["png"], tmp_path / "copy")
    (folder / name).write_bytes(_png(real.read([0])[0][0, 0]))
    assert any(f.startswith(name) for f in findings(folder, words, [real]))


def test_a_real_slice_in_a_figure_or_among_the_samples(
    packages: Packages, words: Words, real: SliceSet, tmp_path: Path
) -> None:
    pixels = _png(real.read([0])[0][0, 0])
    folder = copy(packages["png"], tmp_path / "copy")
    (folder / "evidence.html").write_text(f'<img src="data:image/png;base64,{base64.b64encode(pixels).decode()}">')
    assert findings(folder, words, [real]) == ["evidence.html shows a channel of a real slice, pixel by pixel"]
    folder = copy(packages["model"], tmp_path / "copy")
    (folder / "samples.png").write_bytes(pixels)
    assert findings(folder, words, [real]) == ["samples.png shows a channel of a real slice, pixel by pixel"]


def test_a_slice_behind_the_last_one_is_refused(packages: Packages, words: Words, tmp_path: Path) -> None:
    folder = copy(packages["sliceset"], tmp_path / "copy")
    other = copy(packages["sliceset"], tmp_path / "other")
    (folder / "data/images/c/1/0/0").mkdir(parents=True)
    shutil.copy(other / "data/images/c/0/0/0/0", folder / "data/images/c/1/0/0/0")
    assert findings(folder, words) == ["data/images/c/1/0/0/0: something between the slices"]


@pytest.mark.parametrize("part", ["channel", "half"])
def test_a_part_of_a_real_slice_among_synthetic_ones(
    packages: Packages, words: Words, real: SliceSet, tmp_path: Path, part: str
) -> None:
    """One channel with a changed bit, or half a slice; neither has an equal hash."""
    folder, pixels = copy(packages["png"], tmp_path / "copy"), real.read([3])[0][0].copy()
    pixels[:, 3, 8] ^= 1
    for channel, name in list(zip(pixels, real.channels, strict=True))[part == "channel" :]:
        path = folder / "data" / name.removesuffix("w") / f"syn000002_{name.removesuffix('w')}.png"
        planted = np.asarray(Image.open(path)).copy()
        planted[:, : 16 if part == "channel" else 8] = channel[:, : 16 if part == "channel" else 8]
        path.write_bytes(_png(planted))
    (found,) = findings(folder, words, [real])
    assert found.startswith("slice syn000002 holds a part of a real slice")
