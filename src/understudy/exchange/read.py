"""A folder of images that someone else made becomes a SliceSet: streamed, resumable, every doubt noted."""

import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.errors import Interrupted, UnderstudyError
from understudy.exchange.arrays import ArraySource
from understudy.exchange.description import DESCRIPTION, Description, description_of, unpacked
from understudy.exchange.patients import ONE_A_VOLUME, Patients, compiled, patients_of
from understudy.exchange.pixels import Annotation, Target, geometry_of
from understudy.exchange.recognise import recognise
from understudy.exchange.sources import FileSource, RawSlice, SetSource, Source, TarSource
from understudy.exchange.spec import FolderSpec
from understudy.io.files import reading, sha256_file, sha256_json
from understudy.io.folders import files_below, list_files, read_bytes
from understudy.io.foreign import NUMPY
from understudy.runtime.checkpoints import StopRequest
from understudy.runtime.progress import track
from understudy.slices import SHARD, LabelClass, SliceSet, SliceWriter, sets_below
from understudy.volumes import SliceGeometry

ENDINGS = {"png": (".png",), "array": (".npz", ".npy"), "nifti": (".nii", ".nii.gz"), "webdataset": (".tar",)}
_CHECKSUM = {".gz": 8, ".png": 24}  # last bytes: CRC-32 and length; the end of the last IDAT chunk and IEND


def layout_of(root: Path, spec: FolderSpec) -> tuple[str, list[str]]:
    """The layout of a folder and its files; refuses folders of studies, and none or several kinds of files."""
    is_set = (root / "index.parquet").is_file() or (root / "zarr.json").is_file()
    if spec.layout == "slices" or (spec.layout == "auto" and is_set):
        return "slices", []
    own = (root / "jobs").is_dir() or root.absolute().parent.name == "jobs"
    if own and (below := sets_below(root)):  # files of a job are not images that anybody means
        fix = f"give one of the slice sets in it: {', '.join(below[:3])}"
        raise UnderstudyError("this is the folder of a study, or of one of its jobs", where=root, fix=fix)
    if spec.layout != "auto":
        return spec.layout, files_below(root, ENDINGS[spec.layout])
    images = files_below(root, list(chain.from_iterable(ENDINGS.values())))
    found = {layout: [file for file in images if file.lower().endswith(endings)] for layout, endings in ENDINGS.items()}
    present = [layout for layout, files in found.items() if files]
    if len(present) == 1:
        return present[0], found[present[0]]
    if present:
        what = "the folder holds " + " and ".join(f"{len(found[k])} files of layout {k}" for k in present)
        fix = f"say which are meant: --layout {present[0]} (or `layout: {present[0]}`)"
        raise UnderstudyError(what, where=root, fix=fix)
    others = Counter(Path(file).suffix.lower() for file in list_files(root, ("",)).files)
    kinds = ", ".join(f"{count} {kind or 'files without an ending'}" for kind, count in others.most_common(3))
    what = "there is no image in the folder: no PNG, NumPy or NIfTI file, and no slice set"
    if not kinds:
        raise UnderstudyError(what, where=root, fix="check the path, and unpack archives")
    raise UnderstudyError(f"{what} (it holds {kinds})", where=root, fix="convert the images to 8-bit grey PNG")


@dataclass(frozen=True)
class OpenedFolder:
    """A folder, understood but not read."""

    source: Source
    layout: str
    files: list[str]
    spec: FolderSpec  # what the user said, completed by what the folder says of itself
    said: Description | None  # by the folder; None if it says nothing


def open_folder(root: Path, spec: FolderSpec, known: Sequence[str] | None = None, plain: bool = False) -> OpenedFolder:
    """Finds out what is in a folder.

    Args:
        spec: what the user says of it; an exported folder completes it (see `description`).
        known: channels that it must have, in their order; None: what it has.
        plain: for comparisons: images need no names of channels and no annotation.
    """
    layout, files = layout_of(root, spec)
    said = description_of(root) if layout != "slices" else None
    if said is not None:
        spec = said.complete(spec, known)
    named = list(spec.named)
    if known and named and set(named) != set(known):
        what = f"the channels {', '.join(named)} are not those of the real slices, {', '.join(known)}"
        fix = "name exactly these, e.g. " + ", ".join(f"{name}=..." for name in known)
        raise UnderstudyError(what, where=f"channels, for {root}", fix=fix)
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


def read_folder(
    root: str | Path, spec: FolderSpec, out: str | Path, target: Target | None = None, name: str = "",
    progress: bool = True, count: int | None = None, plain: bool = False,
) -> SliceSet:  # fmt: skip
    """Writes the slices of a folder as a SliceSet, or continues, or returns at once what is there.

    Args:
        target: names, classes and size that the set must have; None: the folder's own.
        name: for the index' column `generator`; "": the folder's name.
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
    opened = open_folder(root, spec, target.channels if target else None, plain)
    source, spec, said = opened.source, opened.spec, opened.said
    classes = target.classes if target else None
    if target is None and said is not None and set(spec.codes) == set(said.codes):  # unless the user names others
        classes = tuple(LabelClass(c.name, c.source, c.code) for c in said.classes)
    annotation = Annotation(source, spec, classes, root)
    identity = {
        "folder": folder_mark(root, opened.files), "spec": spec.model_dump(mode="json"), "count": count,
        "target": [list(target.channels), target.resolution] if target else None,
    }  # fmt: skip
    if (out / "index.parquet").is_file():
        return _read_before(out, identity)
    first = next(source.slices(), None)
    if first is None:
        raise UnderstudyError("the folder holds no slice that is not empty", where=root, fix="check the images")
    geometry = geometry_of(first, spec, target)
    placed = said if said is not None and said.resolution == geometry.resolution else None  # else of other pixels
    where = (placed.spacing, placed.axes) if placed else (None, None)
    writer = SliceWriter(out, source.channels, annotation.classes, geometry.resolution, *where, identity)
    done, slices = 0, islice(source.slices(), count)
    rows_said = {name: row.model_dump(exclude_unset=True) for name, row in (said.slices if said else {}).items()}
    with StopRequest() as stop, track(count or source.count or 0, "reading", "slices", show=progress) as meter:
        while block := list(islice(slices, SHARD)):
            images, labels, distances = _decoded(block, first, geometry, annotation)
            rows = [
                raw.row | rows_said.get(raw.row["id"], {}) | {"generator": name or root.name, "code_distance": distance}
                for raw, distance in zip(block, distances, strict=True)
            ]
            # What an interrupted reading has written is read again, for the counts of codes, but not written again.
            new = max(0, min(len(block), writer.done - done))
            done += len(block)
            if new < len(block):
                writer.append(images[new:], labels[new:], rows[new:])
            meter.advance(len(block))
            if stop.requested:
                raise Interrupted(f"reading stopped after {writer.done} slices, which are kept")
    if count is not None and done < count:
        raise UnderstudyError(f"{count:,} slices wanted, the folder has {done:,}", where=root, fix="ask for fewer")
    notes = list(source.notes)
    if opened.layout != "slices":
        read = (*ENDINGS[opened.layout], DESCRIPTION)
        if others := [file for file in list_files(root, ("",)).files if not file.lower().endswith(read)]:
            notes.append(f"{len(others)} other files were left out, e.g. {others[0]}")
    subjects = {"one_a_volume": True} if isinstance(source, FileSource) and source.one_a_volume else {}
    return writer.close(source="folder", notes=notes, annotation=annotation.finish(root), **subjects, **identity)


def _read_before(out: Path, identity: Mapping[str, object]) -> SliceSet:
    found = SliceSet.open(out)
    if sha256_json({key: found.attrs.get(key) for key in identity}) != sha256_json(identity):
        raise UnderstudyError("the folder holds other slices", out, "use another folder, or delete this one")
    return found


def _decoded(
    block: Sequence[RawSlice], first: RawSlice, geometry: SliceGeometry, annotation: Annotation
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[float]]:
    """Images [n, C, R, R], labels [n, R, R] and code distances of slices, which must have the size of the first."""
    if odd := next((raw for raw in block if raw.images.shape != first.images.shape), None):
        sizes = ["{} x {}".format(*one.images.shape[-2:]) for one in (odd, first)]
        what = f"{sizes[0]} pixels where the first slice ({first.where.name}) has {sizes[1]}"
        fix = "make all images of the same size, or remove those of another"
        raise UnderstudyError(what, where=odd.where, fix=fix)
    drawn = np.stack([raw.drawn for raw in block])  # [n, A, H, W]
    labels, distances = annotation.decode(drawn, block[-1].annotated_in)
    images = geometry.shrink_images(geometry.pad(np.stack([raw.images for raw in block])))
    return images, geometry.network_labels(labels, len(annotation.classes)), distances


def folder_mark(root: Path, files: Sequence[str]) -> str:
    """A mark that changes with a folder's content, found without reading all of it.

    SHA-256 (hex) over name, size and checksum of every file, or the content hash of a slice set (no files). The
    checksum is the one that the format itself ends with (PNG, gzip, zip); files without one (.npy, .nii) count with
    their time of modification.
    """
    if not files:
        return SliceSet.open(root).content_hash
    marks: list[list[object]] = []
    for file in files:
        path = root / file
        tail = _CHECKSUM.get(path.suffix.lower())
        read_bytes(path, 1)  # says what is wrong with links and permissions
        with reading(path, NUMPY):
            status = path.stat()
            mark = str(status.st_mtime_ns)
            if path.suffix.lower() == ".npz":
                with zipfile.ZipFile(path) as archive:
                    mark = ",".join(f"{m.filename}:{m.CRC:08x}" for m in archive.infolist())
            elif tail is not None and status.st_size >= tail:
                with open(path, "rb") as handle:
                    handle.seek(-tail, os.SEEK_END)
                    mark = handle.read().hex()
        marks.append([file, status.st_size, mark])
    if (root / DESCRIPTION).is_file():  # says what the files are
        marks.append([DESCRIPTION, sha256_file(root / DESCRIPTION)])
    return sha256_json(marks)


@dataclass(frozen=True)
class Opened:
    """A set for a comparison."""

    slices: SliceSet  # with a column `subject` if `patients` is not None
    patients: Patients | None = None  # whose slices they are; None where nothing says it and nobody asked
    notes: list[str] = field(default_factory=list)  # what a user should know about how the folder was understood


def open_images(
    path: str | Path, read_into: str | Path, spec: FolderSpec | None = None, patients: str | None = None,
    real: bool = True,
) -> Opened:  # fmt: skip
    """A slice set, or a folder of images read as one, for a comparison, which needs no annotation and no channel names.

    Args:
        path: a slice set, a released package, a folder that `read_folder` recognises, or grey PNG files or NumPy
            arrays, which become one channel called "image".
        read_into: folder for what is read; it then holds the images.
        patients: see `patients_of`; for sets and folders that do not say themselves whose slices they are.
        real: whether slices of patients are expected; whose synthetic slices are is not asked.
    """
    path, read_into = Path(path), Path(read_into)
    if not path.exists():
        raise UnderstudyError("there is no such slice set or folder of images", path.absolute(), "check the path")
    if patients is not None:
        compiled(patients)
    # odd sizes are padded and averaged, as real slices are
    spec = (spec or FolderSpec()).model_copy(update={"sizes": "fit"})
    notes: list[str] = []
    is_set = (path / "index.parquet").is_file()
    if is_set:
        found, usual = SliceSet.open(path), FolderSpec()
        unused = [n for n in ("pattern", "labels", "codes", "values") if getattr(spec, n) != getattr(usual, n)]
        if unused:
            notes.append(f"{', '.join(f'--{n}' for n in unused)} is not used: {path.name} is a slice set")
    else:
        folder, spec = unpacked(path, spec)
        files = layout_of(folder, spec)[1]
        mark = folder_mark(folder, files) if files else ""  # what was read before may have changed
        own = read_into / sha256_json([str(path.absolute()), spec.model_dump(mode="json"), mark])[:12]
        found = read_folder(folder, spec, own, progress=False, plain=True, name=path.name)
        notes += found.attrs["notes"]
    if not real:
        return Opened(found, None, notes)
    one_a_volume = bool(found.attrs.get("one_a_volume"))
    if "subject" in found.index and not (one_a_volume and patients is not None):
        if patients is not None:
            notes.append(f"--patients is not used: {path.name} says itself whose slices they are")
        subjects = found.index["subject"].astype(str).tolist()
        if one_a_volume:
            return Opened(found, Patients(subjects, "volumes", ONE_A_VOLUME), notes)
        return Opened(found, Patients(subjects, "set", f"as {path.name} says"), notes)
    if is_set and patients is None:
        return Opened(found, None, notes)
    told = patients_of(found.index["id"].astype(str).tolist(), patients, path)
    # a copy of the set whose index says the patients
    mark = sha256_json([str(path.absolute()), spec.model_dump(mode="json"), told.subjects])[:12]
    out, identity = (
        read_into / f"{mark}-patients",
        {"content": found.content_hash, "subjects": sha256_json(told.subjects)},
    )
    if (out / "index.parquet").is_file() and SliceSet.open(out).attrs.get("identity") == identity:
        return Opened(SliceSet.open(out), told, notes)
    f = found
    writer = SliceWriter(out, f.channels, f.classes, f.resolution, f.spacing, f.axes, identity, replace=True)
    index = found.index.assign(subject=told.subjects)
    for rows, images, labels in found.blocks(np.arange(writer.done, len(found))):
        writer.append(images, labels, index.iloc[rows])
    return Opened(writer.close(identity=identity), told, notes)
