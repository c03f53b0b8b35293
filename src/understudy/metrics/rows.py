"""What raw rows are about: single classes, regions, all classes as one; runs that collapsed. Optional columns included.

`region` (bool) came with version 2 of the evaluation and `collapsed` (bool) with it; rows of before, or of both
versions in one table, count as neither.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.runtime.lazy import pandas as pd

FOREGROUND = "foreground"  # the row that takes all classes as one

Collapsed = Literal["in", "out"]
"""Whether runs marked as collapsed count in a mean, or are left out of it."""


def flag(rows: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    """An optional bool column; False where it, or its entry, is missing."""
    if column not in rows:
        return np.zeros(len(rows), bool)
    return rows[column].map(lambda v: False if pd.isna(v) else bool(v)).to_numpy(bool)


def class_names(rows: pd.DataFrame) -> list[str]:
    """The single classes in the order of the rows: no regions, not "foreground". Means over classes take these."""
    single = (rows["class_name"] != FOREGROUND) & ~flag(rows, "region")
    return [str(name) for name in rows.loc[single, "class_name"].unique()]


def region_names(rows: pd.DataFrame) -> list[str]:
    """The regions (unions of classes such as WT and TC), in the order of the rows."""
    return [str(name) for name in rows.loc[flag(rows, "region"), "class_name"].unique()]


def without_collapsed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the runs that did not collapse."""
    return rows[~flag(rows, "collapsed")]


def counted(rows: pd.DataFrame, collapsed: Collapsed) -> pd.DataFrame:
    """The rows that count under a rule for collapsed runs.

    Raises:
        UnderstudyError: the rule is neither "in" nor "out".
    """
    if collapsed not in ("in", "out"):
        raise UnderstudyError(f"unknown rule for collapsed runs: {collapsed!r}", fix="'in' or 'out'")
    return rows if collapsed == "in" else without_collapsed(rows)


def collapsed_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """How many runs of each setting collapsed: setting, n_repeats, n_collapsed, in the order of the rows."""
    runs = rows[["setting", "repeat"]].assign(collapsed=flag(rows, "collapsed"))
    by_run = runs.groupby(["setting", "repeat"], sort=False)["collapsed"].any().reset_index()
    found = by_run.groupby("setting", sort=False)["collapsed"].agg(n_repeats="size", n_collapsed="sum")
    return found.astype(int).reset_index()
