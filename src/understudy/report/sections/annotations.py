"""Are the annotations like the real ones? Areas, shapes, borders and positions beside those of real patients.

Everything is drawn from numbers of many patients together; no slice is shown.
"""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap

from understudy.io.files import read_json
from understudy.report.content import Block, Content, Details, Figure, Heading, Section, missing, shown
from understudy.report.data import ReportData, count, number, percent
from understudy.report.plots import style
from understudy.report.plots.gallery import Gallery
from understudy.report.plots.slices import upright
from understudy.report.plots.style import NARROW, PANEL, Panel
from understudy.report.tables import INTERVAL, Table
from understudy.slices import SliceSet

SETS = {"real": "training patients", "held-out": "other patients", "synthetic": "synthetic"}
MOST_MAPS = 8  # columns of a picture
MAP = 1.15  # inches: edge of a map
SHARES = LinearSegmentedColormap.from_list("share", ["#FFFFFF", "#F3C9A5", "#D55E00", "#5A1E00"])
DISTANCES = {
    "share_difference": "Share of slices with it", "area_wasserstein": "Area",
    "components_wasserstein": "Number of pieces", "stray_difference": "Stray pixels", "holes_difference": "Holes",
    "compactness_wasserstein": "Compactness", "eccentricity_wasserstein": "Elongation",
    "border_variation": "Neighbouring classes", "position_variation": "Position",
}  # fmt: skip
VALUES = {  # measure -> (words, digits, shown in percent)
    "share": ("share of slices", 0, True),
    "area_p50": ("median area, % of the slice", 2, False),
    "mean_components": ("pieces", 2, False),
    "stray": ("pieces of one pixel", 1, True),
    "mean_holes": ("holes", 2, False),
    "mean_compactness": ("compactness (1: a disc)", 2, False),
    "mean_eccentricity": ("elongation (0: round)", 2, False),
}
Found = dict[str, dict[str, Any]]  # generator -> content of its annotations.json


def section(content: Content) -> Section:
    """Areas of the gallery's slices, and what `annotations.json` of each generator says."""
    data, gallery = content.data, content.gallery
    found: Found = {name: read_json(path) for name, path in data.annotations.items()}
    areas = _area_panels(data, found)
    panels = _gallery_panels(gallery, with_areas=not areas)
    blocks: list[Block] = [*missing([] if gallery.numbers else ["There are no slices to examine."])]
    if gallery.numbers:
        caption = "Up to 2,000 slices of each set."
        caption += "" if areas else " Areas: share of the slice's pixels, where the class is there."
        caption += " A generator draws the annotation as grey levels; near the codes of the classes it is sure of them."
        blocks += shown(_share_table(gallery), Figure(panels, caption), *gallery.readings)
    if found:
        notes = sorted({note for content in found.values() for note in content["notes"]})
        blocks += [Heading("Shapes, borders and positions"), *(_sentence(data, name, c) for name, c in found.items())]
        blocks += missing(notes)
        half = "All slices with the class. Half of the slices have an area left of where a curve crosses 0.5."
        caption = (
            "Share of a set's slices that have the class there, on a grid of 32 × 32 cells; the scale ends at the"
            " largest share among real patients. A set of fewer than five patients is not shown. A generator that has"
            " learned one place only, or mirrored slices, shows here."
        )
        tables = [table for table in _value_tables(data, found) if table.body]
        blocks += shown(Figure(areas, half), Figure([_map_panel(data, found)], caption), *tables)
        blocks.append(Details("Every distance, with the range among real patients", [_distances(data, found)]))
    return Section("annotations", "Are the annotations like the real ones?", "Annotations", blocks)


def _share_table(gallery: Gallery) -> Table:
    classes = gallery.classes if len(gallery.classes) > 1 else ()
    keys = ("name", "generator", "kind", "slices", "looked_at", "with_annotation")
    rows = []
    for n in gallery.numbers:
        cells = [n["name"], f"{n['slices']:,}", percent(n["with_annotation"])]
        rows.append((cells + [percent(n["with_class"][c]) for c in classes], {k: n[k] for k in keys} | n["with_class"]))
    header = ["Slices", "Number", "With any annotation", *(f"With {c}" for c in classes)]
    return Table.of("annotated_slices", "Slices with an annotation", "", header, rows)


def _sentence(data: ReportData, name: str, content: dict[str, Any]) -> str:
    """By how many measures a generator's annotations differ more than other patients' do."""
    defined = [d for d in content["distances"] if d["value"] is not None and d["floor_high"] is not None]
    far = [d for d in defined if d["outside"] and d["measure"] in DISTANCES]
    far.sort(key=lambda d: -d["value"] / max(d["floor_high"], 1e-9))
    words = [f"{DISTANCES[d['measure']].lower()} of {_class(d['class_name'])}" for d in far[:4]]
    median = next((v["synthetic"] for v in content["values"] if v["measure"] == "code_distance_p50"), None)
    codes = "" if median is None else (
        f" Its annotation is drawn as grey values, and in half of its slices these are within {median:.1f} of the codes"
        " of the classes (mean over pixels)."
    )  # fmt: skip
    if not defined:
        return f"{data.shown(name)}: there are no other patients to compare its annotations with.{codes}"
    outside = sum(d["outside"] for d in defined)
    most = f"; most in {', '.join(words)}" if words else ""
    by = f"by {outside} of {count(len(defined), 'measure')} its annotations differ more from those of the training"
    return f"{data.shown(name)}: {by} patients than other patients' annotations do{most}.{codes}"


def _class(name: str) -> str:
    return "all classes together" if name == "any" else name


def _value_tables(data: ReportData, found: Found) -> list[Table]:
    """Values and borders: training patients, other patients, each generator."""
    first = next(iter(found.values()))
    names = [data.shown(n) for n in found] if len(found) > 1 else ["Synthetic"]
    real, held_out = (count(first["patients"].get(part, 0), "patient") for part in ("real", "held-out"))
    sets = ["Training patients", "Other patients", *names]
    note = f"Means over the slices with the class. In brackets: {INTERVAL}, over {real} for real slices. Other"
    note += f" patients: {held_out} who were not trained on."
    shares = "Share of a class's whole border, along pixel edges, that it has in common with another class."
    body, frame = _compared(found, VALUES)
    values = Table("annotations", "Annotations in numbers", note, ["Class", "", *sets], body, frame, 2)
    body, frame = _compared(found, {"border": ("", 0, True)})
    header = ["Border of", "touches", *sets]
    return [values, Table("annotation_borders", "Which classes touch", shares, header, body, frame, 2)]


def _compared(found: Found, measures: dict[str, tuple[str, int, bool]]) -> tuple[list[list[str]], pd.DataFrame]:
    """Cells of the measures, and a row of numbers for each of a generator."""
    body, rows = [], []
    for row in next(iter(found.values()))["values"]:
        if row["measure"] not in measures:
            continue
        words, digits, share = measures[row["measure"]]
        cells = [_class(row["class_name"]), words or row["other"], _ranged(row, "real", digits, share)]
        cells.append(_figure(row["heldout"], digits, share))
        for name, content in found.items():
            keys = ("measure", "class_name", "other")
            own = next(v for v in content["values"] if all(v[k] == row[k] for k in keys))
            cells.append(_ranged(own, "synthetic", digits, share))
            rows.append({"generator": name, **own})
        body.append(cells)
    return body, pd.DataFrame(rows)


def _distances(data: ReportData, found: Found) -> Table:
    rows = [{"generator": name, **d} for name, content in found.items() for d in content["distances"]]
    body = [
        [
            data.shown(d["generator"]), DISTANCES[d["measure"]], _class(d["class_name"]), _figure(d["value"], 3),
            _figure(d["floor"], 3), f"{_figure(d['floor_low'], 3)} to {_figure(d['floor_high'], 3)}",
            "outside" if d["outside"] else "",
        ]
        for d in rows
        if d["measure"] in DISTANCES
    ]  # fmt: skip
    header = ["Generator", "Of", "Class", "Synthetic", "Other patients", "Range among patients", ""]
    note = (
        "Distances from the training patients' slices: Wasserstein (areas in % of the slice), differences of shares and"
        " means, total variation (0 the same, 1 nothing in common) of borders and positions. The range is that of"
        " 95\u00a0% of random divisions of the real patients into as many training and other patients."
    )
    return Table("annotation_distances", "Distances from real annotations", note, header, body, pd.DataFrame(rows), 3)


def _figure(value: float | None, digits: int, share: bool = False) -> str:
    return percent(value, digits) if share else number(value, digits)


def _ranged(row: dict[str, Any], column: str, digits: int, share: bool) -> str:
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if value is None or low is None:
        return _figure(value, digits, share)
    ends = (f"{100 * e:.{digits}f}" if share else f"{e:.{digits}f}" for e in (low, high))
    return f"{_figure(value, digits, share)} ({' to '.join(ends)})"


def distribution(
    title: str, xlabel: str, values_of: dict[str, np.ndarray], kinds: dict[str, str], narrow: bool = False,
    key: str = "",
) -> list[Panel]:  # fmt: skip
    """A panel with the cumulative shares of slices, real against synthetic; [] if there is nothing to draw.

    Args:
        values_of: name of the set -> one value a slice.
        kinds: name of the set -> "real", "held-out" or "synthetic", in the order of the study.
        narrow: four panels stand beside each other instead of three.
    """
    curves = {name: np.sort(values) for name, values in values_of.items() if len(values)}
    if not curves:
        return []
    look = style.looks([name for name, kind in kinds.items() if kind == "synthetic"])
    low, high = (f([f(v) for v in curves.values()]) for f in (min, max))
    with style.one_plot(NARROW if narrow else PANEL) as (figure, axes):
        for name, values in curves.items():
            share = np.arange(1, len(values) + 1) / len(values)
            colour, dashes = "#8A8A8A" if kinds[name] == "held-out" else style.REAL_COLOUR, "-"
            if name in look:
                colour, dashes = look[name].colour, look[name].dashes
            axes.plot(*style.thinned(values, share), label=name, drawstyle="steps-post", color=colour, linestyle=dashes)
        if low > 0 and high > 20 * low:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        axes.set(title=title, xlabel=xlabel, ylabel="share of slices", ylim=(0, 1.02))
        if len(curves) > 1:
            style.legend_below(figure, axes, 3)
        said = ", ".join(f"median {np.median(v):.3g} ({name})" for name, v in curves.items())
        return [style.panel_of(figure, f"{title}, cumulative share of slices: {said}.", key=key)]


def _area_panels(data: ReportData, found: Found) -> list[Panel]:
    """A panel a class, from `annotations.json`: how the areas of each set are distributed."""
    first: dict[str, Any] = next(iter(found.values()), {"areas": {}, "classes": []})
    sets = [(SETS[part], part, first["areas"].get(part, {})) for part in ("real", "held-out")]
    sets += [(data.shown(name), "synthetic", content["areas"].get("synthetic", {})) for name, content in found.items()]
    kinds = {data.shown(g): "synthetic" for g in data.generators} | {label: kind for label, kind, _ in sets}
    areas = {c: {label: np.array(of[c]) for label, _, of in sets if of.get(c) is not None} for c in first["classes"]}
    made = [distribution(f"Area of {c}", "% of the slice", of, kinds, key=f"areas_{c}") for c, of in areas.items()]
    return [panel for panels in made for panel in panels]


def _gallery_panels(gallery: Gallery, with_areas: bool) -> list[Panel]:
    """Areas in the gallery's slices, and how far generated annotations are from the codes of the classes."""
    found, made = gallery.numbers, list[Panel]()
    kinds, narrow = {n["short"]: n["kind"] for n in found}, len(gallery.classes) == 3
    for k, name in enumerate(gallery.classes if with_areas else ()):
        shares = {n["short"]: 100 * n["areas"][:, k] / n["pixels"] for n in found}
        there = {n: s[s > 0] for n, s in shares.items()}
        made += distribution(
            f"Area of {name}", "% of the slice, where it is there", there, kinds, narrow, f"areas_{name}"
        )
    distances = {n["short"]: n["code_distance"] for n in found}
    xlabel = "grey levels from the nearest code"
    return made + distribution("Distance from the codes", xlabel, distances, kinds, narrow, "code_distances")


def _map_panel(data: ReportData, found: Found) -> Panel:
    """A row a class, a column a set; where the class is, in share of slices."""
    first = next(iter(found.values()))
    axes = None if data.slices is None else SliceSet.open(data.slices, cache_bytes=0).axes
    patients = [(SETS[part], maps) for part in ("real", "held-out") if (maps := first["maps"].get(part))]
    synthetic = [(data.shown(name), content["maps"]["synthetic"]) for name, content in found.items()]
    columns, classes = (patients + synthetic)[:MOST_MAPS], list(first["classes"])
    # The scale ends at the largest share among real patients, not among those of a generator.
    top = {c: max(float(np.max(maps[c])) for _, maps in patients or columns) or 1.0 for c in classes}
    with style.figure_of((MAP * len(columns) + 0.7, MAP * len(classes) + 0.4)) as figure:
        grid = figure.subplots(len(classes), len(columns), squeeze=False)
        for i, name in enumerate(classes):
            for place, (label, maps) in zip(grid[i], columns, strict=True):
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
        most = {label: [f"{c} up to {100 * float(np.max(maps[c])):.0f} %" for c in classes] for label, maps in columns}
        said = "; ".join(f"{label}: {', '.join(ends)}" for label, ends in most.items())
        return style.panel_of(
            figure, f"Where each class is, in share of slices. {said}.", len(columns) > 2, "positions"
        )
