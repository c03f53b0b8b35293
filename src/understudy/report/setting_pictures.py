"""The paper's Figures 1, 4 and 5: a slice of every generator beside a real one, one test slice under every setting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.metrics.statistics import MEAN
from understudy.report.data import ReportData, Setting
from understudy.report.gallery import Gallery, Tile, _folder, _on_original_grid, _prediction, overlay_channel
from understudy.report.paper_tables import paper_settings
from understudy.report.pictures import channel_window, enlarged, overlay, png, square_around, upright
from understudy.volumes import TestVolume, VolumeSet

PIXELS = 150  # edge of a panel
WORDS = {"real": "real", "both": "real + synthetic", "synthetic": "synthetic"}


@dataclass(frozen=True)
class Sheet:
    """All settings of one network on one slice: a title, and tiles with their words below."""

    title: str
    tiles: list[Tile]


def sample_rows(gallery: Gallery) -> list[tuple[str, list[Tile]]]:
    """Figure 1: one row a set, real first: the first slice with an annotation that was drawn, else any."""
    annotated = {b.group: b.rows[0] for b in gallery.annotated if b.rows}
    return [(b.group, annotated.get(b.group, b.rows[0])) for b in gallery.random if b.rows]


def setting_sheets(data: ReportData, means: pd.DataFrame) -> list[Sheet]:
    """Figures 4 and 5: the median test patient's slice with the largest tumour, a sheet a network.

    [] without volumes, predictions, or more settings than the page shows anyway.
    """
    shown = [s for s in paper_settings(data) if _folder(data, s) is not None]
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
    data: ReportData,
    volumes: VolumeSet,
    volume: TestVolume,
    network: str,
    settings: list[Setting],
    means: pd.DataFrame,
) -> Sheet:
    z = int(np.argmax((volume.truth > 0).sum((1, 2))))
    under = overlay_channel(volumes.channels)
    window = channel_window(volume.images[:, under])
    grey = upright(_on_original_grid(volume, z, under, window), volumes.axes)
    truth = upright(volume.truth[z], volumes.axes)
    top, bottom, left, right = square_around(truth > 0, round(0.42 * min(truth.shape)))
    crop, factor = (slice(top, bottom), slice(left, right)), max(1, round(PIXELS / (bottom - top)))

    def drawn(labels: np.ndarray, outline: np.ndarray | None) -> str:
        parts = [enlarged(a[crop], factor) for a in (grey, labels)]
        line = None if outline is None else enlarged(outline[crop], factor)
        return png(overlay(parts[0], parts[1], len(volumes.classes) - 1, line, fill=0.35))

    name = data.patient_names.get(volume.subject, volume.subject)
    tiles = [Tile(drawn(truth, None), f"{name}, slice {z + 1}, truth", "truth")]
    for s in settings:
        folder = _folder(data, s)
        if folder is None:
            continue
        predicted = upright(_prediction(folder, volume.subject, volume.truth.shape)[z], volumes.axes)
        row = means[
            (means["setting"] == s.id)
            & (means["subject"].astype(str) == volume.subject)
            & (means["class_name"] == MEAN)
        ]
        dice = f"{row['dice'].iloc[0]:.2f}" if len(row) else "not scored"
        words = ", ".join(
            part
            for part in (s.generator, WORDS[s.training], "" if s.augmentation else "no augmentation")
            if part
        )
        tiles.append(Tile(drawn(predicted, truth), f"{name}, {s.label}, Dice {dice}", f"{words}: {dice}"))
    return Sheet(f"{network}: {name}, slice {z + 1}", tiles)
