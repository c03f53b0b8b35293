"""Overlap of label arrays: Dice, counts, unions of classes ("regions"), and what an empty mask scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.errors import UnderstudyError
from understudy.runtime.lazy import pandas as pd

Box = tuple[slice, ...]

FOREGROUND = "foreground"  # the row that takes all classes as one
RESERVED = (FOREGROUND, "background", "mean")


def dice(pred: ArrayLike, target: ArrayLike) -> float | dict[int, float]:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of arrays of one shape, any number of axes.

    Returns:
        A number for bool masks; for integer labels (0 is the background) {label: Dice} for every label that occurs in
        either array. NaN where both masks are empty, 0 where one is.

    Raises:
        UnderstudyError: shapes that differ, values that are not bool or whole numbers from 0.

    Example:
        >>> dice([True, True, False], [True, False, False])
        0.6666666666666666
        >>> dice([[0, 1], [2, 2]], [[0, 1], [2, 1]])
        {1: 0.6666666666666666, 2: 0.6666666666666666}
    """

    def of_masks(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
        tp = np.count_nonzero(a & b)
        return float(scores_of_counts(tp, np.count_nonzero(a) - tp, np.count_nonzero(b) - tp)["dice"])

    return each_label(of_masks, pred, target)


def each_label(
    measure: Callable[[NDArray[np.bool_], NDArray[np.bool_]], float], pred: ArrayLike, target: ArrayLike
) -> float | dict[int, float]:
    """A measure of two masks, or of the masks of every label above 0; see `dice` for arguments and errors."""
    a, b = np.asarray(pred), np.asarray(target)
    if a.shape != b.shape:
        what = f"`pred` has the shape {a.shape}, `target` {b.shape}"
        raise UnderstudyError(what, fix="resample the prediction to the target's grid")
    if a.dtype == b.dtype == np.bool_:
        return measure(a, b)
    for name, array in (("pred", a), ("target", b)):
        if array.dtype.kind not in "biu" or (array.size and array.min() < 0):
            what = f"`{name}` holds {array.dtype} values that are not labels"
            raise UnderstudyError(what, fix="give bool masks or labels 0, 1, 2, ...")
    return {int(label): measure(a == label, b == label) for label in np.union1d(a, b) if label}


class Counts(NamedTuple):
    """Voxels of one class (or union of classes): in both, only in the prediction, only in the target."""

    tp: int
    fp: int
    fn: int


def scores_of_counts(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """dice, precision = tp / (tp + fp) and recall = tp / (tp + fn), elementwise; NaN for 0 / 0."""
    t, p, n = (np.asarray(count, np.float64) for count in (tp, fp, fn))
    scores = {}
    for name, part, whole in (("dice", 2 * t, 2 * t + (p + n)), ("precision", t, t + p), ("recall", t, t + n)):
        scores[name] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return scores


def union_box(pred: NDArray[np.generic], target: NDArray[np.generic]) -> Box | None:
    """The smallest box with every non-zero voxel of both volumes [Z, Y, X] of one type; None if there is none."""
    either = np.bitwise_or(pred, target)
    plane = np.bitwise_or.reduce(either, axis=0)  # [Y, X]
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not len(rows):
        return None
    inner = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    slices = np.flatnonzero(either[:, *inner].any(axis=(1, 2)))
    return slice(int(slices[0]), int(slices[-1]) + 1), *inner


def confusion(pred: NDArray[np.uint8], target: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Voxels with each pair of labels 0 ... classes - 1 (at most 256): int64 [target's label, prediction's label]."""
    kind = np.dtype("u1" if classes <= 16 else "u2")  # 8 bits keep the passes over the volume short
    pair = target.astype(kind, copy=False) * kind.type(classes) + pred
    return np.bincount(pair.ravel(), minlength=classes**2).reshape(classes, classes).astype(np.int64)


def counts(table: NDArray[np.int64], members: Iterable[int]) -> Counts:
    """Counts of the union of the classes `members` from a `confusion` table."""
    inside = np.zeros(len(table), bool)
    inside[list(members)] = True
    rows, columns = table[inside], table[~inside]  # target inside the union, and outside
    return Counts(int(rows[:, inside].sum()), int(columns[:, inside].sum()), int(rows[:, ~inside].sum()))


_CORE = re.compile(r"(NCR|NETC?)([^A-Z].*)?|NECRO.*")  # NCR, NCR/NET, NCR_NET, NET, NETC, necrosis
_EDEMA = re.compile(r"ED|(PERITUMOU?RAL )?(O?EDEMA)|SNFH")
_ENHANCING = re.compile(r"ET|AT|ENHANCING( TUMOU?R)?")


def auto_regions(class_names: Sequence[str]) -> dict[str, list[str]]:
    """BraTS' WT (necrosis, edema, enhancing tumour) and TC (without edema) by the names of the classes; {} unless all
    three are there. ET is a class already; others, such as a resection cavity, are in neither.

    Example:
        >>> auto_regions(["NCR/NET", "ED", "ET"])
        {'WT': ['NCR/NET', 'ED', 'ET'], 'TC': ['NCR/NET', 'ET']}
    """
    kinds = (_CORE, _EDEMA, _ENHANCING)
    core, edema, enhancing = ({n for n in class_names if kind.fullmatch(n.upper())} for kind in kinds)
    if not (core and edema and enhancing) or {"WT", "TC"} & set(class_names):
        return {}
    unions = {"WT": core | edema | enhancing, "TC": core | enhancing}
    return {region: [name for name in class_names if name in union] for region, union in unions.items()}


def resolve_regions(regions: Mapping[str, Sequence[str]] | str, class_names: Sequence[str]) -> dict[str, list[str]]:
    """Checked regions of "auto", "none" or {region: [class, ...]}; an UnderstudyError for names that cannot be used."""
    if isinstance(regions, str):
        if regions not in ("auto", "none"):
            raise UnderstudyError(f"unknown regions {regions!r}", fix="auto, none, or names with their classes")
        return auto_regions(class_names) if regions == "auto" else {}
    for name, members in regions.items():
        if not name or name in RESERVED or name in class_names:
            fix = f"choose another name: classes ({', '.join(class_names)}) and {', '.join(RESERVED)} are taken"
            raise UnderstudyError(f"a region cannot be called {name!r}", fix=fix)
        if not members or len(set(members)) < len(members) or not set(members) <= set(class_names):
            what = f"the region {name!r} is not a union of classes: {list(members)}"
            raise UnderstudyError(what, fix=f"name some of the classes {', '.join(class_names)}, each once")
    return {name: list(members) for name, members in regions.items()}


# Libraries disagree on empty masks, and a rule that drops undefined cases rewards a model for finding nothing. So raw
# rows stay undecided, and a table names its policy.

DISTANCES = ("hd", "hd95_pooled", "hd95_directed", "hd95_surfel")
NEEDED = ("tp", "fp", "fn", "truth_empty", "predicted_empty", "diagonal_mm", *DISTANCES)


class EmptyPolicy(StrEnum):
    """Scores of rows with an empty target, prediction or both; NaN leaves every mean.

    ========  ======================  =======================
    policy    both empty              one of them empty
    ========  ======================  =======================
    brats     Dice 1, distances 0     Dice 0, distances = the scored stack's diagonal
    paper     Dice NaN, distances NaN Dice 0, distances NaN
    drop      Dice NaN, distances NaN Dice NaN, distances NaN
    inf       Dice 1, distances 0     Dice 0, distances infinite
    ========  ======================  =======================

    `brats` is the headline: as the BraTS 2023 script, which writes 374 mm for the diagonal of 240 x 240 x 155 at 1 mm
    (373.1). `paper` is what the code of Akbar et al. did.
    """

    BRATS = "brats"
    PAPER = "paper"
    DROP = "drop"
    INF = "inf"


def apply_policy(rows: pd.DataFrame, policy: EmptyPolicy | str = EmptyPolicy.BRATS) -> pd.DataFrame:
    """Scores raw rows (of `scores.score_volume`) under a policy; an UnderstudyError for unknown ones, columns missing.

    Returns:
        A copy with the distances [mm] decided, and the new columns

        - `dice`, `precision`, `recall`, all 0 to 1 (the paper's code has the last two exchanged). Where a mask is empty
          they follow the Dice of the policy, but `paper` leaves NaN where the quotient is 0 / 0;
        - `volume_error` = predicted / true volume - 1, NaN where the target is empty;
        - `missed`: the class is there and not one voxel of it was found (tp = 0); `false_alarm`: it is not there and
          was predicted.
    """
    if policy not in list(EmptyPolicy):
        raise UnderstudyError(f"unknown policy for empty masks: {policy!r}", fix=f"one of {', '.join(EmptyPolicy)}")
    if absent := [c for c in NEEDED if c not in rows]:
        raise UnderstudyError(f"not raw results: the columns {absent} are missing", fix="score the volumes again")

    out = rows.copy()
    no_target, no_pred = (rows[c].to_numpy(bool) for c in ("truth_empty", "predicted_empty"))
    both, one = no_target & no_pred, no_target ^ no_pred  # empty masks
    tp, fp, fn = (rows[c].to_numpy(np.float64) for c in ("tp", "fp", "fn"))
    filled = policy in (EmptyPolicy.BRATS, EmptyPolicy.INF)
    for name, score in scores_of_counts(tp, fp, fn).items():
        score[both] = 1.0 if filled else np.nan
        if policy != EmptyPolicy.PAPER:  # which takes the formula
            score[one] = 0.0 if filled else np.nan
        out[name] = score
    worst = rows["diagonal_mm"].to_numpy(np.float64) if policy == EmptyPolicy.BRATS else np.inf
    for name in DISTANCES:
        distance = rows[name].to_numpy(np.float64)
        out[name] = np.select([both, one], [0.0, worst], distance) if filled else np.where(both | one, np.nan, distance)
    out["volume_error"] = np.divide(fp - fn, tp + fn, out=np.full(len(rows), np.nan), where=~no_target)
    out["missed"] = (tp == 0) & ~no_target
    out["false_alarm"] = no_target & ~no_pred
    return out
