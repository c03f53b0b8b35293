"""Any folder of images as a SliceSet, for comparisons: what `read` recognises, and plain images without channel names.

A comparison needs no annotation and no names of sequences: a folder of grey images is one channel called "image". What
it needs is whose slices the real ones are; patients come from the set, from a pattern, or from the files' names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from understudy.errors import UnderstudyError
from understudy.exchange.fingerprint import folder_mark
from understudy.exchange.packaged import unpacked
from understudy.exchange.patients import ONE_A_VOLUME, Patients, compiled, patients_of
from understudy.exchange.read import layout_of, read_folder
from understudy.exchange.spec import FolderSpec
from understudy.io.files import sha256_json
from understudy.slices import SliceSet, SliceWriter

_SIZES = "fit"  # odd sizes are padded and averaged, as real slices are


@dataclass(frozen=True)
class Opened:
    """A set for a comparison.

    Attributes:
        slices: the set; with a column `subject` if `patients` is not None.
        patients: whose slices they are; None where nothing says it and nobody asked.
        notes: what a user should know about how the folder was understood.
    """

    slices: SliceSet
    patients: Patients | None = None
    notes: list[str] = field(default_factory=list)


def open_images(
    path: str | Path,
    read_into: str | Path,
    spec: FolderSpec | None = None,
    patients: str | None = None,
    real: bool = True,
) -> Opened:
    """A slice set, or a folder of images read as one.

    Args:
        path: a slice set, a released package, a folder that `read_folder` recognises, or plain images: grey PNG files
            or NumPy arrays, see `ArraySource`.
        read_into: folder for what is read; it then holds the images.
        spec: what the user says of the folder.
        patients: see `patients_of`; for sets and folders that do not say themselves whose slices they are.
        real: whether slices of patients are expected; whose synthetic slices are is not asked.

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
        compiled(patients)
    spec = (spec or FolderSpec()).model_copy(update={"sizes": _SIZES})
    is_set = (path / "index.parquet").is_file()
    if is_set:
        found, notes = SliceSet.open(path), _unused(path, spec)
    else:
        folder, spec = unpacked(path, spec)
        files = layout_of(folder, spec)[1]
        mark = folder_mark(folder, files) if files else ""  # what was read before may have changed
        own = read_into / sha256_json([str(path.absolute()), spec.model_dump(mode="json"), mark])[:12]
        found = read_folder(folder, spec, own, progress=False, plain=True, name=path.name)
        notes = list(found.attrs["notes"])
    if not real:
        return Opened(found, None, notes)
    ids = found.index["id"].astype(str).tolist()
    if "subject" in found.index and not (found.attrs.get("one_a_volume") and patients is not None):
        if patients is not None:
            notes.append(f"--patients is not used: {path.name} says itself whose slices they are")
        subjects = found.index["subject"].astype(str).tolist()
        told = Patients(subjects, "set", f"as {path.name} says")
        if found.attrs.get("one_a_volume"):
            told = Patients(subjects, "volumes", ONE_A_VOLUME)
        return Opened(found, told, notes)
    if is_set and patients is None:
        return Opened(found, None, notes)
    told = patients_of(ids, patients, path)
    mark = sha256_json([str(path.absolute()), spec.model_dump(mode="json"), told.subjects])[:12]
    return Opened(_with_subjects(found, told.subjects, read_into / f"{mark}-patients"), told, notes)


def _unused(path: Path, spec: FolderSpec) -> list[str]:
    """A note on what was said about a folder and is not used for a set."""
    default = FolderSpec()
    said = [
        f"--{name}"
        for name in ("pattern", "labels", "codes", "values")
        if getattr(spec, name) != getattr(default, name)
    ]
    return [f"{', '.join(said)} is not used: {path.name} is a slice set"] if said else []


def _with_subjects(slices: SliceSet, subjects: list[str], out: Path) -> SliceSet:
    """A copy of the set whose index says the patients."""
    identity = {"content": slices.content_hash, "subjects": sha256_json(subjects)}
    if (out / "index.parquet").is_file() and SliceSet.open(out).attrs.get("identity") == identity:
        return SliceSet.open(out)
    writer = SliceWriter(out, slices.channels, slices.classes, slices.resolution, slices.spacing, slices.axes, identity)
    index = slices.index.assign(subject=subjects)
    for rows, images, labels in slices.blocks(np.arange(writer.done, len(slices))):
        writer.append(images, labels, index.iloc[rows])
    return writer.close(identity=identity)
