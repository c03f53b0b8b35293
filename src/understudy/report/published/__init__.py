"""The paper's own numbers (Akbar et al., Tables 2 to 9), transcribed as printed; Table 1 (ranks) follows from them.

One cell that cannot be read is empty (Table 9, Swin, StyleGAN 2 alone without augmentation, ET).
"""

from functools import cache
from importlib import resources

import pandas as pd

DICE, HAUSDORFF = {"brats2020": 3, "brats2021": 4}, {"brats2020": 8, "brats2021": 9}  # data set -> number of its table
# Tables 3, 4 and 5 follow from each other within rounding (the tests check it); these do not.
CONTRADICTIONS = tuple(
    f"Table {table}, swin: {n} of its printed means are not the mean of the three classes beside them; {n} are smaller,"
    f" by up to {most}"
    for table, n, most in ((8, 22, 4.6), (9, 21, 4.1))
)


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
