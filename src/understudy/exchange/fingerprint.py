"""A mark that changes with a folder's content, found without reading all of it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.exchange.description import DESCRIPTION
from understudy.io.files import sha256_file, sha256_json
from understudy.io.folders import read_bytes
from understudy.runtime.lazy import zarr

_TAIL = {".gz": 8, ".png": 24}  # bytes: CRC-32 and length; the end of the last IDAT chunk (Adler-32, CRC-32) and IEND


def folder_mark(root: Path, files: Sequence[str]) -> str:
    """SHA-256 (hex) over name, size and checksum of every file, or the content hash of a slice set (no files).

    The checksum is the one that the format itself ends with (PNG, gzip, zip). Files without one (.npy, .nii) count
    with their time of modification: a copy of them is another folder.
    """
    if not files:
        return str(dict(zarr.open_group(str(root), mode="r").attrs).get("content_hash"))
    marks: list[list[object]] = [[file, *_mark(root / file)] for file in files]
    if (root / DESCRIPTION).is_file():  # says what the files are
        marks.append([DESCRIPTION, sha256_file(root / DESCRIPTION)])
    return sha256_json(marks)


def _mark(path: Path) -> tuple[int, str]:
    ending = path.suffix.lower()
    try:
        status = path.stat()
        if ending == ".npz":
            with zipfile.ZipFile(path) as archive:
                return status.st_size, ",".join(f"{m.filename}:{m.CRC:08x}" for m in archive.infolist())
        tail = _TAIL.get(ending)
        if tail is None or status.st_size < tail:
            return status.st_size, str(status.st_mtime_ns)
        with open(path, "rb") as handle:
            handle.seek(-tail, os.SEEK_END)
            return status.st_size, handle.read().hex()
    except (OSError, zipfile.BadZipFile) as error:
        read_bytes(path, 1)  # says what is wrong with links and permissions
        raise UnderstudyError(
            f"the file cannot be read ({error})", where=path, fix="replace it by an intact copy, or remove it"
        ) from error
