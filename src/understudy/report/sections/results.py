"""Results patient by patient, all scores as tables, and the tables as the paper has them."""

from __future__ import annotations

from understudy.metrics.scores import WHOLE
from understudy.report.content import Content
from understudy.report.data import count
from understudy.report.plots.curves import MOST_SETTINGS
from understudy.report.plots.dots import patient_dots, site_dots
from understudy.report.plots.style import NARROW, PANEL
from understudy.report.published import contradictions
from understudy.report.sections.base import Block, Bullets, Details, Figure, Section, Text, missing, shown
from understudy.report.tables import paper, results
from understudy.report.tables.base import INTERVAL, SCOPES, collapsed_of

FILES = (
    "The same numbers: report.json beside this page; each table is in tables/ (.csv, .tex, .html), each figure in"
    " figures/ (.svg, .png). Figures that show slices are in figures/private/ and are not for release."
)


def section(content: Content) -> Section:
    """Dots of patients and hospitals, differences from the real slices, ranks."""
    data, means, title = content.data, content.means, "Patient by patient"
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
    compared = bool(content.answer.comparisons)
    differences = results.differences_table(data, content.scored, content.answer) if compared else None
    blocks += shown(differences, results.ranks_table(data, content.settings, content.scored))
    return Section("results", title, "Results", blocks)


def tables(content: Content) -> Section:
    """Dice, distances, misses, conventions, hospitals, patients."""
    data, settings, summary, means = content.data, content.settings, content.summary, content.means
    if not settings:
        return Section("tables", "Tables", "Tables", missing(["There are no scores to tabulate."]))
    most = int(summary.frame["n_repeats"].max())
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
        words += f" {count(broken, 'training')} collapsed: the scores are part of every mean, and the means without"
        words += " them are given, too."
    present = summary.frame[summary.frame["scope"] == data.scope].groupby("class_name")["present"].max()
    words += "".join(f" No test patient has the class {n}." for n in data.class_names if present.get(n, 1) == 0)
    blocks = shown(
        words,
        results.dice_table(data, settings, summary, content.answer),
        results.regions_table(data, settings, summary) if data.regions else None,
        results.misses_table(data, settings, content.scored),
        results.conventions_table(data, settings, summary),
        *(results.distance_table(data, settings, summary, m) for m in results.DISTANCES if m in content.rows),
        results.matrix_table(data, settings, means, "site") if data.scores["site"].nunique() > 1 else None,
        Details("Every test patient", [results.matrix_table(data, settings, means, "subject")]),
        Text(FILES, "quiet"),
    )
    return Section("tables", "Tables", "Tables", blocks)


def papers_tables(content: Content) -> Section:
    """Tables 1 to 9, as far as the study has them, the paper's own values beside ours."""
    data = content.data
    found = [paper.quality_table(data), paper.reading_table(data), paper.recipe_table(data)]
    made = [*paper.paper_tables(data, content.rows, content.summary), *(t for t in found if t is not None)]
    words = "Numbered as in Akbar et al., “Brain tumor segmentation using synthetic MR images”."
    cohort = paper.COHORTS.get(paper.dataset_of(data))
    if cohort:
        words += f" The published values for {cohort} are beside ours; the paper's networks, slices and training times"
        words += " differ from those of this study, so a difference is no error by itself."
    blocks: list[Block] = [words, *sorted(made, key=lambda t: t.key)]
    blocks += missing([] if made else ["There is nothing to tabulate."])
    if cohort and (found_there := contradictions()):
        blocks.append(Details("Where the paper's own tables contradict each other", [Bullets(found_there)]))
    return Section("paper", "The paper's tables", "As in the paper", blocks)
