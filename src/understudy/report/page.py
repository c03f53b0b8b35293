"""The report: one self-contained HTML page, the same numbers as JSON, every table and every figure as files."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined

from understudy import __version__
from understudy.io.files import atomic_path, plain, write_text
from understudy.report.content import Section, make_content
from understudy.report.data import ReportData
from understudy.report.sections import (
    annotations,
    copies,
    correlation,
    frontier,
    opening,
    paper,
    pictures,
    quality,
    real_slices,
    results,
    run,
    training,
)
from understudy.report.tables import Table, latex

# In the page's order. Each makes a `Section` of the content, or None to be left out.
SECTIONS = (
    opening.section, pictures.section, annotations.section, pictures.segmentations_section, real_slices.section,
    quality.section, correlation.section, copies.section, frontier.section, results.section, results.tables,
    paper.section, training.section, opening.limits, run.section,
)  # fmt: skip

NUMBERS, PATIENTS, SLICES = "numbers", "one value a patient", "slices"  # what a file shows
PRIVATE = "figures/private"
OF_PATIENTS = ("patients", "hospitals", "sites", "problems")  # keys of figures and tables about single patients
README = """Figures of a report of Understudy, as SVG for editing and as PNG with 300 dots an inch.

{private}ONE VALUE A PATIENT, without names (look at small groups before you show them):
{patients}

The other figures show numbers of several patients or slices together, and no slice.
"""
NOT_FOR_RELEASE = """NOT FOR RELEASE: {what} shows slices of the patients whom networks were trained or tested on, and
synthetic slices that were not released. Keep it where the training images are kept. `understudy release`
makes what may be shared.

"""


def build_report(data: ReportData, out: Path) -> Path:
    """Writes `report.html`, `report.json`, and all tables and figures as files; what is missing is named on the page.

    Args:
        out: folder, made if absent: `tables/` (CSV, LaTeX, HTML), `figures/` (SVG, PNG), and in `figures/private/`
            those that show slices.

    Returns:
        The path of `report.html`.

    Raises:
        UnderstudyError: rows without the columns of raw results, disk full, no permission.
    """
    content, out = make_content(data), Path(out)
    sections = [section for make in SECTIONS if (section := make(content)) is not None]
    title = data.hide(data.title)
    page = render("page.html.j2", title=title, data=data, sections=sections, version=__version__)
    numbers = {
        "format": "understudy-report-1", "software_version": __version__, "title": title, "internal": True,
        "quality": {}, "correlation": {},
        "tables": {t.key: t.frame for section in sections for t in section.every_table},
    }  # fmt: skip
    for section in sections:
        numbers |= section.numbers
    numbers["files"] = _write_files(sections, out)
    text = json.dumps(plain(numbers), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(out / "report.json", text + "\n")
    write_text(out / "report.html", page)
    return out / "report.html"


def render(template: str, *loaders: BaseLoader, **values: Any) -> str:
    """A template of `templates/`, or of one of the loaders, as a page that loads nothing; `style` is that of all."""
    environment = Environment(
        loader=ChoiceLoader([*loaders, PackageLoader("understudy.report", "templates")]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.tests["a"] = lambda block, name: type(block).__name__ == name  # which kind of block
    style = files("understudy.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style, **values)


def write_table(out: Path, table: Table, forms: Sequence[str] = ("csv", "tex", "html")) -> list[str]:
    """Writes a table's forms below `out`/tables: numbers, LaTeX, a small page of its own; returns their names."""
    texts = {
        "csv": lambda: table.frame.to_csv(index=False), "tex": lambda: latex(table),
        "html": lambda: render("table.html.j2", t=table),
    }  # fmt: skip
    for form in forms:
        write_text(out / "tables" / f"{table.key}.{form}", texts[form]())
    return [f"tables/{table.key}.{form}" for form in forms]


def _write_files(sections: Sequence[Section], out: Path) -> list[dict[str, str]]:
    """Writes `tables/` and `figures/` in place of those of an earlier report; a row of report.json for each file."""
    written: list[dict[str, str]] = []
    for table in (t for section in sections for t in section.every_table):
        shows = PATIENTS if table.key in OF_PATIENTS else NUMBERS
        written += [{"file": f, "what": table.caption, "shows": shows} for f in write_table(out, table)]
    panels = [(p, "figures") for section in sections for p in section.every_panel]
    panels += [(p, PRIVATE) for section in sections for p in section.private]
    for panel, folder in panels:
        shows = PATIENTS if panel.key.split("_")[0] in OF_PATIENTS else NUMBERS
        shows = SLICES if folder == PRIVATE else shows
        for ending, content in (("svg", panel.svg), ("png", panel.png)):
            written.append({"file": f"{folder}/{panel.key}.{ending}", "what": panel.alt, "shows": shows})
            with atomic_path(out / written[-1]["file"]) as temporary:
                temporary.write_bytes(content)
    patients = sorted({Path(e["file"]).name for e in written if e["shows"] == PATIENTS and "figures/" in e["file"]})
    private = ""
    if any(e["shows"] == SLICES for e in written):
        private = NOT_FOR_RELEASE.format(what="private/")
        write_text(out / PRIVATE / "README.txt", NOT_FOR_RELEASE.format(what="this folder"))
    names = "\n".join(f"  {name}" for name in patients) or "  (none)"
    write_text(out / "figures" / "README.txt", README.format(private=private, patients=names))
    remove_former(out, {entry["file"] for entry in written})
    return written


def remove_former(out: Path, kept: set[str]) -> None:
    """Removes tables and figures that the `report.json` in `out` lists and that are not among `kept`."""
    try:
        listed = json.loads((out / "report.json").read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError):
        return  # no earlier report, or none that lists its files
    for entry in listed:
        # report.json may have been edited: nothing outside of the two folders
        path = PurePosixPath(str(entry["file"]))
        if path.parts[0] in ("tables", "figures") and ".." not in path.parts and str(path) not in kept:
            (out / path).unlink(missing_ok=True)
