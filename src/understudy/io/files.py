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

from understudy.errors import MissingField, UnderstudyError

_AGAIN = "run the same command again: it continues"
_NO_ANSWER = ("the disk or network drive does not answer", f"see whether the drive is still connected, then {_AGAIN}")
_TOO_MANY = ("too many files are open at once", "raise the limit of open files (ulimit -n 4096) and run it again")
_DISK = {
    errno.ENOSPC: ("the disk is full", f"free some space and {_AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space and {_AGAIN}"),
    errno.EFBIG: (
        "the file is larger than a limit of this system allows",
        "raise the limit (ulimit -f), or choose another disk",
    ),
    errno.EROFS: ("the file system is read-only", "choose a folder you may write to"),
    errno.EEXIST: ("a file stands where a folder is needed", "choose another folder"),
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
    errno.EIO: ("the disk reports an error", "copy the files to another disk and use the copy"),
    errno.ENAMETOOLONG: ("the file's name or path is too long", "use a shorter name or a folder higher up"),
    errno.ELOOP: ("links that lead back to each other", "replace the link by the file or folder that is meant"),
} | dict.fromkeys((errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN), _NO_ANSWER)
_WRITING = _DISK | {
    errno.EACCES: ("no permission to write", "choose a folder you may write to"),
    errno.EPERM: ("no permission to write", "choose a folder you may write to"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "choose another folder"),
    errno.EISDIR: ("a folder stands where a file is needed", "choose another name"),
}
_READING = _DISK | {
    errno.ENOENT: ("file not found", "check the path"),
    errno.EACCES: ("no permission to read", "ask the owner of the file or folder for the right to read it"),
    errno.EPERM: ("no permission to read", "ask the owner of the file or folder for the right to read it"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "check the path"),
    errno.EISDIR: ("a folder, not a file", "give the path of a file"),
}


def explain_os_error(error: OSError, path: str | Path | None, writing: bool) -> UnderstudyError | None:
    """The message for what the system refuses, in the words of reading or of writing.

    A file that was only read while `path` was written is told in the words of reading.

    Args:
        error: its own file name is told, if it has one; else `path`.
        writing: whether `path` was being written.

    Returns:
        None for errors that say nothing about a file or disk.
    """
    writing = writing and (path is None or _belongs(error.filename, path))
    known = (_WRITING if writing else _READING).get(error.errno or 0)
    where = error.filename if isinstance(error.filename, str | Path) else path
    return UnderstudyError(known[0], where=where, fix=known[1]) if known else None


def _belongs(name: object, path: str | Path) -> bool:
    """Whether an error's file name is `path`, a folder above it, or something in it or beside it."""
    if not isinstance(name, str | Path):
        return True
    file, folder = Path(name).absolute(), Path(path).absolute()
    return file.is_relative_to(folder.parent) or folder.is_relative_to(file)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turns what the system refuses inside the block into an `UnderstudyError` in the words of reading.

    Raises:
        UnderstudyError: no such file, no permission to read, a folder, a broken disk, too many open files, ...
    """
    with _explained(path, writing=False):
        yield


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns a full disk or a missing permission inside the block into an `UnderstudyError` naming `path`."""
    with _explained(path, writing=True):
        yield


@contextmanager
def _explained(path: str | Path, writing: bool) -> Iterator[None]:
    try:
        yield
    except UnderstudyError:  # a job's time limit is an OSError as well
        raise
    except OSError as error:
        known = explain_os_error(error, path, writing)
        if known is None:
            raise
        raise known from error


def make_folder(path: str | Path) -> None:
    """Makes the folder of results before any work is done for them.

    Raises:
        UnderstudyError: disk full, no permission, read-only file system, a file in its place.
    """
    try:
        with writing(path):
            Path(path).mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # below /proc, or on a drive that is gone
        raise UnderstudyError("the folder cannot be made", where=path, fix="choose another folder") from error


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
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files need not be UTF-8


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


class Record(dict[str, Any]):
    """An object of a JSON file; a field that is not there is told with the file's name."""

    def __init__(self, content: Any = (), path: str | Path = "") -> None:
        super().__init__(content)  # content alone, too: `dataclasses.asdict` rebuilds dictionaries so
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise MissingField(
            f"the file has no field `{key}`: another version of Understudy, or another program, wrote it",
            where=self.path,
            fix="give the file or folder that this version made, or make it anew",
        )


def read_json(path: str | Path, kind: type | None = None) -> Any:
    """Reads JSON; its objects are `Record`s.

    Args:
        kind: dict or list, where only this will do.

    Raises:
        UnderstudyError: the file is absent, may not be read, is not JSON or not of this kind.
    """
    try:
        with reading(path):
            text = Path(path).read_text(encoding="utf-8")
        found = json.loads(text, object_hook=lambda content: Record(content, path))
    except (ValueError, RecursionError) as error:  # also bytes that are no text, endless digits, deep nesting
        raise UnderstudyError(
            f"not a JSON file ({error})", where=path, fix="delete it or restore it from a copy"
        ) from error
    if kind is not None and not isinstance(found, kind):
        raise UnderstudyError(
            "the file does not hold what its name says: another program wrote it",
            where=path,
            fix="give the file or folder that Understudy made, or make it anew",
        )
    return found


def canonical_json(value: Any) -> str:
    """One text for equal values, whatever the order of keys: what job ids are hashed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode(errors="backslashreplace")).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
