"""The paper's own numbers (Akbar et al., Tables 2 to 9) and where they contradict each other.

Table 1 (ranks) is a picture; it follows from the others. Rows are transcribed as printed; one cell that cannot be read
is empty (Table 9, Swin, StyleGAN 2 alone without augmentation, ET).
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import pandas as pd

CLASSES = ("ET", "ED", "NCR/NET")
DICE, HAUSDORFF = {"brats2020": 3, "brats2021": 4}, {"brats2020": 8, "brats2021": 9}  # data set -> number of its table
KEY = ["dataset", "segmenter", "original", "augmentation", "generator"]


@cache
def published(table: int) -> pd.DataFrame:
    """A table of the paper: 2 (FID and IS of T1wGd), 3 and 4 (Dice), 5 (relative Dice, per cent), 6 (reading study),
    7 (recipes), 8 and 9 (maximum Hausdorff distance, mm).

    Returns:
        3, 4, 8, 9, one row a value: dataset, segmenter ("unet", "swin"), original and augmentation (bool), generator
        ("" for real slices only), class ("ET", "ED", "NCR/NET", "mean"), value, sd (over ten trainings). The others:
        as printed.
    """
    if table not in range(2, 10):
        raise ValueError(f"table {table} of the paper is not here; 2 to 9 are")
    with (resources.files(__package__) / f"table{table}.csv").open() as handle:
        frame = pd.read_csv(handle, keep_default_na=False, na_values={"value": [""], "sd": [""], "gamma": [""]})
    flags = [name for name in ("original", "augmentation") if name in frame]
    return frame.astype(dict.fromkeys(flags, bool))


def contradictions() -> list[str]:
    """Where the paper's tables do not follow from each other within rounding, in words."""
    found = []
    for table in (*DICE.values(), *HAUSDORFF.values()):
        wide = published(table).pivot(index=KEY, columns="class", values="value")
        digit = 0.001 if table in DICE.values() else 0.1
        # A rounded mean and three rounded classes differ by at most a digit.
        differs = (wide[list(CLASSES)].mean(axis=1, skipna=False) - wide["mean"]).abs() > 1.05 * digit
        for segmenter, rows in wide[differs].groupby(level="segmenter"):
            less = rows[list(CLASSES)].mean(axis=1) - rows["mean"]
            found.append(
                f"Table {table}, {segmenter}: {len(rows)} of its printed means are not the mean of the three classes"
                f" beside them; {(less > 0).sum()} are smaller, by up to {less.max():.1f}"
            )
    # Table 5 is a ratio of two means of Tables 3 and 4, whose three digits are rounded.
    dice = pd.concat([published(table) for table in DICE.values()])
    means = dice[dice["class"] == "mean"].drop(columns=["class", "sd"])
    real = means[means["original"] & means["augmentation"] & (means["generator"] == "")]
    rows = published(5).merge(means, on=KEY).merge(real, on=["dataset", "segmenter"], suffixes=("", "_real"))
    low = (rows["value"] - 0.0005) / (rows["value_real"] + 0.0005) * 100
    high = (rows["value"] + 0.0005) / (rows["value_real"] - 0.0005) * 100
    wrong = rows[~rows["percent"].between(low - 0.01, high + 0.01)]
    return found + [
        f"Table 5, {' '.join(map(str, row[KEY]))}: {row['percent']} %, not {row['value'] / row['value_real']:.2%}"
        for _, row in wrong.iterrows()
    ]
