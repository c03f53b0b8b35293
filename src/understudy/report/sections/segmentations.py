"""Segmentations of test patients: truth beside what networks found, and the paper's Figures 4 and 5."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.metrics.statistics import MEAN
from understudy.report.answer import Comparison, primary
from understudy.report.content import Content
from understudy.report.data import ReportData, Setting
from understudy.report.plots import slices
from understudy.report.plots.gallery import overlay_channel
from understudy.report.plots.sheets import Row, Tile, sheet
from understudy.report.plots.style import Panel, file_name
from understudy.report.sections.base import Block, Html, Section, missing
from understudy.report.tables.paper import dataset_of, paper_settings
from understudy.volumes import TestVolume, VolumeSet

MOST_PREDICTIONS = 5
CASE, SHEET = 256, 150  # pixels: edges of a picture
WORDS = {"real": "Real", "both": "Real + synthetic", "synthetic": "Synthetic only"}


@dataclass(frozen=True)
class Sheet:
    """All settings of one network on one slice."""

    network: str
    title: str  # network, patient and slice
    first: list[Tile]  # the slice, its truth and what networks trained on real slices find
    heads: list[str]  # the generators
    rows: list[tuple[str, list[Tile | None]]]  # way of training, a tile a generator (None: not trained)


@dataclass(frozen=True)
class View:
    """A slice of a test volume, and the square around its tumour that is shown enlarged."""

    z: int  # index of the slice
    grey: slices.Pixels  # upright [H, W]
    truth: slices.Pixels  # [H, W]
    box: tuple[int, int, int, int]  # top, bottom, left, right
    classes: int  # how many, background left out
    edge: int  # of the enlarged square, pixels

    def drawn(self, labels: slices.Pixels, outline: slices.Pixels | None = None) -> str:
        """The square with classes in colour, as an address for the page."""
        top, bottom, left, right = self.box
        factor = max(1, round(self.edge / (bottom - top)))
        grey, filled = (slices.enlarged(a[top:bottom, left:right], factor) for a in (self.grey, labels))
        line = None if outline is None else slices.enlarged(outline[top:bottom, left:right], factor)
        return slices.png(slices.overlay(grey, filled, self.classes, line, fill=0.35))

    def whole(self) -> str:
        """The whole slice with a frame around the square."""
        factor = max(1, -(-self.edge // min(self.grey.shape)))
        top, bottom, left, right = (factor * edge for edge in self.box)
        picture = np.repeat(slices.enlarged(self.grey, factor)[..., None], 3, -1)
        return slices.png(slices.framed(picture, (top, bottom, left, right)))


def section(content: Content) -> Section:
    """The best, the median and the worst test patient, and one slice under every setting."""
    data = content.data
    cases, heads, absent = segmentations(data, content.means, content.answer.comparisons)
    sheets = setting_sheets(data, content.means)
    names = content.gallery.classes
    classes = list(zip(names, slices.colours(len(names)), strict=True))
    values = {"cases": cases, "heads": heads, "sheets": sheets, "classes": classes}
    blocks: list[Block] = [Html("segmentations.html.j2", values)] if cases or sheets else []
    private: list[Panel] = []
    figure = 5 if dataset_of(data) == "brats2021" else 4
    for page in sheets:
        # for a figure without heads over every row, each tile has its generator's name in its caption
        rows: list[Row] = [("", page.first)]
        for name, tiles in page.rows:
            named = zip(tiles, page.heads, strict=True)
            rows.append((name, [t and replace(t, caption=f"{head}: {t.caption}") for t, head in named]))
        key = file_name(f"figure{figure}_segmentations_{page.network}")
        private.append(sheet(key, f"{page.title} under every setting", [], rows, classes))
    if cases:
        private.append(sheet("segmentations", "Best, median and worst test patient", heads, cases, classes))
    blocks = [*blocks, *missing(absent)]
    return Section("segmentations", "Segmentations of test patients", "Segmentations", blocks, private=private)


def chosen_settings(data: ReportData, comparisons: list[Comparison]) -> list[Setting]:
    """The settings whose predictions are shown: baseline, then the best of real and synthetic, and synthetic only."""
    first = [data.baseline_setting] if data.baseline_setting else []
    both, alone = (
        sorted(primary(comparisons, t), key=lambda c: -np.nan_to_num(c.relative.value)) for t in ("both", "synthetic")
    )
    # half of the places for each, more where the other has fewer settings
    half = (MOST_PREDICTIONS - 1) // 2
    kept = both[: max(half, MOST_PREDICTIONS - 1 - len(alone))]
    first += [c.setting for c in kept] + [c.setting for c in alone[: MOST_PREDICTIONS - 1 - len(kept)]]
    first += [s for s in data.settings if s not in first]
    return [s for s in first if _folder_of(data, s) is not None][:MOST_PREDICTIONS]


def _folder_of(data: ReportData, setting: Setting) -> Path | None:
    """Predictions of the setting's first repeat."""
    return next((data.predictions[k] for k in sorted(data.predictions) if k[0] == setting.id), None)


def segmentations(
    data: ReportData, means: pd.DataFrame, comparisons: list[Comparison]
) -> tuple[list[Row], list[str], list[str]]:
    """Best, median and worst test patient by the baseline: truth beside predictions.

    Returns:
        A row for each (title, tiles), column heads, and sentences about what could not be shown.
    """
    settings = [s for s in chosen_settings(data, comparisons) if s.id in set(means["setting"])]
    if data.volumes is None or not settings:
        return [], [], ["There are no predictions to show."]
    ranked = _ranked(means, settings[0])
    places = {"Best": 0, "Median": len(ranked) // 2, "Worst": len(ranked) - 1}
    if len(ranked) < 3:
        places = dict(list(zip(("Best", "Worst"), range(len(ranked)), strict=False)))
    try:
        volumes = VolumeSet.open(data.volumes)
        # one window for up to four test patients
        under, some = overlay_channel(volumes.channels), ranked[:: max(1, len(ranked) // 4)][:4]
        pixels = [volumes.read(s).images[:, under].ravel()[::7] for s in some]
    except UnderstudyError as error:
        return [], [], [f"The test volumes could not be read: {error.what}."]
    window, cases, absent = slices.channel_window(np.concatenate(pixels)[None]), [], []
    for word, place in places.items():
        subject = ranked[place]
        try:
            cases.append(_case(data, volumes, window, word, subject, settings, means))
        except (UnderstudyError, OSError, KeyError, ValueError) as error:
            what = error.what if isinstance(error, UnderstudyError) else f"the file cannot be read ({error})"
            absent.append(data.hide(f"{word}: {subject} is not shown: {what}."))
    return cases, ["Slice", "Truth", *(s.label for s in settings)], absent


def _ranked(means: pd.DataFrame, setting: Setting) -> list[str]:
    """Test patients by mean Dice, the best first."""
    mine = means[(means["setting"] == setting.id) & (means["class_name"] == MEAN)]
    return [str(s) for s in mine.sort_values("dice", ascending=False, kind="stable")["subject"]]


def _prediction(data: ReportData, setting: Setting, volume: TestVolume) -> NDArray[np.uint8]:
    """What the setting's first network found, [Z, H, W]."""
    folder = _folder_of(data, setting)
    path = (folder or Path()) / f"{volume.subject}.npz"
    if not path.is_file():
        raise UnderstudyError(f"there is no prediction {path.name}", where=folder)
    with np.load(path, allow_pickle=False) as arrays:
        prediction: NDArray[np.uint8] = arrays["prediction"]
    if prediction.shape != volume.truth.shape:
        shapes = f"{prediction.shape}, not {volume.truth.shape}"
        raise UnderstudyError(f"the prediction {path.name} has the shape {shapes}")
    return prediction


def _on_original_grid(volume: TestVolume, z: int, channel: int, window: tuple[float, float]) -> slices.Pixels:
    """The slice as the network saw it, coarse pixels and all, on the grid of truth and predictions."""
    g = volume.geometry
    return g.on_original_grid(
        slices.enlarged(slices.windowed(volume.images[z, channel], window), g.padded // g.resolution)
    )


def _case(
    data: ReportData,
    volumes: VolumeSet,
    window: tuple[float, float],
    word: str,
    subject: str,
    settings: list[Setting],
    means: pd.DataFrame,
) -> Row:
    volume = volumes.read(subject)
    stacks = [_prediction(data, s, volume) for s in settings]
    # the largest true tumour, and where none is annotated, the largest prediction
    z = int(np.argmax((volume.truth > 0).sum((1, 2)) * 1_000_000 + (stacks[0] > 0).sum((1, 2))))
    grey = slices.upright(_on_original_grid(volume, z, overlay_channel(volumes.channels), window), volumes.axes)
    truth, *predicted = (slices.upright(s[z], volumes.axes) for s in [volume.truth, *stacks])
    together = np.any([truth, *predicted], axis=0)
    box = slices.square_around(together if truth.any() else truth > 0, round(0.42 * min(truth.shape)))
    view = View(z, grey, truth, box, len(volumes.classes) - 1, CASE)
    name = f"{word}: {data.patient_names.get(subject, subject)}"
    tiles = [Tile(view.whole(), f"{name}, slice {z}", f"slice {z + 1} of {len(volume.truth)}")]
    tiles.append(Tile(view.drawn(truth), f"{name}, truth", "truth"))
    for s, p in zip(settings, predicted, strict=True):
        mine = means[(means["setting"] == s.id) & (means["subject"] == subject) & (means["class_name"] == MEAN)]
        dice = f"Dice {mine['dice'].iloc[0]:.2f}" if len(mine) else "not scored"
        text = f"{name}, prediction after training on: {s.label}, {dice}"
        tiles.append(Tile(view.drawn(p, truth), text, dice))
    return name + (f", {volume.site}" if volume.site else ""), tiles


def setting_sheets(data: ReportData, means: pd.DataFrame) -> list[Sheet]:
    """The paper's Figures 4 and 5: the median test patient's slice with the largest tumour, a sheet a network.

    [] without volumes, predictions, or more settings than the page shows anyway.
    """
    settings = [s for s in paper_settings(data) if _folder_of(data, s) is not None]
    base = data.baseline_setting
    if data.volumes is None or base is None or len(settings) < 3:
        return []
    ranked = _ranked(means, base)
    try:
        volumes = VolumeSet.open(data.volumes)
        volume = volumes.read(ranked[len(ranked) // 2])
        networks = dict.fromkeys(s.segmenter for s in settings)
        return [
            _sheet(data, volumes, volume, [s for s in settings if s.segmenter == network], means)
            for network in networks
        ]
    except (UnderstudyError, IndexError, OSError, ValueError):
        return []  # the section says which volumes and predictions cannot be read


def _sheet(
    data: ReportData, volumes: VolumeSet, volume: TestVolume, settings: list[Setting], means: pd.DataFrame
) -> Sheet:
    z, under = int(np.argmax((volume.truth > 0).sum((1, 2)))), overlay_channel(volumes.channels)
    grey = slices.upright(
        _on_original_grid(volume, z, under, slices.channel_window(volume.images[:, under])), volumes.axes
    )
    truth = slices.upright(volume.truth[z], volumes.axes)
    box = slices.square_around(truth > 0, round(0.42 * min(truth.shape)))
    view = View(z, grey, truth, box, len(volumes.classes) - 1, SHEET)
    words = f"{data.patient_names.get(volume.subject, volume.subject)}, slice {z + 1}"
    scores = means[(means["subject"].astype(str) == volume.subject) & (means["class_name"] == MEAN)]
    dice = dict(zip(scores["setting"], scores["dice"], strict=True))

    def tile(s: Setting, caption: str = "Dice") -> Tile:
        predicted = slices.upright(_prediction(data, s, volume)[z], volumes.axes)
        score = f"{dice[s.id]:.2f}" if s.id in dice else "not scored"
        return Tile(view.drawn(predicted, truth), f"{words}, {s.label}, Dice {score}", f"{caption} {score}")

    def way(s: Setting) -> str:
        return WORDS[s.training] + ("" if s.augmentation else ", no augmentation")

    first = [
        Tile(view.whole(), words, f"slice {z + 1} of {len(volume.truth)}"),
        Tile(view.drawn(truth), f"{words}, truth", "truth"),
        *(tile(s, f"{way(s)}:") for s in settings if s.training == "real"),
    ]
    made = [s for s in settings if s.generator]
    generators = list(dict.fromkeys(s.generator for s in made))
    by_place = {(way(s), s.generator): s for s in made}
    rows: list[tuple[str, list[Tile | None]]] = []
    for words_of_way in dict.fromkeys(way(s) for s in made):
        cells = [by_place.get((words_of_way, g)) for g in generators]
        rows.append((words_of_way, [None if s is None else tile(s) for s in cells]))
    network = settings[0].segmenter
    return Sheet(network, f"{data.shown(network)}: {words}", first, [data.shown(g) for g in generators], rows)
