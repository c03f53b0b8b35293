"""Scores of anyone's label files (`understudy score`): NIfTI and NumPy, two files or two folders."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import reading
from understudy.io.folders import read_bytes
from understudy.io.foreign import NUMPY
from understudy.io.grids import VolumeHeader
from understudy.io.nifti import read_header, read_voxels, whole_numbers
from understudy.io.readers import array_names, read_array
from understudy.io.seals import check_opened
from understudy.metrics.overlap import FOREGROUND, Counts, EmptyPolicy, apply_policy
from understudy.metrics.scores import WHOLE, class_names, raw_row, score_volume
from understudy.metrics.surface import UNDEFINED, checked_spacing
from understudy.runtime.progress import track

SUFFIXES = (".nii.gz", ".nii", ".npz", ".npy")  # in small or capital letters
ARRAYS = ("labels", "prediction", "truth", "segmentation", "seg", "mask")  # the one that counts of several in an .npz
MEASURES = ("dice", "hd", "hd95_pooled", "hd95_directed", "hd95_surfel", "precision", "recall", "volume_error")
FLAGS = ("truth_empty", "prediction_empty", "missed", "false_alarm")
COUNTS = ("tp", "fp", "fn", "truth_voxels", "prediction_voxels")

Labels = NDArray[np.integer]

_RESAMPLE = "resample the prediction to the grid of the truth (nearest neighbour)"
_NAME_CLASSES = "give `classes`, e.g. --classes lesion=1"


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
    match: str = "", progress: bool = False,
) -> LabelScores:  # fmt: skip
    """Scores a predicted label volume, or all of a folder.

    Args:
        pred, target: two label files, or two folders whose files have the same names.
        policy: for empty masks, see `overlap.EmptyPolicy`.
        classes: name -> label value; others count as background. Default: every value above 0 that occurs in any of
            the files, named by its number.
        regions: unions of classes {name: [class, ...]}, "auto" (by the names of the classes) or "none".
        spacing, ignore_affine, skip_unmatched, match: see `read_pair` and `file_pairs`, also for errors.
    """
    pred, target = Path(pred), Path(target)
    pairs, notes = file_pairs(pred=pred, target=target, skip_unmatched=skip_unmatched, match=match)
    edges = None if spacing is None else checked_spacing(spacing)
    wanted = named = dict(classes or {})
    if named and (min(named.values()) < 1 or len(set(named.values())) < len(named)):
        fix = "give every class a label value of its own, 1 or more (0 is the background)"
        raise UnderstudyError(f"these are not classes: {named}", fix=fix)
    if not named and not isinstance(regions, str):  # regions may name label values: these are classes in every file
        members = sorted({m for each in regions.values() for m in each})
        if wrong := [m for m in members if not m.isdecimal() or int(m) < 1]:
            fix = f"{_NAME_CLASSES}, or use label values, e.g. WT=1+2+4"
            raise UnderstudyError(f"the regions name classes that are not known: {wrong}", fix=fix)
        wanted = {m: int(m) for m in members}
    noted, scored = {"": notes}, list[_Scored]()
    with track(len(pairs), "label files", unit="files", show=progress and len(pairs) > 1) as meter:
        for paths in pairs:
            pair = read_pair(*paths, edges, ignore_affine)
            noted[pair.name] = pair.notes
            scored.append(_score_pair(pair, wanted, not named, regions))
            meter.advance()
    order = list(named) or sorted({name for each in scored for name in each.classes}, key=int)
    if not order:
        where = f"{target} and {pred}"
        raise UnderstudyError("there is no label above 0 in any of the files", where=where, fix=_NAME_CLASSES)
    rows = _table(scored, order)
    _note_labels(scored, rows, wanted, bool(named), noted)
    table = apply_policy(rows, policy).rename(columns=lambda name: name.replace("predicted_", "prediction_"))
    columns = ["file", "class_name", "region", *MEASURES, *FLAGS, *COUNTS, "diagonal_mm"]
    edges_of = {each.name: each.spacing for each in scored}
    return LabelScores(table[columns], EmptyPolicy(policy), target.is_dir(), edges_of, noted)


def file_pairs(
    pred: Path, target: Path, skip_unmatched: bool = False, match: str = ""
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pairs (prediction, target) of two files, or of two folders by the files' names without suffix; and notes.

    Args:
        skip_unmatched: files without a partner are left out and noted; otherwise they are an UnderstudyError.
        match: for names that differ: a CSV file with the columns truth and prediction, or a regular expression of the
            part (its first group, if it has one) that is the same in both names.
    """
    where = f"{target} and {pred}"
    for path in (target, pred):
        if not path.exists():
            raise UnderstudyError("there is no such file or folder", where=path, fix="check the path")
    if target.is_dir() != pred.is_dir():
        raise UnderstudyError("a folder and a file", where=where, fix="give two files, or two folders")
    if not target.is_dir():
        return [(pred, target)], []
    if match.lower().endswith(".csv"):
        ours, theirs = _by_table(Path(match), _label_files(target), _label_files(pred))
    else:
        ours, theirs = _label_files(target, match), _label_files(pred, match)
    notes = []
    for lone, other in ((set(ours) - set(theirs), pred), (set(theirs) - set(ours), target)):
        if lone:
            more = f" and {len(lone) - 5} more" if len(lone) > 5 else ""
            notes.append(f"{len(lone)} without a partner in {other}: {', '.join(sorted(lone)[:5])}{more}")
    both = sorted(set(ours) & set(theirs))
    if not both or (notes and not skip_unmatched):
        fix = "give files that belong together the same name, or say what they have in common (--match), or leave out"
        fix += " files without a partner (--skip-unmatched)"
        raise UnderstudyError("; ".join(notes), where=where, fix=fix)
    return [(theirs[name], ours[name]) for name in both], [f"left out: {note}" for note in notes]


def _by_table(table: Path, ours: dict[str, Path], theirs: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """The files that a table names, both by the truth's name."""
    with reading(table):
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    if not {"truth", "prediction"} <= set(rows.columns):
        fix = "write a line with the names truth,prediction above the pairs"
        raise UnderstudyError("the table has no columns truth and prediction", where=table, fix=fix)
    pairs = [tuple(_name(Path(row[column])) for column in ("truth", "prediction")) for row in rows.to_dict("records")]
    for files, names in ((ours, [t for t, _ in pairs]), (theirs, [p for _, p in pairs])):
        if lost := sorted(set(names) - set(files)):
            raise UnderstudyError(f"there is no label file {lost[0]}", where=table, fix="correct the table")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UnderstudyError(f"{twice} stands in two lines", where=table, fix="name each file once")
    partner = {prediction: truth for truth, prediction in pairs}
    return ours, {partner.get(name, f"{name} (not in {table.name})"): path for name, path in theirs.items()}


def _label_files(folder: Path, match: str = "") -> dict[str, Path]:
    """Name without suffix, or the part of it that matches -> file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(SUFFIXES) and path.is_file() and not path.name.startswith("."):
            name = _matched(match, path) if match else _name(path)
            if name in found:
                what = f"two files are called {name}: {found[name].name} and {path.name}"
                fix = "give a pattern that tells them apart" if match else "keep one of them"
                raise UnderstudyError(what, where=folder, fix=fix)
            found[name] = path
    if not found:
        fix = f"label files end in {', '.join(SUFFIXES)}"
        raise UnderstudyError("the folder holds no label files", where=folder, fix=fix)
    return found


def _matched(match: str, path: Path) -> str:
    """The part of a file's name that it shares with its partner."""
    try:
        found = re.search(match, _name(path))
    except re.error as error:
        fix = "give one such as 'case_\\d+', or a file .csv"
        raise UnderstudyError(f"{match!r} is not a regular expression: {error}", where="--match", fix=fix) from error
    if found is None or not (part := found.group(1 if found.re.groups else 0)):
        fix = "give a pattern that is in every name, or a table (.csv)"
        raise UnderstudyError(f"{match!r} is not in the name {path.name}", where=path.parent, fix=fix)
    return str(part)


def _name(path: Path) -> str:
    """Without the suffix."""
    return path.name[: -len(next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")) or None]


class Pair(NamedTuple):
    """Two label volumes on one grid."""

    name: str  # of the target's file, without folder and suffix
    pred: Labels  # integers 0 ... 65535; values as in the file
    target: Labels  # of the same shape
    spacing: tuple[float, ...]  # voxel edges in mm in the order of the arrays' axes
    notes: list[str]  # what was done: rounded, turned, affine ignored, spacing assumed


def read_pair(pred: Path, target: Path, spacing: Sequence[float] | None = None, ignore_affine: bool = False) -> Pair:
    """Reads two label files onto one grid; an UnderstudyError where they are not label volumes, or not on one grid.

    NIfTI files whose headers put the same voxels at the same places in another order are turned. Others are refused: a
    wrong header is more likely than a prediction that should be resampled here.

    Args:
        spacing: voxel edges in mm in the order of the arrays' axes, for files without a header (default 1 mm).
        ignore_affine: compare the arrays as stored, with the target's spacing, whatever the headers say.
    """
    (a, of_target, notes), (b, of_pred, more) = _read(target), _read(pred)
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
            fix = f"{_RESAMPLE}, or set `ignore_affine` (--ignore-affine) if the arrays belong together"
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
    if header and spacing:
        what, fix = "the voxel spacing is in the file's header already", "leave out `spacing`"
        raise UnderstudyError(what, where=target if of_target else pred, fix=fix)
    if not header and not spacing:
        notes.append("no header tells the voxel spacing: 1 mm was assumed")
    edges = header.edges.tolist() if header else [float(s) for s in spacing or (1.0, 1.0, 1.0)]
    return Pair(_name(target), b, a, tuple(edges), notes)


def _read(path: Path) -> tuple[Labels, VolumeHeader | None, list[str]]:
    check_opened(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise UnderstudyError("not a kind of label file", where=path, fix=f"give one of {', '.join(SUFFIXES)}")
    header = read_header(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
    values = read_voxels(path, header) if header else _read_numpy(path)
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
    if not read_bytes(path, 200).startswith(b"PK"):  # says what is wrong with links and pointers
        return read_array(path)
    with reading(path, NUMPY), ZipFile(path) as archive:
        there = array_names(archive)
    names = [name for name in ARRAYS if name in there] or there
    if len(names) != 1:
        fix = f"store one array, or call it one of {', '.join(ARRAYS)}"
        raise UnderstudyError(f"cannot tell which array holds the labels: {list(there)}", path, fix)
    return read_array(path, names[0])


class _Scored(NamedTuple):
    name: str
    spacing: tuple[float, ...]
    diagonal: float  # of the volume, mm
    in_pred: set[int]  # labels above 0 that occur
    in_target: set[int]
    classes: list[str]
    rows: dict[str, dict[str, Any]]  # raw rows by class, region and "foreground"


def _score_pair(
    pair: Pair, wanted: Mapping[str, int], all_labels: bool, regions: Mapping[str, Sequence[str]] | str
) -> _Scored:
    """Raw rows of one pair; `all_labels`: those without a name as well, as classes of their own."""
    counted = (np.bincount(volume.ravel(order="K")) for volume in (pair.pred, pair.target))
    in_pred, in_target = (set(np.flatnonzero(voxels).tolist()) - {0} for voxels in counted)
    classes = dict(wanted)
    if all_labels:
        classes |= {str(value): value for value in (in_pred | in_target) - set(classes.values())}
        classes = dict(sorted(classes.items(), key=lambda item: item[1]))
    rows = []
    if classes:
        values = list(classes.values())
        index = np.zeros(max(int(pair.pred.max()), int(pair.target.max()), *values) + 1, np.uint8)
        index[values] = np.arange(1, len(values) + 1)  # label value -> class index; all others are background
        rows = score_volume(index[pair.pred], index[pair.target], list(classes), pair.spacing, regions=regions)
    diagonal = float(np.linalg.norm(np.array(pair.target.shape) * pair.spacing))
    by_name = {row["class_name"]: row for row in rows}
    return _Scored(pair.name, pair.spacing, diagonal, in_pred, in_target, list(classes), by_name)


def _table(scored: list[_Scored], order: list[str]) -> pd.DataFrame:
    """Raw rows of all files with all classes: one that a file lacks is empty in target and prediction."""
    rows = []
    for each in scored:
        regions = [name for name, row in each.rows.items() if row["region"]]
        for name in [*order, *regions, FOREGROUND]:
            empty = raw_row(name, WHOLE, False, Counts(0, 0, 0), UNDEFINED, each.diagonal)
            rows.append({"file": each.name, **each.rows.get(name, empty)})
    return pd.DataFrame(rows)


def _note_labels(
    scored: list[_Scored], rows: pd.DataFrame, wanted: Mapping[str, int], named: bool, noted: dict[str, list[str]]
) -> None:
    """Notes labels without a name, labels of one side only (1 against 255, BraTS 2023's 3 against 4 of earlier years),
    and classes without a voxel in any target."""
    in_pred = {label for each in scored for label in each.in_pred}
    in_target = {label for each in scored for label in each.in_target}
    others = sorted((in_target | in_pred) - set(wanted.values()))
    if named and others:
        noted[""].append(f"labels without a name count as background: {', '.join(map(str, others))}")
    only_target, only_pred = in_target - in_pred, in_pred - in_target
    if only_target and only_pred and (not wanted or (only_target | only_pred) & set(wanted.values())):
        noted[""].append(_no_overlap(only_target, only_pred))
        if not named:
            return
    else:
        for each in scored:
            if each.in_target and each.in_pred and not each.in_target & each.in_pred:
                noted[each.name].append(_no_overlap(each.in_target, each.in_pred))
    voxels = rows.groupby("class_name", sort=False)["truth_voxels"].sum()[class_names(rows)]
    if absent := [str(name) for name in voxels.index[voxels == 0]]:
        classes = f"class{'es' * (len(absent) > 1)} {', '.join(absent)}"
        noted[""].append(f"no ground truth has the {classes}: its scores say only whether it was predicted by mistake")


def _no_overlap(target: set[int], pred: set[int]) -> str:
    only = [f"label{'s' * (len(side) > 1)} {', '.join(map(str, sorted(side)))}" for side in (target, pred)]
    fix = f"if they mean the same, set prediction[prediction == {min(pred)}] = {min(target)} first"
    return f"only in the ground truth: {only[0]}; only in the prediction: {only[1]}; their overlap is 0; {fix}"


def as_result(scores: LabelScores) -> dict[str, Any]:
    """The scores as plain JSON values; NaN and infinite ones are None.

    Of two files: {policy, classes: {name: entry}, regions, foreground, mean, spacing_mm, notes}, where an entry holds
    `MEASURES`, `FLAGS` (bool) and `COUNTS`, and `mean` the means of the measures over the classes. Of two folders the
    same, with means over files as measures and numbers of files as flags, `n_files`, and `files`: {file: result}.
    """
    files = {}
    for name, part in scores.rows.groupby("file", sort=False):
        about = {"spacing_mm": list(scores.spacing[str(name)]), "notes": scores.notes[str(name)]}
        files[str(name)] = _entries(part) | about
    top, notes = {"policy": str(scores.policy)}, scores.notes[""]
    if scores.folders:
        return top | {"n_files": len(files)} | _entries(means_over_files(scores)) | {"notes": notes, "files": files}
    ((name, only),) = files.items()
    return top | {"file": name} | only | {"notes": notes + only["notes"]}


def means_over_files(scores: LabelScores) -> pd.DataFrame:
    """One row per class, region and "foreground": means of the measures over files (undefined ones left out), sums of
    flags and counts."""
    table = []
    for (name, region), part in scores.rows.groupby(["class_name", "region"], sort=False):
        means = {m: float(part[m].mean()) for m in MEASURES}
        sums = {c: int(part[c].sum()) for c in (*FLAGS, *COUNTS)}
        table.append({"class_name": name, "region": region, **means, **sums})
    return pd.DataFrame(table)


def _entries(rows: pd.DataFrame) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    found: dict[str, Any] = {"classes": {}, "regions": {}, FOREGROUND: {}}
    for row in rows.to_dict("records"):
        name, kind = row["class_name"], "regions" if row["region"] else "classes"
        entry = {m: finite(row[m]) for m in MEASURES} | {c: row[c] for c in (*FLAGS, *COUNTS)}
        (found if name == FOREGROUND else found[kind])[name] = entry
    single = rows[rows["class_name"].isin(class_names(rows))]
    return found | {"mean": {m: finite(float(single[m].mean())) for m in MEASURES}}
