"""Any folder of images as a SliceSet, for comparisons: what `read` recognises, and plain images without channel names.

A comparison needs no annotation and no names of sequences: a folder of grey images is one channel called "image". What
it needs is whose slices the real ones are; patients come from the set, from a pattern, or from the files' names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.fingerprint import folder_mark
from understudy.exchange.pixels import read_png
from understudy.exchange.read import read_folder
from understudy.exchange.spec import ALIASES, FolderSpec
from understudy.files import sha256_json
from understudy.folders import files_below
from understudy.slices import BACKGROUND, SHARD, SliceSet, SliceWriter

_IMAGES, _ARRAYS = (".png",), (".npz", ".npy")
# What stands behind the patient in the name of a slice: "p01_z045", "sub-3_slice-012", "case7-45", "p01/045".
_SLICE_NUMBER = re.compile(r"[_\-. /]+(?:slice|sl|z|s)?[_\-. ]?\d+$", re.IGNORECASE)

_Stack = tuple[list[str], NDArray[np.uint8]]


def open_images(path: str | Path, read_into: str | Path, patients: str | None = None) -> tuple[SliceSet, str]:
    """A slice set, or a folder of images read as one.

    Args:
        path: a slice set, a folder that `read_folder` recognises, or plain 8-bit images: grey PNG files, or NumPy
            arrays uint8 [H, W], [N, H, W] or [N, C, H, W] (under the key `images`, or the only one).
        read_into: folder for what is read; it then holds the images.
        patients: regular expression whose first group is the patient in the name of a slice; None: the slices that
            differ in a number at the end of their name are one patient's, if this leaves more than one.

    Returns:
        The set, with a column `subject`, and how patients were told apart ("" if the set says it and nobody else).

    Raises:
        UnderstudyError: a wrong expression, nothing there, images that cannot be read or differ in size, a name without
            a patient.
    """
    path, read_into = Path(path), Path(read_into)
    if not path.exists():
        raise UnderstudyError(
            "there is no such slice set or folder of images", where=path.absolute(), fix="check the path"
        )
    if patients is not None:
        _expression(patients)
    told = (
        "" if patients is None else f"--patients is for names of plain images, and not used for {path.name}"
    )
    if (path / "index.parquet").is_file() or not path.is_dir():
        return SliceSet.open(path), told
    own = read_into / sha256_json(str(path.absolute()))[:12]
    if _names_channels(path):
        found = read_folder(path, FolderSpec(), own, progress=False)
        if "subject" in found.index:
            return found, told
        names = found.index["id"].astype(str).tolist()
        subjects, note = patients_of(names, patients, path)
        return _with_subjects(found, subjects, own.with_name(own.name + "-patients")), note
    return _plain(path, own, patients)


def patients_of(names: Sequence[str], pattern: str | None, where: Path) -> tuple[list[str], str]:
    """Patient of each slice by its name, and in words how that was decided.

    Raises:
        UnderstudyError: the pattern is wrong or fits a name not.

    Example:
        >>> patients_of(["p1_z01", "p1_z02", "p2_z01"], None, Path("folder"))[0]
        ['p1', 'p1', 'p2']
    """
    if pattern is not None:
        wanted = _expression(pattern)
        return [_matched(wanted, name, where) for name in names], f"patients by the pattern {pattern!r}"
    short = [_SLICE_NUMBER.sub("", name) for name in names]
    if all(short) and 1 < len(set(short)) < len(names):
        return (
            short,
            f"patients read off the names: {names[0]!r} is of patient {short[0]!r} (--patients REGEX says it better)",
        )
    mark = sha256_json(str(where.absolute()))[:8]
    return [f"{mark}/{name}" for name in names], (
        f"every image of {where.name} counts as a patient of its own: no name tells patients apart, and neighbouring"
        " slices of one patient would make the audit too sure (--patients REGEX)"
    )


def _expression(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UnderstudyError(
            f"{pattern!r} is no regular expression ({error})", fix="write e.g. --patients '^(.+)_z\\d+$'"
        ) from error


def _matched(pattern: re.Pattern[str], name: str, where: Path) -> str:
    found = pattern.search(name)
    patient = found and found[1 if pattern.groups else 0]
    if not patient:
        raise UnderstudyError(
            f"the slice {name!r} has no patient by {pattern.pattern!r}", where=where, fix="correct --patients"
        )
    return patient


def _names_channels(path: Path) -> bool:
    """Whether file names speak of sequences, or the files are volumes."""
    if files_below(path, (".nii", ".nii.gz")):
        return True
    known = {alias for names in ALIASES.values() for alias in names}
    tokens = {token for file in files_below(path, _IMAGES) for token in re.split(r"[^a-z0-9]+", file.lower())}
    return bool(tokens & known)


def _plain(path: Path, out: Path, patients: str | None) -> tuple[SliceSet, str]:
    files = files_below(path, (*_IMAGES, *_ARRAYS))
    if not files:
        raise UnderstudyError(
            "there is no image in the folder",
            where=path,
            fix="give a slice set, or a folder of 8-bit grey PNG files or NumPy arrays (.npz, .npy)",
        )
    names = [name for file in files for name in _stack(path, file)[0]]
    subjects, note = patients_of(names, patients, path)
    first = _stack(path, files[0])[1]
    channels = ["image"] if first.shape[1] == 1 else [f"channel {i}" for i in range(1, first.shape[1] + 1)]
    identity = {"plain": folder_mark(path, files), "subjects": sha256_json(subjects)}
    if (out / "index.parquet").is_file():
        kept = SliceSet.open(out)
        if kept.attrs.get("identity") == identity:
            return kept, note
        raise UnderstudyError(
            "another folder was read here", where=out, fix="delete it, or use another --out"
        )
    edge = max(first.shape[-2:])
    writer = SliceWriter(out, channels, [BACKGROUND], edge, identity=identity)
    done = 0
    for ids, images in _stacks(path, files):
        stop = done + len(ids)
        rows = [{"id": i, "subject": s} for i, s in zip(ids, subjects[done:stop], strict=True)]
        start = max(0, min(len(ids), writer.done - done))
        if start < len(ids):
            squares = _squares(images[start:], len(channels), edge, path / ids[start])
            writer.append(squares, np.zeros((len(squares), edge, edge), np.uint8), rows[start:])
        done = stop
    return writer.close(identity=identity), note


def _stacks(path: Path, files: Sequence[str]) -> Iterator[_Stack]:
    """Names and images uint8 [n, C, H, W], about a shard at a time."""
    ids: list[str] = []
    parts: list[NDArray[np.uint8]] = []
    for file in files:
        names, images = _stack(path, file)
        if parts and (len(ids) >= SHARD or images.shape[1:] != parts[0].shape[1:]):
            yield ids, np.concatenate(parts)
            ids, parts = [], []
        ids, parts = [*ids, *names], [*parts, images]
    if parts:
        yield ids, np.concatenate(parts)


def _stack(path: Path, file: str) -> _Stack:
    """Names and images uint8 [n, C, H, W] of one file."""
    place, stem = path / file, file.rsplit(".", 1)[0]
    if file.lower().endswith(_IMAGES):
        return [stem], read_png(place)[None, None]
    images = _array(place)
    if len(images) == 1:
        return [stem], images
    return [f"{stem}_{i}" for i in range(len(images))], images


def _array(place: Path) -> NDArray[np.uint8]:
    """uint8 [n, C, H, W] of a NumPy file; pickles in it are not executed."""
    try:
        held = np.load(place, allow_pickle=False)
        if isinstance(held, np.lib.npyio.NpzFile):
            key = "images" if "images" in held.files else held.files[0] if len(held.files) == 1 else None
            if key is None:
                raise ValueError(f"it holds {', '.join(held.files)}, and none is called `images`")
            held = held[key]
    except (OSError, ValueError, EOFError) as error:
        raise UnderstudyError(
            f"the array cannot be read ({str(error).splitlines()[0]})",
            where=place,
            fix="save it with numpy.savez(FILE, images=...), without objects in it",
        ) from error
    if held.dtype != np.uint8 or not 2 <= held.ndim <= 4:
        raise UnderstudyError(
            f"an array {held.dtype} of shape {held.shape}, not uint8 [H, W], [N, H, W] or [N, C, H, W]",
            where=place,
            fix="scale the images to 0-255, or read them first: understudy read --help",
        )
    return np.asarray(held[None, None] if held.ndim == 2 else held[:, None] if held.ndim == 3 else held)


def _squares(images: NDArray[np.uint8], channels: int, edge: int, where: Path) -> NDArray[np.uint8]:
    """Images uint8 [n, C, H, W] with zeros around to [n, C, edge, edge]."""
    height, width = images.shape[-2:]
    if images.shape[1] != channels or max(height, width) != edge:
        raise UnderstudyError(
            f"an image of {height} x {width} pixels, {images.shape[1]} channels, among images of {edge} and {channels}",
            where=where,
            fix="all images of a folder need the same size and channels",
        )
    top, left = (edge - height) // 2, (edge - width) // 2
    around = [(0, 0), (0, 0), (top, edge - height - top), (left, edge - width - left)]
    return np.pad(images, around)


def _with_subjects(slices: SliceSet, subjects: list[str], out: Path) -> SliceSet:
    """A copy of the set whose index says the patients."""
    identity = {"content": slices.content_hash, "subjects": sha256_json(subjects)}
    if (out / "index.parquet").is_file() and SliceSet.open(out).attrs.get("identity") == identity:
        return SliceSet.open(out)
    writer = SliceWriter(
        out, slices.channels, slices.classes, slices.resolution, slices.spacing, slices.axes, identity
    )
    index = slices.index.assign(subject=subjects)
    for rows, images, labels in slices.blocks(np.arange(writer.done, len(slices))):
        writer.append(images, labels, index.iloc[rows])
    return writer.close(identity=identity)
