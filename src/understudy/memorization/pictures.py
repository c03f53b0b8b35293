"""Pictures of an audit for those who may see the training images: they go to the audit's `private` folder only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from understudy.io.files import atomic_path
from understudy.memorization.frames import FRAME
from understudy.memorization.registration import onto
from understudy.memorization.views import COPY_VIEW, SHOWN, TITLES, transform
from understudy.memorization.windows import DISC
from understudy.slices import SliceSet

if TYPE_CHECKING:
    from understudy.memorization.perform import AuditResult

INK, QUIET = "#222222", "#5F6670"
COLOURS = {"held-out": "#8A8A8A", "synthetic": "#AA3377", "planted": "#D55E00"}
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#9AA1AB",
    "axes.labelcolor": QUIET, "xtick.color": QUIET, "ytick.color": QUIET, "text.color": INK, "legend.frameon": False,
}  # fmt: skip
Slices = NDArray[np.uint8]
DASHED: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (4, 2))}


def save_pictures(done: AuditResult, training: SliceSet, synthetic: SliceSet, out: str | Path) -> None:
    """Writes `private/histograms.png` and `private/gallery.png` of an audit's folder."""
    with mpl.rc_context(STYLE):
        figure = Figure()
        histograms(done.numbers, figure)
        _save(figure, Path(out) / "private" / "histograms.png")
        _save(_gallery(done, training, synthetic), Path(out) / "private" / "gallery.png")


def save_sweep(table: pd.DataFrame, path: str | Path, expected: float) -> None:
    """Share of flagged slices against the number of training patients (columns as `study.derived` makes them)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        ax = figure.subplots()
        x, y = table["patients"], 100 * table["rate"]
        off = np.abs(100 * table[["low", "high"]].to_numpy().T - y.to_numpy())
        ax.errorbar(x, y, yerr=off, marker="o", color=COLOURS["synthetic"], capsize=3, linewidth=1.4)
        ax.axhline(100 * expected, **DASHED)
        ax.text(x.iloc[-1], 100 * expected, "chance ", ha="right", va="bottom", fontsize=8, color=QUIET)
        ax.set_xscale("log")
        ax.set_xticks(x, [str(n) for n in x])
        ax.minorticks_off()
        ax.set_yscale("symlog", linthresh=1)
        ax.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        ax.set_ylim(0, 130)
        ax.set_xlabel("training patients")
        ax.set_ylabel("synthetic slices too near, %")
        ax.set_title("Where copying starts", loc="left", fontsize=10, weight="bold")
        _save(figure, Path(path))


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def histograms(numbers: dict[str, Any], figure: Figure) -> NDArray[Any]:
    """For each tested view three histograms below each other: held-out, synthetic, planted copies; the axes [3, V]."""
    figure.set_size_inches(4.6 * len(SHOWN), 4.4)
    figure.set_layout_engine("constrained")
    axes: NDArray[Any] = figure.subplots(3, len(SHOWN), sharex="col", squeeze=False)
    for v, view in enumerate(SHOWN):
        shown = numbers["histograms"][view]
        edges = np.array(shown["edges"])
        limit = numbers["null"]["thresholds"][view]
        groups = list(shown["counts"].items())
        for ax, (name, counts) in zip(axes[:, v], (groups[1], groups[0], groups[2]), strict=True):
            colour = COLOURS.get(name, COLOURS["planted"])
            total = max(1, sum(counts))
            ax.stairs(np.array(counts) / total, edges, fill=True, color=colour, alpha=0.85)
            if limit is not None:
                ax.axvline(limit, **DASHED)
            label = {"held-out": "held-out patients", "synthetic": "synthetic"}.get(name, f"planted copies ({name})")
            ax.text(0.01, 0.97, label, transform=ax.transAxes, va="top", color=colour, weight="bold")
            ax.set_yticks([])
            ax.set_ylim(0, 1.3 * max(counts) / total or 1)  # the label is above the bars
        axes[0, v].set_title(TITLES[view].capitalize(), loc="left", fontsize=10, weight="bold")
    part = f"{100 * numbers['rule']['quantile']:g} %"
    figure.supxlabel(f"nearness to a training slice (dashed: {part} of held-out slices)", fontsize=10)
    return axes


def _gallery(done: AuditResult, training: SliceSet, synthetic: SliceSet) -> Figure:
    """The closest pairs, most suspicious first.

    For each channel: synthetic, nearest training slice, the same moved onto the synthetic, and the difference.
    """
    order = done.neighbours.sort_values(["p", f"{COPY_VIEW}.score"], ascending=[True, False]).head(12)
    channels = training.channels
    of_synthetic = [synthetic.channels.index(name) for name in channels]
    rows, columns = len(order), 4 * len(channels)
    figure = Figure(figsize=(0.85 * columns + 1.7, 0.92 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)  # type: ignore[union-attr,call-arg]
    for i, pair in enumerate(order.to_dict(orient="records")):
        made, labels = (x[0] for x in synthetic.read([int(pair["row"])]))
        real, marked = (x[0] for x in training.read([int(pair["training_row"])]))
        found = pair["kind"] if isinstance(pair.get("kind"), str) else "dimmed"
        made, box = made[of_synthetic], _box(found, pair, labels)
        moved = _moved(made, labels, real, marked, found, int(pair["transform"]))
        for c, name in enumerate(channels):
            _pair(axes[i, 4 * c : 4 * c + 4], made[c], real[c], moved[c], box, name if i == 0 else "")
        note = f"#{pair['row']}  p {pair['p']:.2g}\n{found}\n{pair['name'] or 'not flagged'}"
        axes[i, 0].set_ylabel(note, rotation=0, ha="right", va="center", fontsize=8, color=INK)
    return figure


def _moved(made: Slices, labels: Slices, real: Slices, marked: Slices, kind: str, turned: int) -> NDArray[Any]:
    """The training slice [C, H, W] on the synthetic one; of a copied lesion its annotation on the other's."""
    if kind in ("part", "dimmed"):  # found in place
        return real
    if kind == "lesion" and (labels > 0).any() and (marked > 0).any():
        real, marked = transform(real, turned), transform(marked, turned)
        down, right = (np.round(_middle(labels) - _middle(marked))).astype(int)
        return np.roll(real, (int(down), int(right)), (1, 2))
    moving, fixed = (torch.from_numpy(np.ascontiguousarray(x)) for x in (real, made))
    return onto(moving, fixed, turned >= 4, turned % 4, kind == "warped").numpy()


def _box(kind: str, pair: dict[Any, Any], labels: Slices) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of what alone is copied, in pixels; None for whole slices."""
    edge = labels.shape[-1]
    if kind == "part":
        size = DISC / FRAME
        top, left = (round((pair[axis] - size / 2) * edge) for axis in ("y", "x"))
        return top, left, round(size * edge), round(size * edge)
    if kind != "lesion" or not (labels > 0).any():
        return None
    rows, columns = (np.flatnonzero((labels > 0).any(axis)) for axis in (1, 0))
    return int(rows[0]) - 1, int(columns[0]) - 1, int(np.ptp(rows)) + 3, int(np.ptp(columns)) + 3


def _middle(labels: Slices) -> NDArray[np.float64]:
    return np.argwhere(labels > 0).mean(0)


def _pair(
    axes: NDArray[Any], made: Slices, real: Slices, moved: Slices, box: tuple[int, int, int, int] | None, name: str
) -> None:
    top = max(1.0, float(np.percentile(real, 99.5)), float(np.percentile(made, 99.5)))
    difference = made.astype(float) - moved.astype(float)
    ax: Axes
    for ax, shown in zip(axes, (made, real, moved), strict=False):
        ax.imshow(shown, cmap="gray", vmin=0, vmax=top)
    axes[3].imshow(difference, cmap="RdBu_r", vmin=-0.5 * top, vmax=0.5 * top)
    titles = (f"{name}\nsynthetic", f"{name}\ntraining", f"{name}\nmoved", "\ndifference")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title if name else "", fontsize=8)
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_visible(False)
        if box and ax is not axes[1]:
            y, x, height, width = box
            ax.add_patch(
                Rectangle((x - 0.5, y - 0.5), width, height, fill=False, color=COLOURS["planted"], linewidth=1)
            )
