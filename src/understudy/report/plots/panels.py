"""Plots as small vector panels that a page lays out side by side on a screen and below each other on a phone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from understudy.metrics.statistics import MEAN
from understudy.report.data import ReportData, Setting
from understudy.report.plots.style import (
    INK,
    NARROW,
    PANEL,
    REAL_COLOUR,
    SYNTHETIC_COLOUR,
    Look,
    Panel,
    legend_below,
    looks,
    one_plot,
    panel_of,
    thinned,
)
from understudy.runtime.checkpoints import History

DARKER = ["#D55E00", "#2A7FB8", "#A8960C", "#009E73", "#B0528A"]  # of the class colours, for lines on white
MOST_SETTINGS = 6  # in one plot; of a larger grid only those that differ from the baseline in their slices


def _finite(lines: list[dict[str, Any]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a history that have both values."""
    pairs = [(line[x], line[y]) for line in lines if _is_number(line.get(x)) and _is_number(line.get(y))]
    points = np.array(pairs, float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def generator_curves(name: str, path: Path, real_shares: dict[str, float], shown: str = "") -> list[Panel]:
    """Losses, augmentation, classes found in samples and speed of one generator's training; [] without a history.

    Args:
        name: of the generator, for the files. shown: as it is written for people.
        path: of its history.
        real_shares: class -> share of real slices that have it, drawn as a dotted line.
    """
    lines = History.read(path)
    drawn = [
        _training_curves(name, shown or name, title, curves, lines, real_shares)
        for title, curves in _curves_of_generator(real_shares).items()
    ]
    return [panel for panel in drawn if panel is not None]


def _curves_of_generator(real_shares: dict[str, float]) -> dict[str, dict[str, tuple[str, str]]]:
    """Title of a panel -> key in the history -> label and colour."""
    colours = (DARKER[i % len(DARKER)] for i in range(len(real_shares)))
    return {
        "Losses": {"loss_g": ("generator", SYNTHETIC_COLOUR), "loss_d": ("discriminator", INK)},
        "Discriminator overfitting": {
            "ada_p": ("augmentation probability", SYNTHETIC_COLOUR),
            "real_sign": ("sign of real scores", INK),
        },
        "Samples with each class": {f"share_{c}": (c, k) for c, k in zip(real_shares, colours, strict=True)},
        "Speed": {"images_per_second": ("images/s", INK)},
    }


def _training_curves(
    name: str,
    shown: str,
    title: str,
    curves: dict[str, tuple[str, str]],
    lines: list[dict[str, Any]],
    real_shares: dict[str, float],
) -> Panel | None:
    """A panel of a generator's training; None if its history has nothing of it."""
    found = {key: _finite(lines, "kimg", key) for key in curves}
    if not any(len(x) for x, _ in found.values()):
        return None
    with one_plot(NARROW) as (figure, axes):
        for key, (x, y) in found.items():
            if len(x):
                label, colour = curves[key]
                marker = "o" if len(x) < 3 else ""
                axes.plot(*thinned(x, y), color=colour, label=label, marker=marker, markersize=4)
                if key.startswith("share_"):
                    axes.axhline(real_shares[label], color=colour, linestyle=":", linewidth=1.2)
        axes.set(title=title, xlabel="thousand real images shown")
        axes.set_ylabel("images/s" if title == "Speed" else "share of samples" if "class" in title else "")
        if title == "Speed" or "class" in title:
            axes.set_ylim(bottom=0)
        if len(curves) > 1:
            legend_below(figure, axes, 3)
        ends = "; ".join(f"{curves[k][0]} ends at {y[-1]:.3g}" for k, (x, y) in found.items() if len(x))
        said = f"{title} of the generator {shown} over its training: {ends}."
        return panel_of(figure, said, key=f"training_{name}_{title.split()[0].lower()}")


def segmenter_curves(data: ReportData) -> list[Panel]:
    """Validation Dice and training loss of every segmenter over the slices seen; [] without histories."""
    chosen = {s.id: s for s in data.closest(MOST_SETTINGS)}
    order = list(chosen)
    histories = sorted(
        ((k, path) for k, path in data.segmenter_histories.items() if k[0] in chosen),
        key=lambda entry: (order.index(entry[0][0]), entry[0][1]),
    )
    wanted = (("val_dice", "Validation Dice"), ("loss", "Training loss"))
    drawn = [
        _segmenter_panel(data, key, title, [(chosen[k[0]], path) for k, path in histories]) for key, title in wanted
    ]
    return [panel for panel in drawn if panel is not None]


def _segmenter_panel(data: ReportData, key: str, title: str, histories: list[tuple[Setting, Path]]) -> Panel | None:
    with one_plot((5.6, 2.9)) as (figure, axes):
        ends: dict[str, list[str]] = {}
        for setting, path in histories:
            x, y = _finite(History.read(path), "samples", key)
            if not len(x):
                continue
            (line,) = axes.plot(*thinned(x / 1000, y), **line_of(data, setting))
            crowded = len(x) > 8
            line.set(marker="" if crowded else line_of(data, setting).get("marker", setting.marker), markersize=4)
            if setting.label not in ends:
                line.set_label(setting.label)
            ends.setdefault(setting.label, []).append(f"{y[-1]:.3f}")
        if not ends:
            return None
        axes.set(title=title, xlabel="thousand training slices seen")
        if key == "val_dice":
            axes.set_ylim(0, 1)
        legend_below(figure, axes, 2)
        said = "; ".join(f"{label} ends at {', '.join(values)}" for label, values in ends.items())
        text = f"{title} over the training of the segmentation networks: {said}."
        return panel_of(figure, text, key=f"training_segmenters_{key}")


def line_of(data: ReportData, setting: Setting) -> dict[str, Any]:
    """Colour and dashes of a setting's curve: with several generators by these, synthetic slices alone are dashed."""
    if len(data.generators) < 2 or not setting.generator:
        return {"color": setting.colour}
    look = data_looks(data)[setting.generator]
    alone = setting.training == "synthetic"
    return {"color": look.colour, "linestyle": (0, (2.2, 1.4)) if alone else "-", "marker": look.marker}


def data_looks(data: ReportData) -> dict[str, Look]:
    """A look for each generator of the study, the same in every figure."""
    return looks(data.generators)


def patient_dots(data: ReportData, means: pd.DataFrame, summary: pd.DataFrame, width: float = PANEL[0]) -> list[Panel]:
    """One panel a class: a dot for each patient and setting, lines join a patient's, the mean with its interval."""
    settings = [s for s in data.closest(MOST_SETTINGS) if s.id in set(means["setting"])]
    names = [MEAN, *data.class_names] if len(data.class_names) > 1 else list(data.class_names)
    made = []
    for name in names:
        wide = len(settings) > 4
        size = (min(max(9.0, 1.2 + 0.95 * len(settings)), 12) if wide else width, 3.2)
        with one_plot(size) as (figure, axes):
            said = _draw_dots(axes, settings, means[means["class_name"] == name], summary, name, data.scope)
            title = "Mean over the classes" if name == MEAN else name
            axes.set(title=title, ylabel="Dice", ylim=(-0.03, 1.03))
            made.append(
                panel_of(
                    figure,
                    f"Dice of each test patient, {title}. Means: {'; '.join(said)}.",
                    wide,
                    f"patients_{'mean' if name == MEAN else name}",
                )
            )
    return made


def _draw_dots(
    axes: Axes, settings: Sequence[Setting], means: pd.DataFrame, summary: pd.DataFrame, name: str, scope: str
) -> list[str]:
    table = means.pivot_table("dice", "subject", "setting").reindex(columns=[s.id for s in settings])
    x = np.arange(len(settings))
    for values in table.to_numpy():
        axes.plot(x, values, color="#C3C9D1", linewidth=0.7, zorder=1)
    said = []
    for i, s in enumerate(settings):
        dots = table[s.id].to_numpy()
        axes.scatter(np.full(len(dots), i), dots, s=16, color=s.colour, alpha=0.55, linewidths=0, zorder=2)
        found = summary[
            (summary["setting"] == s.id)
            & (summary["class_name"] == name)
            & (summary["metric"] == "dice")
            & (summary["scope"] == scope)
            & (summary["policy"] == "brats")
        ]
        if len(found):
            e = found.iloc[0]
            at = i + 0.24
            axes.plot([at, at], [e["low"], e["high"]], color=s.colour, linewidth=2, zorder=3, solid_capstyle="butt")
            axes.plot(at, e["value"], marker=s.marker, color=s.colour, markersize=7, markeredgecolor="white", zorder=4)
            axes.annotate(f"{e['value']:.2f}", (at, e["value"]), (7, 0), textcoords="offset points", va="center",
                          fontsize=8.5, color=s.colour, fontweight="bold",
                          bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})  # fmt: skip
            said.append(f"{s.label} {e['value']:.3f}, interval {e['low']:.3f} to {e['high']:.3f}")
    axes.set_xticks(x, [textwrap.fill(s.label, 14) for s in settings])
    axes.set_xlim(-0.35, len(settings) - 1 + 0.75)
    axes.grid(axis="x", visible=False)
    return said


def site_dots(data: ReportData, means: pd.DataFrame, width: float = PANEL[0]) -> list[Panel]:
    """Dice by hospital: one column a site, every setting beside the others; [] for fewer than two sites."""
    mean = means[means["class_name"] == MEAN]
    sites = sorted(mean["site"].astype(str).unique())
    settings = [s for s in data.closest(MOST_SETTINGS) if s.id in set(mean["setting"])]
    if len(sites) < 2:
        return []
    wide = len(sites) * len(settings) > 14
    with one_plot(
        (
            min(max(9.0, 1.5 + 0.28 * len(sites) * len(settings)), 12) if wide else width,
            3.2 + 0.2 * (len(settings) // (4 if wide else 2)),
        )
    ) as (figure, axes):
        step = 0.72 / max(len(settings), 1)
        for i, s in enumerate(settings):
            offsets = np.arange(len(sites)) + (i - (len(settings) - 1) / 2) * step
            mine = mean[mean["setting"] == s.id]
            values = [mine.loc[mine["site"].astype(str) == site, "dice"].to_numpy() for site in sites]
            for at, dots in zip(offsets, values, strict=True):
                axes.scatter(np.full(len(dots), at), dots, s=12, color=s.colour, alpha=0.45, linewidths=0)
            centres = [float(np.mean(v)) if len(v) else np.nan for v in values]
            axes.plot(offsets, centres, linestyle="", marker=s.marker, markersize=7, color=s.colour,
                      markeredgecolor="white", label=s.label)  # fmt: skip
        counts = [mean.loc[mean["site"].astype(str) == site, "subject"].nunique() for site in sites]
        axes.set_xticks(
            range(len(sites)), [f"{site or 'unknown'}\n(n = {n})" for site, n in zip(sites, counts, strict=True)]
        )
        axes.set(title="By hospital", ylabel="Dice, mean over the classes", ylim=(-0.03, 1.03))
        axes.grid(axis="x", visible=False)
        longest = max(len(s.label) for s in settings)
        columns = 3 if wide or longest < 20 else 2 if longest < 28 else 1
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns, handletextpad=0.1,
                      columnspacing=1.0)  # fmt: skip
        return [
            panel_of(
                figure, f"Dice of the test patients by hospital ({', '.join(sites)}) and setting.", wide, "hospitals"
            )
        ]


def distribution(
    title: str,
    xlabel: str,
    values_of: dict[str, np.ndarray],
    kinds: dict[str, str],
    narrow: bool = False,
    key: str = "",
) -> Panel | None:
    """Cumulative shares of slices, real against synthetic; None if there is nothing to draw.

    Args:
        title, xlabel: of the panel.
        values_of: name of the set -> one value a slice.
        kinds: name of the set -> "real" or "synthetic", in the order of the study.
        narrow: four panels stand beside each other instead of three.
        key: name of its files.
    """
    curves = {name: np.sort(values) for name, values in values_of.items() if len(values)}
    if not curves:
        return None
    look = looks([name for name, kind in kinds.items() if kind != "real"])
    low, high = (f([f(v) for v in curves.values()]) for f in (min, max))
    with one_plot(NARROW if narrow else PANEL) as (figure, axes):
        for name, values in curves.items():
            share = np.arange(1, len(values) + 1) / len(values)
            (line,) = axes.plot(*thinned(values, share), label=name, drawstyle="steps-post")
            if name in look:
                line.set(color=look[name].colour, linestyle=look[name].dashes)
            else:
                line.set(color=REAL_COLOUR)
        if low > 0 and high > 20 * low:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        axes.set(title=title, xlabel=xlabel, ylabel="share of slices", ylim=(0, 1.02))
        if len(curves) > 1:
            legend_below(figure, axes, 3)
        said = ", ".join(f"median {np.median(v):.3g} ({name})" for name, v in curves.items())
        return panel_of(figure, f"{title}, cumulative share of slices: {said}.", key=key)
