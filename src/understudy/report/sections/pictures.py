"""Pictures of slices: real beside synthetic ones, and segmentations of test patients (the paper's Figures 1, 4, 5)."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.readers import read_array
from understudy.metrics.statistics import MEAN
from understudy.report.answer import Comparison, primary
from understudy.report.content import Content, Html, Section, missing
from understudy.report.data import ReportData, Setting
from understudy.report.plots import slices
from understudy.report.plots.gallery import Row, Tile, overlay_channel, sheet
from understudy.report.plots.style import file_name
from understudy.report.sections.paper import dataset_of, paper_settings
from understudy.volumes import TestVolume, VolumeSet

MOST_PREDICTIONS = 5
CASE, SHEET = 256, 150  # pixels: edges of a picture
WORDS = {"real": "Real", "both": "Real + synthetic", "synthetic": "Synthetic only"}


def section(content: Content) -> Section:
    """Random slices, those with an annotation, contact sheets."""
    gallery = content.gallery
    classes = list(zip(gallery.classes, slices.colours(len(gallery.classes)), strict=True))
    # Figure 1: a row a set, real first: the first slice with an annotation that was drawn, else any
    annotated = {b.group: b.rows[0] for b in gallery.annotated if b.rows}
    rows: list[Row] = [(b.group, annotated.get(b.group, b.rows[0])) for b in gallery.random if b.rows]
    values = {"gallery": gallery, "classes": classes, "sample_rows": rows, "seed": content.data.seed}
    blocks = [Html("pictures.html.j2", values)] if gallery.random else []
    words = "A real slice and one of every generator, with annotation"
    private = [sheet("figure1_samples", words, [*gallery.channels, "Annotation"], rows, classes)] if rows else []
    kept = [{k: v for k, v in n.items() if k not in ("areas", "code_distance")} for n in gallery.numbers]
    return Section("pictures", "Real and synthetic slices", "Pictures", [*blocks, *missing(gallery.missing)],
                   {"annotations": kept, "missing": gallery.missing}, private=private)  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    """All settings of one network on one slice."""

    network: str
    title: str  # network, patient and slice
    first: list[Tile]  # the slice, its truth and what networks trained on real slices find
    heads: list[str]  # the generators
    rows: list[tuple[str, list[Tile | None]]]  # way of training, a tile a generator (None: not trained)


class View:
    """Slice `z` of a test volume, and the square around its tumour, `edge` pixels wide on the page."""

    def __init__(self, volumes: VolumeSet, volume: TestVolume, z: int, window: tuple[float, float], edge: int) -> None:
        grid, pixels = volume.geometry, volume.images[z, overlay_channel(volumes.channels)]
        # as the network saw it, coarse pixels and all, on the grid of truth and predictions
        coarse = slices.enlarged(slices.windowed(pixels, window), grid.padded // grid.resolution)
        self.grey = slices.upright(grid.on_original_grid(coarse), volumes.axes)  # [H, W]
        self.truth = slices.upright(volume.truth[z], volumes.axes)
        self.classes, self.edge, self.place = len(volumes.classes) - 1, edge, f"slice {z + 1} of {len(volume.truth)}"
        self.frame_around(self.truth > 0)

    def frame_around(self, mask: NDArray[np.bool_]) -> None:
        """Lays the square around a mask [H, W]."""
        self.box = slices.square_around(mask, round(0.42 * min(mask.shape)))  # top, bottom, left, right

    def drawn(self, labels: slices.Pixels, outline: slices.Pixels | None = None) -> str:
        """The square with classes in colour, as an address for the page."""
        top, bottom, left, right = self.box
        factor = max(1, round(self.edge / (bottom - top)))
        grey, filled = (slices.enlarged(a[top:bottom, left:right], factor) for a in (self.grey, labels))
        line = None if outline is None else slices.enlarged(outline[top:bottom, left:right], factor)
        return slices.png(slices.overlay(grey, filled, self.classes, line, fill=0.35))

    def first_tiles(self, name: str, alt: str) -> list[Tile]:
        """The whole slice with a frame around the square, and the truth in the square."""
        factor = max(1, -(-self.edge // min(self.grey.shape)))
        top, bottom, left, right = (factor * edge for edge in self.box)
        picture = np.repeat(slices.enlarged(self.grey, factor)[..., None], 3, -1)
        whole = slices.png(slices.framed(picture, (top, bottom, left, right)))
        return [Tile(whole, alt, self.place), Tile(self.drawn(self.truth), f"{name}, truth", "truth")]


def segmentations_section(content: Content) -> Section:
    """The best, the median and the worst test patient, and one slice under every setting."""
    data, names = content.data, content.gallery.classes
    cases, heads, absent = segmentations(data, content.means, content.answer.comparisons)
    sheets = _setting_sheets(data, content.means)
    classes = list(zip(names, slices.colours(len(names)), strict=True))
    values = {"cases": cases, "heads": heads, "sheets": sheets, "classes": classes}
    blocks = [Html("segmentations.html.j2", values)] if cases or sheets else []
    private, figure = [], 5 if dataset_of(data) == "brats2021" else 4
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
    title = "Segmentations of test patients"
    return Section("segmentations", title, "Segmentations", [*blocks, *missing(absent)], private=private)


def _chosen_settings(data: ReportData, comparisons: list[Comparison]) -> list[Setting]:
    """The settings whose predictions are shown: baseline, then the best of real and synthetic, and synthetic only."""
    first = [data.baseline_setting] if data.baseline_setting else []
    both, alone = (
        sorted(primary(comparisons, t), key=lambda c: -np.nan_to_num(c.relative.value)) for t in ("both", "synthetic")
    )
    # half of the places for each, more where the other has fewer settings
    kept = both[: max((MOST_PREDICTIONS - 1) // 2, MOST_PREDICTIONS - 1 - len(alone))]
    first += [c.setting for c in kept] + [c.setting for c in alone[: MOST_PREDICTIONS - 1 - len(kept)]]
    first += [s for s in data.settings if s not in first]
    return [s for s in first if _folder_of(data, s) is not None][:MOST_PREDICTIONS]


def _folder_of(data: ReportData, setting: Setting) -> Path | None:
    return next((data.predictions[k] for k in sorted(data.predictions) if k[0] == setting.id), None)


def segmentations(
    data: ReportData, means: pd.DataFrame, comparisons: list[Comparison]
) -> tuple[list[Row], list[str], list[str]]:
    """Best, median and worst test patient by the baseline: truth beside predictions.

    Returns:
        A row for each (title, tiles), column heads, and sentences about what could not be shown.
    """
    settings = [s for s in _chosen_settings(data, comparisons) if s.id in set(means["setting"])]
    if data.volumes is None or not settings:
        return [], [], ["There are no predictions to show."]
    ranked = _ranked(means, settings[0])
    places = {"Best": 0, "Median": len(ranked) // 2, "Worst": len(ranked) - 1}
    if len(ranked) < 3:
        places = dict(zip(("Best", "Worst"), range(len(ranked)), strict=False))
    try:
        volumes = VolumeSet.open(data.volumes)
        # one window for up to four test patients
        under, some = overlay_channel(volumes.channels), ranked[:: max(1, len(ranked) // 4)][:4]
        pixels = [volumes.read(s).images[:, under].ravel()[::7] for s in some]
    except UnderstudyError as error:
        return [], [], [f"The test volumes could not be read: {error.what}."]
    window, cases, absent = slices.channel_window(np.concatenate(pixels)[None]), [], []
    for word, place in places.items():
        try:
            volume, dice = volumes.read(ranked[place]), _dice_of(means, ranked[place])
            cases.append(_case(data, volumes, volume, window, word, settings, dice))
        except (UnderstudyError, OSError, KeyError, ValueError) as error:
            what = error.what if isinstance(error, UnderstudyError) else f"the file cannot be read ({error})"
            absent.append(data.hide(f"{word}: {ranked[place]} is not shown: {what}."))
    return cases, ["Slice", "Truth", *(s.label for s in settings)], absent


def _ranked(means: pd.DataFrame, setting: Setting) -> list[str]:
    """Test patients by mean Dice, the best first."""
    mine = means[(means["setting"] == setting.id) & (means["class_name"] == MEAN)]
    return [str(s) for s in mine.sort_values("dice", ascending=False, kind="stable")["subject"]]


def _dice_of(means: pd.DataFrame, subject: str) -> dict[str, str]:
    """Setting -> mean Dice of a patient, in words."""
    mine = means[(means["subject"].astype(str) == subject) & (means["class_name"] == MEAN)]
    return {str(s): f"{dice:.2f}" for s, dice in zip(mine["setting"], mine["dice"], strict=True)}


def _prediction(data: ReportData, setting: Setting, volume: TestVolume) -> NDArray[np.uint8]:
    """What the setting's first network found, [Z, H, W]."""
    folder = _folder_of(data, setting)
    path = (folder or Path()) / f"{volume.subject}.npz"
    if not path.is_file():
        raise UnderstudyError(f"there is no prediction {path.name}", where=folder)
    prediction = read_array(path, "prediction")
    if prediction.shape != volume.truth.shape:
        shapes = f"{prediction.shape}, not {volume.truth.shape}"
        raise UnderstudyError(f"the prediction {path.name} has the shape {shapes}")
    return prediction


def _case(
    data: ReportData, volumes: VolumeSet, volume: TestVolume, window: tuple[float, float], word: str,
    settings: list[Setting], dice: dict[str, str],
) -> Row:  # fmt: skip
    stacks = [_prediction(data, s, volume) for s in settings]
    # the largest true tumour, and where none is annotated, the largest prediction
    z = int(np.argmax((volume.truth > 0).sum((1, 2)) * 1_000_000 + (stacks[0] > 0).sum((1, 2))))
    view, predicted = View(volumes, volume, z, window, CASE), [slices.upright(s[z], volumes.axes) for s in stacks]
    if view.truth.any():
        view.frame_around(np.any([view.truth, *predicted], axis=0))
    name = f"{word}: {data.patient_names.get(volume.subject, volume.subject)}"
    tiles = view.first_tiles(name, f"{name}, slice {z}")
    for s, p in zip(settings, predicted, strict=True):
        score = f"Dice {dice[s.id]}" if s.id in dice else "not scored"
        text = f"{name}, prediction after training on: {s.label}, {score}"
        tiles.append(Tile(view.drawn(p, view.truth), text, score))
    return name + (f", {volume.site}" if volume.site else ""), tiles


def _setting_sheets(data: ReportData, means: pd.DataFrame) -> list[Sheet]:
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
        networks = [[s for s in settings if s.segmenter == n] for n in dict.fromkeys(s.segmenter for s in settings)]
        return [_sheet(data, volumes, volume, mine, _dice_of(means, volume.subject)) for mine in networks]
    except (UnderstudyError, IndexError, OSError, ValueError):
        return []  # the section says which volumes and predictions cannot be read


def _sheet(
    data: ReportData, volumes: VolumeSet, volume: TestVolume, settings: list[Setting], dice: dict[str, str]
) -> Sheet:
    z, under = int(np.argmax((volume.truth > 0).sum((1, 2)))), overlay_channel(volumes.channels)
    view = View(volumes, volume, z, slices.channel_window(volume.images[:, under]), SHEET)
    words = f"{data.patient_names.get(volume.subject, volume.subject)}, slice {z + 1}"

    def tile(s: Setting, caption: str = "Dice") -> Tile:
        predicted, score = slices.upright(_prediction(data, s, volume)[z], volumes.axes), dice.get(s.id, "not scored")
        return Tile(view.drawn(predicted, view.truth), f"{words}, {s.label}, Dice {score}", f"{caption} {score}")

    ways = {s.id: WORDS[s.training] + ("" if s.augmentation else ", no augmentation") for s in settings}
    first = view.first_tiles(words, words)
    first += [tile(s, f"{ways[s.id]}:") for s in settings if s.training == "real"]
    made = {(ways[s.id], s.generator): s for s in settings if s.generator}
    generators = list(dict.fromkeys(g for _, g in made))
    rows: list[tuple[str, list[Tile | None]]] = []
    for name in dict.fromkeys(name for name, _ in made):
        rows.append((name, [tile(made[name, g]) if (name, g) in made else None for g in generators]))
    network = settings[0].segmenter
    return Sheet(network, f"{data.shown(network)}: {words}", first, [data.shown(g) for g in generators], rows)
