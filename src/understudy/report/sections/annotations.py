"""The section on annotations: areas, shapes, borders and positions beside those of real patients.

Everything is drawn from numbers of many patients together; no slice is shown.
"""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from understudy.report.data import ReportData, count, number, percent
from understudy.report.plots.slices import upright
from understudy.report.plots.style import REAL_COLOUR, Look, Panel, legend_below, looks, one_plot, panel_of, styled
from understudy.report.tables.base import Table
from understudy.slices import SliceSet

SETS = {"real": "training patients", "held-out": "other patients", "synthetic": "synthetic"}
HELD_OUT_COLOUR = "#8A8A8A"
MOST_MAPS = 8  # columns of a picture
MAP = 1.15  # inches: edge of a map
SHARES = LinearSegmentedColormap.from_list("share", ["#FFFFFF", "#F3C9A5", "#D55E00", "#5A1E00"])
DISTANCES = {
    "share_difference": "Share of slices with it",
    "area_wasserstein": "Area",
    "components_wasserstein": "Number of pieces",
    "stray_difference": "Stray pixels",
    "holes_difference": "Holes",
    "compactness_wasserstein": "Compactness",
    "eccentricity_wasserstein": "Elongation",
    "border_variation": "What it touches",
    "position_variation": "Position",
}
VALUES = {  # measure -> (words, digits, shown in percent)
    "share": ("share of slices", 0, True),
    "area_p50": ("median area, % of the slice", 2, False),
    "mean_components": ("pieces", 2, False),
    "stray": ("pieces of one pixel", 1, True),
    "mean_holes": ("holes", 2, False),
    "mean_compactness": ("compactness (1: a disc)", 2, False),
    "mean_eccentricity": ("elongation (0: round)", 2, False),
}


@dataclass(frozen=True)
class AnnotationSection:
    """What the page shows.

    Attributes:
        sentences: what the numbers tell. tables: values, borders, distances.
        areas, maps: pictures. notes: what a reader must know. numbers: for `report.json`.
    """

    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    areas: list[Panel] = field(default_factory=list)
    maps: list[Panel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


def make_annotation_section(data: ReportData) -> AnnotationSection:
    """Reads every generator's `annotations.json`; empty if there is none."""
    found = {
        data.hide(name): json.loads(Path(path).read_text(encoding="utf-8")) for name, path in data.annotations.items()
    }
    if not found:
        return AnnotationSection()
    tables = [_values(data, found), _borders(data, found), _distances(data, found)]
    notes = sorted({note for content in found.values() for note in content["notes"]})
    shown = {data.shown(name): found[data.hide(name)] for name in data.annotations}
    look = looks(list(dict.fromkeys([*map(data.shown, data.generators), *shown])))
    return AnnotationSection(
        [_sentence(name, content) for name, content in shown.items()],
        [t for t in tables if t.body],
        _area_panels(shown, look),
        _map_panels(shown, _axes_of(data)),
        notes,
        found,
    )


def _sentence(name: str, content: dict[str, Any]) -> str:
    defined = [d for d in content["distances"] if d["value"] is not None and d["floor_high"] is not None]
    far = [d for d in defined if d["outside"] and d["measure"] in DISTANCES]
    far.sort(key=lambda d: -d["value"] / max(d["floor_high"], 1e-9))
    words = [f"{DISTANCES[d['measure']].lower()} of {_class(d['class_name'])}" for d in far[:4]]
    told = [v["synthetic"] for v in content["values"] if v["measure"] == "code_distance_p50"]
    told = [value for value in told if value is not None]
    codes = (
        f" Its annotation is drawn as grey values, and in half of its slices these are within {told[0]:.1f} of the"
        " values that stand for the classes (mean over pixels)."
        if told
        else ""
    )
    if not defined:
        return f"{name}: there are no other patients to compare its annotations with.{codes}"
    outside = sum(d["outside"] for d in defined)
    most = f"; most in {', '.join(words)}" if words else ""
    return (
        f"{name}: by {outside} of {count(len(defined), 'measure')} its annotations differ more from those of the"
        f" training patients than other patients' annotations do{most}.{codes}"
    )


def _class(name: str) -> str:
    return "all classes together" if name == "any" else name


def _values(data: ReportData, found: dict[str, dict[str, Any]]) -> Table:
    first = next(iter(found.values()))
    several = len(found) > 1
    body, rows = [], []
    for row in first["values"]:
        if row["measure"] not in VALUES:
            continue
        words, digits, share = VALUES[row["measure"]]
        cells = [_class(row["class_name"]), words, _ranged(row, "real", digits, share)]
        cells.append(_figure(row["heldout"], digits, share))
        for name, content in found.items():
            own = _same(content["values"], row)
            cells.append(_ranged(own, "synthetic", digits, share))
            rows.append({"generator": name, **own})
        body.append(cells)
    names = [data.shown(n) for n in found] if several else ["Synthetic"]
    note = (
        f"Means over the slices with the class. In brackets: 95\u00a0% interval, over {_patients(first, 'real')} for"
        f" real slices. Other patients: {_patients(first, 'held-out')} who were not trained on."
    )
    header = ["Class", "", "Training patients", "Other patients", *names]
    return Table("annotations", "What the annotations look like", note, header, body, pd.DataFrame(rows), 2)


def _borders(data: ReportData, found: dict[str, dict[str, Any]]) -> Table:
    first = next(iter(found.values()))
    body, rows = [], []
    for row in (v for v in first["values"] if v["measure"] == "border"):
        cells = [row["class_name"], row["other"], _ranged(row, "real", 0, True), _figure(row["heldout"], 0, True)]
        for name, content in found.items():
            own = _same(content["values"], row)
            cells.append(_ranged(own, "synthetic", 0, True))
            rows.append({"generator": name, **own})
        body.append(cells)
    names = [data.shown(n) for n in found] if len(found) > 1 else ["Synthetic"]
    header = ["Border of", "touches", "Training patients", "Other patients", *names]
    note = "Share of a class's whole border, along pixel edges, that it has in common with another class."
    return Table("annotation_borders", "Which classes touch", note, header, body, pd.DataFrame(rows), 2)


def _distances(data: ReportData, found: dict[str, dict[str, Any]]) -> Table:
    body, rows = [], []
    for name, content in found.items():
        for d in content["distances"]:
            rows.append({"generator": name, **d})
            if d["measure"] not in DISTANCES:
                continue
            body.append(
                [data.shown(name), DISTANCES[d["measure"]], _class(d["class_name"]), _figure(d["value"], 3),
                 _figure(d["floor"], 3), f"{_figure(d['floor_low'], 3)} to {_figure(d['floor_high'], 3)}",
                 "outside" if d["outside"] else ""]
            )  # fmt: skip
    header = ["Generator", "Of", "Class", "Synthetic", "Other patients", "Range among patients", ""]
    note = (
        "Distances from the training patients' slices: Wasserstein (areas in % of the slice), differences of shares and"
        " means, total variation (0 the same, 1 nothing in common) of borders and positions. The range is that of"
        " 95\u00a0% of random divisions of the real patients into as many training and other patients."
    )
    return Table("annotation_distances", "How far from real annotations", note, header, body, pd.DataFrame(rows), 3)


def _same(values: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    keys = ("measure", "class_name", "other")
    return next(v for v in values if all(v[k] == row[k] for k in keys))


def _patients(content: dict[str, Any], part: str) -> str:
    return count(content["patients"].get(part, 0), "patient")


def _figure(value: float | None, digits: int, share: bool = False) -> str:
    plain = math.nan if value is None else float(value)
    return percent(plain, digits) if share else number(plain, digits)


def _ranged(row: dict[str, Any], column: str, digits: int, share: bool) -> str:
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None:
        return _figure(value, digits, share)
    ends = (f"{100 * e:.{digits}f}" if share else f"{e:.{digits}f}" for e in (low, high))
    return f"{_figure(value, digits, share)} ({' to '.join(ends)})"


# --- pictures ---------------------------------------------------------------------------------------------------------


def _area_panels(found: dict[str, dict[str, Any]], look: dict[str, Look]) -> list[Panel]:
    """A panel a class: how the areas of each set are distributed."""
    first, made = next(iter(found.values())), []
    curves: list[tuple[str, str, str, Any, Any]] = [
        ("real", SETS["real"], REAL_COLOUR, "-", first),
        ("held-out", SETS["held-out"], HELD_OUT_COLOUR, "-", first),
    ]
    curves += [("synthetic", name, look[name].colour, look[name].dashes, c) for name, c in found.items()]
    for class_name in first["classes"]:
        with one_plot() as (figure, axes):
            said = []
            for part, label, colour, style, content in curves:
                areas = content["areas"].get(part, {}).get(class_name)
                if areas is None:
                    continue
                axes.plot(areas, np.linspace(0, 1, len(areas)), color=colour, linestyle=style, label=label)
                said.append(f"{label} {areas[len(areas) // 2]:.2f} %")
            axes.set(title=f"Area of {class_name}", xlabel="% of the slice", ylabel="share of slices", ylim=(0, 1.02))
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter("{x:g}")
            legend_below(figure, axes, 3)
            text = f"Areas of {class_name}, cumulative; medians: {', '.join(said)}."
            made.append(panel_of(figure, text, key=f"areas_{class_name}"))
    return made


def _axes_of(data: ReportData) -> Any:
    return None if data.slices is None else SliceSet.open(data.slices, cache_bytes=0).axes


def _map_panels(found: dict[str, dict[str, Any]], axes: Any) -> list[Panel]:
    """One picture: a row a class, a column a set; where the class is, in share of slices."""
    first = next(iter(found.values()))
    patients = [(SETS[part], first["maps"][part]) for part in ("real", "held-out") if part in first["maps"]]
    shown = patients + [(name, content["maps"]["synthetic"]) for name, content in found.items()]
    shown = shown[:MOST_MAPS]
    classes = list(first["classes"])
    # As dark as it gets among real patients: what a generator draws beyond that is as dark.
    top = {c: max(float(np.max(maps[c])) for _, maps in patients or shown) or 1.0 for c in classes}
    with styled():
        figure = Figure(figsize=(MAP * len(shown) + 0.7, MAP * len(classes) + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(classes), len(shown), squeeze=False)
        for i, name in enumerate(classes):
            for place, (label, maps) in zip(grid[i], shown, strict=True):
                picture = place.imshow(upright(np.array(maps[name]), axes), cmap=SHARES, vmin=0, vmax=top[name])
                place.set(xticks=[], yticks=[])
                place.grid(visible=False)
                if i == 0:
                    place.set_title(textwrap.fill(label, 16), fontsize=8.5)
            grid[i, 0].set_ylabel(name)
            bar = figure.colorbar(picture, ax=list(grid[i]), pad=0.01, aspect=14, extend="max", format="{x:.0%}")
            bar.outline.set_visible(False)
            bar.set_ticks([0, top[name]])
            bar.ax.tick_params(labelsize=7.5)
        most = "; ".join(
            f"{label}: {', '.join(f'{c} up to {100 * float(np.max(m[c])):.0f} %' for c in classes)}"
            for label, m in shown
        )
        said = f"Where each class is, in share of slices. {most}."
        return [panel_of(figure, said, len(shown) > 2, "positions")]
