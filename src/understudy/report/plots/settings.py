"""The paper's Figures 1, 4 and 5: a slice of every generator beside a real one, one test slice under every setting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

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
)
from understudy.report.sections.gallery import Gallery, Tile, overlay_channel
from understudy.report.sections.segmentations import folder_of, on_original_grid, prediction_of
from understudy.report.tables.paper import paper_settings
from understudy.volumes import TestVolume, VolumeSet

PIXELS = 150  # edge of a panel
WORDS = {"real": "Real", "both": "Real + synthetic", "synthetic": "Synthetic only"}


@dataclass(frozen=True)
class Sheet:
    """All settings of one network on one slice.

    Attributes:
        network, title: which network, and which patient and slice.
        first: the slice, its truth and what networks trained on real slices find.
        heads, rows: the generators, and for each way of training its name and a tile a generator (None: not trained).
    """

    network: str
    title: str
    first: list[Tile]
    heads: list[str]
    rows: list[tuple[str, list[Tile | None]]]


def sample_rows(gallery: Gallery) -> list[tuple[str, list[Tile]]]:
    """Figure 1: one row a set, real first: the first slice with an annotation that was drawn, else any."""
    annotated = {b.group: b.rows[0] for b in gallery.annotated if b.rows}
    return [(b.group, annotated.get(b.group, b.rows[0])) for b in gallery.random if b.rows]


def setting_sheets(data: ReportData, means: pd.DataFrame) -> list[Sheet]:
    """Figures 4 and 5: the median test patient's slice with the largest tumour, a sheet a network.

    [] without volumes, predictions, or more settings than the page shows anyway.
    """
    shown = [s for s in paper_settings(data) if folder_of(data, s) is not None]
    base = data.baseline_setting
    if data.volumes is None or base is None or len(shown) < 3:
        return []
    mine = means[(means["setting"] == base.id) & (means["class_name"] == MEAN)]
    ranked = mine.sort_values("dice", ascending=False, kind="stable")["subject"].tolist()
    try:
        volumes = VolumeSet.open(data.volumes)
        subject = str(ranked[len(ranked) // 2])
        volume = volumes.read(subject)
        return [
            _sheet(data, volumes, volume, network, [s for s in shown if s.segmenter == network], means)
            for network in dict.fromkeys(s.segmenter for s in shown)
        ]
    except (UnderstudyError, IndexError, OSError, ValueError):
        return []  # the section above says what of the volumes and predictions cannot be read


def _sheet(
    data: ReportData, volumes: VolumeSet, volume: TestVolume, network: str, settings: list[Setting], means: pd.DataFrame
) -> Sheet:
    view = View.of_largest(volumes, volume)
    name = data.patient_names.get(volume.subject, volume.subject)
    words = f"{name}, slice {view.z + 1}"
    scores = means[(means["subject"].astype(str) == volume.subject) & (means["class_name"] == MEAN)]
    dice = dict(zip(scores["setting"], scores["dice"], strict=True))

    def tile(s: Setting, caption: str) -> Tile | None:
        folder = folder_of(data, s)
        if folder is None:
            return None
        predicted = upright(prediction_of(folder, volume.subject, volume.truth.shape)[view.z], volumes.axes)
        score = f"{dice[s.id]:.2f}" if s.id in dice else "not scored"
        text = f"{caption}: {score}" if caption else f"Dice {score}"
        return Tile(view.drawn(predicted, view.truth), f"{words}, {s.label}, Dice {score}", text)

    real = [s for s in settings if s.training == "real"]
    first = [
        Tile(view.whole(), words, f"slice {view.z + 1} of {len(volume.truth)}"),
        Tile(view.drawn(view.truth, None), f"{words}, truth", "truth"),
        *(tile(s, _way(s)) for s in real),
    ]
    made = [s for s in settings if s.generator]
    generators = list(dict.fromkeys(s.generator for s in made))
    ways = dict.fromkeys((s.training, s.augmentation) for s in made)
    by_place = {(s.training, s.augmentation, s.generator): s for s in made}
    rows = []
    for training, augmented in ways:
        cells = [by_place.get((training, augmented, g)) for g in generators]
        row = [None if s is None else tile(s, "") for s in cells]
        rows.append((_way(next(s for s in cells if s is not None)), row))
    heads = [data.shown(g) for g in generators]
    return Sheet(network, f"{data.shown(network)}: {words}", [t for t in first if t is not None], heads, rows)


def _way(setting: Setting) -> str:
    """How a network was trained, its generator left out: "real + synthetic, no augmentation"."""
    return WORDS[setting.training] + ("" if setting.augmentation else ", no augmentation")


@dataclass(frozen=True)
class View:
    """The slice of a volume with the largest true tumour, and the square around it that is shown enlarged."""

    z: int
    grey: Pixels
    truth: Pixels
    box: tuple[int, int, int, int]
    classes: int

    @classmethod
    def of_largest(cls, volumes: VolumeSet, volume: TestVolume) -> View:
        """The view of a test volume."""
        z = int(np.argmax((volume.truth > 0).sum((1, 2))))
        under = overlay_channel(volumes.channels)
        window = channel_window(volume.images[:, under])
        grey = upright(on_original_grid(volume, z, under, window), volumes.axes)
        truth = upright(volume.truth[z], volumes.axes)
        box = square_around(truth > 0, round(0.42 * min(truth.shape)))
        return cls(z, grey, truth, box, len(volumes.classes) - 1)

    def drawn(self, labels: Pixels, outline: Pixels | None) -> str:
        """The square with classes in colour, as an address for the page."""
        top, bottom, left, right = self.box
        factor = max(1, round(PIXELS / (bottom - top)))
        grey, filled = (enlarged(a[top:bottom, left:right], factor) for a in (self.grey, labels))
        line = None if outline is None else enlarged(outline[top:bottom, left:right], factor)
        return png(overlay(grey, filled, self.classes, line, fill=0.35))

    def whole(self) -> str:
        """The whole slice with a frame around the square."""
        factor = max(1, -(-PIXELS // min(self.grey.shape)))
        top, bottom, left, right = (factor * edge for edge in self.box)
        picture = np.repeat(enlarged(self.grey, factor)[..., None], 3, -1)
        return png(framed(picture, (top, bottom, left, right)))
