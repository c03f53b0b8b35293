"""The sections of the page, in its order. A section is one file with a function `section`, and one line here."""

from understudy.report.sections import (
    annotations,
    copies,
    correlation,
    limits,
    opening,
    paper,
    pictures,
    quality,
    real_slices,
    results,
    run,
    segmentations,
    tables,
    training,
)
from understudy.report.sections.base import MakeSection

SECTIONS: tuple[MakeSection, ...] = (
    opening.section,
    pictures.section,
    annotations.section,
    segmentations.section,
    real_slices.section,
    quality.section,
    correlation.section,
    copies.section,
    results.section,
    tables.section,
    paper.section,
    training.section,
    limits.section,
    run.section,
)
