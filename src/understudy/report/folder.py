"""The files beside a report's page: each table and figure, and which of them may not be shown around."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from understudy.io.files import atomic_path, write_text
from understudy.report.render import render
from understudy.report.sections.base import Section
from understudy.report.tables.base import Table
from understudy.report.tables.latex import latex

NUMBERS, PATIENTS, SLICES = "numbers", "one value a patient", "slices"
PRIVATE = PurePosixPath("figures/private")
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


def write_files(sections: Sequence[Section], out: Path) -> list[dict[str, str]]:
    """Writes `tables/` and `figures/`; removes files of an earlier report there that this one does not have.

    Returns:
        For each file its path below `out`, what it is, and what it shows: "numbers" (of several patients or slices),
        "one value a patient", or "slices" (not for release).

    Raises:
        UnderstudyError: disk full, no permission.
    """
    written: list[dict[str, str]] = []
    for table in (t for section in sections for t in section.every_table):
        shows = PATIENTS if table.key in OF_PATIENTS else NUMBERS
        forms = {"csv": table.frame.to_csv(index=False), "tex": latex(table), "html": html(table)}
        for ending, text in forms.items():
            written.append({"file": f"tables/{table.key}.{ending}", "what": table.caption, "shows": shows})
            write_text(out / written[-1]["file"], text)
    panels = [(p, "figures") for section in sections for p in section.every_panel]
    panels += [(p, str(PRIVATE)) for section in sections for p in section.private]
    for panel, folder in panels:
        shows = PATIENTS if panel.key.split("_")[0] in OF_PATIENTS else NUMBERS
        shows = SLICES if folder == str(PRIVATE) else shows
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


def html(table: Table) -> str:
    """The table as a small page of its own, to be opened in a browser or put into a document."""
    return render("table.html.j2", t=table)


def remove_former(out: Path, kept: set[str]) -> None:
    """Removes tables and figures that the `report.json` in `out` lists and that are not among `kept`.

    Only files that it names, in its own folders, are touched.
    """
    try:
        listed = json.loads((out / "report.json").read_text(encoding="utf-8")).get("files", [])
    except (OSError, ValueError):
        return  # no earlier report, or none that lists its files
    for entry in listed:
        # report.json may have been edited: nothing outside of the two folders
        path = PurePosixPath(str(entry["file"]))
        if path.parts[0] in ("tables", "figures") and ".." not in path.parts and str(path) not in kept:
            (out / path).unlink(missing_ok=True)
