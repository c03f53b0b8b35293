"""The pictures of a report: real beside synthetic slices, what is in their annotations, and test segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.report.data import ReportData
from understudy.report.plots.panels import distribution
from understudy.report.plots.slices import (
    Pixels,
    channel_window,
    contact_sheet,
    enlarged,
    overlay,
    png,
    square_around,
    upright,
    windowed,
)
from understudy.report.plots.style import Panel
from understudy.report.sections.readings import how_it_was_read, reading_of
from understudy.slices import SliceSet

TILE = 192  # pixels to which small slices are enlarged, by whole factors
View = tuple[slice, slice]
ROWS = 4
SHEET = (12, 4)  # columns, rows of the wider look
SAMPLED = 2000  # slices looked at for windows and annotation statistics


@dataclass(frozen=True)
class Tile:
    """A picture with its words: `alt` for those who cannot see it, `caption` below it."""

    src: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Block:
    """Rows of tiles below column heads; `group` names the real or synthetic set they come from."""

    group: str
    columns: list[str]
    rows: list[list[Tile]]
    kind: str = "synthetic"


@dataclass
class Gallery:
    """All pictures of slices: pairs of blocks, contact sheets, annotation panels, and what could not be shown."""

    random: list[Block] = field(default_factory=list)
    annotated: list[Block] = field(default_factory=list)
    sheets: list[Tile] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Source:
    """A slice set to show: its name on the page and in legends, its generator and kind, the rows to choose from."""

    name: str
    short: str
    generator: str
    kind: str
    slices: SliceSet
    rows: NDArray[np.int64]


def make_gallery(data: ReportData) -> Gallery:
    """Pictures chosen by the report's seed: at random, and at random among slices with annotation."""
    gallery = Gallery()
    sources = _sources(data, gallery)
    if not sources:
        return gallery
    first = sources[0].slices
    gallery.channels, gallery.classes = first.channels, first.class_names
    windows, view = _windows(sources[0], data.seed), _view(sources, data.seed)
    for number, source in enumerate(sources):
        rng = np.random.default_rng([data.seed, number])
        areas = _areas(source, looked := _some(source.rows, SAMPLED, rng))
        gallery.numbers.append(_annotation_numbers(source, looked, areas))
        if reading := gallery.numbers[-1].get("reading"):
            gallery.readings.append(data.hide(how_it_was_read(source.name, **reading)))
        chosen = _some(source.rows, ROWS, rng)
        gallery.random.append(_block(source, chosen, windows, view))
        with_tumour = looked[areas.sum(1) > 0]
        if len(with_tumour):
            gallery.annotated.append(_block(source, _some(with_tumour, ROWS, rng), windows, view))
        else:
            gallery.missing.append(f"No slice of “{source.name}” holds an annotation.")
        gallery.sheets.append(
            _sheet(source, rng.permutation(_some(source.rows, SHEET[0] * SHEET[1], rng)), windows, view)
        )
    gallery.panels = _annotation_panels(gallery, first)
    return gallery


def _sources(data: ReportData, gallery: Gallery) -> list[_Source]:
    sources: list[_Source] = []
    wanted: list[tuple[str, str, Path | None]] = [("Real slices", "", data.slices)]
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
        short = data.shown(generator) or "real"
        sources.append(_Source(name, short, generator, kind, slices, rows))
    if not data.synthetic:
        gallery.missing.append("No synthetic slices were made in this study, so there are none to look at.")
    return sources


def _some(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Up to `count` of the rows at random, sorted."""
    return np.sort(rng.choice(rows, min(count, len(rows)), replace=False))


def _areas(source: _Source, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of every class but the background, [n, K], read in blocks that fit any memory."""
    classes = range(1, len(source.slices.classes))
    parts = [
        np.stack([(labels == k).sum((1, 2)) for k in classes], 1) for _, _, labels in source.slices.blocks(rows, 128)
    ]
    return np.concatenate(parts).astype(np.int64)


def _windows(source: _Source, seed: int) -> list[tuple[float, float]]:
    """One window a channel, from the first set: the same for real and synthetic slices, or brightness would lie."""
    images, _ = source.slices.read(_some(source.rows, 200, np.random.default_rng([seed, 9])))
    return [channel_window(images[:, c]) for c in range(images.shape[1])]


def _view(sources: list[_Source], seed: int) -> View:
    """The square that holds the heads of all sets, so that padding does not make them tiny."""
    resolution = sources[0].slices.resolution
    seen = np.zeros((resolution, resolution), bool)
    for source in sources:
        if source.slices.resolution != resolution:
            return slice(None), slice(None)
        images, _ = source.slices.read(_some(source.rows, 100, np.random.default_rng([seed, 8])))
        seen |= (images > 24).any((0, 1))
    top, bottom, left, right = square_around(seen, resolution // 2, margin=0.04)
    return slice(top, bottom), slice(left, right)


def overlay_channel(channels: Sequence[str]) -> int:
    """The channel below the annotation: FLAIR, where most classes show, else the last one."""
    return next((i for i, c in enumerate(channels) if "flair" in c.lower() or "t2f" in c.lower()), len(channels) - 1)


def _block(source: _Source, rows: NDArray[np.int64], windows: list[tuple[float, float]], view: View) -> Block:
    slices = source.slices
    images, labels = (a[..., *view] for a in slices.read(rows))
    factor = max(1, -(-TILE // images.shape[-1]))
    under = overlay_channel(slices.channels)
    grid = []
    for n, (image, label) in enumerate(zip(images, labels, strict=True), start=1):
        greys = [enlarged(upright(windowed(c, w), slices.axes), factor) for c, w in zip(image, windows, strict=True)]
        row = [Tile(png(g), f"{source.name}, example {n}, {c}") for g, c in zip(greys, slices.channels, strict=True)]
        drawn = overlay(greys[under], enlarged(upright(label, slices.axes), factor), len(slices.classes) - 1)
        names = [slices.classes[k].name for k in np.unique(label) if k]
        held = ", ".join(names) if names else "nothing annotated"
        row.append(Tile(png(drawn), f"{source.name}, example {n}, annotation: {held}"))
        grid.append(row)
    return Block(source.name, [*slices.channels, "Annotation"], grid, source.kind)


def _sheet(source: _Source, rows: NDArray[np.int64], windows: list[tuple[float, float]], view: View) -> Tile:
    slices = source.slices
    images, labels = (a[..., *view] for a in slices.read(rows))
    under = overlay_channel(slices.channels)
    factor, shrink = max(1, -(-96 // images.shape[-1])), max(1, images.shape[-1] // 100)
    tiles: list[Pixels] = [
        overlay(
            enlarged(upright(windowed(i[under], windows[under]), slices.axes), factor),
            enlarged(upright(k, slices.axes), factor),
            len(slices.classes) - 1,
            width=1,
        )[::shrink, ::shrink]
        for i, k in zip(images, labels, strict=True)
    ]
    what = f"{len(tiles)} random {slices.channels[under]} slices with annotation"
    return Tile(png(contact_sheet(tiles, SHEET[0])), f"{source.name}: {what}", source.name)


def _annotation_numbers(source: _Source, rows: NDArray[np.int64], areas: NDArray[np.int64]) -> dict[str, Any]:
    index = source.slices.index.iloc[rows]
    distance = index["code_distance"].to_numpy(float) if "code_distance" in index else np.array([])
    return {
        "name": source.name,
        "short": source.short,
        "generator": source.generator,
        "kind": source.kind,
        "slices": len(source.rows),
        "looked_at": len(rows),
        "with_annotation": float((areas.sum(1) > 0).mean()),
        "with_class": {c: float((areas[:, k] > 0).mean()) for k, c in enumerate(source.slices.class_names)},
        "areas": areas,
        "code_distance": distance[np.isfinite(distance)],
        "pixels": source.slices.resolution**2,
        **reading_of(source.slices),
    }


def _annotation_panels(gallery: Gallery, first: SliceSet) -> list[Panel]:
    found = gallery.numbers
    kinds = {n["short"]: n["kind"] for n in found}
    narrow = len(first.class_names) == 3
    made = []
    for k, name in enumerate(first.class_names):
        shares = {n["short"]: 100 * n["areas"][:, k] / n["pixels"] for n in found}
        present = {n: s[s > 0] for n, s in shares.items()}
        made.append(
            distribution(
                f"Area of {name}", "% of the slice, where it is there", present, kinds, narrow, f"areas_{name}"
            )
        )
    distances = {n["short"]: n["code_distance"] for n in found if len(n["code_distance"])}
    made.append(
        distribution(
            "Doubt in generated codes", "grey levels from the nearest code", distances, kinds, narrow, "code_distances"
        )
    )
    return [panel for panel in made if panel is not None]
