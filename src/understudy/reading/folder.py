"""The folder of a reading study as the server sees it: texts, items and their panels, never the answer key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_file

FORMAT = "understudy-reading-1"
_ROUND_TO = 4096  # bytes: every panel is sent with one length, the largest file's rounded up to this
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SHOWN_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

Identifier = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Label = Annotated[str, Field(max_length=80)]


class StudyText(BaseModel):
    """`study.json` without what the server has no use for (the key's hash, the margin, the software)."""

    format: Literal["understudy-reading-1"]
    kind: Literal["real_or_synthetic", "segmentations"]
    title: str
    instructions: str = ""
    composition: str = ""
    scale: Literal["confidence", "binary"] = "confidence"
    legend: list[tuple[Label, Annotated[str, Field(pattern=r"^#[0-9A-Fa-f]{6}$")]]] = []
    seed: int


class Panel(BaseModel, extra="forbid"):
    """One picture of an item."""

    file: Annotated[str, Field(pattern=r"^images/[0-9a-f]{16}\.png$")]
    label: Label


class Item(BaseModel, extra="forbid"):
    """What a reader judges at once."""

    id: Identifier
    panels: Annotated[list[Panel], Field(min_length=1, max_length=9)]


@dataclass(frozen=True)
class ReadingFolder:
    """A study that can be served."""

    path: Path
    text: StudyText
    items: dict[str, Item]  # by id
    name: str  # 16 hex digits that stand for this study in a browser's storage (a hash of items.json)
    length: int  # bytes that every panel is padded to

    def order(self, reader: str) -> list[str]:
        """Ids of all items in the order in which `reader` sees them: their own, the same on every day."""
        return sorted(self.items, key=lambda i: hashlib.sha256(f"{self.text.seed}:{reader}:{i}".encode()).digest())

    def panel(self, item: str, number: int) -> bytes | None:
        """The bytes to send for a panel, `length` of them; None if there is no such item or panel."""
        found = self.items.get(item)
        if found is None or not 0 <= number < len(found.panels):
            return None
        # Zeros follow the end: a file's size says how well a slice compresses, and synthetic ones do it otherwise.
        return plain_png((self.path / found.panels[number].file).read_bytes()).ljust(self.length, b"\0")


def plain_png(data: bytes) -> bytes:
    """A PNG with the chunks that its pixels need and no other (no text, no times); raises for one that is cut short."""
    kept, at = [_SIGNATURE], len(_SIGNATURE)
    while data.startswith(_SIGNATURE) and at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind in _SHOWN_CHUNKS:
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    raise UnderstudyError("a panel is not a whole PNG", fix="prepare the study again")


def open_folder(path: str | Path) -> ReadingFolder:
    """Reads a study's folder; raises `UnderstudyError` for a wrong field, an id that comes twice, an absent picture."""
    path = Path(path)
    if not (path / "study.json").is_file():
        fix = "give the folder that `understudy reading prepare` wrote"
        raise UnderstudyError("not a reading study: it has no study.json", where=path, fix=fix)
    try:
        text = StudyText.model_validate(read_json(path / "study.json"))
        items = TypeAdapter(list[Item]).validate_python(read_json(path / "items.json"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "at the top"
        raise UnderstudyError(f"field {field}: {first['msg']}", where=path, fix="prepare the study again") from error
    by_id = {item.id: item for item in items}
    if not items or len(by_id) < len(items):
        raise UnderstudyError("items.json is empty, or an id comes twice", where=path, fix="prepare it again")
    files = {path / panel.file for item in items for panel in item.panels}
    absent = sorted(file for file in files if not file.is_file())
    if absent:
        fix = "copy the whole folder, or prepare it again"
        raise UnderstudyError(f"{len(absent)} pictures are absent", where=absent[0], fix=fix)
    length = -(-max(file.stat().st_size for file in files) // _ROUND_TO) * _ROUND_TO
    return ReadingFolder(path, text, by_id, sha256_file(path / "items.json")[:16], length)
