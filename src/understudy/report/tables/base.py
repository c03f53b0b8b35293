"""What all tables of results are made of: the table itself, its first columns, its cells."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from understudy.metrics.overlap import FOREGROUND, EmptyPolicy
from understudy.metrics.scores import KEPT, WHOLE
from understudy.metrics.statistics import MEAN
from understudy.report.data import ReportData, Setting, number

POLICIES = {EmptyPolicy.BRATS: "BraTS rule", EmptyPolicy.PAPER: "paper's rule"}
SCOPES = {WHOLE: "all slices", KEPT: "kept slices"}
RESAMPLES = 2000


@dataclass(frozen=True)
class Table:
    """A table for people (strings) and for machines (frame).

    Attributes:
        key: name of its CSV file.
        caption, note: what it shows; how to read it.
        header, body: strings; the first `row_headers` columns name the row.
        frame: the numbers.
    """

    key: str
    caption: str
    note: str
    header: list[str]
    body: list[list[str]]
    frame: pd.DataFrame
    row_headers: int = 1

    @property
    def wide(self) -> bool:
        """Too wide to stand beside its words on a page."""
        columns = zip(self.header, *self.body, strict=False)
        longest = [max(map(len, column)) for column in columns]
        return len(self.header) > 9 or sum(longest) + 3 * len(longest) > 105


def pick(summary: pd.DataFrame, setting: str, metric: str, name: str, scope: str, policy: str = "brats") -> pd.Series:
    """The row of a summary about one thing; NaN and no repeats where there is none."""
    place = _places(summary).get((setting, metric, name, scope, policy))
    if place is None:
        return pd.Series({"value": np.nan, "sd": np.nan, "n_repeats": 0})
    return summary.iloc[place]


_PLACES: dict[str, Any] = {}  # of the summary that was asked last: the tables of a study ask one thousands of times


def _places(summary: pd.DataFrame) -> dict[tuple[str, ...], int]:
    """(setting, metric, class, scope, policy) -> row."""
    if "of" not in _PLACES or _PLACES["of"]() is not summary:
        columns = [summary[c].astype(str) for c in ("setting", "metric", "class_name", "scope", "policy")]
        _PLACES["places"] = {key: i for i, key in enumerate(zip(*columns, strict=True))}
        _PLACES["of"] = weakref.ref(summary)
    places: dict[tuple[str, ...], int] = _PLACES["places"]
    return places


def spread(entry: pd.Series, digits: int) -> str:
    """ "0.713 ± 0.009" over several trainings, "0.713" where only one has a value."""
    mean = number(float(entry["value"]), digits)
    sd = number(float(entry["sd"]), digits) if entry["n_repeats"] >= 2 else "–"
    return mean if "–" in (mean, sd) else f"{mean} ± {sd}"


def identity(setting: Setting) -> list[str]:
    """The paper's first columns: network, generator, original slices used, augmentation."""
    return [setting.network, setting.shown or "none", setting.original, "✓" if setting.augmentation else ""]


def collapsed_of(data: ReportData, setting: Setting) -> tuple[int, int]:
    """How many of a setting's trainings collapsed, of how many with scores."""
    repeats = set(data.scores.loc[data.scores["setting"] == setting.id, "repeat"])
    return sum((setting.id, int(repeat)) in data.collapsed for repeat in repeats), len(repeats)


def marked(data: ReportData, setting: Setting) -> str:
    """The setting's label, and how many of its trainings collapsed if any did."""
    broken, of = collapsed_of(data, setting)
    return f"{setting.label} [{broken} of {of} collapsed]" if broken else setting.label


def about(data: ReportData, setting: Setting) -> dict[str, object]:
    """The first columns of a table's frame."""
    broken, of = collapsed_of(data, setting)
    return {"setting": setting.id, "label": setting.label, "n_repeats": of, "n_collapsed": broken}


def without_collapsed(
    data: ReportData, settings: list[Setting], entries: Sequence[pd.Series], digits: int
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells that say how many collapsed and give the mean without them; none if none did."""
    if not any(collapsed_of(data, s)[0] for s in settings):
        return [], [[] for _ in settings]
    cells = []
    for s, entry in zip(settings, entries, strict=True):
        broken, of = collapsed_of(data, s)
        rest = {"value": entry.get("value_without_collapsed", np.nan), "n_repeats": of - broken}
        rest["sd"] = entry.get("sd_without_collapsed", np.nan)
        cells.append([f"{broken} of {of}", spread(pd.Series(rest), digits) if broken else ""])
    return ["Collapsed", "Without"], cells


IDENTITY = ["Network", "Generator", "Orig.", "Aug."]


def class_columns(data: ReportData, extra: Sequence[str]) -> tuple[list[str], list[str]]:
    """Class columns: keys of the summary and their headings."""
    keys = [*data.class_names, MEAN] if len(data.class_names) > 1 else list(data.class_names)
    keys = [*keys, *extra] if len(data.class_names) > 1 else keys
    names = {MEAN: "Mean", FOREGROUND: "All as one"}
    return keys, [names.get(k, k) for k in keys]


def numbers_of(keys: Sequence[str], entries: Sequence[pd.Series]) -> dict[str, object]:
    """Columns of a frame: mean and spread of each class, with all trainings and without the collapsed ones."""
    found: dict[str, object] = {
        f"{k}_{part}": e[part] for k, e in zip(keys, entries, strict=True) for part in ("value", "sd")
    }
    for k, e in zip(keys, entries, strict=True):
        if e.get("n_collapsed", 0):
            found[f"{k}_value_without_collapsed"] = e["value_without_collapsed"]
    return found


def main_entry(keys: Sequence[str], entries: Sequence[pd.Series]) -> pd.Series:
    """The entry of the mean over the classes, or of the only class."""
    return entries[keys.index(MEAN)] if MEAN in keys else entries[0]
