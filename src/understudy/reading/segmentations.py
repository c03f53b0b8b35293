"""The second kind of reading study: two segmentations of the same slice, blinded, left and right by lot."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.reading.prepare import check_places, finish, new_folder, save_panels
from understudy.report.plots.slices import Pixels, channel_window, colours, overlay, square_around, upright, windowed
from understudy.volumes import TestVolume, VolumeSet

INSTRUCTIONS = (
    "Two segmentations of the same slice. Which would you rather correct: A, B, or no difference (=)? Give each a mark"
    " from 1 (useless) to 5 (nothing to correct). O hides them and shows them again."
)


def prepare_segmentations(
    volumes: Path, first: tuple[str, Path], second: tuple[str, Path], out: Path, key: Path, *, count: int = 50,
    channel: str = "", pixels: int = 640, seed: int = 0, margin: float = 0.1,
) -> dict[str, Any]:  # fmt: skip
    """Makes the study from the test volumes and two folders of predictions of the same patients.

    Args:
        volumes: `volumes` of a study's prepare job.
        first, second: (name, folder of `<subject>.npz` whose `prediction` is uint8 [Z, H, W]).
        count: cases: slices on which the two differ, as many of each patient as there are, up to an equal share.
        channel: shown under the segmentations; "" takes FLAIR, or the last one.
        pixels: edge of a panel, which shows the square around the patient's head.

    Raises:
        UnderstudyError: places taken, no patient that both have predicted, no such channel, no difference.
    """
    check_places(out, key)
    opened, rng = VolumeSet.open(volumes), np.random.default_rng(seed)
    channel = channel or ("FLAIR" if "FLAIR" in opened.channels else opened.channels[-1])
    if channel not in opened.channels:
        raise UnderstudyError(f"there is no channel {channel!r}", fix=f"use one of {', '.join(opened.channels)}")
    names, folders = (first[0], second[0]), (first[1], second[1])
    subjects = [s for s in opened.subjects("test") if all((folder / f"{s}.npz").is_file() for folder in folders)]
    if not subjects:
        fix = "give the folders `predictions` of two evaluate jobs of the same study"
        raise UnderstudyError("no test patient has predictions in both folders", where=second[1], fix=fix)
    building = new_folder(out)
    items: list[dict[str, Any]] = []
    entries: dict[str, Any] = {}
    each = -(-count // len(subjects))
    for subject in map(str, rng.permutation(subjects)):
        pair = []  # uint8 [Z, H, W] of each
        for folder in folders:
            with np.load(folder / f"{subject}.npz", allow_pickle=False) as arrays:
                pair.append(arrays["prediction"])
        picture = _Picture(opened, opened.read(subject), opened.channels.index(channel), pixels)
        differing = rng.permutation(np.flatnonzero((pair[0] != pair[1]).any((1, 2))))
        for z in differing[: min(each, count - len(items))].tolist():
            item, swapped = secrets.token_hex(8), bool(rng.integers(2))
            shown = zip("AB", (pair[swapped], pair[not swapped]), strict=True)
            drawn = [(letter, picture.with_labels(z, labels[z])) for letter, labels in shown]
            # "plain" is shown in the place of both while O hides the segmentations
            items.append({"id": item, "panels": save_panels(building, [*drawn, ("plain", picture.plain(z))])})
            entries[item] = {"A": names[swapped], "B": names[not swapped], "subject": subject, "z": z}
    if not items:
        shutil.rmtree(building)
        what = "the two segmentations are the same on every slice"
        raise UnderstudyError(what, where=second[1], fix="give two other models")
    named = [c.name for c in opened.classes[1:]]
    about = {"kind": "segmentations", "title": "Which segmentation?", "composition": "", "scale": "confidence",
             "margin": margin, "seed": seed, "design": "segmentations", "instructions": INSTRUCTIONS,
             "legend": [list(pair) for pair in zip(named, colours(len(named)), strict=True)]}  # fmt: skip
    return finish(building, out, key, about, items, {"items": entries, "pair": list(names)})


class _Picture:
    """Slices of one volume, cut to the square around the head in all of them; every panel has `pixels` x `pixels`."""

    def __init__(self, volumes: VolumeSet, volume: TestVolume, under: int, pixels: int) -> None:
        self.images, self.grid, self.axes = volume.images[:, under], volume.geometry, volumes.axes
        self.window, self.pixels, self.classes = channel_window(self.images), pixels, len(volumes.classes) - 1
        self.box = square_around(self._whole(self.images.max(0)) > 0, smallest=16, margin=0.04)

    def _whole(self, image: Pixels) -> Pixels:
        """A slice as the network saw it, on the grid of the truth, upright."""
        grid = self.grid
        big = np.asarray(Image.fromarray(image).resize((grid.padded, grid.padded), Image.Resampling.BICUBIC))
        return upright(grid.on_original_grid(big), self.axes)

    def _cut(self, image: Pixels, how: Image.Resampling) -> Pixels:
        top, bottom, left, right = self.box
        cut = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
        return np.asarray(cut.resize((self.pixels, self.pixels), how))

    def plain(self, z: int) -> Pixels:
        return self._cut(self._whole(windowed(self.images[z], self.window)), Image.Resampling.BICUBIC)

    def with_labels(self, z: int, labels: Pixels) -> Pixels:
        """RGB of the slice and class indices [H, W] on the grid of the truth."""
        marks = self._cut(upright(labels, self.axes), Image.Resampling.NEAREST)
        width = max(1, round(self.pixels / (self.box[1] - self.box[0]) / 2))
        return overlay(self.plain(z), marks, self.classes, fill=0.2, width=width)
