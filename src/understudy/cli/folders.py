"""How folders of images are read: the options that commands share, and what they print about whose slices these are."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Option

from understudy.cli import base
from understudy.errors import UnderstudyError
from understudy.io.files import make_folder, read_json, write_json

if TYPE_CHECKING:
    from understudy.exchange.spec import FolderSpec
    from understudy.slices import SliceSet

RealOption = Option(..., help="Training slices: slice set (its train rows) or image folder.")
SyntheticOption = Option(..., help="Synthetic slices: slice set or image folder.")
HeldoutOption = Option(None, help="Slices of other patients, for the floor [default: val rows of --real].")


@dataclass(frozen=True)
class Reading:
    """What the options say about folders of images."""

    spec: FolderSpec  # how they are read
    patients: str | None = None  # regular expression of the patient in a slice's name
    trusted: bool = False  # the user stands by the patients
    selects: bool = False  # --channels also says which channels of a slice set are compared


def _folder_options(
    layout: str = Option("auto", help="auto, png, array (.npz, .npy), nifti, webdataset (.tar), slices (a slice set)."),
    pattern: str | None = Option(None, help="A channel's file: '{channel}/{id}.png', also {subject}, *, **."),
    channels: str | None = Option(None, help="Names in the files: T1w=T1,FLAIR=flair; in an array T1w=0,FLAIR=1."),
    labels: str | None = Option(None, help="The annotation: Seg, a position, or a file a class: NCR=Seg1."),
    codes: str | None = Option(None, help="Grey value of each class in the annotation: NCR=51,ED=102,ET=204."),
    values: str = Option("as_is", help="as_is (0 to 255), max (a file's maximum is 255), or a range: --values=-1,1."),
    clip: bool = Option(False, "--clip", help="Cut values outside of the range off."),
    tolerance: float | None = Option(None, help="Grey values that an annotation may be off [default: a quarter gap]."),
) -> None:
    """Only the signature is used: names, types and defaults of the options that say how images are read."""


def _patient_options(
    patients: str | None = Option(
        None,
        help="Regular expression whose first group is the patient in a slice's name, e.g. '^(.+)_z[0-9]+$';"
        " '(.*)': every slice is of another patient [default: names without the number at their end].",
    ),
    trust_patients: bool = Option(False, "--trust-patients", help="Go on although patients look wrong (one person)."),
) -> None:
    """The same of those that say whose slices they are."""


def with_folder_options(
    *also: str, patients: bool = True
) -> Callable[[Callable[..., base.Said | None]], Callable[..., base.Said | None]]:
    """Puts the options on folders of images in the place of a command's argument `reading`, which holds what they say.

    Args:
        also: more fields of a `FolderSpec` that the command has options for.
        patients: whether it matters whose slices they are.
    """

    def gather(given: dict[str, Any]) -> Reading:
        from understudy.exchange.spec import spec_of_words

        spec = spec_of_words({name: given[name] for name in (*inspect.signature(_folder_options).parameters, *also)})
        return Reading(spec, given.get("patients"), given.get("trust_patients", False))

    signatures = [_patient_options, _folder_options] if patients else [_folder_options]
    return base.with_options("reading", *signatures, gather=gather)


def open_slices(path: Path, read_into: Path, reading: Reading, real: bool = True, strict: bool = False) -> SliceSet:
    """Slices of a slice set, or of a folder of images that is written to `read_into`.

    Of `real` ones, how many are of which patients is said on stderr, and recorded in `read_into/patients.json`.
    Patients that look wrong are refused if `strict`; otherwise this is said.
    """
    from understudy.exchange.patients import doubt
    from understudy.exchange.read import open_images

    opened = open_images(path, read_into, reading.spec, reading.patients if real else None, real=real)
    is_set, notes, doubted = (path / "index.parquet").is_file(), [*opened.notes], None
    if is_set and reading.spec.named and not reading.selects:
        notes.append(f"--channels is not used for the slice set {path.name}")
    if opened.patients is not None:
        if not is_set:  # which counts them itself
            notes.append(f"{path.name}: {opened.patients.table()}")
        doubted = None if reading.trusted else doubt(opened.slices, opened.patients, path)
        make_folder(read_into)
        kept = read_into / "patients.json"
        record = read_json(kept) if kept.is_file() else {}
        write_json(kept, record | {str(path.absolute()): {
            "found": opened.patients.found, "how": opened.patients.how, "trusted": reading.trusted,
            "slices": opened.patients.counts(), "doubt": doubted.what if doubted else None,
        }})  # fmt: skip
    if doubted is not None and not strict:
        notes.append(f"{doubted.what}; {doubted.fix}")
    sys.stderr.writelines(f"note: {note}\n" for note in notes)
    if doubted is not None and strict:
        raise doubted
    return opened.slices


def open_compared(
    real: Path, synthetic: Path, heldout: Path | None, read_into: Path, reading: Reading
) -> tuple[tuple[SliceSet, Path], tuple[SliceSet, Path], tuple[SliceSet | None, Path | None]]:
    """Three sets that are compared, each with its path; patients that look wrong are only told of."""
    first, second = open_slices(real, read_into, reading), open_slices(synthetic, read_into, reading, real=False)
    others = None if heldout is None else open_slices(heldout, read_into, reading)
    return (first, real), (second, synthetic), (others, heldout)


@contextmanager
def as_given(*sets: tuple[SliceSet | None, Path | None]) -> Iterator[None]:
    """Errors about a set that was read from a folder name this folder, as the user called it."""
    try:
        yield
    except UnderstudyError as error:
        given = {str(slices.path): str(path) for slices, path in sets if slices is not None and path}
        error.where = given.get(error.where or "", error.where)
        raise
