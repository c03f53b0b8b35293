"""Curves: trainings of generators and segmenters, and Dice against the amount of real slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from understudy.metrics.bootstrap import per_repeat
from understudy.metrics.statistics import MEAN, cube
from understudy.report.data import TRAINING, ReportData, Setting
from understudy.report.plots import style
from understudy.report.plots.style import INK, NARROW, Look, Panel
from understudy.report.tables.base import Summary, mean_name
from understudy.runtime.checkpoints import History

DARKER = ["#D55E00", "#2A7FB8", "#A8960C", "#009E73", "#B0528A"]  # of the class colours, for lines on white
MOST_SETTINGS = 6  # in one plot; of a larger grid only those that differ from the baseline in their slices


def _finite(lines: list[dict[str, Any]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a history that have both values, as two arrays."""
    columns = pd.DataFrame(lines, columns=[x, y]).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    points = columns[np.isfinite(columns).all(axis=1)]
    return points[:, 0], points[:, 1]


def generator_curves(name: str, path: Path, real_shares: dict[str, float], shown: str = "") -> list[Panel]:
    """Losses, augmentation, classes in samples and speed of a generator's training by its history; [] without lines.

    `name` is for the files, `shown` for people; `real_shares` (class -> share of real slices with it) are dotted.
    """
    lines, made = History.read(path), []
    shares = {f"share_{c}": (c, DARKER[i % len(DARKER)]) for i, c in enumerate(real_shares)}
    # title, label of the axis, key in the history -> label and colour
    plots: list[tuple[str, str, dict[str, tuple[str, str]]]] = [
        ("Losses", "", {"loss_g": ("generator", style.SYNTHETIC_COLOUR), "loss_d": ("discriminator", INK)}),
        (
            "Discriminator overfitting", "",
            {"ada_p": ("augmentation probability", style.SYNTHETIC_COLOUR), "real_sign": ("sign of real scores", INK)},
        ),
        ("Samples with each class", "share of samples", shares),
        ("Speed", "images/s", {"images_per_second": ("images/s", INK)}),
    ]  # fmt: skip
    for title, ylabel, curves in plots:
        found = {key: _finite(lines, "kimg", key) for key in curves}
        found = {key: points for key, points in found.items() if len(points[0])}
        if not found:
            continue
        with style.one_plot(NARROW) as (figure, axes):
            for key, (x, y) in found.items():
                label, colour = curves[key]
                few = "o" if len(x) < 3 else ""
                axes.plot(*style.thinned(x, y), color=colour, label=label, marker=few, markersize=4)
                if key in shares:
                    axes.axhline(real_shares[label], color=colour, linestyle=":", linewidth=1.2)
            axes.set(title=title, xlabel="thousand real images shown", ylabel=ylabel)
            if ylabel:
                axes.set_ylim(bottom=0)
            if len(curves) > 1:
                style.legend_below(figure, axes, 3)
            ends = "; ".join(f"{curves[k][0]} ends at {y[-1]:.3g}" for k, (_, y) in found.items())
            said = f"{title} of the generator {shown or name} over its training: {ends}."
            made.append(style.panel_of(figure, said, key=f"training_{name}_{title.split()[0].lower()}"))
    return made


def segmenter_curves(data: ReportData) -> list[Panel]:
    """Validation Dice and training loss of every segmenter over the slices seen; [] without histories."""
    chosen = {s.id: s for s in data.closest(MOST_SETTINGS)}
    place = {name: i for i, name in enumerate(chosen)}
    keys = sorted((k for k in data.segmenter_histories if k[0] in chosen), key=lambda k: (place[k[0]], k[1]))
    histories = [(chosen[k[0]], History.read(data.segmenter_histories[k])) for k in keys]
    made = []
    for key, title in (("val_dice", "Validation Dice"), ("loss", "Training loss")):
        with style.one_plot((5.6, 2.9)) as (figure, axes):
            ends: dict[str, list[str]] = {}
            for setting, lines in histories:
                x, y = _finite(lines, "samples", key)
                if not len(x):
                    continue
                (line,) = axes.plot(*style.thinned(x / 1000, y), **_look_of(data, setting))
                if len(x) > 8:  # too many for markers
                    line.set(marker="")
                if setting.label not in ends:
                    line.set_label(setting.label)
                ends.setdefault(setting.label, []).append(f"{y[-1]:.3f}")
            if not ends:
                continue
            axes.set(title=title, xlabel="thousand training slices seen")
            if key == "val_dice":
                axes.set_ylim(0, 1)
            style.legend_below(figure, axes, 2)
            said = "; ".join(f"{label} ends at {', '.join(values)}" for label, values in ends.items())
            text = f"{title} over the training of the segmentation networks: {said}."
            made.append(style.panel_of(figure, text, key=f"training_segmenters_{key}"))
    return made


def _look_of(data: ReportData, setting: Setting) -> dict[str, Any]:
    """Of a setting's curve: with several generators coloured by these, synthetic slices alone are dashed."""
    if len(data.generators) < 2 or not setting.generator:
        return {"color": setting.colour, "marker": setting.marker, "markersize": 4}
    look = style.looks(data.generators)[setting.generator]
    dashes = (0, (2.2, 1.4)) if setting.training == "synthetic" else "-"
    return {"color": look.colour, "linestyle": dashes, "marker": look.marker, "markersize": 4}


Line = tuple[str, list[tuple[float, Setting]], Look]  # a curve's label, points (place on the axis, setting) and look


def line_of(data: ReportData, generator: str, augmented: bool, points: list[tuple[float, Setting]], label: str) -> Line:
    """With the look of the generator, or of real slices where there is none."""
    look = style.looks(data.generators).get(generator) or Look(TRAINING["real"][0], "-", "o")
    look = Look(look.colour, "-" if augmented else ":", look.marker)
    return label + ("" if augmented else ", no augmentation"), points, look


def dice_curves(
    data: ReportData, scored: pd.DataFrame, summary: Summary, lines: Sequence[Line], title: str, xlabel: str, key: str,
    ticks: dict[float, str], unit: str = " %",
) -> Panel:  # fmt: skip
    """Mean Dice with its interval by patient along each line, dots for single trainings, the real slices dashed.

    Args:
        scored: rows under the BraTS rule.
        ticks: place on the axis -> what is written there; in the words for the blind with `unit`.
    """
    name, said, tops = mean_name(data), [], [0.0]
    width = max(ticks) - min(ticks) or 1.0
    with style.one_plot((4.7, 3.1)) as (figure, axes):
        for i, (label, places, look) in enumerate(lines):
            # points of several lines do not cover each other
            aside = 0.011 * width * (i - (len(lines) - 1) / 2)
            found = [(x, s, summary.pick(s.id, "dice", name, data.scope)) for x, s in places]
            found = [point for point in found if np.isfinite(point[2]["value"])]
            if not found:
                continue
            x = np.array([p[0] for p in found]) + aside
            mid, low, high = (np.array([p[2][k] for p in found], float) for k in ("value", "low", "high"))
            around = [np.maximum(mid - low, 0), np.maximum(high - mid, 0)]
            axes.errorbar(
                x, mid, around, color=look.colour, linestyle=look.dashes, label=label, marker=look.marker,
                markersize=6.5, markeredgecolor="white", elinewidth=1.4, capsize=2.5, zorder=4,
            )  # fmt: skip
            tops += list(high[np.isfinite(high)])
            for at, (_, s, entry) in zip(x + 0.016 * width, found, strict=True):
                if entry["n_repeats"] > 1:
                    each = per_repeat(cube(scored, s.id, "dice", data.scope, data.class_names).values)
                    axes.scatter(np.full(len(each), at), each, s=9, color=look.colour, alpha=0.45, linewidths=0,
                                 zorder=2)  # fmt: skip
            points = ", ".join(f"{ticks[x]}{unit} {entry['value']:.3f}" for x, _, entry in found)
            said.append(f"{label}: {points}")
        base = data.baseline_of(lines[0][1][0][1])
        height = float(summary.pick(base.id, "dice", name, data.scope)["value"]) if base else np.nan
        if np.isfinite(height):
            # named in the legend: a curve near it would run through words beside the line
            label = f"all real slices {height:.2f}"
            axes.axhline(height, color=INK, linestyle="--", linewidth=1.1, label=label, zorder=1)
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set(title=title, xlabel=xlabel, xlim=(min(ticks) - 0.06 * width, max(ticks) + 0.06 * width))
        top = max([*tops, height if np.isfinite(height) else 0.5])
        axes.set(ylabel="Dice, mean over the classes" if name == MEAN else f"Dice, {name}")
        axes.set_ylim(0, min(1.03, 1.12 * top + 0.02))
        axes.grid(axis="x", visible=False)
        style.legend_below(figure, axes, 3)
        return style.panel_of(figure, f"Mean Dice against {xlabel}. {'; '.join(said)}.", key=key)
