"""Test segmentations: the best, the median and the worst patient, truth beside what networks found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.metrics.statistics import MEAN
from understudy.report.data import ReportData, Setting
from understudy.report.plots.slices import (
    Pixels,
    channel_window,
    enlarged,
    framed,
    overlay,
    png,
    square_around,
    upright,
    windowed,
)
from understudy.report.sections.answer import primary
from understudy.report.sections.gallery import Tile, overlay_channel
from understudy.volumes import TestVolume, VolumeSet

MOST_PREDICTIONS = 5


@dataclass(frozen=True)
class Case:
    """A test patient's row: which one, and its tiles."""

    title: str
    tiles: list[Tile]


def chosen_settings(data: ReportData, comparisons: list[Any]) -> list[Setting]:
    """The settings whose predictions are shown: baseline, then the best of real and synthetic, and synthetic only."""
    shown = [data.baseline_setting] if data.baseline_setting else []
    both, alone = (
        sorted(primary(comparisons, t), key=lambda c: -np.nan_to_num(c.relative.value)) for t in ("both", "synthetic")
    )
    half = (MOST_PREDICTIONS - 1) // 2
    kept = both[: max(half, MOST_PREDICTIONS - 1 - len(alone))]
    shown += [c.setting for c in kept] + [c.setting for c in alone[: MOST_PREDICTIONS - 1 - len(kept)]]
    shown += [s for s in data.settings if s not in shown]
    return [s for s in shown if folder_of(data, s) is not None][:MOST_PREDICTIONS]


def folder_of(data: ReportData, setting: Setting) -> Path | None:
    """Predictions of the setting's first repeat."""
    return next((data.predictions[k] for k in sorted(data.predictions) if k[0] == setting.id), None)


def segmentations(
    data: ReportData, means: pd.DataFrame, comparisons: list[Any]
) -> tuple[list[Case], list[str], list[str]]:
    """Best, median and worst test patient by the baseline: truth beside predictions.

    Returns:
        Cases, column heads, and sentences about what could not be shown.
    """
    shown = [s for s in chosen_settings(data, comparisons) if s.id in set(means["setting"])]
    if data.volumes is None or not shown:
        return [], [], ["There are no predictions to show."]
    mine = means[(means["setting"] == shown[0].id) & (means["class_name"] == MEAN)]
    ranked: list[str] = mine.sort_values("dice", ascending=False, kind="stable")["subject"].tolist()
    places = {"Best": 0, "Median": len(ranked) // 2, "Worst": len(ranked) - 1}
    if len(ranked) < 3:
        places = dict(list(zip(("Best", "Worst"), range(len(ranked)), strict=False)))
    try:
        volumes = VolumeSet.open(data.volumes)
        windows = _volume_windows(volumes, ranked)
    except UnderstudyError as error:
        return [], [], [f"The test volumes could not be read: {error.what}."]
    cases, missing = [], []
    for word, place in places.items():
        subject = ranked[place]
        try:
            cases.append(_case(data, volumes, windows, word, subject, shown, means))
        except (UnderstudyError, OSError, KeyError, ValueError) as error:
            what = error.what if isinstance(error, UnderstudyError) else f"the file cannot be read ({error})"
            missing.append(data.hide(f"{word}: {subject} is not shown: {what}."))
    return cases, ["Slice", "Truth", *(s.label for s in shown)], missing


def _volume_windows(volumes: VolumeSet, subjects: list[str]) -> tuple[float, float]:
    """One window for the overlay channel over up to four test patients."""
    under = overlay_channel(volumes.channels)
    some = [volumes.read(s).images[:, under].ravel()[::7] for s in subjects[:: max(1, len(subjects) // 4)][:4]]
    return channel_window(np.concatenate(some)[None])


def prediction_of(folder: Path, subject: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    path = folder / f"{subject}.npz"
    if not path.is_file():
        raise UnderstudyError(f"there is no prediction {path.name}", where=folder)
    with np.load(path, allow_pickle=False) as arrays:
        prediction: NDArray[np.uint8] = arrays["prediction"]
    if prediction.shape != shape:
        raise UnderstudyError(f"the prediction {path.name} has the shape {prediction.shape}, not {shape}")
    return prediction


def _case(
    data: ReportData,
    volumes: VolumeSet,
    window: tuple[float, float],
    word: str,
    subject: str,
    shown: list[Setting],
    means: pd.DataFrame,
) -> Case:
    volume = volumes.read(subject)
    stacks = [
        prediction_of(folder, subject, volume.truth.shape) for s in shown if (folder := folder_of(data, s)) is not None
    ]
    z = int(np.argmax((volume.truth > 0).sum((1, 2)) * 1_000_000 + (stacks[0] > 0).sum((1, 2))))
    grey = upright(on_original_grid(volume, z, overlay_channel(volumes.channels), window), volumes.axes)
    truth, *predicted = (upright(s[z], volumes.axes) for s in [volume.truth, *stacks])
    together = np.any([truth, *predicted], axis=0)
    box = square_around(together if truth.any() else truth > 0, round(0.42 * min(truth.shape)))
    crop = (slice(box[0], box[1]), slice(box[2], box[3]))
    factor = max(1, round(256 / (box[1] - box[0])))
    classes = len(volumes.classes) - 1
    name = f"{word}: {data.patient_names.get(subject, subject)}"

    def drawn(labels: Pixels, outline: Pixels | None = None) -> str:
        parts = [enlarged(a[crop], factor) for a in (grey, labels)]
        line = None if outline is None else enlarged(outline[crop], factor)
        return png(overlay(parts[0], parts[1], classes, line, fill=0.35))

    large = max(1, -(-256 // min(grey.shape)))
    frame = tuple(large * edge for edge in box)
    whole = framed(np.repeat(enlarged(grey, large)[..., None], 3, -1), frame)
    tiles = [Tile(png(whole), f"{name}, slice {z}", f"slice {z + 1} of {len(volume.truth)}")]
    tiles.append(Tile(drawn(truth), f"{name}, truth", "truth"))
    for s, p in zip(shown, predicted, strict=True):
        mine = means[(means["setting"] == s.id) & (means["subject"] == subject) & (means["class_name"] == MEAN)]
        dice = f"Dice {mine['dice'].iloc[0]:.2f}" if len(mine) else "not scored"
        tiles.append(Tile(drawn(p, truth), f"{name}, prediction after training on: {s.label}, {dice}", dice))
    site = f", {volume.site}" if volume.site else ""
    return Case(name + site, tiles)


def on_original_grid(volume: TestVolume, z: int, channel: int, window: tuple[float, float]) -> Pixels:
    """The slice as the network saw it, coarse pixels and all, on the grid of truth and predictions."""
    g = volume.geometry
    return g.on_original_grid(enlarged(windowed(volume.images[z, channel], window), g.padded // g.resolution))
