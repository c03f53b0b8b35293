"""Scores of anyone's label files: `understudy score`. From two files or folders to rows, and from rows to a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.metrics.empties import EmptyPolicy, apply_policy
from understudy.metrics.files import Labels, Pair, file_pairs, read_pair
from understudy.metrics.rows import FOREGROUND
from understudy.metrics.scores import WHOLE, checked_spacing, raw_row, score_volume
from understudy.metrics.surface import UNDEFINED
from understudy.runtime.progress import track

MEASURES = (*("dice", "hd", "hd95_pooled", "hd95_directed", "hd95_surfel"), *("precision", "recall", "volume_error"))
FLAGS = ("truth_empty", "prediction_empty", "missed", "false_alarm")
COUNTS = ("tp", "fp", "fn", "truth_voxels", "prediction_voxels")


@dataclass(frozen=True)
class LabelScores:
    """Scored label files.

    Attributes:
        rows: one row per file and class, region and "foreground": file, class_name, region, the measures in `MEASURES`
            under the policy, `FLAGS`, `COUNTS`, diagonal_mm.
        policy: for empty masks.
        folders: two folders were compared, so there are means over files.
        spacing: file -> voxel edges in mm in the order of the arrays' axes.
        notes: file, or "" for all -> what a reader should know.
    """

    rows: pd.DataFrame
    policy: EmptyPolicy
    folders: bool
    spacing: dict[str, tuple[float, ...]]
    notes: dict[str, list[str]] = field(default_factory=dict)


def score_labels(
    truth: str | Path,
    prediction: str | Path,
    *,
    policy: EmptyPolicy | str = EmptyPolicy.BRATS,
    classes: Mapping[str, int] | None = None,
    regions: Mapping[str, Sequence[str]] | str = "auto",
    spacing: Sequence[float] | None = None,
    ignore_affine: bool = False,
    skip_unmatched: bool = False,
    progress: bool = False,
) -> LabelScores:
    """Scores a predicted label volume, or all of a folder, against the truth.

    Args:
        truth, prediction: two label files, or two folders whose files have the same names.
        policy: for empty masks, see `empties.EmptyPolicy`.
        classes: name -> label value; others count as background. Default: every value above 0 that occurs in any of
            the files, named by its number.
        regions: unions of classes {name: [class, ...]}, "auto" (by the names of the classes) or "none".
        spacing, ignore_affine, skip_unmatched: see `files.read_pair` and `files.file_pairs`.
        progress: show it.

    Raises:
        UnderstudyError: as `files`; classes or regions that make no sense; nothing to score in any file.
    """
    truth, prediction = Path(truth), Path(prediction)
    pairs, notes = file_pairs(truth, prediction, skip_unmatched)
    edges = None if spacing is None else checked_spacing(spacing)
    named = _checked_classes(classes)
    wanted = named or _named_by_regions(regions)
    parts: list[pd.DataFrame] = []
    said: dict[str, list[str]] = {"": notes}
    edge_of: dict[str, tuple[float, ...]] = {}
    with track(len(pairs), "label files", unit="files", show=progress and len(pairs) > 1) as meter:
        for files in pairs:
            pair = read_pair(*files, edges, ignore_affine)
            edge_of[pair.name], said[pair.name] = pair.spacing, pair.notes
            parts.append(_score_pair(pair, wanted, named is None, regions))
            meter.advance()
    rows = _completed(parts, wanted if named else None)
    if named:
        _note_other_labels(parts, said)
    if not _note_unshared_labels(parts, wanted, said) or named:
        _note_absent_classes(rows, said)
    if rows.empty:
        raise UnderstudyError(
            "there is no label above 0 in any of the files, so there is no class to score",
            where=f"{truth} and {prediction}",
            fix="name the classes with --classes, e.g. --classes lesion=1",
        )
    scored = apply_policy(rows, policy).rename(
        columns={"predicted_empty": "prediction_empty", "predicted_voxels": "prediction_voxels"}
    )
    columns = ["file", "class_name", "region", *MEASURES, *FLAGS, *COUNTS, "diagonal_mm"]
    return LabelScores(
        scored[columns], EmptyPolicy(policy), truth.is_dir(), edge_of, {k: v for k, v in said.items() if v}
    )


def _checked_classes(classes: Mapping[str, int] | None) -> dict[str, int] | None:
    if not classes:
        return None
    values = list(classes.values())
    if min(values) < 1 or len(set(values)) < len(values):
        raise UnderstudyError(
            f"these are not classes: {dict(classes)}",
            fix="give every class a label value of its own, 1 or more (0 is the background)",
        )
    return dict(classes)


def _named_by_regions(regions: Mapping[str, Sequence[str]] | str) -> dict[str, int]:
    """Label values that regions name where classes have no other names: these are classes in every file."""
    if isinstance(regions, str):
        return {}
    members = sorted({m for each in regions.values() for m in each})
    if wrong := [m for m in members if not m.isdecimal() or int(m) < 1]:
        raise UnderstudyError(
            f"the regions name classes that are not known: {wrong}",
            fix="name the classes with --classes, or use label values, e.g. WT=1+2+4",
        )
    return {m: int(m) for m in members}


def _score_pair(
    pair: Pair, wanted: Mapping[str, int], open_ended: bool, regions: Mapping[str, Sequence[str]] | str
) -> pd.DataFrame:
    """Raw rows of one pair; `open_ended` adds every label that occurs. Labels of both files are in attrs."""
    truth, prediction = (_values(volume) - {0} for volume in (pair.truth, pair.prediction))
    present = truth | prediction
    classes = dict(wanted)
    if open_ended:
        classes |= {str(v): v for v in present - set(classes.values())}
    classes = dict(sorted(classes.items(), key=lambda item: item[1])) if open_ended else classes
    if classes:
        volumes = [_as_indices(v, list(classes.values())) for v in (pair.truth, pair.prediction)]
        rows = score_volume(volumes[0], volumes[1], list(classes), pair.spacing, regions=regions)
    else:  # nothing but background: the union of no classes is empty as well
        diagonal = float(np.linalg.norm(np.array(pair.truth.shape) * pair.spacing))
        rows = [raw_row(FOREGROUND, WHOLE, False, (0, 0, 0), UNDEFINED, diagonal)]
    frame = pd.DataFrame(rows)
    frame.insert(0, "file", pair.name)
    frame.attrs |= {"truth": truth, "prediction": prediction, "others": present - set(classes.values())}
    return frame


def _completed(parts: list[pd.DataFrame], named: Mapping[str, int] | None) -> pd.DataFrame:
    """All files with all classes: one that a file lacks is empty in truth and prediction."""
    found = {str(n) for part in parts for n in part.loc[~part["region"], "class_name"]} - {FOREGROUND}
    order = list(named) if named else sorted(found, key=int)
    if not order:
        return pd.DataFrame()
    complete = []
    for part in parts:
        lacking = [name for name in order if name not in set(part["class_name"])]
        diagonal = float(part["diagonal_mm"].iloc[0])
        empty = pd.DataFrame([raw_row(n, WHOLE, False, (0, 0, 0), UNDEFINED, diagonal) for n in lacking])
        empty.insert(0, "file", part["file"].iloc[0])
        whole = pd.concat([part, empty], ignore_index=True) if lacking else part
        place = {name: i for i, name in enumerate(order)}
        key = whole["class_name"].map(lambda n, p=place: p.get(n, len(p) + (n == FOREGROUND)))
        complete.append(whole.iloc[np.argsort(key.to_numpy(), kind="stable")])
    return pd.concat(complete, ignore_index=True)


def _note_other_labels(parts: list[pd.DataFrame], said: dict[str, list[str]]) -> None:
    others = sorted({v for part in parts for v in part.attrs["others"]})
    if others:
        listed, one = ", ".join(map(str, others)), len(others) == 1
        said[""].append(
            f"the label {listed} has no name and counts as background"
            if one
            else f"the labels {listed} have no name and count as background"
        )


def _note_unshared_labels(parts: list[pd.DataFrame], wanted: Mapping[str, int], said: dict[str, list[str]]) -> bool:
    """Notes labels of one side only, such as 1 against 255, or BraTS 2023's 3 against 4 of earlier years.

    Returns:
        Whether it is so over all files together.
    """
    of_truth, of_prediction = (set().union(*(p.attrs[s] for p in parts)) for s in ("truth", "prediction"))
    alone = of_truth - of_prediction, of_prediction - of_truth
    if all(alone) and (not wanted or (alone[0] | alone[1]) & set(wanted.values())):
        said[""].append(_unshared(*alone))
        return True
    for part in parts:
        sides = part.attrs["truth"], part.attrs["prediction"]
        if all(sides) and not sides[0] & sides[1]:
            said[str(part["file"].iloc[0])].append(_unshared(*sides))
    return False


def _unshared(truth: set[int], prediction: set[int]) -> str:
    only = [f"{'label' if len(s) == 1 else 'labels'} {', '.join(map(str, sorted(s)))}" for s in (truth, prediction)]
    return (
        f"the {only[0]} occur{'s' * (len(truth) == 1)} only in the ground truth, the {only[1]} only in the prediction:"
        " their overlap is 0. If they mean the same, give them the same value first, in numpy e.g."
        f" prediction[prediction == {min(prediction)}] = {min(truth)}"
    )


def _note_absent_classes(rows: pd.DataFrame, said: dict[str, list[str]]) -> None:
    """Classes without a voxel in any ground truth: their scores tell only whether they were predicted."""
    if rows.empty:
        return
    single = rows[~rows["region"] & (rows["class_name"] != FOREGROUND)]
    voxels = single.groupby("class_name", sort=False)["truth_voxels"].sum()
    if absent := [str(name) for name in voxels.index[voxels == 0]]:
        said[""].append(
            f"no ground truth has the class{'es' * (len(absent) > 1)} {', '.join(absent)}: Dice and distances say only"
            " whether something was predicted there by mistake"
        )


def _values(labels: Labels) -> set[int]:
    return set(np.flatnonzero(np.bincount(labels.ravel(order="K"))).tolist())


def _as_indices(labels: Labels, values: Sequence[int]) -> NDArray[np.uint8]:
    """Label values as class indices 1, 2, ... in the order of `values`; all others become 0."""
    table = np.zeros(max(int(labels.max()), *values) + 1, np.uint8)
    table[list(values)] = np.arange(1, len(values) + 1)
    return table[labels]


def as_result(scores: LabelScores) -> dict[str, Any]:
    """The scores as plain JSON values; NaN and infinite ones are None.

    Of two files: {policy, classes: {name: entry}, regions, foreground, mean, spacing_mm, notes}, where an entry holds
    `MEASURES`, `FLAGS` (bool) and `COUNTS`, and `mean` the means of the measures over the classes. Of two folders the
    same, with means over files as measures and numbers of files as flags, `n_files`, and `files`: {file: result}.
    """
    rows = scores.rows
    files = {
        str(name): _of_file(part)
        | {"spacing_mm": list(scores.spacing[str(name)]), "notes": scores.notes.get(str(name), [])}
        for name, part in rows.groupby("file", sort=False)
    }
    top: dict[str, Any] = {"policy": str(scores.policy)}
    if not scores.folders:
        ((name, only),) = files.items()
        return top | {"file": name} | only | {"notes": scores.notes.get("", []) + only["notes"]}
    means = means_over_files(scores)
    return top | {"n_files": len(files)} | _of_file(means) | {"notes": scores.notes.get("", []), "files": files}


def means_over_files(scores: LabelScores) -> pd.DataFrame:
    """One row per class, region and "foreground": means of the measures over files (undefined ones left out), sums of
    flags and counts."""
    table = []
    for (name, region), part in scores.rows.groupby(["class_name", "region"], sort=False):
        line: dict[str, Any] = {"class_name": name, "region": region}
        line |= {m: _mean(part[m]) for m in MEASURES}
        line |= {c: int(part[c].sum()) for c in (*FLAGS, *COUNTS)}
        table.append(line)
    return pd.DataFrame(table)


def _of_file(part: pd.DataFrame) -> dict[str, Any]:
    single = part[~part["region"] & (part["class_name"] != FOREGROUND)]
    return {
        "classes": _entries(single),
        "regions": _entries(part[part["region"]]),
        "foreground": _entries(part[part["class_name"] == FOREGROUND])[FOREGROUND],
        "mean": {m: _finite(_mean(single[m])) for m in MEASURES},
    }


def _entries(part: pd.DataFrame) -> dict[str, dict[str, Any]]:
    plain = part[["class_name", *MEASURES, *FLAGS, *COUNTS]].to_dict("records")
    return {
        str(row.pop("class_name")): {k: _finite(v) if k in MEASURES else v for k, v in row.items()}  # type: ignore[misc]
        for row in plain
    }


def _mean(values: pd.Series) -> float:
    """Mean without NaN; NaN of nothing."""
    return float(values.mean()) if values.notna().any() else float("nan")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
