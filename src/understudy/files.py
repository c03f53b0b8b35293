"""Files that are whole or absent: atomic writes, canonical JSON and hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError

_DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again: it continues"),
    errno.EDQUOT: (
        "the disk quota is used up",
        "free some space and run the same command again: it continues",
    ),
    errno.EACCES: ("no permission to write", "choose a folder you may write to"),
    errno.EPERM: ("no permission to write", "choose a folder you may write to"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "choose another folder"),
    errno.EEXIST: ("a file stands where a folder is needed", "choose another folder"),
    errno.EFBIG: (
        "the file is larger than a limit of this system allows",
        "raise the limit (ulimit -f), or choose another disk",
    ),
    errno.EROFS: ("the file system is read-only", "choose a folder you may write to"),
}


def explain_os_error(error: OSError, path: str | Path) -> UnderstudyError | None:
    """The message for a disk that is full, closed or not a folder; None for any other operating system error."""
    known = _DISK_ERRORS.get(error.errno or 0)
    return UnderstudyError(known[0], where=error.filename or path, fix=known[1]) if known else None


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns a full disk or a missing permission inside the block into an `UnderstudyError` naming `path`."""
    try:
        yield
    except OSError as error:
        known = explain_os_error(error, path)
        if known is None:
            raise
        raise known from error


def make_folder(path: str | Path) -> None:
    """Makes the folder of results before any work is done for them.

    Raises:
        UnderstudyError: disk full, no permission, read-only file system, a file in its place.
    """
    with writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, flushed to disk, only if the block succeeds.

    Raises:
        UnderstudyError: disk full, no permission, read-only file system.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        UnderstudyError: the file is absent or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UnderstudyError("file not found", where=path, fix="check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnderstudyError(
            f"not a JSON file ({error})", where=path, fix="delete it or restore it from a copy"
        ) from error


def canonical_json(value: Any) -> str:
    """One text for equal values, whatever the order of keys: what job ids are hashed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
