"""The paper's tables, its own values beside ours."""

from __future__ import annotations

from understudy.report.content import Content
from understudy.report.published import contradictions
from understudy.report.sections.base import Block, Bullets, Details, Section, missing
from understudy.report.tables.paper import COHORTS, dataset_of, paper_tables, quality_table, reading_table, recipe_table


def section(content: Content) -> Section:
    """Tables 1 to 9, as far as the study has them."""
    data = content.data
    found = [quality_table(data), reading_table(data), recipe_table(data)]
    made = [*paper_tables(data, content.rows, content.summary), *(t for t in found if t is not None)]
    words = "Numbered as in Akbar et al., “Brain tumor segmentation using synthetic MR images”."
    cohort = COHORTS.get(dataset_of(data))
    if cohort:
        words += f" The published values for {cohort} are beside ours; the paper's networks, slices and training times"
        words += " differ from those of this study, so a difference is no error by itself."
    blocks: list[Block] = [words, *sorted(made, key=lambda t: t.key)]
    blocks += missing([] if made else ["There is nothing to tabulate."])
    if cohort and (found_there := contradictions()):
        blocks.append(Details("Where the paper's own tables contradict each other", [Bullets(found_there)]))
    return Section("paper", "The paper's tables", "As in the paper", blocks)
