"""What a score is when a mask is empty: policies that are applied to raw rows when they are read.

Libraries disagree silently here (facts 2.2), and a rule that drops undefined cases rewards a model for finding
nothing: its missed tumours leave the mean. So raw rows stay undecided and a table names its policy.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.metrics.overlap import dice, precision, recall

DISTANCES = ("hd", "hd95_pooled", "hd95_directed")
LATER = ("hd95_surfel",)  # distances that rows of the evaluation's version 1 do not have


class EmptyPolicy(StrEnum):
    """Scores of rows in which the truth, the prediction or both are empty.

    ========  ======================  =======================
    policy    both empty              one of them empty
    ========  ======================  =======================
    brats     Dice 1, distances 0     Dice 0, distances = the scored stack's diagonal
    paper     Dice NaN, distances NaN Dice 0, distances NaN
    drop      Dice NaN, distances NaN Dice NaN, distances NaN
    inf       Dice 1, distances 0     Dice 0, distances infinite
    ========  ======================  =======================

    NaN leaves every mean. `brats` is the headline: the convention of the BraTS 2023 script, which writes 374 mm where
    we write the exact diagonal (373.1 mm for 240 x 240 x 155 at 1 mm). `paper` is what the authors' code did.
    """

    BRATS = "brats"
    PAPER = "paper"
    DROP = "drop"
    INF = "inf"


NEEDED = ("tp", "fp", "fn", "truth_empty", "predicted_empty", "diagonal_mm", *DISTANCES)


def apply_policy(rows: pd.DataFrame, policy: EmptyPolicy | str = EmptyPolicy.BRATS) -> pd.DataFrame:
    """Raw rows (`scores.score_volume`) with their scores under a policy.

    Returns:
        A copy with `hd`, `hd95_pooled`, `hd95_directed` and, where it was measured, `hd95_surfel` [mm] decided, and
        the new columns

        - `dice`, `precision` = tp / (tp + fp), `recall` = tp / (tp + fn), all 0 to 1. (The authors' code has the last
          two exchanged.) Where a mask is empty they follow the Dice of the policy, except that `paper` leaves NaN
          where the quotient is 0 / 0.
        - `volume_error` = predicted / true volume - 1; NaN where the truth is empty, under every policy.
        - `missed`: the class is there and not one voxel of it was found (tp = 0), whatever was predicted elsewhere;
          `false_alarm`: the class is not there and was predicted.

    Raises:
        UnderstudyError: unknown policy, columns missing.
    """
    try:
        policy = EmptyPolicy(policy)
    except ValueError:
        raise UnderstudyError(
            f"unknown policy for empty masks: {policy!r}", fix=f"one of {', '.join(EmptyPolicy)}"
        ) from None
    absent = [c for c in NEEDED if c not in rows]
    if absent:
        raise UnderstudyError(f"not raw results: the columns {absent} are missing", fix="score the volumes again")

    out = rows.copy()
    no_truth, no_prediction = (rows[c].to_numpy(bool) for c in ("truth_empty", "predicted_empty"))
    both, one = no_truth & no_prediction, no_truth ^ no_prediction
    tp, fp, fn = (rows[c].to_numpy(np.float64) for c in ("tp", "fp", "fn"))
    both_score, one_score = {
        EmptyPolicy.BRATS: (1.0, 0.0),
        EmptyPolicy.PAPER: (np.nan, None),  # None: as the formula has it
        EmptyPolicy.DROP: (np.nan, np.nan),
        EmptyPolicy.INF: (1.0, 0.0),
    }[policy]
    for name, score in (("dice", dice(tp, fp, fn)), ("precision", precision(tp, fp)), ("recall", recall(tp, fn))):
        score[both] = both_score
        if one_score is not None:
            score[one] = one_score
        out[name] = score
    unmeasured = {name: _unmeasured(rows, name, both | one) for name in LATER if name in rows}
    filled = policy in (EmptyPolicy.BRATS, EmptyPolicy.INF)
    worst = rows["diagonal_mm"].to_numpy(np.float64) if policy is EmptyPolicy.BRATS else np.inf
    for name in (*DISTANCES, *unmeasured):
        distance = rows[name].to_numpy(np.float64)
        out[name] = np.select([both, one], [0.0, worst], distance) if filled else np.where(both | one, np.nan, distance)
    for name, where in unmeasured.items():
        out.loc[where, name] = np.nan
    out["volume_error"] = np.divide(fp - fn, tp + fn, out=np.full(len(rows), np.nan), where=~no_truth)
    out["missed"] = (tp == 0) & ~no_truth
    out["false_alarm"] = no_truth & ~no_prediction
    return out


def _unmeasured(rows: pd.DataFrame, name: str, empty: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows of runs without a distance that came later than others: it must not be a mean over their empty masks."""
    lacks = rows[name].isna().to_numpy() & ~empty
    keys = [key for key in ("setting", "repeat") if key in rows]
    if not keys or not lacks.any():
        return np.full(len(rows), lacks.any())
    runs = rows[keys].assign(lacks=lacks)
    return runs.groupby(keys, sort=False)["lacks"].transform("any").to_numpy(bool)
