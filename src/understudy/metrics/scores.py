"""Raw results of one label volume: counts and surface distances per class, and the rows that tables are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.foreign import PARQUET
from understudy.io.readers import read_table
from understudy.metrics.overlap import FOREGROUND, RESERVED, Counts, confusion, counts, resolve_regions, union_box
from understudy.metrics.surface import UNDEFINED, Spacing, SurfaceDistances, checked_spacing, surface_distances
from understudy.runtime.lazy import pandas as pd

WHOLE, KEPT = "whole", "kept_slices"

Labels = NDArray[np.uint8]


def score_volume(
    pred: NDArray[np.generic], target: NDArray[np.generic], class_names: Sequence[str], spacing: Sequence[float],
    kept: NDArray[np.bool_] | None = None, regions: Mapping[str, Sequence[str]] | str = "none",
) -> list[dict[str, Any]]:  # fmt: skip
    """Scores a predicted label volume.

    Args:
        pred, target: integer [Z, H, W], class indices, same shape; axis 0 counts the slices. (Without `kept` any order
            of axes will do, as long as `spacing` follows it.)
        class_names: names of the labels 1, 2, ... without the background (`SliceSet.class_names`).
        spacing: (z, y, x) voxel edges in mm.
        kept: bool [Z], slices that pass the slice rule. If given, rows of scope "kept_slices" follow: the protocol of
            the code of Akbar et al., which stacks only these slices. A gap between kept slices collapses (neighbours
            in the stack count as one slice apart) and what lies in other slices is not scored.
        regions: unions of classes to be scored as well: {name: [class, ...]}, "auto" (`overlap.auto_regions`), "none".

    Returns:
        For each scope one row per class, per region, and "foreground", the union of all classes: class_name, scope,
        region (bool), tp, fp, fn, truth_voxels, predicted_voxels, truth_empty, predicted_empty, hd, hd95_pooled,
        hd95_directed, hd95_surfel (mm, see `surface`; NaN if either mask is empty), diagonal_mm (of the stack).

    Raises:
        UnderstudyError: arrays, names, spacing or regions that do not fit together.

    Example:
        >>> target = np.zeros((3, 4, 4), np.uint8)
        >>> target[1, 1:3, 1:3] = 1
        >>> rows = score_volume(pred=target, target=target, class_names=["lesion"], spacing=(1, 1, 1))
        >>> [(row["class_name"], row["tp"], row["hd"]) for row in rows]
        [('lesion', 4, 0.0), ('foreground', 4, 0.0)]
    """
    voxel, a, b = checked_spacing(spacing), np.asarray(pred), np.asarray(target)
    kept = None if kept is None else np.asarray(kept)
    _check(a, b, class_names, kept)
    a, b = a.astype(np.uint8, copy=False), b.astype(np.uint8, copy=False)
    label = {name: i for i, name in enumerate(class_names, start=1)}
    unions = [(name, frozenset([i]), False) for name, i in label.items()]
    for name, members in resolve_regions(regions, list(label)).items():
        unions.append((name, frozenset(label[m] for m in members), True))
    unions.append((FOREGROUND, frozenset(label.values()), False))

    def diagonal(slices: int) -> float:
        return float(np.linalg.norm(np.asarray((slices, *target.shape[1:])) * np.asarray(voxel)))

    box = union_box(a, b)
    if box is not None:  # outside the box everything is background in both, which no score counts
        a, b = np.ascontiguousarray(a[box]), np.ascontiguousarray(b[box])
    rows = _score(a, b, unions, voxel, WHOLE, diagonal(len(target)))
    if kept is None:
        return rows
    stack = diagonal(int(kept.sum()))
    if box is None or kept[box[0]].all():  # nothing scored is dropped and no gap collapses: the same numbers
        return rows + [row | {"scope": KEPT, "diagonal_mm": stack} for row in rows]
    inside = kept[box[0]]
    return rows + _score(a[inside], b[inside], unions, voxel, KEPT, stack)


def _check(
    pred: NDArray[np.generic], target: NDArray[np.generic], names: Sequence[str], kept: NDArray[np.bool_] | None
) -> None:
    different = len(set(names)) == len(names) and not set(names) & set(RESERVED)
    if len(names) > 255 and not isinstance(names, str):
        fix = "score groups of classes: map each group's labels to 1, 2, ... and the rest to 0"
        raise UnderstudyError(f"{len(names)} classes are too many: 255 at most", where="class_names", fix=fix)
    if isinstance(names, str) or len(names) == 0 or not different:
        fix = "give different names for the labels 1, 2, ..., without the background; foreground and mean are reserved"
        raise UnderstudyError(f"these are not names of classes that can be scored: {names!r}", fix=fix)
    if pred.shape != target.shape:
        what = f"the truth has the shape {target.shape}, the prediction {pred.shape}"
        raise UnderstudyError(what, fix="resample the prediction to the grid of the truth")
    for who, volume in (("the truth", target), ("the prediction", pred)):
        if volume.ndim != 3 or not volume.size:
            raise UnderstudyError(f"{who} is not a volume: its shape is {volume.shape}", fix="give [Z, H, W]")
        if volume.dtype.kind not in "biu":
            raise UnderstudyError(f"{who} holds {volume.dtype} values, not class indices", fix="round the labels first")
        low, high = int(volume.min()), int(volume.max())
        if low < 0 or high > len(names):
            what = f"{who} holds the label {low if low < 0 else high}, but only 1 to {len(names)} have names"
            raise UnderstudyError(what, fix="map the labels to class indices first, or name all classes")
    if kept is not None and (kept.dtype != np.bool_ or kept.shape != (len(pred),)):
        what = f"`kept` is {kept.dtype} of the shape {kept.shape}, not one bool for each of {len(pred)} slices"
        raise UnderstudyError(what, fix="give the slice rule's answer for every slice along axis 0")


def _score(
    pred: Labels, target: Labels, unions: list[tuple[str, frozenset[int], bool]], spacing: Spacing, scope: str,
    diagonal: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of one scope for volumes that may be cropped; `diagonal` is that of the uncropped stack."""
    classes = len(unions[-1][1])  # of the foreground
    table = confusion(pred, target, classes + 1)
    measured: dict[frozenset[int], SurfaceDistances] = {}  # WT is often all classes: the same distances
    rows = []
    for name, labels, region in unions:
        found = counts(table, labels)
        if labels not in measured:
            a, b = (_mask(volume, labels, classes) for volume in (pred, target))
            some = found.tp + found.fn and found.tp + found.fp
            measured[labels] = surface_distances(a, b, spacing) if some else UNDEFINED
        rows.append(raw_row(name, scope, region, found, measured[labels], diagonal))
    return rows


def _mask(volume: Labels, labels: frozenset[int], classes: int) -> NDArray[np.bool_]:
    if len(labels) == 1:
        return volume == min(labels)
    if len(labels) == classes:
        return volume > 0
    return np.isin(np.arange(classes + 1), list(labels))[volume]  # type: ignore[no-any-return]


def raw_row(
    name: str, scope: str, region: bool, found: Counts, distances: SurfaceDistances, diagonal: float
) -> dict[str, Any]:
    """A row of raw results, see `score_volume`."""
    tp, fp, fn = found
    return {
        "class_name": name, "scope": scope, "region": region, "tp": tp, "fp": fp, "fn": fn,
        "truth_voxels": tp + fn, "predicted_voxels": tp + fp, "truth_empty": tp + fn == 0,
        "predicted_empty": tp + fp == 0, **distances._asdict(), "diagonal_mm": diagonal,
    }  # fmt: skip


def read_scores(path: Path) -> pd.DataFrame:
    """A file of raw results; an UnderstudyError where it is damaged, or lacks a column that scores are made of."""
    usual = raw_row("", WHOLE, False, Counts(0, 0, 0), UNDEFINED, 0.0)
    later = ("region", "truth_voxels", "predicted_voxels")
    numbers = [name for name, value in usual.items() if not isinstance(value, str) and name not in later]
    rows = read_table(path, "subject", "class_name", "scope", *numbers)
    if wrong := [name for name in numbers if rows[name].dtype.kind not in "iufb"]:
        raise PARQUET.damaged(path, ValueError(f"no numbers in {', '.join(wrong)}"))
    return rows


def flag(rows: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    """An optional bool column (region, collapsed); False where it, or its entry, is missing."""
    return rows[column].eq(True).to_numpy(bool) if column in rows else np.zeros(len(rows), bool)


def class_names(rows: pd.DataFrame) -> list[str]:
    """The single classes in the order of the rows: no regions, not "foreground". Means over classes take these."""
    single = (rows["class_name"] != FOREGROUND) & ~flag(rows, "region")
    return [str(name) for name in rows.loc[single, "class_name"].unique()]


def region_names(rows: pd.DataFrame) -> list[str]:
    """The regions (unions of classes such as WT and TC), in the order of the rows."""
    return [str(name) for name in rows.loc[flag(rows, "region"), "class_name"].unique()]
