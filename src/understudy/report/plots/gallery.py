"""The pictures of slices: real beside synthetic ones at random, what is in their annotations, and sheets of tiles."""

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.report.data import ReportData, percent
from understudy.report.plots.slices import (
    channel_window,
    contact_sheet,
    enlarged,
    overlay,
    png,
    square_around,
    upright,
    windowed,
)
from understudy.report.plots.style import QUIET, Panel, figure_of, panel_of
from understudy.slices import SliceSet

TILE = 192  # pixels to which small slices are enlarged, by whole factors
ROWS = 4
SHEET = (12, 4)  # columns, rows of the wider look
SAMPLED = 2000  # slices looked at for windows and annotation statistics
CELL, GAP = 1.3, 0.06  # inches: edge of a tile, and between tiles
LABEL = 1.25  # inches: width of row labels
HEAD, WORDS, LEGEND = (0.42, 0.17, 0.25)  # inches: heights of column heads, of captions below tiles, of the legend
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Tile:
    src: str  # `data:` address of the picture
    alt: str  # for those who cannot see it
    caption: str = ""  # below it


Row = tuple[str, Sequence[Tile | None]]


@dataclass(frozen=True)
class TileRows:
    """Rows of tiles below column heads."""

    group: str  # name of the set they come from
    columns: list[str]
    rows: list[list[Tile]]
    kind: str


@dataclass
class Gallery:
    random: list[TileRows] = field(default_factory=list)
    annotated: list[TileRows] = field(default_factory=list)
    sheets: list[Tile] = field(default_factory=list)  # contact sheets
    numbers: list[dict[str, Any]] = field(default_factory=list)  # of the annotations, a set each
    readings: list[str] = field(default_factory=list)  # how sets of other programs' images were read
    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    missing: list[str] = field(default_factory=list)  # what could not be shown


@dataclass(frozen=True)
class _Source:
    name: str  # on the page
    short: str  # in legends
    generator: str
    kind: str  # "real" or "synthetic"
    slices: SliceSet
    rows: Rows  # to choose from

    def some(self, count: int, rng: np.random.Generator, rows: Rows | None = None) -> Rows:
        """Up to `count` of the rows at random, sorted."""
        rows = self.rows if rows is None else rows
        return np.sort(rng.choice(rows, min(count, len(rows)), replace=False))


def make_gallery(data: ReportData) -> Gallery:
    """Pictures chosen by the report's seed: at random, and at random among slices with annotation."""
    gallery = Gallery()
    sources = _sources(data, gallery)
    if not sources:
        return gallery
    gallery.channels, gallery.classes = sources[0].slices.channels, sources[0].slices.class_names
    view = _view(sources, data.seed)
    for n, source in enumerate(sources):
        rng = np.random.default_rng([data.seed, n])
        looked = source.some(SAMPLED, rng)
        # pixels of every class but the background, [N, K], read in blocks that fit any memory
        classes, blocks = range(1, len(source.slices.classes)), source.slices.blocks(looked, 128)
        parts = [np.stack([(labels == k).sum((1, 2)) for k in classes], 1) for _, _, labels in blocks]
        areas: Rows = np.concatenate(parts).astype(np.int64)
        gallery.numbers.append(_annotation_numbers(source, looked, areas))
        if reading := gallery.numbers[-1].get("reading"):
            gallery.readings.append(data.hide(_how_it_was_read(source.name, **reading)))
        gallery.random.append(_tile_rows(source, source.some(ROWS, rng), *view))
        annotated = looked[areas.sum(1) > 0]
        if len(annotated):
            gallery.annotated.append(_tile_rows(source, source.some(ROWS, rng, annotated), *view))
        else:
            gallery.missing.append(f"No slice of “{source.name}” holds an annotation.")
        gallery.sheets.append(_contact_sheet(source, rng.permutation(source.some(SHEET[0] * SHEET[1], rng)), *view))
    return gallery


def _sources(data: ReportData, gallery: Gallery) -> list[_Source]:
    sources: list[_Source] = []
    wanted = [("Real slices", "", data.slices)]
    wanted += [(f"Synthetic slices ({data.shown(n)})", n, path) for n, path in data.synthetic.items()]
    for name, generator, path in wanted:
        kind = "real" if not sources and path is data.slices else "synthetic"
        if path is None:
            gallery.missing.append(f"{name}: none.")
            continue
        try:
            slices = SliceSet.open(path, cache_bytes=0)
        except UnderstudyError as error:
            gallery.missing.append(f"{name}: {error.what}.")
            continue
        rows = np.arange(len(slices))
        if kind == "real" and "split" in slices.index and len(train := slices.rows(split="train")):
            rows, name = train, "Real training slices"
        if sources and slices.channels != sources[0].slices.channels:
            gallery.missing.append(f"{name}: its channels {slices.channels} are not those of the first set.")
            continue
        sources.append(_Source(name, data.shown(generator) or "real", generator, kind, slices, rows))
    if not data.synthetic:
        gallery.missing.append("No synthetic slices were made in this study.")
    return sources


def _view(sources: list[_Source], seed: int) -> tuple[list[tuple[float, float]], tuple[slice, slice]]:
    """How slices of all sets are shown: a window a channel, and the square that holds the heads."""
    # Windows from the first set for all: with windows of their own, brightness would lie.
    first, rng = sources[0], np.random.default_rng([seed, 9])
    images, _ = first.slices.read(first.some(200, rng))
    windows = [channel_window(images[:, c]) for c in range(images.shape[1])]
    # Without padding heads would be tiny.
    resolution = first.slices.resolution
    seen = np.zeros((resolution, resolution), bool)
    for source in sources:
        if source.slices.resolution != resolution:
            return windows, (slice(None), slice(None))
        images, _ = source.slices.read(source.some(100, np.random.default_rng([seed, 8])))
        seen |= (images > 24).any((0, 1))  # [N, C, H, W] -> [H, W]; darker is noise of the air
    top, bottom, left, right = square_around(seen, resolution // 2, margin=0.04)
    return windows, (slice(top, bottom), slice(left, right))


def overlay_channel(channels: Sequence[str]) -> int:
    """The channel below the annotation: FLAIR, where most classes show, else the last one."""
    return next((i for i, c in enumerate(channels) if "flair" in c.lower() or "t2f" in c.lower()), len(channels) - 1)


def _tile_rows(source: _Source, rows: Rows, windows: list[tuple[float, float]], crop: tuple[slice, slice]) -> TileRows:
    slices, grid = source.slices, []
    images, labels = (upright(a[..., *crop], slices.axes) for a in slices.read(rows))  # [N, C, H, W], [N, H, W]
    factor, under = max(1, -(-TILE // images.shape[-1])), overlay_channel(slices.channels)
    for n, (image, label) in enumerate(zip(images, labels, strict=True), start=1):
        greys = [enlarged(windowed(c, w), factor) for c, w in zip(image, windows, strict=True)]
        row = [Tile(png(g), f"{source.name}, example {n}, {c}") for g, c in zip(greys, slices.channels, strict=True)]
        drawn = overlay(greys[under], enlarged(label, factor), len(slices.classes) - 1)
        held = ", ".join(slices.classes[k].name for k in np.unique(label) if k) or "nothing annotated"
        row.append(Tile(png(drawn), f"{source.name}, example {n}, annotation: {held}"))
        grid.append(row)
    return TileRows(source.name, [*slices.channels, "Annotation"], grid, source.kind)


def _contact_sheet(source: _Source, rows: Rows, windows: list[tuple[float, float]], crop: tuple[slice, slice]) -> Tile:
    slices = source.slices
    images, labels = (upright(a[..., *crop], slices.axes) for a in slices.read(rows))
    under = overlay_channel(slices.channels)
    factor, shrink = max(1, -(-96 // images.shape[-1])), max(1, images.shape[-1] // 100)
    tiles = []
    for image, label in zip(images, labels, strict=True):
        grey = enlarged(windowed(image[under], windows[under]), factor)
        tiles.append(overlay(grey, enlarged(label, factor), len(slices.classes) - 1, width=1)[::shrink, ::shrink])
    what = f"{len(tiles)} random {slices.channels[under]} slices with annotation"
    return Tile(png(contact_sheet(tiles, SHEET[0])), f"{source.name}: {what}", source.name)


def _annotation_numbers(source: _Source, rows: Rows, areas: Rows) -> dict[str, Any]:
    index, attrs = source.slices.index.iloc[rows], source.slices.attrs
    distance = index["code_distance"].to_numpy(float) if "code_distance" in index else np.array([])
    found = {
        "name": source.name, "short": source.short, "generator": source.generator, "kind": source.kind,
        "slices": len(source.rows), "looked_at": len(rows), "with_annotation": float((areas.sum(1) > 0).mean()),
        "with_class": {c: float((areas[:, k] > 0).mean()) for k, c in enumerate(source.slices.class_names)},
        "areas": areas, "code_distance": distance[np.isfinite(distance)], "pixels": source.slices.resolution**2,
    }  # fmt: skip
    if attrs.get("source") == "folder":  # images of another program
        found["reading"] = {"annotation": attrs["annotation"], "notes": attrs["notes"]}
    return found


def _how_it_was_read(name: str, annotation: dict[str, Any], notes: list[str]) -> str:
    """How well the annotations of a folder of images fitted, and what was noted, in words."""
    codes = annotation["codes"]
    meant = ", ".join(f"{c} {v:g}" for c, v in codes.items()) if codes else "one channel a class, 0 or 255"
    said = (
        f"{name} were read from a folder. Their annotation ({meant}) is {annotation['mean_code_distance']:.2f} grey"
        f" levels from the nearest code on average, {annotation['largest_code_distance']:.2f} in the worst slice"
    )
    if codes:
        far = f"{percent(annotation['far_fraction'], 1)} of the annotated pixels"
        said += f"; {far} are farther than {annotation['tolerance']:g} from every code"
    return ". ".join([said, *(f"Note: {note}" for note in notes)]) + "."


def sheet(
    key: str, alt: str, heads: Sequence[str], rows: Sequence[Row], classes: Sequence[tuple[str, str]] = ()
) -> Panel:
    """Rows of tiles below column heads; None leaves a place empty. `classes`: name and colour of each, for a legend."""
    columns = max(len(tiles) for _, tiles in rows)
    label = LABEL if any(name for name, _ in rows) else 0.0
    head = HEAD if any(heads) else 0.0
    words = WORDS if any(t is not None and t.caption for _, tiles in rows for t in tiles) else 0.0
    width = label + columns * (CELL + GAP)
    height = head + len(rows) * (CELL + words + GAP) + (LEGEND if classes else 0.0)
    with figure_of((width, height), layout=None) as figure:
        for c, text in enumerate(heads):
            x, y = (label + c * (CELL + GAP) + CELL / 2) / width, 1 - (head - 0.06) / height
            figure.text(x, y, textwrap.fill(text, 17), ha="center", va="bottom", fontsize=7.5)
        for r, (name, tiles) in enumerate(rows):
            top = head + r * (CELL + words + GAP)
            middle = 1 - (top + CELL / 2) / height
            figure.text(0.02 / width, middle, textwrap.fill(name, 17), va="center", fontsize=7.5)
            for c, tile in enumerate(tiles):
                if tile is None:
                    continue
                left = label + c * (CELL + GAP)
                place = figure.add_axes((left / width, 1 - (top + CELL) / height, CELL / width, CELL / height))
                pixels = Image.open(io.BytesIO(base64.b64decode(tile.src.partition(",")[2])))
                place.imshow(pixels, interpolation="none", cmap="gray", vmin=0, vmax=255)
                place.axis("off")
                if tile.caption:
                    below = 1 - (top + CELL + 0.03) / height
                    figure.text(left / width, below, tile.caption, va="top", fontsize=6.5, color=QUIET)
        if classes:
            handles = [Patch(color=colour, label=name) for name, colour in classes]
            figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(label / width, 0), ncols=len(classes),
                          fontsize=7.5, borderpad=0, handlelength=1)  # fmt: skip
        return panel_of(figure, alt, True, key)
