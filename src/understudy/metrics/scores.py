"""Raw results of one label volume: counts and border distances per class, to which any policy can be applied later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.metrics.overlap import confusion, counts, union_box
from understudy.metrics.regions import RESERVED, resolve_regions
from understudy.metrics.rows import FOREGROUND
from understudy.metrics.surface import UNDEFINED, Spacing, SurfaceDistances, surface_distances

WHOLE, KEPT = "whole", "kept_slices"
MAX_CLASSES = 255

Labels = NDArray[np.uint8]


def score_volume(
    truth: NDArray[np.generic],
    prediction: NDArray[np.generic],
    class_names: Sequence[str],
    spacing: Sequence[float],
    kept: NDArray[np.bool_] | None = None,
    regions: Mapping[str, Sequence[str]] | str = "none",
) -> list[dict[str, Any]]:
    """Scores a predicted label volume against the truth.

    Args:
        truth, prediction: integer [Z, H, W], class indices, same shape; axis 0 counts the slices. (Without `kept`
            any order of axes will do, as long as `spacing` follows it.)
        class_names: names of the labels 1, 2, ... without the background (`SliceSet.class_names`).
        spacing: (z, y, x) voxel edges in mm.
        kept: bool [Z], slices that pass the slice rule. If given, rows of scope "kept_slices" follow: the protocol
            of the paper's code, which stacks only these slices. A gap between kept slices collapses (neighbours in
            the stack count as one slice apart) and what lies in other slices is not scored.
        regions: unions of classes to be scored beside them: {name: [class, ...]}, "auto" (`regions.auto_regions`) or
            "none".

    Returns:
        For each scope one row per class, per region and one, "foreground", for the union of all classes: class_name,
        scope, region (bool), tp, fp, fn, truth_voxels, predicted_voxels, truth_empty, predicted_empty, hd,
        hd95_pooled, hd95_directed, hd95_surfel (mm, see `surface`; NaN if truth or prediction is empty), diagonal_mm
        (of the scored stack, edge to edge).

    Raises:
        UnderstudyError: shapes that differ, not three axes, float labels, labels without a name, a bad spacing,
            `kept` of another length, a region of unknown classes.
    """
    names = checked_names(class_names)
    unions = _unions(names, resolve_regions(regions, names))
    voxel = checked_spacing(spacing)
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise UnderstudyError(
            f"the truth has the shape {truth.shape}, the prediction {prediction.shape}",
            fix="resample the prediction to the grid of the truth",
        )
    a, b = (_checked_labels(truth, "the truth", len(names)), _checked_labels(prediction, "the prediction", len(names)))
    stays = None if kept is None else _checked_kept(kept, len(a))

    box = union_box(a, b)
    if box is not None:  # outside the box everything is background in both, which no score counts
        a, b = np.ascontiguousarray(a[box]), np.ascontiguousarray(b[box])
    rows = _score(a, b, unions, len(names), voxel, WHOLE, _diagonal(truth.shape, voxel))
    if stays is None:
        return rows
    diagonal = _diagonal((int(stays.sum()), *truth.shape[1:]), voxel)
    if box is None or stays[box[0]].all():  # nothing scored is dropped and no gap collapses: the same numbers
        return rows + [row | {"scope": KEPT, "diagonal_mm": diagonal} for row in rows]
    inside = stays[box[0]]
    return rows + _score(a[inside], b[inside], unions, len(names), voxel, KEPT, diagonal)


class _Union(NamedTuple):
    """What a row is about: its name, the labels that belong to it, and whether it is a region."""

    name: str
    labels: frozenset[int]
    region: bool


def _unions(names: tuple[str, ...], regions: Mapping[str, Sequence[str]]) -> list[_Union]:
    label = {name: i for i, name in enumerate(names, start=1)}
    return [
        *(_Union(name, frozenset([i]), False) for name, i in label.items()),
        *(_Union(name, frozenset(label[m] for m in members), True) for name, members in regions.items()),
        _Union(FOREGROUND, frozenset(label.values()), False),
    ]


def _score(
    truth: Labels, prediction: Labels, unions: list[_Union], classes: int, spacing: Spacing, scope: str, diagonal: float
) -> list[dict[str, Any]]:
    """Rows of one scope for volumes that may be cropped; `diagonal` is that of the uncropped stack."""
    table = confusion(truth, prediction, classes + 1)
    measured: dict[frozenset[int], SurfaceDistances] = {}  # WT is often all classes: the same distances
    rows = []
    for name, labels, region in unions:
        tp, fp, fn = counts(table, labels)
        if labels not in measured:
            a, b = (_mask(volume, labels, classes) for volume in (truth, prediction))
            measured[labels] = surface_distances(a, b, spacing) if tp + fn and tp + fp else UNDEFINED
        rows.append(raw_row(name, scope, region, (tp, fp, fn), measured[labels], diagonal))
    return rows


def raw_row(
    name: str, scope: str, region: bool, found: tuple[int, int, int], distances: SurfaceDistances, diagonal: float
) -> dict[str, Any]:
    """A row of raw results from (tp, fp, fn) and distances, see `score_volume`."""
    tp, fp, fn = found
    return {
        "class_name": name,
        "scope": scope,
        "region": region,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "truth_voxels": tp + fn,
        "predicted_voxels": tp + fp,
        "truth_empty": tp + fn == 0,
        "predicted_empty": tp + fp == 0,
        **distances._asdict(),
        "diagonal_mm": diagonal,
    }


def _mask(volume: Labels, labels: frozenset[int], classes: int) -> NDArray[np.bool_]:
    if len(labels) == 1:
        return volume == next(iter(labels))
    if len(labels) == classes:
        return volume > 0
    inside = np.zeros(classes + 1, bool)
    inside[list(labels)] = True
    return inside[volume]


def _diagonal(shape: tuple[int, ...], spacing: Spacing) -> float:
    return float(np.linalg.norm(np.asarray(shape) * np.asarray(spacing)))


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes that can be scored.

    Raises:
        UnderstudyError: none or too many, a name twice, a reserved name, a text in place of a list.
    """
    reserved = [n for n in names if n in RESERVED]
    if isinstance(names, str) or not 0 < len(names) <= MAX_CLASSES or len(set(names)) < len(names) or reserved:
        raise UnderstudyError(
            f"these are not names of classes that can be scored: {names!r}",
            fix="give different names for the labels 1, 2, ...; "
            "leave out the background; 'foreground' and 'mean' are reserved",
        )
    return tuple(names)


def checked_spacing(spacing: Sequence[float]) -> Spacing:
    edges = tuple(float(s) for s in spacing)
    if len(edges) != 3 or not all(np.isfinite(s) and s > 0 for s in edges):
        raise UnderstudyError(
            f"the voxel spacing {edges} is not three positive lengths",
            fix="give the voxel edges in mm in the order of the volume's axes; check the file's header",
        )
    return edges[0], edges[1], edges[2]


def _checked_labels(volume: NDArray[np.generic], what: str, classes: int) -> Labels:
    if volume.ndim != 3 or not volume.size:
        raise UnderstudyError(f"{what} is not a volume: its shape is {volume.shape}", fix="give [Z, H, W]")
    if volume.dtype.kind not in "biu":
        raise UnderstudyError(
            f"{what} holds {volume.dtype} values, not class indices", fix="round the labels to whole numbers first"
        )
    low, high = int(volume.min()), int(volume.max())
    if low < 0 or high > classes:
        raise UnderstudyError(
            f"{what} holds the label {low if low < 0 else high}, but only 1 to {classes} have names",
            fix="map the labels to class indices first, or name all classes",
        )
    return volume.astype(np.uint8, copy=False)


def _checked_kept(kept: NDArray[np.bool_], slices: int) -> NDArray[np.bool_]:
    stays = np.asarray(kept)
    if stays.dtype != np.bool_ or stays.shape != (slices,):
        raise UnderstudyError(
            f"`kept` is {stays.dtype} of the shape {stays.shape}, not one bool for each of {slices} slices",
            fix="give the slice rule's answer for every slice along axis 0",
        )
    return stays
