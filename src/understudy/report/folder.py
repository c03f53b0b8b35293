"""What a report leaves beside its page: each table and figure as files, and what of it may not be shown around."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy.io.files import atomic_path, write_text
from understudy.report.content import Content
from understudy.report.plots.settings import Sheet, sample_rows
from understudy.report.plots.sheets import Row, sheet
from understudy.report.plots.slices import colours
from understudy.report.plots.style import Panel, file_name
from understudy.report.sections.gallery import Gallery, Tile
from understudy.report.sections.segmentations import Case
from understudy.report.tables.base import Table
from understudy.report.tables.beside import dataset_of
from understudy.report.tables.latex import latex

NUMBERS, PATIENTS, SLICES = "numbers", "one value a patient", "slices"
FOLDERS = ("tables", "figures")
PRIVATE = PurePosixPath("figures/private")
OF_PATIENTS = ("patients", "hospitals", "sites")  # keys of figures and tables with a point or a line a patient

README = """Figures of a report of Understudy, as SVG for editing and as PNG with 300 dots an inch.

{private}ONE VALUE A PATIENT, without names (look at small groups before you show them):
{patients}
The other figures show numbers of several patients or slices together, and no slice.
"""
NOT_FOR_RELEASE = """{what} slices of the patients whom networks were trained or tested on, and synthetic slices
that no release has let through. Keep it where the training images are kept. What may be shared is made
by `understudy release`.

"""


@dataclass(frozen=True)
class Written:
    """A file beside the page: its path below the report's folder, what it is, and what it shows.

    `shows` is "numbers" (of several patients or slices), "one value a patient", or "slices" (not for release).
    """

    file: str
    what: str
    shows: str


def write_files(content: Content, cases: list[Case], heads: list[str], sheets: list[Sheet], out: Path) -> list[Written]:
    """Writes `tables/` and `figures/`; what an earlier report of the folder wrote there and this did not is removed.

    Args:
        content: what the report says.
        cases, heads: the segmentations that it shows, and the names of their columns.
        sheets: every setting on one slice.
        out: folder of the report.

    Raises:
        UnderstudyError: disk full, no permission.
    """
    written = [entry for table in content.every_table for entry in _write_table(table, out)]
    for panel in content.every_panel:
        shows = PATIENTS if panel.key.split("_")[0] in OF_PATIENTS else NUMBERS
        written += _write_panel(panel, "figures", shows, out)
    for panel in _sheets(content.gallery, dataset_of(content.data), cases, heads, sheets):
        written += _write_panel(panel, str(PRIVATE), SLICES, out)
    _write_readme(written, out)
    remove_former(out, {entry.file for entry in written})
    return written


def _write_table(table: Table, out: Path) -> list[Written]:
    shows = PATIENTS if table.key in OF_PATIENTS else NUMBERS
    for ending, text in (("csv", table.frame.to_csv(index=False)), ("tex", latex(table)), ("html", html(table))):
        write_text(out / "tables" / f"{table.key}.{ending}", text)
    return [Written(f"tables/{table.key}.{e}", table.caption, shows) for e in ("csv", "tex", "html")]


def html(table: Table) -> str:
    """The table as a small page of its own, to be opened in a browser or put into a document."""
    environment = Environment(
        loader=PackageLoader("understudy.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("table.html.j2").render(t=table)


def _write_panel(panel: Panel, folder: str, shows: str, out: Path) -> list[Written]:
    found = []
    for ending, data in (("svg", panel.svg), ("png", panel.png)):
        name = f"{folder}/{panel.key}.{ending}"
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(data)
        found.append(Written(name, panel.alt, shows))
    return found


def _sheets(
    gallery: Gallery, dataset: str, cases: list[Case], heads: Sequence[str], sheets: list[Sheet]
) -> list[Panel]:
    """Figures 1, 4 or 5 of the paper, and the best, median and worst patient: those that show slices."""
    made = []
    classes = list(zip(gallery.classes, colours(len(gallery.classes)), strict=True))
    rows: list[Row] = list(sample_rows(gallery))
    if rows:
        words = "A real slice and one of every generator, with annotation"
        made.append(sheet("figure1_samples", words, [*gallery.channels, "Annotation"], rows, classes))
    number = 5 if dataset == "brats2021" else 4
    for page in sheets:
        key = file_name(f"figure{number}_segmentations_{page.network}")
        rows = [("", page.first), *((name, _with_names(tiles, page.heads)) for name, tiles in page.rows)]
        made.append(sheet(key, f"{page.title} under every setting", [], rows, classes))
    if cases:
        rows = [(case.title, case.tiles) for case in cases]
        made.append(sheet("segmentations", "Best, median and worst test patient", heads, rows, classes))
    return made


def _with_names(tiles: list[Tile | None], generators: list[str]) -> list[Tile | None]:
    """Each tile with its generator's name in its caption, for a figure without heads over every row."""
    return [
        None if tile is None else replace(tile, caption=f"{name}: {tile.caption}")
        for tile, name in zip(tiles, generators, strict=True)
    ]


def _write_readme(written: list[Written], out: Path) -> None:
    patients = sorted({e.file for e in written if e.shows == PATIENTS and e.file.startswith("figures/")})
    names = "\n".join(f"  {Path(name).name}" for name in patients) or "  (none)"
    if not any(e.shows == SLICES for e in written):
        write_text(out / "figures" / "README.txt", README.format(private="", patients=names + "\n"))
        return
    private = NOT_FOR_RELEASE.format(what="NOT FOR RELEASE: private/ shows")
    write_text(out / "figures" / "README.txt", README.format(private=private, patients=names + "\n"))
    private = NOT_FOR_RELEASE.format(what="NOT FOR RELEASE: this folder shows")
    write_text(out / PRIVATE / "README.txt", private)


def remove_former(out: Path, kept: set[str]) -> None:
    """Removes tables and figures that the report which stands in `out` lists and that are not among `kept`.

    Only files that `report.json` names, in its own folders, are touched.
    """
    try:
        listed = json.loads((out / "report.json").read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError):
        return  # no earlier report, or none that lists its files
    for entry in listed:
        path = PurePosixPath(str(entry["file"]))
        if path.parts[0] in FOLDERS and ".." not in path.parts and str(path) not in kept:
            (out / path).unlink(missing_ok=True)
