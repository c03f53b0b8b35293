"""Plots as small vector panels that a page lays out side by side on a screen and below each other on a phone."""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from understudy.checkpoints import History
from understudy.metrics.statistics import MEAN
from understudy.report.data import ReportData, Setting

INK, QUIET, RULE = "#222222", "#5F6670", "#D9DDE3"
DARKER = ["#D55E00", "#2A7FB8", "#A8960C", "#009E73", "#B0528A"]  # of the class colours, for lines on white
REAL_COLOUR, SYNTHETIC_COLOUR = "#222222", "#AA3377"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same measures everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": QUIET,
    "axes.edgecolor": "#9AA1AB",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8EBEF",
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.color": INK,
    "axes.titlecolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",  # text stays text: sharp, small, and in the page's own font
    "svg.hashsalt": "understudy",
    "lines.linewidth": 1.6,
}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PANEL, NARROW = (4.0, 2.75), (3.1, 2.75)  # inches: three beside each other on a screen, or four
MOST_SETTINGS = 6  # in one plot; of a larger grid only those that differ from the baseline in their slices
MOST_POINTS = 400  # of a curve: more than the pixels of a panel only makes the page heavy


@dataclass(frozen=True)
class Panel:
    """A picture for the page: `data:` address, what it shows in words, and whether it takes the whole width."""

    src: str
    alt: str
    wide: bool = False


@contextmanager
def styled() -> Iterator[None]:
    """The look of all figures, for one with several axes."""
    with mpl.rc_context(STYLE):
        yield


@contextmanager
def _axes(size: tuple[float, float] = PANEL) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def _panel(figure: Figure, alt: str, wide: bool = False) -> Panel:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?(?=[;\"])", FONTS, buffer.getvalue())
    return Panel("data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode("ascii"), alt, wide)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = max(1, -(-len(x) // MOST_POINTS))
    return (x, y) if step == 1 else (np.append(x[:-1:step], x[-1]), np.append(y[:-1:step], y[-1]))


def _finite(lines: list[dict[str, Any]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a history that have both values."""
    pairs = [(line[x], line[y]) for line in lines if _is_number(line.get(x)) and _is_number(line.get(y))]
    points = np.array(pairs, float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def generator_curves(name: str, path: Path, real_shares: dict[str, float]) -> list[Panel]:
    """Losses, augmentation, classes found in samples and speed of one generator's training; [] without a history.

    `real_shares`: class -> share of real slices that have it, drawn as a dotted line.
    """
    lines = History.read(path)
    made = []
    shares = {
        f"share_{c}": (c, colour) for c, colour in zip(real_shares, DARKER * len(real_shares), strict=False)
    }
    groups: tuple[tuple[str, dict[str, tuple[str, str]], str], ...] = (
        ("Losses", {"loss_g": ("generator", SYNTHETIC_COLOUR), "loss_d": ("discriminator", INK)}, ""),
        (
            "Discriminator overfitting",
            {
                "ada_p": ("augmentation probability", SYNTHETIC_COLOUR),
                "real_sign": ("sign of real scores", INK),
            },
            "",
        ),
        ("Samples with each class", shares, ""),
        ("Speed", {"images_per_second": ("images/s", INK)}, "images/s"),
    )
    for title, curves, unit in groups:
        found = {key: _finite(lines, "kimg", key) for key in curves}
        if not any(len(x) for x, _ in found.values()):
            continue
        with _axes(NARROW) as (figure, axes):
            for key, (x, y) in found.items():
                if len(x):
                    label, colour = curves[key]
                    marker = "o" if len(x) < 3 else ""
                    axes.plot(*_thinned(x, y), color=colour, label=label, marker=marker, markersize=4)
                    if key in shares:
                        axes.axhline(real_shares[label], color=colour, linestyle=":", linewidth=1.2)
            axes.set(title=title, xlabel="thousand real images shown", ylabel=unit)
            if title == "Speed" or curves is shares:
                axes.set_ylim(bottom=0)
            if len(curves) > 1:
                axes.legend()
            ends = "; ".join(f"{curves[k][0]} ends at {y[-1]:.3g}" for k, (x, y) in found.items() if len(x))
            made.append(_panel(figure, f"{title} of the generator {name} over its training: {ends}."))
    return made


def segmenter_curves(data: ReportData) -> list[Panel]:
    """Validation Dice and training loss of every segmenter over the slices seen; [] without histories."""
    chosen = {s.id: s for s in data.closest(MOST_SETTINGS)}
    order = list(chosen)
    histories = sorted(
        ((k, path) for k, path in data.segmenter_histories.items() if k[0] in chosen),
        key=lambda entry: (order.index(entry[0][0]), entry[0][1]),
    )
    made = []
    for key, title in (("val_dice", "Validation Dice"), ("loss", "Training loss")):
        with _axes((4.6, 3.0)) as (figure, axes):
            said, ends = set(), []
            for (setting_id, _), path in histories:
                setting = chosen[setting_id]
                x, y = _finite(History.read(path), "samples", key)
                if not len(x):
                    continue
                marker = setting.marker if len(x) < 25 else ""
                (line,) = axes.plot(
                    *_thinned(x / 1000, y), color=setting.colour, marker=marker, markersize=3.5
                )
                if setting_id not in said:
                    line.set_label(setting.label)
                said.add(setting_id)
                ends.append(f"{setting.label} ends at {y[-1]:.3f}")
            if not ends:
                continue
            axes.set(title=title, xlabel="thousand training slices seen")
            if key == "val_dice":
                axes.set_ylim(0, 1)
            axes.legend()
            made.append(
                _panel(figure, f"{title} over the training of the segmentation networks: {'; '.join(ends)}.")
            )
    return made


def patient_dots(
    data: ReportData, means: pd.DataFrame, summary: pd.DataFrame, width: float = PANEL[0]
) -> list[Panel]:
    """One panel a class: a dot for each patient and setting, lines join a patient's, the mean with its interval."""
    settings = [s for s in data.closest(MOST_SETTINGS) if s.id in set(means["setting"])]
    names = [MEAN, *data.class_names] if len(data.class_names) > 1 else list(data.class_names)
    made = []
    for name in names:
        wide = len(settings) > 4
        size = (min(max(9.0, 1.2 + 0.95 * len(settings)), 12) if wide else width, 3.2)
        with _axes(size) as (figure, axes):
            said = _draw_dots(axes, settings, means[means["class_name"] == name], summary, name, data.scope)
            title = "Mean over the classes" if name == MEAN else name
            axes.set(title=title, ylabel="Dice", ylim=(-0.03, 1.03))
            made.append(
                _panel(figure, f"Dice of each test patient, {title}. Means: {'; '.join(said)}.", wide)
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
            axes.plot(
                [at, at], [e["low"], e["high"]], color=s.colour, linewidth=2, zorder=3, solid_capstyle="butt"
            )
            axes.plot(
                at,
                e["value"],
                marker=s.marker,
                color=s.colour,
                markersize=7,
                markeredgecolor="white",
                zorder=4,
            )
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
    with _axes(
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
            range(len(sites)),
            [f"{site or 'unknown'}\n(n = {n})" for site, n in zip(sites, counts, strict=True)],
        )
        axes.set(title="By hospital", ylabel="Dice, mean over the classes", ylim=(-0.03, 1.03))
        axes.grid(axis="x", visible=False)
        longest = max(len(s.label) for s in settings)
        columns = 3 if wide or longest < 20 else 2 if longest < 28 else 1
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns, handletextpad=0.1,
                      columnspacing=1.0)  # fmt: skip
        return [
            _panel(figure, f"Dice of the test patients by hospital ({', '.join(sites)}) and setting.", wide)
        ]


def distribution(
    title: str, xlabel: str, values_of: dict[str, np.ndarray], kinds: dict[str, str], narrow: bool = False
) -> Panel | None:
    """Cumulative shares of slices, real against synthetic; None if there is nothing to draw.

    Args:
        title, xlabel: of the panel.
        values_of: name of the set -> one value a slice.
        kinds: name of the set -> "real" or "synthetic".
        narrow: four panels stand beside each other instead of three.
    """
    curves = {name: np.sort(values) for name, values in values_of.items() if len(values)}
    if not curves:
        return None
    styles = iter(["-", "--", ":", "-."] * len(curves))
    low, high = (f([f(v) for v in curves.values()]) for f in (min, max))
    with _axes(NARROW if narrow else PANEL) as (figure, axes):
        for name, values in curves.items():
            real = kinds[name] == "real"
            share = np.arange(1, len(values) + 1) / len(values)
            (line,) = axes.plot(*_thinned(values, share), label=name, drawstyle="steps-post")
            line.set(color=REAL_COLOUR if real else SYNTHETIC_COLOUR, linestyle="-" if real else next(styles))
        if low > 0 and high > 20 * low:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        axes.set(title=title, xlabel=xlabel, ylabel="share of slices", ylim=(0, 1.02))
        if len(curves) > 1:
            axes.legend(loc="best")
        said = ", ".join(f"median {np.median(v):.3g} ({name})" for name, v in curves.items())
        return _panel(figure, f"{title}, cumulative share of slices: {said}.")
