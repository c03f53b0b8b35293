"""NumPy files as slices: stacks [N, C, H, W] or single slices [C, H, W], channels first or last, read item by item.

No file is ever unpickled. A `.npy` file is mapped, a member of an `.npz` file is inflated as a stream: neither is
in memory as a whole.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.pixels import to_8_bit, to_grey
from understudy.exchange.sources import RawSlice
from understudy.exchange.spec import ALIASES, LABELS, FolderSpec
from understudy.folders import natural

_IMAGE_WORDS = ("images", "image", "imgs", "img", "samples", "arr_0", "data", "x")
_LABEL_WORDS = (*ALIASES[LABELS], "y")
_ENDING = re.compile(r"\.(npy|npz)$", re.IGNORECASE)


class ArrayFile:
    """One array in a file, read item by item along its first axis.

    Args:
        path: a `.npy` file, or an `.npz` file.
        member: name of the array in an `.npz` file.

    Raises:
        UnderstudyError: unreadable, Python objects inside, stored column by column in an archive.
    """

    def __init__(self, path: Path, member: str | None = None) -> None:
        self.path, self._member = path, member
        try:
            if member is None:
                self._mapped = np.load(path, mmap_mode="r", allow_pickle=False)
                self.shape, self.dtype = self._mapped.shape, self._mapped.dtype
            else:
                with self._open() as stream:
                    self.shape, self.dtype = self._header(stream)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise _unreadable(path, error) from error

    def _open(self) -> IO[bytes]:
        return zipfile.ZipFile(self.path).open(f"{self._member}.npy")

    def _header(self, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
        if fortran and len(shape) > 1:
            raise ValueError("the array is stored column by column; save numpy.ascontiguousarray(array)")
        return shape, dtype

    def items(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """The parts `array[start]`, `array[start + 1]`, ... along the first axis.

        Raises:
            UnderstudyError: truncated or damaged.
        """
        if self._member is None:
            for i in range(start, self.shape[0]):
                yield np.asarray(self._mapped[i])
            return
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        try:
            with self._open() as stream:
                self._header(stream)
                for _ in range(start):
                    stream.read(size)
                for _ in range(start, self.shape[0]):
                    content = stream.read(size)
                    if len(content) < size:
                        raise EOFError("the array ends too early")
                    yield np.frombuffer(content, self.dtype).reshape(self.shape[1:])
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise _unreadable(self.path, error) from error


def _unreadable(path: Path, error: BaseException) -> UnderstudyError:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    if "pickle" in text or "Python objects" in text:
        return UnderstudyError(
            "the file holds pickled Python objects, which are never executed",
            where=path,
            fix="save plain numeric arrays with numpy.save or numpy.savez",
        )
    return UnderstudyError(
        f"the array cannot be read ({text})", where=path, fix="save it again, or replace it by an intact copy"
    )


class ArraySource:
    """NumPy files with named channels; the annotation is the last channel, or an array of its own."""

    def __init__(
        self, root: Path, files: Sequence[str], spec: FolderSpec, known: Sequence[str] | None
    ) -> None:
        if not spec.named:
            raise UnderstudyError(
                "an array does not say which of its channels is which",
                where=f"{root / files[0]}",
                fix="name them in the array's order, e.g. --channels T1w,T2w,FLAIR,T1wGd (the authors' models differ"
                " in it; the annotation comes last or in an array of its own)",
            )
        if isinstance(spec.labels, dict):
            raise UnderstudyError(
                "an array has one annotation, of codes", where="labels", fix="give its position or its key"
            )
        self._spec, self._root = spec, root
        self._positions = _positions(spec)
        missing = [name for name in known or () if name not in self._positions]
        if missing:
            raise UnderstudyError(
                f"no channel of the array is called {', '.join(missing)}",
                where=f"channels: {', '.join(self._positions)}",
                fix=f"name all of {', '.join(known or ())}",
            )
        self.channels = tuple(known or self._positions)
        self.classes: tuple[str, ...] = ()
        self.notes: list[str] = []
        self._pairs = [self._pair(*pair) for pair in _pairs(root, files)]
        self.count: int | None = sum(depth for _, depth, *_ in self._pairs)

    def _pair(self, file: str, labels_file: str | None) -> tuple[str, int, ArrayFile, ArrayFile | None, int]:
        """(id, slices, images, labels, axis of the channels after the first axis)."""
        path = self._root / file
        images, labels = self._arrays(path)
        if labels_file is not None:
            labels = self._arrays(self._root / labels_file, only=True)[0]
        images, axis = self._shaped(images, labels is not None)
        if labels is not None:
            self._check_labels(images, labels, axis)
        return _ENDING.sub("", file), images.shape[0], images, labels, axis

    def _arrays(self, path: Path, only: bool = False) -> tuple[ArrayFile, ArrayFile | None]:
        """The images of a file, and its labels if it has an array for them."""
        if path.suffix.lower() == ".npy":
            return ArrayFile(path), None
        try:
            with zipfile.ZipFile(path) as archive:
                keys = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        except (OSError, zipfile.BadZipFile) as error:
            raise _unreadable(path, error) from error
        said = self._spec.labels if isinstance(self._spec.labels, str) else ""
        of_labels = [k for k in keys if (k == said if said else k.lower() in _LABEL_WORDS)]
        of_images = [k for k in keys if k not in of_labels]
        if len(of_images) > 1:
            of_images = [k for k in of_images if k.lower() in _IMAGE_WORDS]
        if only:
            of_images, of_labels = (of_images or of_labels), []
        if len(of_images) != 1 or len(of_labels) > 1 or (said and not of_labels):
            raise UnderstudyError(
                f"which array holds the images{' and which the labels' if not only else ''} is not clear",
                where=f"{path}: it has {', '.join(keys) or 'no array'}",
                fix="call them `images` and `labels`, or give the key of the annotation (--labels KEY)",
            )
        return ArrayFile(path, of_images[0]), ArrayFile(path, of_labels[0]) if of_labels else None

    def _shaped(self, images: ArrayFile, labels_apart: bool) -> tuple[ArrayFile, int]:
        """The images as a stack, and the axis of the channels in one of its items (0 or 2)."""
        shape = images.shape
        places = list(self._positions.values())
        if not labels_apart:
            places.append(self._spec.labels if isinstance(self._spec.labels, int) else max(places) + 1)
        wanted = max(places) + 1
        if len(shape) == 3:
            images = _Single(images)
        if len(images.shape) == 4:
            for axis in (0, 2):
                if images.shape[1 + axis] == wanted:
                    return images, axis
        annotation = "" if labels_apart else " and the annotation"
        raise UnderstudyError(
            f"an array of shape {shape} where {wanted} channels are expected"
            f" ({', '.join(self._positions)}{annotation})",
            where=images.path,
            fix="save [N, C, H, W] or [C, H, W] (or channels last), or name the channels that it has (--channels)",
        )

    def _check_labels(self, images: ArrayFile, labels: ArrayFile, axis: int) -> None:
        height, width = (n for i, n in enumerate(images.shape[1:]) if i != axis)
        allowed = [(images.shape[0], height, width), (images.shape[0], 1, height, width)]
        if images.shape[0] == 1:
            allowed.append((height, width))
        if labels.shape not in allowed:
            raise UnderstudyError(
                f"labels of shape {labels.shape} for images of shape {images.shape}",
                where=labels.path,
                fix=f"save them as {allowed[0]}",
            )

    def slices(self, start: int) -> Iterator[RawSlice]:
        """See `Source`."""
        for name, depth, images, labels, axis in self._pairs:
            first, start = min(start, depth), max(0, start - depth)
            drawn = None
            if labels is not None:
                drawn = (_Single(labels) if len(labels.shape) == 2 else labels).items(first)
            for number, item in enumerate(images.items(first), first):
                mark = f"{name}_{number:07d}" if len(images.shape) == 4 and depth > 1 else name
                yield self._slice(mark, number, item, next(drawn) if drawn else None, axis, images.path)

    def _slice(
        self, name: str, number: int, item: NDArray[Any], labels: NDArray[Any] | None, axis: int, path: Path
    ) -> RawSlice:
        where = Path(f"{path}, slice {number}")
        grey = to_grey(np.moveaxis(item, axis, 0), self._spec, where)
        if labels is not None:
            height, width = grey.shape[-2:]
            drawn = to_grey(labels.reshape(1, height, width), self._spec, where, "as_is")
        else:
            place = self._spec.labels if isinstance(self._spec.labels, int) else len(grey) - 1
            drawn = grey[[place]]
        order = [self._positions[channel] for channel in self.channels]
        return RawSlice({"id": name}, to_8_bit(grey[order]), drawn, where, where)


class _Single(ArrayFile):
    """One slice as a stack of one."""

    def __init__(self, array: ArrayFile) -> None:
        self._array, self.path = array, array.path
        self.shape, self.dtype = (1, *array.shape), array.dtype

    def items(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """The slice, if `start` is 0."""
        if start == 0:
            yield np.stack(list(self._array.items()))


def _positions(spec: FolderSpec) -> dict[str, int]:
    """Position of each channel in the array; names alone stand in the array's order."""
    taken = spec.labels if isinstance(spec.labels, int) else None
    free = (i for i in range(len(spec.named) + 1) if i != taken)
    positions = {}
    for name, said in spec.named.items():
        if isinstance(said, str) and said:
            raise UnderstudyError(
                f"{said!r} is no position in an array",
                where=f"channels.{name}",
                fix="give a number, counted from 0",
            )
        positions[name] = said if isinstance(said, int) else next(free)
    if taken in positions.values():
        raise UnderstudyError(
            f"position {taken} is said to be both the annotation and a channel",
            where="labels",
            fix="give each its own position, counted from 0",
        )
    return positions


def _pairs(root: Path, files: Sequence[str]) -> list[tuple[str, str | None]]:
    """(file of images, file of their labels or None), sorted."""
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for file in files:
        stem = _ENDING.sub("", file)
        key, is_labels = _key(stem)
        target = labels if is_labels else images
        if key in target:
            raise UnderstudyError(
                "two files with the same name",
                where=f"{root}: {target[key]} and {file}",
                fix="remove one of them",
            )
        target[key] = file
    lonely = sorted(labels.keys() - images.keys())
    if lonely:
        raise UnderstudyError(
            "labels without images",
            where=root / labels[lonely[0]],
            fix="add the images, or remove the labels",
        )
    if labels and len(labels) < len(images):
        name = next(file for key, file in images.items() if key not in labels)
        raise UnderstudyError(
            "images without labels", where=root / name, fix="add the labels, or remove the images"
        )
    return [(images[key], labels.get(key)) for key in sorted(images, key=natural)]


def _key(stem: str) -> tuple[str, bool]:
    """What a file of images and that of its labels have in common, and whether it is the latter."""
    words = "|".join(map(re.escape, sorted((*_IMAGE_WORDS, *_LABEL_WORDS), key=len, reverse=True)))
    is_labels, kept = False, []
    for part in stem.split("/"):
        match = re.fullmatch(rf"(?P<rest>.*?)(?:^|[-_.])(?P<word>{words})", part, re.IGNORECASE)
        if match and match["word"].lower() in _LABEL_WORDS:
            is_labels = True
        kept.append(match["rest"] if match else part)
    return "/".join(part for part in kept if part), is_labels
