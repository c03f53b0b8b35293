"""Real and synthetic slices beside each other."""

from __future__ import annotations

from understudy.report.content import Content
from understudy.report.plots.gallery import Gallery
from understudy.report.plots.sheets import Tile, sheet
from understudy.report.plots.slices import colours
from understudy.report.sections.base import Html, Section, missing


def section(content: Content) -> Section:
    """Random slices, those with an annotation, contact sheets."""
    gallery, data = content.gallery, content.data
    classes = list(zip(gallery.classes, colours(len(gallery.classes)), strict=True))
    rows = sample_rows(gallery)
    values = {"gallery": gallery, "classes": classes, "sample_rows": rows, "seed": data.seed}
    blocks = [Html("pictures.html.j2", values)] if gallery.random else []
    words = "A real slice and one of every generator, with annotation"
    private = [sheet("figure1_samples", words, [*gallery.channels, "Annotation"], rows, classes)] if rows else []
    hidden = ("areas", "code_distance")
    numbers = {
        "annotations": [{k: v for k, v in n.items() if k not in hidden} for n in gallery.numbers],
        "missing": gallery.missing,
    }
    return Section("pictures", "Real and synthetic slices", "Pictures", [*blocks, *missing(gallery.missing)], numbers,
                   private=private)  # fmt: skip


def sample_rows(gallery: Gallery) -> list[tuple[str, list[Tile]]]:
    """The paper's Figure 1: one row a set, real first: the first slice with an annotation that was drawn, else any."""
    annotated = {b.group: b.rows[0] for b in gallery.annotated if b.rows}
    return [(b.group, annotated.get(b.group, b.rows[0])) for b in gallery.random if b.rows]
