"""Files of checkpoints: plain pickles and both formats of `torch.save`, read with the machine of `pickles.py`."""

from __future__ import annotations

import io
import mmap
import os
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from understudy.errors import UnderstudyError
from understudy.generators.official.pickles import STORAGES, Limits, Machine, Name
from understudy.generators.official.records import Refusal, Storage

# A torch.save of the old format starts with this number, pickled, and its version.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAGIC_BYTES = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_AGAIN = "download it again and compare its size or checksum with the source"


def read_checkpoint(path: str | Path) -> Any:
    """The content of a checkpoint: containers, numbers, texts and the records of `records.py`.

    Nothing in the file is executed or imported, whatever it asks for.

    Raises:
        UnderstudyError: no such file; not a checkpoint; damaged; or it asks for something that is not on the list of
            what official checkpoints need.
    """
    path = Path(path)
    if not path.is_file():
        kind = "a folder, not a file" if path.is_dir() else "file not found"
        raise UnderstudyError(kind, where=path, fix="give the path of a checkpoint (.pkl or .pt)")
    if path.stat().st_size == 0:
        raise UnderstudyError("the file is empty", where=path, fix=_AGAIN)
    if not os.access(path, os.R_OK):
        raise UnderstudyError("no permission to read the file", where=path, fix="check its permissions")
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _check_kind(content[:512], path)
        try:
            # Reading a mapped file never reserves more than there is, whatever length the file claims; zip archives
            # need a file proper, and `zipfile` has its own checks.
            return parse(handle if content[:2] == b"PK" else content)  # type: ignore[arg-type]
        except Refusal as refusal:
            raise UnderstudyError(
                f"the file asks for {refusal}, which no official checkpoint needs; nothing in it was executed",
                where=path,
                fix="do not load it with other software unless you trust whoever made it",
            ) from refusal
        except Exception as error:  # damage shows in as many ways as there are operations
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UnderstudyError(
                f"the file is damaged or not a checkpoint ({reason})", where=path, fix=_AGAIN
            ) from error


def parse(content: IO[bytes]) -> Any:
    """The content of a seekable binary stream.

    Raises:
        Refusal: it asks for something that is not on the list.
        Exception: of many kinds, for damage.
    """
    size = content.seek(0, io.SEEK_END) or content.tell()
    content.seek(0)
    start = content.read(len(_MAGIC_BYTES))
    content.seek(0)
    limits = Limits(budget=4 * size + (1 << 20))
    if start[:4] == b"PK\x03\x04":
        return _read_zip(content, limits)
    if start == _MAGIC_BYTES:
        return _read_legacy(content, limits)
    limits.inner = lambda data: _read_inner(data, limits)
    return Machine(content, limits).run()


def _check_kind(start: bytes, path: Path) -> None:
    """Names the usual wrong files."""
    text = start.lstrip().lower()
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
        return
    found = ""
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        found = ", but a web page: the download needs a login, or a confirmation of its size"
    elif text.startswith(b"version https://git-lfs"):
        found = ", but a pointer of Git LFS: the file itself is fetched by `git lfs pull`"
    elif start[:2] in (b"\x1f\x8b", b"BZ") or start[:6] == b"\xfd7zXZ\x00" or start[257:262] == b"ustar":
        found = ", but an archive: unpack it and give the checkpoint inside"
    elif start[:4] == b"\x89HDF":
        found = ", but an HDF5 file, not a checkpoint of the five models"
    raise UnderstudyError(
        f"not a pickle or PyTorch file{found}", where=path, fix="give a .pkl or .pt of the official code"
    )


def _storage_of(identifier: Any) -> Storage:
    """An empty storage for the persistent id ("storage", type, key, device, count[, view])."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise Refusal("an object outside of the file")
    _, kind, key, _, count = identifier[:5]
    name = kind.text.removeprefix("torch ") if isinstance(kind, Name) else ""
    if name not in STORAGES or not isinstance(key, str) or type(count) is not int or count < 0:
        raise Refusal("a storage of an unknown form")
    if len(identifier) == 6 and identifier[5] is not None:
        raise Refusal("a view of a storage, which only PyTorch before 0.4 wrote")
    return Storage(STORAGES[name], count)


def _read_inner(data: bytes, limits: Limits) -> Any:
    """A `torch.save` inside a pickle: always the old format."""
    if not data.startswith(_MAGIC_BYTES):
        raise Refusal("nested bytes that are no PyTorch storage")
    before = limits.storage, limits.inner
    limits.inner = None
    try:
        return _read_legacy(io.BytesIO(data), limits)
    finally:
        limits.storage, limits.inner = before


def _read_legacy(stream: IO[bytes], limits: Limits) -> Any:
    """Five pickles (magic number, version, machine, object, keys), then each storage as count and values."""
    storages: dict[str, Storage] = {}

    def storage(identifier: Any) -> Storage:
        made = _storage_of(identifier)
        return storages.setdefault(identifier[2], made)

    if (Machine(stream, limits).run(), Machine(stream, limits).run()) != (_MAGIC, _VERSION):
        raise ValueError("another version of torch.save")
    if Machine(stream, limits).run().get("little_endian") is not True:
        raise Refusal("the byte order of a big-endian machine")
    limits.storage = storage
    result = Machine(stream, limits).run()
    limits.storage = None
    for key in Machine(stream, limits).run():
        made = storages[key]
        count = int.from_bytes(stream.read(8), "little")
        made.data = stream.read(count * made.itemsize)
        if count != made.count or len(made.data) != count * made.itemsize:
            raise EOFError("the values of a tensor are cut off")
    return result


def _read_zip(stream: IO[bytes], limits: Limits) -> Any:
    """A zip archive with `<name>/data.pkl` and one uncompressed file a storage, `<name>/data/<key>`."""
    with zipfile.ZipFile(stream) as archive:
        pickles = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError("a zip archive, but not one that torch.save writes")
        folder = pickles[0].removesuffix("data.pkl")
        storages: dict[str, Storage] = {}

        def member(name: str) -> bytes:
            entry = archive.getinfo(folder + name)
            if entry.compress_type != zipfile.ZIP_STORED:
                raise Refusal("compressed values, which torch.save does not write")
            limits.spend(entry.file_size)
            return archive.read(entry)

        def storage(identifier: Any) -> Storage:
            made, key = _storage_of(identifier), identifier[2]
            if key not in storages:
                made.data = member(f"data/{key}")
                storages[key] = made
            return storages[key]

        if folder + "byteorder" in archive.namelist() and member("byteorder") != b"little":
            raise Refusal("the byte order of a big-endian machine")
        limits.storage = storage
        return Machine(io.BytesIO(member("data.pkl")), limits).run()
