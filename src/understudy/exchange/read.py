"""A folder of images that someone else made becomes a SliceSet: streamed, resumable, with every doubt said.

from understudy.exchange.read import read_folder
read_folder("synthetic", FolderSpec(), "slices")   # T1/seed0007_T1.png, ... and SEG/seed0007_Seg.png
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import Interrupted, UnderstudyError
from understudy.exchange.arrays import ArraySource
from understudy.exchange.description import DESCRIPTION, Description, described, description_of
from understudy.exchange.fingerprint import folder_mark
from understudy.exchange.recognise import recognise
from understudy.exchange.sources import FileSource, RawSlice, SetSource, Source
from understudy.exchange.spec import FolderSpec
from understudy.exchange.target import Annotation, Sizes, Target
from understudy.exchange.webdataset import TarSource
from understudy.io.files import sha256_json
from understudy.io.folders import files_below, list_files
from understudy.runtime.checkpoints import StopRequest
from understudy.runtime.progress import track
from understudy.slices import SHARD, LabelClass, SliceSet, SliceWriter, sets_below

ENDINGS = {"png": (".png",), "array": (".npz", ".npy"), "nifti": (".nii", ".nii.gz"), "webdataset": (".tar",)}


def layout_of(root: Path, spec: FolderSpec) -> tuple[str, list[str]]:
    """The layout of a folder and its files.

    Raises:
        UnderstudyError: no such folder, that of a study, none or several kinds of files, an unfinished slice set.
    """
    if spec.layout in ("auto", "slices") and (
        (root / "index.parquet").is_file() or (root / "zarr.json").is_file() or spec.layout == "slices"
    ):
        return "slices", []
    own = (root / "jobs").is_dir() or root.absolute().parent.name == "jobs"
    if own and (below := sets_below(root)):  # files of a job are not images that anybody means
        raise UnderstudyError(
            "this is the folder of a study, or of one of its jobs",
            where=root,
            fix=f"give one of the slice sets in it: {', '.join(below[:3])}",
        )
    if spec.layout != "auto":
        return spec.layout, files_below(root, ENDINGS[spec.layout])
    images = files_below(root, list(chain.from_iterable(ENDINGS.values())))
    found = {layout: [file for file in images if file.lower().endswith(endings)] for layout, endings in ENDINGS.items()}
    present = [layout for layout, files in found.items() if files]
    if len(present) == 1:
        return present[0], found[present[0]]
    if present:
        raise UnderstudyError(
            "the folder holds " + " and ".join(f"{len(found[k])} files of layout {k}" for k in present),
            where=root,
            fix=f"say which are meant: --layout {present[0]} (or `layout: {present[0]}`)",
        )
    others = Counter(Path(file).suffix.lower() for file in list_files(root, ("",)).files)
    kinds = ", ".join(f"{count} {kind or 'files without an ending'}" for kind, count in others.most_common(3))
    raise UnderstudyError(
        "there is no image in the folder: no PNG, NumPy or NIfTI file, and no slice set"
        + (f" (it holds {kinds})" if kinds else ""),
        where=root,
        fix="convert the images to 8-bit grey PNG" if kinds else "check the path, and unpack archives",
    )


@dataclass(frozen=True)
class OpenedFolder:
    """A folder, understood but not read.

    Attributes:
        source: its slices.
        layout, files: see `layout_of`.
        spec: what the user said, completed by what the folder says of itself.
        said: by the folder; None if it says nothing.
    """

    source: Source
    layout: str
    files: list[str]
    spec: FolderSpec
    said: Description | None


def open_folder(root: Path, spec: FolderSpec, known: Sequence[str] | None = None, plain: bool = False) -> OpenedFolder:
    """Finds out what is in a folder.

    Args:
        root: the folder.
        spec: what the user says of it; an exported folder completes it (see `description`).
        known: channels that it must have, in their order; None: what it has.
        plain: for comparisons: images need no names of channels and no annotation.

    Raises:
        UnderstudyError: see `layout_of` and `recognise`.
    """
    layout, files = layout_of(root, spec)
    said = description_of(root) if layout != "slices" else None
    if said is not None:
        spec = described(said, spec, known)
    _refuse_other_channels(spec, known, root)
    if layout != "slices" and not files:
        raise UnderstudyError(f"there is no file of layout {layout} in the folder", where=root, fix="check the path")
    source: Source
    if layout == "slices":
        source = SetSource(root, spec, known)
    elif layout == "array":
        source = ArraySource(root, files, spec, known, plain)
    elif layout == "webdataset":
        source = TarSource(root, files, spec, known)
    else:
        source = FileSource(root, recognise(root, files, spec, known, plain), spec, layout == "nifti")
    return OpenedFolder(source, layout, files, spec, said)


def _refuse_other_channels(spec: FolderSpec, known: Sequence[str] | None, root: Path) -> None:
    named = list(spec.named)
    if known and named and set(named) != set(known):
        raise UnderstudyError(
            f"the channels {', '.join(named)} are not those of the real slices, {', '.join(known)}",
            where=f"channels, for {root}",
            fix="name exactly these, e.g. " + ", ".join(f"{name}=..." for name in known),
        )


def read_folder(
    root: str | Path,
    spec: FolderSpec,
    out: str | Path,
    target: Target | None = None,
    name: str = "",
    progress: bool = True,
    count: int | None = None,
    plain: bool = False,
) -> SliceSet:
    """Writes the slices of a folder as a SliceSet, or continues, or returns at once what is there.

    Args:
        root: the folder.
        spec: what the user says of it.
        out: folder of the set.
        target: names, classes and size that the set must have; None: the folder's own.
        name: for the index' column `generator`; "": the folder's name.
        progress: show it.
        count: take the first so many slices; None: all.
        plain: see `open_folder`.

    Returns:
        The set; its index has id, generator, code_distance (mean distance of the annotation to the codes it was
        given, grey values) and, where known, subject, z and what an exported folder says of its slices.

    Raises:
        UnderstudyError: whatever is wrong in the folder, with the file and what to do; disk full; another set at `out`.
        Interrupted: SIGTERM or SIGINT; whole shards are kept.
    """
    root, out = Path(root), Path(out)
    known = target.channels if target else None
    opened = open_folder(root, spec, known, plain)
    source, spec, said = opened.source, opened.spec, opened.said
    annotation = Annotation.of(source, spec, target.classes if target else _classes(said, spec), root)
    identity = {
        "folder": folder_mark(root, opened.files),
        "spec": spec.model_dump(mode="json"),
        "count": count,
        "target": [list(target.channels), target.resolution] if target else None,
    }
    if (out / "index.parquet").is_file():
        return _finished(out, identity)
    first = next(source.slices(0), None)
    if first is None:
        raise UnderstudyError("the folder holds no slice that is not empty", where=root, fix="check the images")
    sizes = Sizes.of(first, spec, target)
    edge = sizes.geometry.resolution
    placed = said is not None and said.resolution == edge  # else the pixels are of another size
    writer = SliceWriter(
        out, source.channels, annotation.classes, edge,
        said.spacing if said and placed else None, said.axes if said and placed else None, identity,
    )  # fmt: skip
    rows = said.slices if said else {}
    done = _take(source, writer, annotation, sizes, rows, name or root.name, count, progress)
    if count is not None and done < count:
        raise UnderstudyError(f"{count:,} slices wanted, the folder has {done:,}", where=root, fix="ask for fewer")
    annotation.finish(root)
    annotation.forget(writer)
    notes = source.notes + ([] if opened.layout == "slices" else _strangers(root, opened.layout))
    subjects = {"one_a_volume": True} if isinstance(source, FileSource) and source.one_a_volume else {}
    return writer.close(source="folder", notes=notes, annotation=annotation.summary(), **subjects, **identity)


def _classes(said: Description | None, spec: FolderSpec) -> tuple[LabelClass, ...] | None:
    """The classes that an exported folder names, unless the user names others."""
    return said.label_classes if said is not None and set(spec.codes) == set(said.codes) else None


def _strangers(root: Path, layout: str) -> list[str]:
    """A note on files of other kinds."""
    others = [
        file for file in list_files(root, ("",)).files
        if not file.lower().endswith(ENDINGS[layout]) and file != DESCRIPTION
    ]  # fmt: skip
    return [f"{len(others)} other files were left out, e.g. {others[0]}"] if others else []


def _take(
    source: Source,
    writer: SliceWriter,
    annotation: Annotation,
    sizes: Sizes,
    said: Mapping[str, Mapping[str, Any]],
    name: str,
    count: int | None,
    progress: bool,
) -> int:
    """Writes what is left of the first `count` slices, or of all; returns how many were read, earlier ones included.

    Args:
        said: what is known of a slice, by the id that its files have.
    """
    start = annotation.resume(writer)
    left = None if count is None else max(0, count - start)
    with StopRequest() as stop, track(count or source.count or 0, "reading", "slices", start, progress) as meter:
        for block in _blocks(islice(source.slices(start), left)):
            images, labels, distances = _convert(block, annotation, sizes)
            rows = [
                {**raw.row, **said.get(raw.row["id"], {}), "generator": name, "code_distance": d}
                for raw, d in zip(block, distances, strict=True)
            ]
            # Where the counts were lost, slices that are on disk are read again but not written again.
            new = max(0, min(len(block), writer.done - start))
            start += len(block)
            if new < len(block):
                writer.append(images[new:], labels[new:], rows[new:])
            annotation.save(writer)
            meter.advance(len(block))
            if stop.requested:
                raise Interrupted(f"reading stopped after {writer.done} slices, which are kept")
    return start


def _blocks(slices: Iterator[RawSlice]) -> Iterator[list[RawSlice]]:
    while block := list(islice(slices, SHARD)):
        yield block


def _convert(
    block: list[RawSlice], annotation: Annotation, sizes: Sizes
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[float]]:
    """Images, labels and code distances of a block, at the size of the set."""
    for raw in block:
        sizes.check(raw)
    labels, distances = annotation.decode(np.stack([raw.drawn for raw in block]), block[-1].annotated_in)
    images = np.stack([raw.images for raw in block])
    return sizes.images(images), sizes.labels(labels, len(annotation.classes)), distances


def _finished(out: Path, identity: dict[str, Any]) -> SliceSet:
    found = SliceSet.open(out)
    if sha256_json({key: found.attrs.get(key) for key in identity}) != sha256_json(identity):
        raise UnderstudyError("the folder holds other slices", where=out, fix="use another folder, or delete this one")
    return found
