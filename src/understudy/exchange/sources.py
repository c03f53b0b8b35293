"""Slices of a foreign folder one after the other: files of a channel each (PNG, NIfTI), a slice set, or WebDataset."""

import io
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.pixels import decode_png, read_png, to_8_bit, to_grey
from understudy.exchange.recognise import Recognised, SliceFiles
from understudy.exchange.spec import ALIASES, LABELS, FolderSpec
from understudy.io.files import reading
from understudy.io.folders import read_bytes
from understudy.io.foreign import TAR, Budget
from understudy.io.grids import VolumeHeader, judge_pixels, slices_of
from understudy.io.nifti import headers_on_one_grid, read_voxels
from understudy.runtime.memory import in_order
from understudy.slices import SliceSet

_WORKERS = 2  # threads that decode files
SEGMENTATION = "seg"  # the annotation's name in WebDataset shards
_INTACT = "use an intact copy"
_SAME_PIXELS = 0.01  # part of an edge by which pixels of one size may differ


@dataclass(frozen=True)
class RawSlice:
    """A slice as the folder has it."""

    row: dict[str, Any]  # what goes into the index: id, and subject and z where they are known
    images: NDArray[np.uint8]  # [C, H, W]
    drawn: NDArray[Any]  # grey values [A, H, W] of the annotation: one channel of codes, or one a class
    where: Path  # file of the first channel
    annotated_in: Path


class Source(ABC):
    """A folder of slices."""

    channels: tuple[str, ...]  # of `RawSlice.images`
    classes: tuple[str, ...] = ()  # those with a channel of their own in `RawSlice.drawn`; () for codes
    annotated = True  # without an annotation `RawSlice.drawn` is 0 everywhere
    count: int | None = None  # slices, None where only reading tells

    def __init__(self) -> None:
        self.notes: list[str] = []  # how the folder was understood; complete when all slices are read

    @abstractmethod
    def slices(self) -> Iterator[RawSlice]:
        """The slices, always in the same order."""


class FileSource(Source):
    """A file for each channel of each slice: PNG, or NIfTI with one slice or a volume in it."""

    def __init__(self, root: Path, found: Recognised, spec: FolderSpec, nifti: bool) -> None:
        super().__init__()
        self._root, self._found, self._spec, self._nifti = root, found, spec, nifti
        self.channels = found.channels
        self.classes = tuple(n.partition(":")[2] for n in found.annotation if ":" in n)
        self.annotated = bool(found.annotation)
        self.count = None if nifti else len(found.slices)
        # nothing says whose the volumes are: each counts as a patient
        self.one_a_volume = nifti and not any(entry.subject for entry in found.slices)
        if not self.annotated:
            self.notes.append("no annotation was found (--labels names its files)")
        if found.surplus:
            text = f"{len(found.surplus)} files belong to none of the slices and were left out, e.g. {found.surplus[0]}"
            self.notes.append(text)

    def slices(self) -> Iterator[RawSlice]:
        """See `Source`."""
        first: tuple[Path, VolumeHeader] | None = None
        for headers, slices in in_order(self._open, self._found.slices, _WORKERS):
            if headers:
                path, header = next(iter(headers.items()))
                first = first or (path, header)
                if not np.allclose(header.spacing[1:], first[1].spacing[1:], rtol=_SAME_PIXELS, atol=0):
                    sizes = ["{:.4g} x {:.4g} mm".format(*h.spacing[1:]) for h in (header, first[1])]
                    what = f"{path.name} has pixels of {sizes[0]}, {first[0].name} of {sizes[1]}: heads differ in size"
                    fix = "resample all volumes to one pixel size, or make a study of the folder: understudy init"
                    raise UnderstudyError(what, where=path, fix=fix)
                self._note_doubts(headers)
            yield from slices

    def _note_doubts(self, headers: dict[Path, VolumeHeader]) -> None:
        """Each doubt once, with the first file that gives rise to it."""
        path, header = next(iter(headers.items()))
        doubts = [(file, *doubt) for file, of_file in headers.items() for doubt in of_file.doubts]
        if header.slice_shape[0] > 1:
            fix = "they are not resampled: heads are distorted unless the images beside them have the same pixels"
            doubts += [(path, what, fix) for what, _, _ in judge_pixels(header)]
        for file, what, fix in doubts:
            if not any(note.startswith(f"{what}, e.g. ") for note in self.notes):
                self.notes.append(f"{what}, e.g. {file.name}: {fix}")

    def _open(self, entry: SliceFiles) -> tuple[dict[Path, VolumeHeader], list[RawSlice]]:
        """NIfTI headers, and all slices but empty ones; the one slice of a flat file whatever it holds."""
        paths = [self._root / entry.files[name] for name in (*self.channels, *self._found.annotation)]
        headers: dict[Path, VolumeHeader] = {}
        if self._nifti:
            headers = dict(zip(paths, headers_on_one_grid(paths, flat=True), strict=True))
            wrong = [what for what, _, severity in judge_pixels(headers[paths[0]]) if severity == "error"]
            if wrong and headers[paths[0]].slice_shape[0] > 1:
                fix = "save its slices as PNG, or make a study, which cuts volumes in any plane: understudy init FOLDER"
                raise UnderstudyError(wrong[0], where=paths[0], fix=fix)
        stacks: list[NDArray[Any]] = []  # [Z, H, W] of each file
        for number, path in enumerate(paths):
            annotation, header = number >= len(self.channels), headers.get(path)
            values = read_png(path)[None] if header is None else slices_of(read_voxels(path, header), header)
            grey = to_grey(values, self._spec, path, annotation)
            stacks.append(grey if annotation else to_8_bit(grey))
            if grey.shape != stacks[0].shape:
                sizes = [" x ".join(map(str, one.shape[one.shape[0] == 1 :])) for one in (grey, stacks[0])]
                what = f"slice {entry.id}: {path.name} has {sizes[0]} pixels, {paths[0].name} has {sizes[1]}"
                fix = "all channels of a slice need the same size; make the files again or remove the slice"
                raise UnderstudyError(what, where=path, fix=fix)
        images = np.stack(stacks[: len(self.channels)], axis=1)  # [Z, C, H, W]
        drawn = np.stack(stacks[len(self.channels) :], axis=1) if self.annotated else np.zeros_like(images[:, :1])
        where = paths[0], paths[len(self.channels)] if self.annotated else paths[0]
        row: dict[str, Any] = {"id": entry.id, **({"subject": entry.subject} if entry.subject else {})}
        if len(images) == 1:
            return headers, [RawSlice(row, images[0], drawn[0], *where)]
        subject, filled = entry.subject or entry.id, np.flatnonzero(images.any(axis=(1, 2, 3))).tolist()
        return headers, [
            RawSlice({"id": f"{entry.id}_{z:03d}", "subject": subject, "z": z}, images[z], drawn[z], *where)
            for z in filled
        ]


class SetSource(Source):
    """A slice set of Understudy, with its channels put in order by name and its classes as codes."""

    def __init__(self, root: Path, spec: FolderSpec, known: Sequence[str] | None) -> None:
        super().__init__()
        self._root, self._set = root, SliceSet.open(root)
        self.channels = tuple(known or self._set.channels)
        if missing := [name for name in self.channels if name not in self._set.channels]:
            where = f"{root}: its channels are {', '.join(self._set.channels)}"
            what = f"the slice set has no channel {', '.join(missing)}"
            raise UnderstudyError(what, where=where, fix="write it with all channels")
        if spec.named or spec.labels or spec.pattern:
            what, fix = "a slice set says itself what its channels are called", "leave channels, labels and pattern out"
            raise UnderstudyError(what, where=root, fix=fix)
        self.classes, self.count = self._set.class_names, len(self._set)

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


# WebDataset (https://github.com/webdataset/webdataset): tar files whose members share a key up to the first dot,
# ID.t1w.png, ID.seg.png, ID.json; the members of one sample stand next to each other.


def token(name: str) -> str:
    """What stands for a channel in a member's name: "T1wGd" -> "t1wgd"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


class ShardFiles:
    """Writes samples into `folder/shard-000000.tar`, ..., none larger than `limit` bytes.

    The headers hold no name, number or time of whoever wrote them, so that equal slices give equal bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit, self.count = folder, limit, 0
        self._handle: BinaryIO | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, key: str, members: Iterable[tuple[str, bytes]]) -> None:
        """A sample: (ending, content) pairs, kept together in one shard."""
        listed = list(members)
        size = sum(512 + -(-len(content) // 512) * 512 for _, content in listed)  # header and padded content
        if self._handle is None or self._handle.tell() + size + 10240 > self._limit:
            self.close()
            self._handle = open(self._folder / f"shard-{self.count:06d}.tar", "wb")  # noqa: SIM115
            self._tar = tarfile.open(fileobj=self._handle, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.count += 1
        for ending, content in listed:
            self._tar.addfile(tar_header(f"{key}.{ending}", len(content)), io.BytesIO(content))
        self._tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header; a writer needs none

    def close(self) -> None:
        """Finishes the last shard."""
        if self._handle is not None:
            self._tar.close()
            self._handle.close()
            self._handle = None


def tar_header(name: str, size: int) -> tarfile.TarInfo:
    """A member's header without an owner, at time 0."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


class TarSource(Source):
    """Shards of PNG files, one a channel and one for the annotation."""

    def __init__(self, root: Path, files: Sequence[str], spec: FolderSpec, known: Sequence[str] | None) -> None:
        super().__init__()
        if spec.pattern or isinstance(spec.labels, int | dict):
            fix = "leave `pattern` out, and say what stands for channels and annotation: --channels T1w=t1w"
            raise UnderstudyError("members of a tar file are found by their endings", where="pattern, labels", fix=fix)
        self._files = [root / file for file in files]
        wanted = list(spec.named or known or [])
        self._channel_of = {str(value or token(name)): name for name, value in spec.named.items()}
        if not self._channel_of:
            for name in wanted or [name for name in ALIASES if name != LABELS]:
                self._channel_of |= dict.fromkeys([token(name), *ALIASES.get(name, ())], name)
        self._channel_of |= dict.fromkeys([spec.labels] if spec.labels else ALIASES[LABELS], LABELS)
        first = next(self._samples(), None)
        if first is None:
            raise UnderstudyError("the shards hold no sample", where=root, fix="check the files")
        self.channels = tuple(wanted or (n for n in ALIASES if n in first[1] and n != LABELS))

    def slices(self) -> Iterator[RawSlice]:
        """See `Source`."""
        for key, parts, shard in self._samples():
            if missing := [name for name in (*self.channels, LABELS) if name not in parts]:
                raise UnderstudyError(f"sample {key} has no {missing[0]}", where=shard, fix=_INTACT)
            *images, drawn = (decode_png(parts[name], shard / key) for name in (*self.channels, LABELS))
            yield RawSlice({"id": key}, np.stack(images), drawn[None], shard, shard)

    def _samples(self) -> Iterator[tuple[str, dict[str, bytes], Path]]:
        """Key, channel -> PNG, and the shard of each sample."""
        for shard in self._files:
            for key, members in groupby(members_of(shard), key=lambda member: member[0].partition(".")[0]):
                parts: dict[str, bytes] = {}
                for name, content in members:
                    ending = name.partition(".")[2]
                    channel = self._channel_of.get(ending.removesuffix(".png")) if ending.endswith(".png") else None
                    if channel in parts:
                        raise UnderstudyError(f"two files for {channel} of sample {key}", where=shard, fix=_INTACT)
                    if channel:
                        parts[channel] = content
                if parts:
                    yield key, parts, shard


def members_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a tar file, one after the other; refuses anything but plain files."""
    read_bytes(path, 1)  # says what is wrong with links and permissions
    with reading(path, TAR), tarfile.open(path, "r:") as tar:
        while (entry := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]
            if not entry.isreg():
                raise UnderstudyError(f"{entry.name} is no plain file of a slice", where=path, fix=_INTACT)
            Budget(path, TAR).spend(entry.size)  # of one member
            held = tar.extractfile(entry)
            content = held.read() if held else b""
            if len(content) < entry.size:
                raise tarfile.ReadError("it ends too early")
            yield entry.name, content
