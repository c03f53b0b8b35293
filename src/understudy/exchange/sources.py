"""Slices of a foreign folder one after the other: files of one channel each (PNG, NIfTI), or a set of slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.pixels import read_png, to_8_bit, to_grey
from understudy.exchange.recognise import Recognised, SliceFiles
from understudy.exchange.spec import FolderSpec
from understudy.io.grids import VolumeHeader, judge_pixels, slices_of
from understudy.io.nifti import headers_on_one_grid, read_voxels
from understudy.runtime.threads import in_order
from understudy.slices import SliceSet

_WORKERS = 2  # threads that decode files
_SAME_PIXELS = 0.01  # part of an edge by which pixels of one size may differ


@dataclass(frozen=True)
class RawSlice:
    """A slice as the folder has it."""

    row: dict[str, Any]  # what goes into the index: id, and subject and z where they are known
    images: NDArray[np.uint8]  # [C, H, W]
    drawn: NDArray[Any]  # grey values [A, H, W] of the annotation: one channel of codes, or one a class
    where: Path  # file of the first channel
    annotated_in: Path


class Source(Protocol):
    """A folder of slices."""

    channels: tuple[str, ...]  # of `RawSlice.images`
    classes: tuple[str, ...]  # those with a channel of their own in `RawSlice.drawn`; () for codes
    annotated: bool  # without an annotation `RawSlice.drawn` is 0 everywhere
    count: int | None  # slices, None where only reading tells
    notes: list[str]  # how the folder was understood; complete when all slices are read

    def slices(self) -> Iterator[RawSlice]:
        """The slices, always in the same order."""


class FileSource:
    """A file for each channel of each slice: PNG, or NIfTI with one slice or a volume in it."""

    def __init__(self, root: Path, found: Recognised, spec: FolderSpec, nifti: bool) -> None:
        self._root, self._found, self._spec, self._nifti = root, found, spec, nifti
        self.channels = found.channels
        self.classes = tuple(n.partition(":")[2] for n in found.annotation if ":" in n)
        self.annotated = bool(found.annotation)
        self.count: int | None = None if nifti else len(found.slices)
        # nothing says whose the volumes are: each counts as a patient
        self.one_a_volume = nifti and not any(entry.subject for entry in found.slices)
        self.notes: list[str] = []
        if not self.annotated:
            self.notes.append("no annotation was found (--labels names its files)")
        if found.surplus:
            example = found.surplus[0]
            self.notes.append(
                f"{len(found.surplus)} files belong to none of the slices and were left out, e.g. {example}"
            )

    def slices(self) -> Iterator[RawSlice]:
        """See `Source`."""
        if not self._nifti:
            yield from in_order(self._png, self._found.slices, _WORKERS)
            return
        first: tuple[Path, VolumeHeader] | None = None
        for headers, slices in in_order(self._volume, self._found.slices, _WORKERS):
            path, header = next(iter(headers.items()))
            first = first or (path, header)
            if not np.allclose(header.spacing[1:], first[1].spacing[1:], rtol=_SAME_PIXELS, atol=0):
                sizes = ["{:.4g} x {:.4g} mm".format(*h.spacing[1:]) for h in (header, first[1])]
                what = (
                    f"{path.name} has pixels of {sizes[0]}, {first[0].name} of {sizes[1]}: heads would differ in size"
                )
                fix = "resample all volumes to one pixel size; a study of the folder does so: understudy init FOLDER"
                raise UnderstudyError(what, where=path, fix=fix)
            self._note_doubts(headers)
            yield from slices

    def _png(self, entry: SliceFiles) -> RawSlice:
        return self._raw(entry, *self._read(entry, lambda path: read_png(path)[None]), 0)

    def _note_doubts(self, headers: Mapping[Path, VolumeHeader]) -> None:
        """Each doubt once, with the first file that gives rise to it."""
        found = [(path, *doubt) for path, header in headers.items() for doubt in header.doubts]
        path, header = next(iter(headers.items()))
        if header.slice_shape[0] > 1:
            fix = "they are not resampled: heads are distorted unless the images beside them have the same pixels"
            found += [(path, what, fix) for what, _, _ in judge_pixels(header)]
        for path, what, fix in found:
            if not any(note.startswith(f"{what}, e.g. ") for note in self.notes):
                self.notes.append(f"{what}, e.g. {path.name}: {fix}")

    def _volume(self, entry: SliceFiles) -> tuple[dict[Path, VolumeHeader], list[RawSlice]]:
        """The headers, and all slices but empty ones; the one slice of a flat file whatever it holds."""
        paths = list(self._paths(entry).values())
        headers = dict(zip(paths, headers_on_one_grid(paths, flat=True), strict=True))
        header = headers[paths[0]]
        wrong = [what for what, _, severity in judge_pixels(header) if severity == "error"]
        if wrong and header.slice_shape[0] > 1:
            fix = "save its slices as PNG, or make a study, which cuts volumes in any plane: understudy init FOLDER"
            raise UnderstudyError(wrong[0], where=paths[0], fix=fix)
        images, drawn = self._read(entry, lambda path: slices_of(read_voxels(path, headers[path]), headers[path]))
        if images.shape[1] == 1:
            return headers, [self._raw(entry, images, drawn, 0)]
        subject = entry.subject or entry.id
        return headers, [
            self._raw(entry, images, drawn, z, id=f"{entry.id}_{z:03d}", subject=subject, z=z)
            for z in np.flatnonzero(images.any(axis=(0, 2, 3))).tolist()
        ]

    def _raw(
        self, entry: SliceFiles, images: NDArray[np.uint8], drawn: NDArray[Any], at: int, **more: str | int
    ) -> RawSlice:
        """Slice `at` of images [C, Z, H, W] and annotation [A, Z, H, W]."""
        row = {"id": entry.id, **({"subject": entry.subject} if entry.subject else {}), **more}
        paths = list(self._paths(entry).values())
        annotated_in = paths[len(self.channels)] if self.annotated else paths[0]
        return RawSlice(row, images[:, at], drawn[:, at], paths[0], annotated_in)

    def _paths(self, entry: SliceFiles) -> dict[str, Path]:
        """Channels, then what the annotation consists of -> file."""
        return {name: self._root / entry.files[name] for name in (*self.channels, *self._found.annotation)}

    def _read(self, entry: SliceFiles, read: Callable[[Path], NDArray[Any]]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Images uint8 [C, Z, H, W] and annotation [A, Z, H, W], all of one size."""
        paths = self._paths(entry)
        images = [to_8_bit(to_grey(read(paths[n]), self._spec, paths[n])) for n in self.channels]
        drawn = [to_grey(read(paths[n]), self._spec, paths[n], True) for n in self._found.annotation]
        first = paths[self.channels[0]]
        for path, part in zip(paths.values(), (*images, *drawn), strict=True):
            if part.shape != images[0].shape:
                what = f"slice {entry.id}: {path.name} has {_size(part)}, {first.name} has {_size(images[0])}"
                fix = "all channels of a slice need the same size; make the files again or remove the slice"
                raise UnderstudyError(what, where=path, fix=fix)
        return np.stack(images), np.stack(drawn or [np.zeros_like(images[0])])


def _size(part: NDArray[Any]) -> str:
    depth, height, width = part.shape
    return f"{height} x {width} pixels" + (f" and {depth} slices" if depth > 1 else "")


class SetSource:
    """A slice set of Understudy, with its channels put in order by name and its classes as codes."""

    def __init__(self, root: Path, spec: FolderSpec, known: Sequence[str] | None) -> None:
        self._root, self._set = root, SliceSet.open(root)
        self.channels = tuple(known or self._set.channels)
        if missing := [name for name in self.channels if name not in self._set.channels]:
            where = f"{root}: its channels are {', '.join(self._set.channels)}"
            what = f"the slice set has no channel {', '.join(missing)}"
            raise UnderstudyError(what, where=where, fix="write it with all channels")
        if spec.named or spec.labels or spec.pattern:
            what, fix = "a slice set says itself what its channels are called", "leave channels, labels and pattern out"
            raise UnderstudyError(what, where=root, fix=fix)
        self.classes, self.annotated = self._set.class_names, True
        self.count: int | None = len(self._set)
        self.notes: list[str] = []

    def slices(self) -> Iterator[RawSlice]:
        """See `Source`; classes come as channels of 0 and 255."""
        order = [self._set.channels.index(name) for name in self.channels]
        columns = [name for name in ("id", "subject", "z") if name in self._set.index]
        index = self._set.index[columns].to_dict(orient="records")
        values = np.arange(1, len(self.classes) + 1)[:, None, None]
        for rows, images, labels in self._set.blocks(np.arange(len(self._set))):
            for row, image, label in zip(rows.tolist(), images, labels, strict=True):
                drawn = (label[None] == values).astype(np.uint8) * np.uint8(255)
                yield RawSlice(index[row], image[order], drawn, self._root, self._root)
