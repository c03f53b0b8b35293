"""The folder of a reading study: texts, items and their panels for the server, never the answer key; its hashes.

The key holds the hashes of all that readers are shown, study.json the hash of the key: note that before reading.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from understudy.errors import UnderstudyError
from understudy.exchange.pixels import png_chunks
from understudy.io.files import read_json, reading, sha256_file, sha256_json
from understudy.io.foreign import READING
from understudy.io.settings import Settings

FORMAT = "understudy-reading-1"
KEY_FORMAT = "understudy-reading-key-2"
_ROUND_TO = 4096  # bytes: every panel is sent with one length, the largest file's rounded up to this
_SHOWN_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_SEALED = {
    "study_sha256": "study.json (margin, design, texts)",
    "items_sha256": "items.json",
    "pictures_sha256": "a picture",
}

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


class Panel(Settings):
    """One picture of an item."""

    file: Annotated[str, Field(pattern=r"^images/[0-9a-f]{16}\.png$")]
    label: Label


class Item(Settings):
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
    try:
        kept = [chunk for kind, chunk in png_chunks(data) if kind in _SHOWN_CHUNKS]
    except ValueError as error:
        raise UnderstudyError(f"a panel is {error}", fix="prepare the study again") from error
    return b"".join([data[:8], *kept])


def address(host: str, port: int) -> str:
    """http://host:port of a server, with an IPv6 host in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def open_folder(path: str | Path) -> ReadingFolder:
    """Reads a study's folder; raises `UnderstudyError` for a wrong field, an id that comes twice, an absent picture."""
    path = Path(path)
    if not (path / "study.json").is_file():
        raise UnderstudyError("no reading study: no study.json", where=path, fix="give the folder of `reading prepare`")
    with reading(path, READING):
        text = StudyText.model_validate(read_json(path / "study.json"))
        items = TypeAdapter(list[Item]).validate_python(read_json(path / "items.json"))
    by_id = {item.id: item for item in items}
    if not items or len(by_id) < len(items):
        raise UnderstudyError("items.json is empty, or an id comes twice", where=path, fix="prepare it again")
    files = {path / panel.file for item in items for panel in item.panels}
    absent = sorted(file for file in files if not file.is_file())
    if absent:
        raise UnderstudyError(f"{len(absent)} pictures are absent", where=absent[0], fix="copy the whole folder")
    length = -(-max(file.stat().st_size for file in files) // _ROUND_TO) * _ROUND_TO
    return ReadingFolder(path, text, by_id, sha256_file(path / "items.json")[:16], length)


def seal(folder: Path, about: dict[str, Any]) -> dict[str, str]:
    """Hashes of study.json (`about`, without the hash of the key), items and pictures."""
    pictures = {file.name: sha256_file(file) for file in sorted((folder / "images").iterdir())}
    hashes = sha256_json(about), sha256_file(folder / "items.json"), sha256_json(pictures)
    return dict(zip(_SEALED, hashes, strict=True))


def checked_study(folder: Path, key: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """study.json and the key; raises `UnderstudyError` if one of them, or what lies beside them, is not as prepared."""
    about, truth = read_json(folder / "study.json", dict), read_json(key)
    if sha256_file(key) != about.get("key_sha256"):
        raise UnderstudyError("the answer key is not the one fixed before reading", where=key, fix="find that one")
    if truth.get("format") != KEY_FORMAT:
        raise UnderstudyError("another version prepared the study", where=key, fix="analyse it with that version")
    found = seal(folder, {name: value for name, value in about.items() if name != "key_sha256"})
    for name, what in _SEALED.items():
        if truth["sealed"][name] != found[name]:
            raise UnderstudyError(f"{what} is not as it was prepared", where=folder, fix="restore what was read")
    return about, truth
