"""What the sections of a report share, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.metrics.overlap import apply_policy
from understudy.metrics.statistics import cube
from understudy.report.answer import Answer, make_answer
from understudy.report.data import ReportData, Setting
from understudy.report.plots.gallery import Gallery, make_gallery
from understudy.report.tables.base import Summary
from understudy.report.tables.results import patient_means


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
    rows, left_out = usable_rows(data)
    scored = apply_policy(rows) if len(rows) else rows
    summary, means = Summary.of(data, rows), patient_means(data, scored)
    answer = make_answer(data, scored, left_out)
    return Content(data, rows, scored, summary, means, answer, make_gallery(data), read_audits(data))


def usable_rows(data: ReportData) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the settings that are complete, with the column `collapsed`, and a sentence for each that is not."""
    rows, left_out = data.scores, []
    if len(rows):
        runs = zip(rows["setting"], rows["repeat"], strict=True)
        rows = rows.assign(collapsed=[(str(s), int(r)) in data.collapsed for s, r in runs])
    for setting in data.settings:
        mine = rows[rows["setting"] == setting.id]
        scored = apply_policy(mine)
        try:
            for scope in mine["scope"].unique():
                cube(scored, setting.id, "dice", str(scope))
        except UnderstudyError as error:
            rows = rows[rows["setting"] != setting.id]
            left_out.append(data.hide(f"“{setting.label}” is not in the tables: {error.what}."))
    return rows, left_out


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
