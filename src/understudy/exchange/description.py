"""What a folder says about itself: `understudy-images.json` of an exported folder, `release.json` of a package."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from understudy.errors import UnderstudyError
from understudy.exchange.spec import FolderSpec
from understudy.io.files import read_json, reading, sha256_file, write_json
from understudy.io.foreign import DESCRIPTIONS
from understudy.io.settings import Settings
from understudy.slices import SliceAxes, SliceSet, Spacing

DESCRIPTION = "understudy-images.json"
CERTIFICATE, FORMAT = "release.json", "understudy-release-1"
NOT_RELEASED = (  # on what leaves without a certificate
    "NOT RELEASED: nobody has decided that this may be shared, and no gate has compared it with the patients that its"
    " generator was trained on."
)
_CHECK = "check the package: understudy verify PACKAGE"


class DescribedChannel(Settings):
    """A channel and what stands for it in file names."""

    name: str
    files: str


class DescribedClass(Settings):
    """A class, and its value in the images of the annotation."""

    name: str = Field(min_length=1)
    source: int = Field(ge=-(2**31), le=2**31)
    code: int = Field(ge=0, le=255, strict=True)
    value: int = Field(ge=0, le=2**16, strict=True)


class DescribedSlice(Settings):
    """What is known of a slice: columns of a set's index."""

    id: str | None = None
    subject: str | None = None
    site: str | None = None
    z: int | float | None = Field(None, ge=-1e9, le=1e9)
    split: str | None = None


class Description(Settings):
    """The content of `understudy-images.json`; layout, pattern and labels are those of `FolderSpec`."""

    format: Literal["understudy-images-1"] = "understudy-images-1"
    layout: Literal["png", "nifti", "webdataset"]
    pattern: str = ""
    channels: list[DescribedChannel]
    labels: str
    classes: list[DescribedClass]  # background first
    resolution: int = Field(ge=1, le=2**16, strict=True)
    spacing: Spacing | None = None  # mm, as in `SliceSet`
    axes: SliceAxes | None = None
    slices: dict[str, DescribedSlice] = Field({})  # as the files call them

    @model_validator(mode="after")
    def _all_different(self) -> Self:
        ids = [slice_.id for slice_ in self.slices.values() if slice_.id is not None]
        for what, names in (("channels", [c.name for c in self.channels]), ("classes", [c.name for c in self.classes]),
                            ("ids of slices", ids)):  # fmt: skip
            if len(set(names)) < len(names) or "" in names:
                raise ValueError(f"two {what} have the same name, or one has none")
        return self

    @property
    def codes(self) -> dict[str, float]:
        """Class -> its value in the annotation's files, without the background."""
        return {c.name: float(c.value) for c in self.classes[1:]}

    def complete(self, spec: FolderSpec, known: Sequence[str] | None = None) -> FolderSpec:
        """The spec, completed by the description (of all its channels or those `known`); the user takes precedence."""
        if spec.layout not in ("auto", self.layout):
            return spec
        files: dict[str, str | int] = {channel.name: channel.files for channel in self.channels}
        named = spec.named or dict.fromkeys(known if known and set(known) <= files.keys() else files)
        channels = {name: files.get(name) if text is None else text for name, text in named.items()}
        completed = {
            "layout": self.layout, "pattern": spec.pattern or self.pattern,
            "channels": list(channels) if None in channels.values() else channels,
            "labels": spec.labels or self.labels, "codes": spec.codes or self.codes,
        }  # fmt: skip
        return spec.model_copy(update=completed)


def describe(slices: SliceSet, out: Path, reading: Mapping[str, Any], cases: Mapping[str, int] | None = None) -> None:
    """Writes `understudy-images.json` into an exported folder.

    `reading` has the fields of the `FolderSpec` that reads it: layout, pattern, channels, labels, codes. `cases` tells
    which row of the set a name of the files is; None: say nothing about single slices.
    """
    codes = {slices.classes[0].name: 0, **reading["codes"]}
    index = slices.index[[name for name in DescribedSlice.model_fields if name in slices.index]]
    records = index.astype(object).where(index.notna(), None).to_dict(orient="records")
    rows = {case: records[row] for case, row in (cases or {}).items()}
    said = Description(
        layout=reading["layout"], pattern=reading.get("pattern", ""),
        channels=[DescribedChannel(name=c, files=reading["channels"][c]) for c in slices.channels],
        labels=reading["labels"], classes=[DescribedClass(**asdict(c), value=codes[c.name]) for c in slices.classes],
        resolution=slices.resolution, spacing=slices.spacing, axes=slices.axes,
        slices={case: DescribedSlice.model_validate(row) for case, row in rows.items() if row != {"id": case}},
    )  # fmt: skip
    known = {case: row.model_dump(mode="json", exclude_unset=True) for case, row in said.slices.items()}
    write_json(out / DESCRIPTION, {**said.model_dump(mode="json", exclude={"slices"}), "slices": known})


def description_of(root: Path) -> Description | None:
    """The description in an exported folder; None if there is none."""
    path = root / DESCRIPTION
    if not path.is_file():
        return None
    with reading(path, DESCRIPTIONS):
        return Description.model_validate(read_json(path))


def certificate_of(package: str | Path) -> dict[str, Any]:
    """What release.json says; refuses a folder that is no package, or one of another version."""
    path = Path(package) / CERTIFICATE
    if not path.is_file():
        raise UnderstudyError("this is no released package: it has no release.json", package, "give its folder")
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UnderstudyError("the package is of an unknown format", path, f"use a version that knows {FORMAT}")
    return found


def unpacked(root: Path, spec: FolderSpec, known: Sequence[str] | None = None) -> tuple[Path, FolderSpec]:
    """The data folder of a package and how its `known` channels are read (sizes as the user says); else the folder."""
    if not (root / CERTIFICATE).is_file():
        return root, spec
    said = certificate_of(root)
    try:
        reading = dict(said["data"]["reading"])
        if isinstance(reading.get("channels"), dict):  # JSON sorts names; their order is that of the certificate
            wanted = known or said["data"]["channels"]
            reading["channels"] = {k: reading["channels"][k] for k in wanted if k in reading["channels"]}
        return root / "data", FolderSpec(**reading | {"sizes": spec.sizes, "resolution": spec.resolution})
    except (KeyError, TypeError, ValueError) as error:
        what = "the package holds no slices that its certificate describes"
        raise UnderstudyError(what, where=root / CERTIFICATE, fix=_CHECK) from error


def generator_in(folder: Path) -> Path:
    """The generator's folder in a package of intact weights; any other folder as it is."""
    if not (folder / CERTIFICATE).is_file():
        return folder
    said = certificate_of(folder)
    if said.get("kind") != "generator":
        fix = "use its slices: understudy evaluate --synthetic PACKAGE"
        raise UnderstudyError("the package holds slices, not a generator", where=folder, fix=fix)
    try:
        weights = said["model"]["weights"]
        wanted = {weights["file"]: weights["sha256"], "model/config.json": said["model"]["config_sha256"]}
        intact = all(sha256_file(folder / name) == value for name, value in wanted.items())
    except (KeyError, TypeError, OSError):
        intact = False
    if not intact:
        raise UnderstudyError("the weights are not those of the package's certificate", where=folder, fix=_CHECK)
    return folder / "model"
