"""Two label files as two arrays on one grid: NIfTI (.nii, .nii.gz) and NumPy (.npy, .npz), single or by folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.arrays import unreadable_array
from understudy.io.folders import read_bytes
from understudy.io.grids import VolumeHeader
from understudy.io.nifti import read_header, read_voxels, whole_numbers
from understudy.metrics.surfels import Spacing

SUFFIXES = (".nii.gz", ".nii", ".npz", ".npy")  # in small or capital letters
ARRAYS = ("labels", "prediction", "truth", "segmentation", "seg", "mask")  # the one that counts of several in an .npz

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Pair:
    """Two label volumes on one grid.

    Attributes:
        name: of the file, without folder and suffix.
        truth, prediction: integers 0 ... 65535, one shape; values as in the files.
        spacing: voxel edges in mm in the order of the arrays' axes.
        notes: what was done that a reader should know (rounded, turned, affine ignored, spacing assumed).
    """

    name: str
    truth: Labels
    prediction: Labels
    spacing: Spacing
    notes: list[str] = field(default_factory=list)


def file_pairs(
    truth: Path, prediction: Path, skip_unmatched: bool = False
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """The files to compare: two files, or all files of two folders that have the same name but for the suffix.

    Args:
        truth, prediction: both files or both folders.
        skip_unmatched: leave files without a partner out and say so in the notes.

    Returns:
        (truth, prediction) paths in order of their names, and notes.

    Raises:
        UnderstudyError: a path that does not exist, a file and a folder, no label files, files without a partner.
    """
    for path in (truth, prediction):
        if not path.exists():
            raise UnderstudyError("there is no such file or folder", where=path, fix="check the path")
    if truth.is_dir() != prediction.is_dir():
        raise UnderstudyError(
            "one of the two is a folder, the other a file",
            where=f"{truth} and {prediction}",
            fix="give two files, or two folders",
        )
    if not truth.is_dir():
        return [(truth, prediction)], []
    ours, theirs = _label_files(truth), _label_files(prediction)
    notes = [
        f"{len(lone)} without a partner in {other}: {_some(lone)}"
        for lone, other in ((set(ours) - set(theirs), prediction), (set(theirs) - set(ours), truth))
        if lone
    ]
    both = sorted(set(ours) & set(theirs))
    if not both or (notes and not skip_unmatched):
        raise UnderstudyError(
            "; ".join(notes),
            where=f"{truth} and {prediction}",
            fix="give files that belong together the same name, or leave the others out with --skip-unmatched"
            if both
            else "give files that belong together the same name",
        )
    return [(ours[name], theirs[name]) for name in both], [f"left out: {note}" for note in notes]


def read_pair(
    truth: Path, prediction: Path, spacing: Sequence[float] | None = None, ignore_affine: bool = False
) -> Pair:
    """Reads two label files onto one grid.

    NIfTI files whose headers put the same voxels at the same places in another order are turned. Files that do not
    lie on one grid are refused: a wrong header is more likely than a prediction that should be resampled here.

    Args:
        truth, prediction: the files.
        spacing: voxel edges in mm in the order of the arrays' axes, for files without a header (default 1 mm).
        ignore_affine: compare the arrays as stored, with the truth's spacing, whatever the headers say.

    Raises:
        UnderstudyError: unreadable, no whole numbers, another shape, another place.
    """
    a, b = _read(truth), _read(prediction)
    notes, labels = [*a.notes, *b.notes], (a.labels, b.labels)
    header = a.header or b.header
    if a.header and b.header:
        same = a.header.same_grid(b.header)
        if ignore_affine:
            notes += [] if same else ["the headers' affines differ and were ignored; voxel spacing is the truth's"]
        elif not same:
            raise _other_grid(a, b, a.header, b.header)
        elif a.header.axes != b.header.axes:
            what = f"the axes are stored as {a.header.axes} and {b.header.axes}"
            notes.append(f"{what}: the prediction was brought into the order of the truth")
            labels = a.labels, a.header.arranged(b.labels, b.header)
    if labels[0].shape != labels[1].shape:
        shape = labels[1].shape
        order = next((o for o in permutations(range(3)) if tuple(shape[i] for i in o) == labels[0].shape), None)
        raise UnderstudyError(
            f"the truth has the shape {a.labels.shape}, the prediction {b.labels.shape}",
            where=f"{truth} and {prediction}",
            fix="resample the prediction to the grid of the truth (nearest neighbour)"
            if order is None
            else f"bring the prediction's axes into the order of the truth's, e.g. array.transpose{order}, and look at"
            " both in a viewer: an axis may be flipped as well",
        )
    if header is None:
        edges = tuple(float(s) for s in spacing or (1.0, 1.0, 1.0))
        notes += [] if spacing else ["no header tells the voxel spacing: 1 mm was assumed"]
    elif spacing is not None:
        raise UnderstudyError(
            "the voxel spacing is in the file's header already",
            where=truth if a.header else prediction,
            fix="leave out --spacing, which is for arrays without a header",
        )
    else:
        edges = tuple(np.linalg.norm(header.affine[:3, :3], axis=0).tolist())
    return Pair(_name(truth), *labels, edges, notes)  # type: ignore[arg-type]  # length checked in scoring


@dataclass(frozen=True)
class _File:
    path: Path
    labels: Labels
    header: VolumeHeader | None
    notes: list[str]


def _read(path: Path) -> _File:
    header: VolumeHeader | None = None
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        header = read_header(path)
        values = read_voxels(path, header)
    elif name.endswith((".npy", ".npz")):
        values = _read_numpy(path)
    else:
        raise UnderstudyError(
            "not a kind of label file that can be scored", where=path, fix=f"give one of {', '.join(SUFFIXES)}"
        )
    if values.ndim != 3:
        raise UnderstudyError(
            f"the array has the shape {values.shape}, not three axes",
            where=path,
            fix="a single slice needs an axis of length 1: save array[None]"
            if values.ndim == 2
            else "save one volume of labels a file, with three axes",
        )
    if values.dtype.kind not in "biuf":
        raise UnderstudyError(
            f"the file holds {values.dtype} values, not labels", where=path, fix="give the file of the labels"
        )
    labels = whole_numbers(values, path)
    notes = [f"{path.name}: {what}" for what, _ in header.doubts] if header else []
    if values.dtype.kind == "f" and bool((labels != values).any()):
        notes.append(f"{path.name}: labels were rounded to whole numbers")
    return _File(path, labels, header, notes)


def _read_numpy(path: Path) -> NDArray[np.generic]:
    read_bytes(path, 200)  # says what is wrong with links and pointers
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            known = [name for name in ARRAYS if name in loaded.files]
            names = known if known else loaded.files
            if len(names) != 1:
                raise UnderstudyError(
                    f"cannot tell which array holds the labels: {loaded.files}",
                    where=path,
                    fix=f"store one array, or call it one of {', '.join(ARRAYS)}",
                )
            return np.asarray(loaded[names[0]])
    except UnderstudyError:
        raise
    except Exception as error:  # of a damaged file NumPy and zipfile raise nearly anything
        raise unreadable_array(path, error) from error


def _other_grid(a: _File, b: _File, one: VolumeHeader, other: VolumeHeader) -> UnderstudyError:
    where = f"{a.path} and {b.path}"
    if one.slice_shape != other.slice_shape:
        return UnderstudyError(
            f"the truth has the shape {a.labels.shape} (axes {one.axes}), the prediction {b.labels.shape}"
            f" (axes {other.axes})",
            where=where,
            fix="resample the prediction to the grid of the truth (nearest neighbour)",
        )
    return UnderstudyError(
        f"the headers put the voxels at different places, up to {one.voxels_apart(other):.3g} voxels apart",
        where=where,
        fix="resample the prediction to the grid of the truth, or give --ignore-affine if the arrays belong together",
    )


def _label_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(SUFFIXES) and path.is_file() and not path.name.startswith("."):
            if _name(path) in found:
                raise UnderstudyError(
                    f"two files are called {_name(path)}", where=folder, fix="keep one of them in this folder"
                )
            found[_name(path)] = path
    if not found:
        raise UnderstudyError(
            "the folder holds no label files", where=folder, fix=f"label files end in {', '.join(SUFFIXES)}"
        )
    return found


def _name(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)]


def _some(names: set[str]) -> str:
    first = sorted(names)[:5]
    return ", ".join(first) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
