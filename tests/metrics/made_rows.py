"""Scored rows by formula, as the study writes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def scored_rows(
    setting: str,
    values: np.ndarray,
    classes: Sequence[str] = ("NCR", "ED"),
    regions: Sequence[str] = (),
    collapsed: Sequence[int] = (),
) -> pd.DataFrame:
    """Rows for values [patients, repeats, classes + regions]; repeats in `collapsed` are marked; foreground is 0.99."""
    table = []
    for p, r in np.ndindex(*values.shape[:2]):
        for c, name in enumerate((*classes, *regions, "foreground")):
            table.append(
                {
                    "setting": setting,
                    "repeat": r,
                    "subject": f"p{p:02d}",
                    "class_name": name,
                    "scope": "whole",
                    "region": name in regions,
                    "collapsed": r in collapsed,
                    "dice": 0.99 if name == "foreground" else float(values[p, r, c]),
                    "hd": 1.0 if name == "foreground" else 10 * (1 - float(values[p, r, c])),
                    "truth_empty": False,
                    "missed": False,
                    "false_alarm": False,
                }
            )
    return pd.DataFrame(table)
