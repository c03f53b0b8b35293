"""The report: one self-contained HTML page, the same numbers as JSON, every table and every figure as files."""

import json
from pathlib import Path

from understudy import __version__
from understudy.io.files import plain, write_text
from understudy.report.content import make_content
from understudy.report.data import ReportData
from understudy.report.folder import write_files
from understudy.report.render import render
from understudy.report.sections import (
    annotations,
    copies,
    correlation,
    opening,
    pictures,
    quality,
    real_slices,
    results,
    run,
    training,
)

# In the page's order. Each makes a `Section` of the content, or None to be left out.
SECTIONS = (
    opening.section, pictures.section, annotations.section, pictures.segmentations_section, real_slices.section,
    quality.section, correlation.section, copies.section, results.section, results.tables, results.papers_tables,
    training.section, opening.limits, run.section,
)  # fmt: skip


def build_report(data: ReportData, out: Path) -> Path:
    """Writes `report.html`, `report.json`, and all tables and figures as files.

    Args:
        data: what to report; parts that are missing are named on the page.
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
    numbers["files"] = write_files(sections, out)
    text = json.dumps(plain(numbers), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(out / "report.json", text + "\n")
    write_text(out / "report.html", page)
    return out / "report.html"
