"""Scores of anyone's label files (`understudy score`): NIfTI and NumPy, two files or two folders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.arrays import unreadable_array
from understudy.io.folders import read_bytes
from understudy.io.grids import VolumeHeader
from understudy.io.nifti import read_header, read_voxels, whole_numbers
from understudy.metrics.overlap import FOREGROUND, Counts, EmptyPolicy, apply_policy
from understudy.metrics.scores import WHOLE, raw_row, score_volume
from understudy.metrics.surface import UNDEFINED, checked_spacing
from understudy.runtime.progress import track

SUFFIXES = (".nii.gz", ".nii", ".npz", ".npy")  # in small or capital letters
ARRAYS = ("labels", "prediction", "truth", "segmentation", "seg", "mask")  # the one that counts of several in an .npz
MEASURES = (*("dice", "hd", "hd95_pooled", "hd95_directed", "hd95_surfel"), *("precision", "recall", "volume_error"))
FLAGS = ("truth_empty", "prediction_empty", "missed", "false_alarm")
COUNTS = ("tp", "fp", "fn", "truth_voxels", "prediction_voxels")

Labels = NDArray[np.integer]

_RESAMPLE = "resample the prediction to the grid of the truth (nearest neighbour)"


@dataclass(frozen=True)
class LabelScores:
    """Scored label files."""

    # a row per file and class, region and "foreground": file, class_name, region, `MEASURES` under the policy, `FLAGS`,
    # `COUNTS`, diagonal_mm
    rows: pd.DataFrame
    policy: EmptyPolicy  # for empty masks
    folders: bool  # two folders were compared, so there are means over files
    spacing: dict[str, tuple[float, ...]]  # file -> voxel edges in mm in the order of the arrays' axes
    notes: dict[str, list[str]]  # file, or "" for all -> what a reader should know


def score_labels(
    pred: str | Path, target: str | Path, *, policy: EmptyPolicy | str = EmptyPolicy.BRATS,
    classes: Mapping[str, int] | None = None, regions: Mapping[str, Sequence[str]] | str = "auto",
    spacing: Sequence[float] | None = None, ignore_affine: bool = False, skip_unmatched: bool = False,
    progress: bool = False,
) -> LabelScores:  # fmt: skip
    """Scores a predicted label volume, or all of a folder.

    Args:
        pred, target: two label files, or two folders whose files have the same names.
        policy: for empty masks, see `overlap.EmptyPolicy`.
        classes: name -> label value; others count as background. Default: every value above 0 that occurs in any of
            the files, named by its number.
        regions: unions of classes {name: [class, ...]}, "auto" (by the names of the classes) or "none".
        spacing, ignore_affine, skip_unmatched: see `read_pair` and `file_pairs`.

    Raises:
        UnderstudyError: as `read_pair` and `file_pairs`; classes or regions that make no sense; nothing to score.
    """
    pred, target = Path(pred), Path(target)
    pairs, notes = file_pairs(pred=pred, target=target, skip_unmatched=skip_unmatched)
    edges = None if spacing is None else checked_spacing(spacing)
    wanted = named = dict(classes or {})
    if named and (min(named.values()) < 1 or len(set(named.values())) < len(named)):
        fix = "give every class a label value of its own, 1 or more (0 is the background)"
        raise UnderstudyError(f"these are not classes: {named}", fix=fix)
    if not named and not isinstance(regions, str):  # regions may name label values: these are classes in every file
        members = sorted({m for each in regions.values() for m in each})
        if wrong := [m for m in members if not m.isdecimal() or int(m) < 1]:
            fix = "name the classes with --classes, or use label values, e.g. WT=1+2+4"
            raise UnderstudyError(f"the regions name classes that are not known: {wrong}", fix=fix)
        wanted = {m: int(m) for m in members}
    parts: list[pd.DataFrame] = []
    noted: dict[str, list[str]] = {"": notes}
    edge_of: dict[str, tuple[float, ...]] = {}
    with track(len(pairs), "label files", unit="files", show=progress and len(pairs) > 1) as meter:
        for of_pred, of_target in pairs:
            pair = read_pair(pred=of_pred, target=of_target, spacing=edges, ignore_affine=ignore_affine)
            edge_of[pair.name], noted[pair.name] = pair.spacing, pair.notes
            parts.append(_score_pair(pair, wanted, not named, regions))
            meter.advance()
    rows = _completed(parts, list(named))
    _note_labels(parts, rows, wanted, bool(named), noted)
    if rows.empty:
        fix = "name the classes with --classes, e.g. --classes lesion=1"
        raise UnderstudyError("there is no label above 0 in any of the files", where=f"{target} and {pred}", fix=fix)
    scored = apply_policy(rows, policy).rename(columns=lambda name: name.replace("predicted_", "prediction_"))
    columns = ["file", "class_name", "region", *MEASURES, *FLAGS, *COUNTS, "diagonal_mm"]
    return LabelScores(scored[columns], EmptyPolicy(policy), target.is_dir(), edge_of, noted)


# --- files ------------------------------------------------------------------------------------------------------------


def file_pairs(pred: Path, target: Path, skip_unmatched: bool = False) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pairs (prediction, target) of two files, or of two folders by the files' names without suffix; and notes.

    Args:
        skip_unmatched: leave files without a partner out and say so in the notes.

    Raises:
        UnderstudyError: a path that does not exist, a file and a folder, no label files, files without a partner.
    """
    where = f"{target} and {pred}"
    for path in (target, pred):
        if not path.exists():
            raise UnderstudyError("there is no such file or folder", where=path, fix="check the path")
    if target.is_dir() != pred.is_dir():
        raise UnderstudyError("a folder and a file", where=where, fix="give two files, or two folders")
    if not target.is_dir():
        return [(pred, target)], []
    ours, theirs = _label_files(target), _label_files(pred)
    notes = []
    for lone, other in ((set(ours) - set(theirs), pred), (set(theirs) - set(ours), target)):
        if lone:
            more = f" and {len(lone) - 5} more" if len(lone) > 5 else ""
            notes.append(f"{len(lone)} without a partner in {other}: {', '.join(sorted(lone)[:5])}{more}")
    both = sorted(set(ours) & set(theirs))
    if not both or (notes and not skip_unmatched):
        fix = "give files that belong together the same name" + (", or add --skip-unmatched" if both else "")
        raise UnderstudyError("; ".join(notes), where=where, fix=fix)
    return [(theirs[name], ours[name]) for name in both], [f"left out: {note}" for note in notes]


def _label_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(SUFFIXES) and path.is_file() and not path.name.startswith("."):
            if _name(path) in found:
                raise UnderstudyError(f"two files are called {_name(path)}", where=folder, fix="keep one of them")
            found[_name(path)] = path
    if not found:
        fix = f"label files end in {', '.join(SUFFIXES)}"
        raise UnderstudyError("the folder holds no label files", where=folder, fix=fix)
    return found


def _name(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)]


@dataclass(frozen=True)
class Pair:
    """Two label volumes on one grid."""

    name: str  # of the target's file, without folder and suffix
    pred: Labels  # integers 0 ... 65535; values as in the file
    target: Labels  # of the same shape
    spacing: tuple[float, ...]  # voxel edges in mm in the order of the arrays' axes
    notes: list[str]  # what was done: rounded, turned, affine ignored, spacing assumed


def read_pair(pred: Path, target: Path, spacing: Sequence[float] | None = None, ignore_affine: bool = False) -> Pair:
    """Reads two label files onto one grid.

    NIfTI files whose headers put the same voxels at the same places in another order are turned. Files that do not
    lie on one grid are refused: a wrong header is more likely than a prediction that should be resampled here.

    Args:
        spacing: voxel edges in mm in the order of the arrays' axes, for files without a header (default 1 mm).
        ignore_affine: compare the arrays as stored, with the target's spacing, whatever the headers say.

    Raises:
        UnderstudyError: unreadable, no whole numbers, another shape, another place.
    """
    a, of_target, notes = _read(target)
    b, of_pred, more = _read(pred)
    notes, stored, where = [*notes, *more], b.shape, f"{target} and {pred}"
    header = of_target or of_pred
    if of_target and of_pred:
        same = of_target.same_grid(of_pred)
        if ignore_affine:
            notes += [] if same else ["the headers' affines differ and were ignored; voxel spacing is the truth's"]
        elif of_target.slice_shape != of_pred.slice_shape:
            shapes = f"the truth has the shape {a.shape} ({of_target.axes}), the prediction {stored} ({of_pred.axes})"
            raise UnderstudyError(shapes, where=where, fix=_RESAMPLE)
        elif not same:
            apart = f"the headers put the voxels up to {of_target.voxels_apart(of_pred):.3g} voxels apart"
            fix = f"{_RESAMPLE}, or give --ignore-affine if the arrays belong together"
            raise UnderstudyError(apart, where=where, fix=fix)
        elif of_target.axes != of_pred.axes:
            what = f"the axes are stored as {of_target.axes} and {of_pred.axes}"
            notes.append(f"{what}: the prediction was brought into the order of the truth")
            b = of_target.arranged(b, of_pred)
    if a.shape != b.shape:
        order = next((o for o in permutations(range(3)) if tuple(b.shape[i] for i in o) == a.shape), None)
        turn = f"turn the prediction, e.g. array.transpose{order}, and compare them in a viewer: one may be flipped"
        what = f"the truth has the shape {a.shape}, the prediction {stored}"
        raise UnderstudyError(what, where=where, fix=turn if order else _RESAMPLE)
    if header is None:
        edges = tuple(float(s) for s in spacing or (1.0, 1.0, 1.0))
        notes += [] if spacing else ["no header tells the voxel spacing: 1 mm was assumed"]
    elif spacing is not None:
        what, fix = "the voxel spacing is in the file's header already", "leave out --spacing"
        raise UnderstudyError(what, where=target if of_target else pred, fix=fix)
    else:
        edges = tuple(np.linalg.norm(header.affine[:3, :3], axis=0).tolist())
    return Pair(_name(target), b, a, edges, notes)


def _read(path: Path) -> tuple[Labels, VolumeHeader | None, list[str]]:
    header: VolumeHeader | None = None
    if path.name.lower().endswith((".nii", ".nii.gz")):
        header = read_header(path)
        values = read_voxels(path, header)
    elif path.name.lower().endswith((".npy", ".npz")):
        values = _read_numpy(path)
    else:
        raise UnderstudyError("not a kind of label file", where=path, fix=f"give one of {', '.join(SUFFIXES)}")
    if values.ndim != 3:
        fix = "save array[None], with an axis of length 1" if values.ndim == 2 else "save one volume of labels a file"
        raise UnderstudyError(f"the array has the shape {values.shape}, not three axes", where=path, fix=fix)
    if values.dtype.kind not in "biuf":
        raise UnderstudyError(f"{values.dtype} values are not labels", where=path, fix="give the file of the labels")
    labels = whole_numbers(values, path)
    notes = [f"{path.name}: {what}" for what, _ in header.doubts] if header else []
    if values.dtype.kind == "f" and bool((labels != values).any()):
        notes.append(f"{path.name}: labels were rounded to whole numbers")
    return labels, header, notes


def _read_numpy(path: Path) -> NDArray[np.generic]:
    read_bytes(path, 200)  # says what is wrong with links and pointers
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = [name for name in ARRAYS if name in loaded.files] or loaded.files
            if len(names) != 1:
                fix = f"store one array, or call it one of {', '.join(ARRAYS)}"
                raise UnderstudyError(f"cannot tell which array holds the labels: {loaded.files}", path, fix)
            return np.asarray(loaded[names[0]])
    except UnderstudyError:
        raise
    except Exception as error:  # of a damaged file NumPy and zipfile raise nearly anything
        raise unreadable_array(path, error) from error


# --- rows -------------------------------------------------------------------------------------------------------------


def _score_pair(
    pair: Pair, wanted: Mapping[str, int], open_ended: bool, regions: Mapping[str, Sequence[str]] | str
) -> pd.DataFrame:
    """Raw rows of one pair; `open_ended` adds every label that occurs. Labels of both files are in attrs."""
    counted = (np.bincount(volume.ravel(order="K")) for volume in (pair.pred, pair.target))
    in_pred, in_target = (set(np.flatnonzero(voxels).tolist()) - {0} for voxels in counted)
    present = in_pred | in_target
    classes = dict(wanted)
    if open_ended:
        classes |= {str(v): v for v in present - set(classes.values())}
        classes = dict(sorted(classes.items(), key=lambda item: item[1]))
    if classes:
        values = list(classes.values())
        index = np.zeros(max(int(pair.pred.max()), int(pair.target.max()), *values) + 1, np.uint8)
        index[values] = np.arange(1, len(values) + 1)  # label value -> class index; all others are background
        pred, target = index[pair.pred], index[pair.target]
        rows = score_volume(pred=pred, target=target, class_names=[*classes], spacing=pair.spacing, regions=regions)
    else:  # nothing but background: the union of no classes is empty as well
        diagonal = float(np.linalg.norm(np.array(pair.target.shape) * pair.spacing))
        rows = [raw_row(FOREGROUND, WHOLE, False, Counts(0, 0, 0), UNDEFINED, diagonal)]
    frame = pd.DataFrame(rows)
    frame.insert(0, "file", pair.name)
    frame.attrs |= {"truth": in_target, "prediction": in_pred, "others": present - set(classes.values())}
    return frame


def _completed(parts: list[pd.DataFrame], named: list[str]) -> pd.DataFrame:
    """All files with all classes: one that a file lacks is empty in target and prediction."""
    found = {str(n) for part in parts for n in part.loc[~part["region"], "class_name"]} - {FOREGROUND}
    order = named or sorted(found, key=int)
    if not order:
        return pd.DataFrame()
    place = {name: i for i, name in enumerate(order)}
    complete = []
    for part in parts:
        lacking = [name for name in order if name not in set(part["class_name"])]
        diagonal = float(part["diagonal_mm"].iloc[0])
        empty = pd.DataFrame([raw_row(n, WHOLE, False, Counts(0, 0, 0), UNDEFINED, diagonal) for n in lacking])
        empty.insert(0, "file", part["file"].iloc[0])
        whole = pd.concat([part, empty], ignore_index=True) if lacking else part
        key = whole["class_name"].map(lambda n: place.get(n, len(place) + (n == FOREGROUND)))
        complete.append(whole.iloc[np.argsort(key.to_numpy(), kind="stable")])
    return pd.concat(complete, ignore_index=True)


def _note_labels(
    parts: list[pd.DataFrame], rows: pd.DataFrame, wanted: Mapping[str, int], named: bool, noted: dict[str, list[str]]
) -> None:
    """Notes labels without a name, labels of one side only (1 against 255, BraTS 2023's 3 against 4 of earlier years),
    and classes without a voxel in any target."""
    others = sorted({v for part in parts for v in part.attrs["others"]})
    if named and others:
        noted[""].append(f"labels without a name count as background: {', '.join(map(str, others))}")
    of_target, of_pred = (set().union(*(p.attrs[s] for p in parts)) for s in ("truth", "prediction"))
    alone = of_target - of_pred, of_pred - of_target
    unshared = bool(all(alone) and (not wanted or (alone[0] | alone[1]) & set(wanted.values())))
    if unshared:
        noted[""].append(_unshared(*alone))
    else:
        for part in parts:
            sides = part.attrs["truth"], part.attrs["prediction"]
            if all(sides) and not sides[0] & sides[1]:
                noted[str(part["file"].iloc[0])].append(_unshared(*sides))
    if rows.empty or (unshared and not named):
        return
    single = rows[~rows["region"] & (rows["class_name"] != FOREGROUND)]
    voxels = single.groupby("class_name", sort=False)["truth_voxels"].sum()
    if absent := [str(name) for name in voxels.index[voxels == 0]]:
        classes = f"class{'es' * (len(absent) > 1)} {', '.join(absent)}"
        noted[""].append(f"no ground truth has the {classes}: its scores say only whether it was predicted by mistake")


def _unshared(target: set[int], pred: set[int]) -> str:
    only = [f"label{'s' * (len(side) > 1)} {', '.join(map(str, sorted(side)))}" for side in (target, pred)]
    fix = f"if they mean the same, set prediction[prediction == {min(pred)}] = {min(target)} first"
    return f"only in the ground truth: {only[0]}; only in the prediction: {only[1]}; their overlap is 0; {fix}"


# --- results ----------------------------------------------------------------------------------------------------------


def as_result(scores: LabelScores) -> dict[str, Any]:
    """The scores as plain JSON values; NaN and infinite ones are None.

    Of two files: {policy, classes: {name: entry}, regions, foreground, mean, spacing_mm, notes}, where an entry holds
    `MEASURES`, `FLAGS` (bool) and `COUNTS`, and `mean` the means of the measures over the classes. Of two folders the
    same, with means over files as measures and numbers of files as flags, `n_files`, and `files`: {file: result}.
    """
    files = {}
    for name, part in scores.rows.groupby("file", sort=False):
        about = {"spacing_mm": list(scores.spacing[str(name)]), "notes": scores.notes[str(name)]}
        files[str(name)] = _of_file(part) | about
    top: dict[str, Any] = {"policy": str(scores.policy)}
    notes = scores.notes[""]
    if not scores.folders:
        ((name, only),) = files.items()
        return top | {"file": name} | only | {"notes": notes + only["notes"]}
    return top | {"n_files": len(files)} | _of_file(means_over_files(scores)) | {"notes": notes, "files": files}


def means_over_files(scores: LabelScores) -> pd.DataFrame:
    """One row per class, region and "foreground": means of the measures over files (undefined ones left out), sums of
    flags and counts."""
    table = []
    for (name, region), part in scores.rows.groupby(["class_name", "region"], sort=False):
        means = {m: float(part[m].mean()) for m in MEASURES}
        sums = {c: int(part[c].sum()) for c in (*FLAGS, *COUNTS)}
        table.append({"class_name": name, "region": region, **means, **sums})
    return pd.DataFrame(table)


def _of_file(part: pd.DataFrame) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    entries: dict[str, dict[str, Any]] = {}
    for row in part.to_dict("records"):
        entries[row["class_name"]] = {m: finite(row[m]) for m in MEASURES} | {c: row[c] for c in (*FLAGS, *COUNTS)}
    regions = set(part.loc[part["region"], "class_name"])
    single = part[~part["region"] & (part["class_name"] != FOREGROUND)]
    return {
        "classes": {name: entry for name, entry in entries.items() if name not in {*regions, FOREGROUND}},
        "regions": {name: entry for name, entry in entries.items() if name in regions},
        "foreground": entries[FOREGROUND],
        "mean": {m: finite(float(single[m].mean())) for m in MEASURES},
    }
