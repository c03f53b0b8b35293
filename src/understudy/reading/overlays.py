"""The second kind of reading study: two segmentations of the same patient, blinded, left and right by lot.

"Which would you rather correct?" and a mark from 1 to 5 each (the third check of the study's summary).
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.reading.prepare import check_places, finish, save_panels
from understudy.report.pictures import channel_window, overlay, upright, windowed
from understudy.volumes import VolumeSet

INSTRUCTIONS = (
    "Two segmentations of the same slice. Which would you rather correct: A, B, or no difference (=)? Give each a mark"
    " from 1 (useless) to 5 (nothing to correct). Space goes on, Backspace goes back."
)


def prepare_overlays(
    volumes: Path, first: tuple[str, Path], second: tuple[str, Path], out: Path, key: Path, *, count: int = 50,
    channel: str = "", pixels: int = 640, seed: int = 0, margin: float = 0.1,
) -> dict[str, Any]:  # fmt: skip
    """Makes the study from the test volumes and two folders of predictions of the same patients.

    Args:
        volumes: `volumes` of a study's prepare job.
        first, second: (name, folder of `<subject>.npz` whose `prediction` is uint8 [Z, H, W]).
        count: cases: slices where either segmentation or the truth has something, one patient after the other.
        channel: shown under the segmentations; "" takes FLAIR, or the last one.

    Raises:
        UnderstudyError: places taken, no patient that both have predicted, no such channel.
    """
    check_places(out, key)
    opened = VolumeSet.open(volumes)
    under = _channel(opened, channel)
    rng = np.random.default_rng(seed)
    subjects = [
        s for s in opened.subjects("test") if all((f / f"{s}.npz").is_file() for _, f in (first, second))
    ]
    if not subjects:
        raise UnderstudyError(
            "no test patient has predictions in both folders", where=second[1],
            fix="give the folders `predictions` of two evaluate jobs of the same study",
        )  # fmt: skip
    building = out.with_name(out.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    (building / "images").mkdir(parents=True)
    items: list[dict[str, Any]] = []
    entries: dict[str, Any] = {}
    each = -(-count // len(subjects))
    for subject in rng.permutation(subjects):
        volume = opened.read(str(subject))
        pair = [_prediction(folder, str(subject)) for _, folder in (first, second)]
        worth = np.flatnonzero((np.stack([volume.truth, *pair]) > 0).any((0, 2, 3)))
        for z in rng.permutation(worth)[:each]:
            if len(items) == count:
                break
            grey = _grey(volume, opened, int(z), under)
            swapped = bool(rng.integers(2))
            order = pair[::-1] if swapped else pair
            drawn = [_drawn(grey, upright(p[z], opened.axes), len(opened.classes) - 1, pixels) for p in order]
            item = secrets.token_hex(8)
            items.append({"id": item, "panels": save_panels(building, list(zip("AB", drawn, strict=True)))})
            names = [first[0], second[0]]
            entries[item] = {
                "A": names[swapped],
                "B": names[not swapped],
                "subject": str(subject),
                "z": int(z),
            }
    about = {"kind": "segmentations", "title": "Which segmentation?", "composition": "", "scale": "confidence",
             "margin": margin, "seed": seed, "design": "segmentations", "instructions": INSTRUCTIONS}  # fmt: skip
    return finish(building, out, key, about, items, {"items": entries, "pair": [first[0], second[0]]})


def _channel(volumes: VolumeSet, asked: str) -> int:
    name = asked or ("FLAIR" if "FLAIR" in volumes.channels else volumes.channels[-1])
    if name not in volumes.channels:
        raise UnderstudyError(
            f"there is no channel {name!r}", fix=f"use one of {', '.join(volumes.channels)}"
        )
    return volumes.channels.index(name)


def _prediction(folder: Path, subject: str) -> NDArray[np.uint8]:
    with np.load(folder / f"{subject}.npz", allow_pickle=False) as arrays:
        found: NDArray[np.uint8] = arrays["prediction"]
    return found


def _grey(volume: Any, volumes: VolumeSet, z: int, under: int) -> NDArray[np.uint8]:
    """The slice as the network saw it, on the grid of the truth."""
    window = channel_window(volume.images[:, under])
    grid = volume.geometry
    image = windowed(volume.images[z, under], window)
    big = np.asarray(Image.fromarray(image).resize((grid.padded, grid.padded), Image.Resampling.BICUBIC))
    top, left = grid.offset
    return upright(big[top : top + grid.height, left : left + grid.width], volumes.axes)


def _drawn(
    grey: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int, pixels: int
) -> NDArray[np.uint8]:
    """The overlay, enlarged to about `pixels`; both panels of all cases have the same size."""
    factor = max(1, round(pixels / max(grey.shape)))
    big = np.asarray(Image.fromarray(np.ascontiguousarray(grey)).resize(
        (grey.shape[1] * factor, grey.shape[0] * factor), Image.Resampling.BICUBIC))  # fmt: skip
    marks = np.repeat(np.repeat(labels, factor, 0), factor, 1)
    return overlay(big, marks, classes, fill=0.25, width=max(1, factor // 2))
