"""What every section of a report gets, computed once, and what it makes: blocks for the page, numbers, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.metrics.overlap import apply_policy
from understudy.metrics.statistics import MEAN, cube
from understudy.report.answer import Answer, make_answer
from understudy.report.data import ReportData, Setting
from understudy.report.plots.gallery import Gallery, make_gallery
from understudy.report.plots.style import Panel
from understudy.report.tables import Summary, Table

if TYPE_CHECKING:
    from understudy.report.sections.opening import Verdict


@dataclass(frozen=True)
class Content:
    data: ReportData
    rows: pd.DataFrame  # raw, of settings that are complete
    scored: pd.DataFrame  # the same under the BraTS rule
    summary: Summary  # of all metrics with intervals
    means: pd.DataFrame  # Dice by setting, class and patient
    answer: Answer
    gallery: Gallery
    audits: dict[str, dict[str, Any]]  # generator -> content of its audit.json

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Of every generator, the best first."""
        from understudy.report.sections.opening import make_verdicts  # a section, which imports this module

        return make_verdicts(self.data, self.scored, self.answer, self.audits)

    @property
    def settings(self) -> list[Setting]:
        """Those with complete rows."""
        present = set(self.rows.get("setting", ()))
        return [s for s in self.data.settings if s.id in present]


def make_content(data: ReportData) -> Content:
    """Computes and draws what sections share.

    Raises:
        UnderstudyError: rows without the columns of raw results, an audit without its controls.
    """
    rows, left_out = data.scores, []
    if len(rows):
        runs = zip(rows["setting"], rows["repeat"], strict=True)
        rows = rows.assign(collapsed=[(str(s), int(r)) in data.collapsed for s, r in runs])
    for setting in data.settings:
        mine = rows[rows["setting"] == setting.id]
        try:  # a setting counts if every patient has every class in every training
            for scope in mine["scope"].unique():
                cube(apply_policy(mine), setting.id, "dice", str(scope))
        except UnderstudyError as error:
            rows = rows[rows["setting"] != setting.id]
            left_out.append(data.hide(f"“{setting.label}” is not in the tables: {error.what}."))
    scored = apply_policy(rows) if len(rows) else rows
    summary, answer = Summary.of(data, rows), make_answer(data, scored, left_out)
    return Content(
        data, rows, scored, summary, patient_means(data, scored), answer, make_gallery(data), read_audits(data)
    )


def patient_means(data: ReportData, scored: pd.DataFrame) -> pd.DataFrame:
    """Dice of every setting, class ("mean" over classes too), subject and site: mean over trainings, BraTS rule."""
    if scored.empty:
        return pd.DataFrame(columns=["setting", "class_name"])
    scored = scored[scored["scope"] == data.scope]
    by_class = scored.groupby(["setting", "class_name", "subject", "site"], sort=False)["dice"].mean().reset_index()
    singles = by_class[by_class["class_name"].isin(data.class_names)]
    mean = singles.groupby(["setting", "subject", "site"], sort=False)["dice"].mean().reset_index()
    return pd.concat([mean.assign(class_name=MEAN), by_class], ignore_index=True)


def read_audits(data: ReportData) -> dict[str, dict[str, Any]]:
    """Generator -> content of its audit.json.

    Raises:
        UnderstudyError: an audit that neither has its controls nor says why it was not made.
    """
    found = {name: read_json(Path(folder) / "audit.json") for name, folder in data.audits.items()}
    for name, numbers in found.items():
        if not numbers.get("controls") and not numbers.get("refusal"):
            raise UnderstudyError("an audit without controls", where=data.audits[name], fix="run the audit again")
    return found


@dataclass(frozen=True)
class Text:
    text: str
    css: str  # style of the paragraph: "missing" (what is not there), "quiet", "verdict"


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str | Sequence[str]]  # words, or (what they are about, words)


@dataclass(frozen=True)
class Figure:
    panels: Sequence[Panel]  # beside each other
    caption: str = ""


@dataclass(frozen=True)
class Details:
    summary: str  # a line that the reader opens
    blocks: Sequence[Block]
    open: bool = False


@dataclass(frozen=True)
class Html:
    template: str  # below `templates/`
    values: Mapping[str, Any]  # `v` in the template


Block = str | Table | Text | Heading | Bullets | Figure | Details | Html


@dataclass(frozen=True)
class Section:
    key: str  # its anchor
    title: str
    nav: str  # its word in the contents of the page, "" for none
    blocks: Sequence[Block]  # from top to bottom
    numbers: Mapping[str, Any] = field(default_factory=dict)  # its keys of report.json
    tables: Sequence[Table] = ()  # written, but not shown
    private: Sequence[Panel] = ()  # figures that show slices, written to figures/private
    css: str = ""  # class of its element

    @property
    def every_table(self) -> list[Table]:
        """All that are written as files."""
        return [*(b for b in _walk(self.blocks) if isinstance(b, Table)), *self.tables]

    @property
    def every_panel(self) -> list[Panel]:
        """All that are written as files and show no slice."""
        return [p for b in _walk(self.blocks) if isinstance(b, Figure) for p in b.panels if p.key]


def _walk(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield from _walk(block.blocks) if isinstance(block, Details) else [block]


def missing(sentences: Sequence[str]) -> list[Text]:
    """Paragraphs about what is not there."""
    return [Text(s, "missing") for s in sentences]


def shown(*blocks: Block | None) -> list[Block]:
    """The blocks that there are: without None, empty words and figures without plots."""
    return [b for b in blocks if b is not None and b != "" and not (isinstance(b, Figure) and not b.panels)]
