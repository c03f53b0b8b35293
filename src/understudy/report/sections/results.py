"""Results patient by patient, differences from the real slices, ranks."""

from __future__ import annotations

from understudy.metrics.scores import WHOLE
from understudy.report.content import Content
from understudy.report.plots.curves import MOST_SETTINGS
from understudy.report.plots.dots import patient_dots, site_dots
from understudy.report.plots.style import NARROW, PANEL
from understudy.report.sections.base import Block, Figure, Section, Text, missing, shown
from understudy.report.tables.base import INTERVAL
from understudy.report.tables.results import differences_table, ranks_table


def section(content: Content) -> Section:
    """Dots of patients and hospitals, and what is compared by patient."""
    data, means = content.data, content.means
    title = "Patient by patient"
    if means.empty:
        return Section("results", title, "Results", missing(["There are no scores to show."]))
    plots = len(data.class_names) + (len(data.class_names) > 1) + (means["site"].nunique() > 1)
    width = (NARROW if plots == 4 else PANEL)[0]
    panels = patient_dots(data, means, content.summary, width) + site_dots(data, means, width)
    caption = (
        "Each dot is a test patient (mean over trainings), grey lines join the same patient. Beside the dots: the mean"
        f" with its {INTERVAL} by patient. {'Whole volumes' if data.scope == WHOLE else 'Kept slices only'}, BraTS rule"
        " for empty masks."
    )
    blocks: list[Block] = [Figure(panels, caption)]
    if len(data.closest(MOST_SETTINGS)) < len(data.settings):
        words = "The plots show the settings that differ from the real slices with augmentation only in their slices."
        blocks.append(Text(words, "quiet"))
    differences = differences_table(data, content.scored, content.answer) if content.answer.comparisons else None
    blocks += shown(differences, ranks_table(data, content.settings, content.scored))
    return Section("results", title, "Results", blocks)
