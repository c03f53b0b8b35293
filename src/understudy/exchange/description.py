"""`understudy-images.json`: what an exported folder of images says about itself, so that it is read back as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import UnderstudyError
from understudy.exchange.spec import FolderSpec
from understudy.io.files import read_json, write_json
from understudy.slices import LabelClass, SliceSet

DESCRIPTION = "understudy-images.json"
_COLUMNS = ("id", "subject", "site", "z", "split")  # of the index that are kept for each slice
_Row = dict[str, str | int | float | None]


class DescribedChannel(BaseModel):
    """A channel and what stands for it in file names."""

    model_config = ConfigDict(extra="forbid")

    name: str
    files: str


class DescribedClass(BaseModel):
    """A class, and its value in the images of the annotation."""

    model_config = ConfigDict(extra="forbid")

    name: str
    source: int
    code: int
    value: int


class Description(BaseModel):
    """The content of the file.

    Attributes:
        layout, pattern, labels: as in `FolderSpec`.
        channels: in their order.
        classes: background first.
        resolution: pixels.
        spacing, axes: as in `SliceSet`.
        slices: slice as the files call it -> its id, patient, site, z and split, where they are known.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal["understudy-images-1"] = "understudy-images-1"
    layout: Literal["png", "nifti", "webdataset"]
    pattern: str = ""
    channels: list[DescribedChannel]
    labels: str
    classes: list[DescribedClass]
    resolution: int
    spacing: tuple[float, float, float] | None = None
    axes: tuple[str, str] | None = None
    slices: dict[str, _Row] = {}

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """The classes of the set that was exported."""
        return tuple(LabelClass(c.name, c.source, c.code) for c in self.classes)

    @property
    def codes(self) -> dict[str, float]:
        """Class -> its value in the annotation."""
        return {c.name: float(c.value) for c in self.classes[1:]}


def describe(slices: SliceSet, out: Path, reading: Mapping[str, Any], cases: Mapping[str, int] | None = None) -> None:
    """Writes the file into an exported folder.

    Args:
        slices: what was exported.
        out: the folder.
        reading: fields of the `FolderSpec` that reads it: layout, pattern, channels, labels, codes.
        cases: slice as the files call it -> row of the set; None: say nothing about single slices.
    """
    codes = {slices.classes[0].name: 0, **reading["codes"]}
    said = Description(
        layout=reading["layout"],
        pattern=reading.get("pattern", ""),
        channels=[DescribedChannel(name=c, files=reading["channels"][c]) for c in slices.channels],
        labels=reading["labels"],
        classes=[
            DescribedClass(name=c.name, source=c.source, code=c.code, value=codes[c.name]) for c in slices.classes
        ],
        resolution=slices.resolution,
        spacing=slices.spacing,
        axes=slices.axes,
        slices=_rows(slices, cases or {}),
    )
    write_json(out / DESCRIPTION, said.model_dump(mode="json"))


def _rows(slices: SliceSet, cases: Mapping[str, int]) -> dict[str, _Row]:
    index = slices.index[[name for name in _COLUMNS if name in slices.index]]
    records = index.astype(object).where(index.notna(), None).to_dict(orient="records")
    rows = {
        case: {str(k): v.item() if hasattr(v, "item") else v for k, v in records[row].items()}
        for case, row in cases.items()
    }
    return {case: row for case, row in rows.items() if row != {"id": case}}


def description_of(root: Path) -> Description | None:
    """What the folder says about itself; None if it says nothing.

    Raises:
        UnderstudyError: the file is damaged, or of another version.
    """
    path = root / DESCRIPTION
    if not path.is_file():
        return None
    try:
        return Description.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UnderstudyError(
            f"the description of the images cannot be used: {place}: {first['msg']}",
            where=path,
            fix="restore it from a copy, or delete it and describe the images by options: see `understudy read --help`",
        ) from error


def described(said: Description, spec: FolderSpec, known: Sequence[str] | None = None) -> FolderSpec:
    """The spec, completed by what the folder says about itself; what the user says takes precedence.

    Args:
        said: by the folder.
        spec: what the user says.
        known: channels that are wanted; the folder's others are left out.
    """
    if spec.layout not in ("auto", said.layout):
        return spec
    tokens: dict[str, str | int] = {channel.name: channel.files for channel in said.channels}
    named = spec.named or dict.fromkeys(known if known and set(known) <= tokens.keys() else tokens)
    channels = {name: tokens.get(name) if text is None else text for name, text in named.items()}
    return spec.model_copy(
        update={
            "layout": said.layout,
            "pattern": spec.pattern or said.pattern,
            "channels": list(channels) if None in channels.values() else channels,
            "labels": spec.labels or said.labels,
            "codes": spec.codes or said.codes,
        }
    )
