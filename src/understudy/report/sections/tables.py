"""All scores as tables."""

from __future__ import annotations

from understudy.report.content import Content
from understudy.report.data import count
from understudy.report.sections.base import Block, Details, Section, Text, missing, shown
from understudy.report.tables.base import SCOPES, collapsed_of
from understudy.report.tables.results import (
    DISTANCES,
    conventions_table,
    dice_table,
    distance_table,
    misses_table,
    patient_table,
    regions_table,
    site_table,
)

FILES = (
    "The same numbers: report.json beside this page; each table is in tables/ (.csv, .tex, .html), each figure in"
    " figures/ (.svg, .png). Figures that show slices are in figures/private/ and are not for release."
)


def section(content: Content) -> Section:
    """Dice, distances, misses, conventions, hospitals, patients."""
    data, settings, summary, means = content.data, content.settings, content.summary, content.means
    if not settings:
        return Section("tables", "Tables", "Tables", missing(["There are no scores to tabulate."]))
    blocks: list[Block] = shown(
        _reading_note(content),
        dice_table(data, settings, summary, content.answer),
        regions_table(data, settings, summary) if data.regions else None,
        misses_table(data, settings, content.scored),
        conventions_table(data, settings, summary),
        *(distance_table(data, settings, summary, m) for m in DISTANCES if m in content.rows),
        site_table(data, settings, means) if data.scores["site"].nunique() > 1 else None,
        Details("Every test patient", [patient_table(data, settings, means)]),
        Text(FILES, "quiet"),
    )
    return Section("tables", "Tables", "Tables", blocks)


def _reading_note(content: Content) -> str:
    """How to read all tables, once."""
    data, summary = content.data, content.summary.frame
    most = int(summary["n_repeats"].max())
    words = (
        f"Numbers are means over test patients ± the standard deviation over {most} trainings."
        if most > 1
        else "Numbers are means over test patients; each network was trained once, so there is no standard deviation."
    )
    words += (
        f" Unless said otherwise {SCOPES[data.scope]} count, on the original grid. BraTS rule: a class empty in both"
        " truth and prediction has Dice 1 and distance 0; empty in one of them, Dice 0 and the volume's diagonal as"
        " distance. Paper's rule: the former is left out of the means, the latter has no distance."
    )
    if broken := sum(collapsed_of(data, s)[0] for s in data.settings):
        words += (
            f" {count(broken, 'training')} collapsed: the scores are part of every mean, and the means without them"
        )
        words += " are given, too."
    single = summary[summary["class_name"].isin(data.class_names) & (summary["scope"] == data.scope)]
    present = single.groupby("class_name")["present"].max()
    absent = [name for name in data.class_names if present.get(name, 1) == 0]
    return words + "".join(f" No test patient has the class {name}." for name in absent)
