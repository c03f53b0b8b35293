"""What a user says about a folder of images that someone else made: names of channels, codes of classes, sizes."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from understudy.errors import UnderstudyError
from understudy.io.settings import Settings

LABELS = "labels"  # the annotation's name among the channels of a slice
PLAIN = "image"  # the only channel of images whose names speak of none

# How sequences are called in file names, in small letters: BraTS of all years, the paper's authors, BIDS.
ALIASES = {
    "T1w": ("t1", "t1w", "t1n"),
    "T1wGd": ("t1ce", "t1c", "t1gd", "t1wgd", "t1post"),
    "T2w": ("t2", "t2w"),
    "FLAIR": ("flair", "t2f"),
    LABELS: ("seg", "label", "labels", "annotation", "annotations", "mask", "masks", "target"),
}
BRATS_CODES = {"NCR/NET": 51, "ED": 102, "ET": 204}  # the paper's: label / 5 * 255


class FolderSpec(Settings, frozen=True):
    """How the images of a folder are to be read; the defaults recognise the layouts of the paper's authors."""

    layout: Literal["auto", "png", "array", "nifti", "webdataset", "slices"] = Field(
        default="auto",
        description="a PNG file per channel, NumPy arrays (.npz, .npy), NIfTI files, WebDataset shards (.tar), a slice"
        " set of Understudy",
    )
    pattern: str = Field(
        default="",
        description="file of a channel, with {id}, {channel}, * and **, e.g. '{channel}/{id}_{channel}.png';"
        " {subject} groups slices by patient; empty: find out",
    )
    channels: dict[str, str | int] | list[str] = Field(
        default_factory=dict,
        description="channel -> what stands for {channel}, a pattern of its own, or its position in an array (from 0);"
        " or the names in the order of the array",
    )
    labels: str | int | dict[str, str] = Field(
        default="",
        description="the annotation: what stands for {channel}, its position or key in an array, or for each class a"
        " file of its own; empty: found by its name, or the last channel of an array",
    )
    codes: dict[str, float] = Field(
        default_factory=dict, description="class -> its grey value in the annotation; empty: the study's or the paper's"
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="grey values by which an annotation may miss a code; none: a quarter of the distance between codes",
    )
    values: Literal["as_is", "max"] | tuple[float, float] = Field(
        default="as_is",
        description="grey values: as_is (0 to 255), max (each file's maximum becomes 255), or the two numbers that"
        " become 0 and 255, e.g. [-1, 1]",
    )
    clip: bool = Field(default=False, description="cut values outside of the two numbers off instead of stopping")
    sizes: Literal["refuse", "fit"] = Field(
        default="refuse",
        description="sizes that are no power of two: refuse, or pad with zeros and shrink by averaging",
    )
    resolution: int | None = Field(
        default=None, description="with `sizes: fit`: edge to shrink to, pixels; none: the padded square's"
    )

    @field_validator("codes")
    @classmethod
    def _different_codes(cls, codes: dict[str, float]) -> dict[str, float]:
        if any(not 0 < code <= 255 for code in codes.values()) or len(set(codes.values())) < len(codes):
            raise ValueError("codes must differ and lie above 0 (the background) and not above 255")
        return codes

    @field_validator("channels", "labels")
    @classmethod
    def _names_and_positions(cls, value: Any) -> Any:
        listed = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(place, int) and place < 0 for place in listed):
            raise ValueError("positions are counted from 0")
        if len(set(listed)) < len(listed):
            raise ValueError("duplicate entries")
        if isinstance(value, dict | list) and LABELS in value:
            raise ValueError(f"a channel cannot be called {LABELS!r}; the field `labels` describes the annotation")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "FolderSpec":
        if isinstance(self.values, tuple) and self.values[0] >= self.values[1]:
            raise ValueError("`values` should be the lower number, then the higher one")
        if self.pattern and not ("{id}" in self.pattern and "{channel}" in self.pattern):
            raise ValueError("`pattern` needs {id} and {channel}, e.g. '{channel}/{id}_{channel}.png'")
        return self

    @property
    def named(self) -> dict[str, str | int | None]:
        """Channel name -> what stands for it, None where only the name was given."""
        return dict(self.channels) if isinstance(self.channels, dict) else dict.fromkeys(self.channels)


def pattern_text(pattern: str, placeholders: Sequence[str], channel: str = "") -> str:
    """A file pattern as a regular expression: * is anything in a name, **/ any folders in between.

    Each placeholder, e.g. {id}, is a group and a part of a name, the same text wherever it stands; {channel} is
    `channel`, an expression.
    """
    translated, seen = [], set[str]()
    for piece in re.split(r"(\{\w+\}|\*\*/|\*)", pattern.removeprefix("./")):
        name = piece[1:-1]
        if piece == "{channel}" and channel:
            translated.append(f"(?:{channel})")
        elif piece.startswith("{") and name in placeholders:
            translated.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
            seen.add(name)
        else:
            translated.append({"**/": "(?:.*/)?", "*": "[^/]*"}.get(piece, re.escape(piece)))
    return "".join(translated)


def spec_of_words(words: dict[str, str | bool | float | None]) -> FolderSpec:
    """The spec that command line options describe, those left out (None) apart.

    Args:
        words: field -> text: channels "T1w=T1,FLAIR=flair" (or "T1w,FLAIR", the order in an array), labels "Seg" or
            "NCR=Seg1,ED=Seg2", codes "NCR=51,ED=102", values "max" or "-1,1"; the others as they are.
    """
    fields: dict[str, Any] = {name: value for name, value in words.items() if value is not None}
    for name, text in [(name, value) for name, value in fields.items() if isinstance(value, str)]:
        if name in ("codes", "channels", "labels") and ("=" in text or name == "codes"):
            pairs = [[half.strip() for half in part.split("=", 1)] for part in text.split(",")]
            if odd := next((pair for pair in pairs if len(pair) < 2 or not all(pair)), None):
                what, where = f"{'='.join(odd)!r} should be NAME=VALUE", f"--{name} {text}"
                raise UnderstudyError(what, where=where, fix="write NAME=VALUE,NAME=VALUE")
            fields[name] = {k: int(v) if name == "channels" and v.isdigit() else v for k, v in pairs}
        elif name == "channels" or (name == "values" and "," in text):
            fields[name] = [part.strip() for part in text.split(",")]
        elif name == "labels" and text.isdigit():
            fields[name] = int(text)
    try:
        return FolderSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        named_field = re.search(r"`(\w+)`", first["msg"])  # by a rule on several fields
        option = str(first["loc"][0]) if first["loc"] else named_field[1] if named_field else ""
        field = FolderSpec.model_fields.get(option)
        raise UnderstudyError(
            first["msg"].removeprefix("Value error, "),
            where=f"--{option} {words.get(option, '')}" if option else None,
            fix=f"{option} is: {field.description}" if field else None,
        ) from error
