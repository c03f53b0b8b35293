"""Is anything of a patient in a package? Every file is opened and searched, every slice compared with all real ones.

Searched are bytes as they are, values of tables, members of tar files, headers of NIfTI, and PNG files but for pixels.
"""

import getpass
import gzip
import hashlib
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.description import CERTIFICATE
from understudy.exchange.sources import members_of
from understudy.release.content import COLUMNS, names_below, read_back
from understudy.slices import SliceSet

_SHORT = 4  # characters; shorter ids and names are compared with whole values only
_COMMON = {"root", "user", "admin", "ubuntu", "localhost", "debian", "home", "data"}
_FORBIDDEN = re.compile(rb"(?<![\w.:/])(/(?:home|Users|root|mnt|scratch|tmp|work)/[\w.-]+|[A-Z]:\\\\?Users)")
_NEIGHBOUR = re.compile(r"neighbo|training_row|patient|subject", re.IGNORECASE)
_SHOWN = 5


@dataclass(frozen=True)
class Scan:
    """How much was searched for how much, and what was found."""

    files: int
    slices: int
    training_slices: int
    words: int
    findings: list[str]


def secret_words(real: Sequence[SliceSet], paths: Sequence[Path] = ()) -> set[str]:
    """What no file may hold: ids of patients and of their slices, paths, this machine and its user."""
    words = {str(v) for s in real for c in ("subject", "id") if c in s.index for v in s.index[c].unique()}
    words |= {str(p.absolute()) for p in paths} | {str(Path.home()), socket.gethostname(), getpass.getuser()}
    return {w for w in words if w and w.lower() not in _COMMON | {"/"}}


def scan(package: Path, head: dict[str, Any], real: Sequence[SliceSet], words: set[str]) -> Scan:
    """Searches a package for `words` and for slices of the `real` sets, which have its channels.

    `head`: channels and classes, of its certificate; empty for a package of weights.
    """
    files, count = names_below(package), 0
    findings = _words_in(files, package, words)
    if head and (package / CERTIFICATE).is_file():
        known, single = _hashes(real, head["channels"])
        for name, image, _ in read_back(package, head):
            count += 1
            if _digest(image) in known:
                findings.append(f"slice {name} is a real slice, pixel by pixel")
            elif any(_digest(channel) in single for channel in image):
                findings.append(f"a channel of slice {name} is that of a real slice, pixel by pixel")
    return Scan(len(files), count, sum(map(len, real)), len(words), findings)


def refuse(found: Scan, where: Path) -> None:
    """Raises `UnderstudyError` with what was found; nothing overrides it."""
    if found.findings:
        listed = "\n".join(f"  {f}" for f in found.findings[:_SHOWN])
        what = f"the scan found {len(found.findings)} things that must not leave:\n{listed}"
        raise UnderstudyError(what, where=where, fix="take them out; a release cannot be forced past the scan")


def _words_in(files: Sequence[str], package: Path, words: set[str]) -> list[str]:
    ordered = sorted((w for w in words if len(w) >= _SHORT), key=len, reverse=True)
    short, long = words - {*ordered}, re.compile("|".join(map(re.escape, ordered)) or "(?!)")
    in_names = {m for name in files for m in _hits(long, name)}
    findings = [f"a file's name holds {_masked(m)}" for m in sorted(in_names)]
    for name in files:
        path = package / name
        for place, text in _texts(path):
            where = f"{name}{place}"
            findings += [f"{where} holds {_masked(m)}" for m in _hits(long, text)]
            findings += [f"{where} holds the path {m.decode()}" for m in set(_FORBIDDEN.findall(text.encode()))]
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            for column in map(str, frame):
                if (column not in COLUMNS and not column.startswith("area.")) or _NEIGHBOUR.search(column):
                    findings.append(f"{name} has the column {column!r}")
            texts = frame.select_dtypes(include=["object", "string"])
            findings += [f"{name} ({c}) holds {_masked(v)}" for c in texts for v in short & set(texts[c].dropna())]
    return findings


def _hits(words: re.Pattern[str], text: str) -> set[str]:
    """Words that stand for themselves: not inside a longer run of letters or digits."""
    return {
        match.group()
        for match in words.finditer(text)
        if not (text[match.start() - 1 : match.start()].isalnum() or text[match.end() : match.end() + 1].isalnum())
    }


def _masked(word: str) -> str:
    # enough to find it, too little to leak it into a log
    return f"{word[:2]}… ({len(word)} characters; an id, path, host or user name)"


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """(place within the file, text) of all that is not pixels."""
    if path.suffix == ".tar":
        for name, content in members_of(path):
            yield f": {name}", name + "\n" + _text(content, name)
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        yield " (metadata)", repr(table.schema.metadata)
        for column in table.column_names:
            values = table[column].unique().to_pylist()
            yield (f" ({column})", column + "\n" + "\n".join(map(str, values) if isinstance(values[0], str) else []))
    elif path.name.isdigit():  # a shard of Zarr: compressed pixels
        yield "", ""
    elif path.suffix == ".safetensors":  # names of tensors and free text; `understudy verify` checks the numbers
        with open(path, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            yield "", handle.read(min(size, path.stat().st_size)).decode("utf-8", "replace")
    else:
        yield "", _text(path.read_bytes(), path.name)


def _text(content: bytes, name: str) -> str:
    if name.endswith(".png"):  # what it holds beside pixels, and what was appended behind its end
        found, place, kind = [], 8, b""
        while place + 8 <= len(content) and kind != b"IEND":
            size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
            if kind not in (b"IDAT", b"IHDR", b"IEND"):
                found.append(kind + b" " + content[place + 8 : place + 8 + size])
            place += 12 + size
        content = b"\n".join([*found, content[place:]])
    elif name.endswith(".nii.gz"):
        raw = gzip.decompress(content)
        content = raw[: int(np.frombuffer(raw[108:112], "<f4")[0])]  # vox_offset: header and extensions
    return content.decode("utf-8", "replace")


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


def _hashes(real: Sequence[SliceSet], channels: Sequence[str]) -> tuple[set[bytes], set[bytes]]:
    """Of real slices that show something, and of their channels."""
    whole, single = set(), set()
    for slices in real:
        order = [slices.channels.index(c) for c in channels]
        for _, images, _ in slices.blocks():
            for image in images[:, order]:
                if image.min() != image.max():
                    whole.add(_digest(image))
                single |= {_digest(c) for c in image if c.min() != c.max()}
    return whole, single
