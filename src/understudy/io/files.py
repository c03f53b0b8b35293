"""Atomic writes, locks, JSON and hashes; what the system refuses becomes an `UnderstudyError`."""

import errno
import fcntl
import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from understudy.errors import Interrupted, MissingField, UnderstudyError
from understudy.io.foreign import JSON, Budget, Kind

_SPACE = "free some space and run the same command again: it continues"
_ANOTHER = "choose another folder"
_WRITABLE = "choose a folder you may write to"
_RIGHTS = "ask the owner of the file or folder for the right to read it"
_CONNECTED = "see whether the drive is still connected, then run the same command again: it continues"
# what, fix, names of errno; the first table holds for reading and for writing
_DISK = [
    ("the disk is full", _SPACE, "ENOSPC"),
    ("the disk quota is used up", _SPACE, "EDQUOT"),
    ("the file exceeds a limit of this system", "raise the limit (ulimit -f), or choose another disk", "EFBIG"),
    ("the file system is read-only", _WRITABLE, "EROFS"),
    ("a file stands where a folder is needed", _ANOTHER, "EEXIST"),
    ("too many files are open at once", "raise the limit (ulimit -n 4096) and run it again", "EMFILE ENFILE"),
    ("the disk reports an error", "copy the files to another disk and use the copy", "EIO"),
    ("the file's name or path is too long", "use a shorter name or a folder higher up", "ENAMETOOLONG"),
    ("links that lead back to each other", "replace the link by the file or folder that is meant", "ELOOP"),
    ("the disk or network drive does not answer", _CONNECTED, "ESTALE ENOTCONN ETIMEDOUT EHOSTDOWN"),
]
_WRITING = [
    ("no permission to write", _WRITABLE, "EACCES EPERM"),
    ("a file stands where a folder is needed", _ANOTHER, "ENOTDIR"),
    ("a folder stands where a file is needed", "move that folder away, or choose another name", "EISDIR"),
]
_READING = [
    ("file not found", "check the path", "ENOENT"),
    ("no permission to read", _RIGHTS, "EACCES EPERM"),
    ("a part of the path is a file, not a folder", "check the path", "ENOTDIR"),
    ("a folder, not a file", "give the path of a file", "EISDIR"),
]


def explain_os_error(error: OSError, path: str | Path | None, writing: bool) -> UnderstudyError | None:
    """The message for an OSError, about its own file or else `path`; None if it says nothing about a file or disk."""
    named = isinstance(error.filename, str | Path)
    if writing and path is not None and named:  # an error about a file elsewhere was one of reading all the same
        file, target = Path(error.filename).absolute(), Path(path).absolute()
        writing = file.is_relative_to(target.parent) or target.is_relative_to(file)
    code = errno.errorcode.get(error.errno or 0, "")
    for what, fix, codes in [*_DISK, *(_WRITING if writing else _READING)]:
        if code in codes.split():
            return UnderstudyError(what, where=error.filename if named else path, fix=fix)
    return None


@contextmanager
def _explained(writing: bool, path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        known = explain_os_error(error, path, writing)
        if known is None or isinstance(error, UnderstudyError):  # a job's time limit is an OSError as well
            raise
        raise known from error


# An OSError inside the block (absent, no permission, disk full, ...) becomes an `UnderstudyError` about `path`.
writing = partial(_explained, True)


def refuse_special(path: str | Path) -> None:
    """Raises for what is neither file nor folder, before it is opened: a pipe is waited for, a device never ends."""
    with suppress(OSError, ValueError):  # absent: whoever reads it says so
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnderstudyError("this is not a regular file", where=path, fix="give a file")


@contextmanager
def reading(path: str | Path, kind: Kind | None = None) -> Iterator[None]:
    """As `writing`; with a kind of files whatever else the parsing of its bytes raises, too, which stays the cause.

    Only calls that parse foreign bytes belong into the block. Names that do not exist, failed assertions and imports
    are mistakes of ours, whatever the file holds, and pass, as does a lack of memory.
    """
    refuse_special(path)
    try:
        with _explained(False, path):
            yield
    except (UnderstudyError, Interrupted, MemoryError, NameError, AssertionError, ImportError):
        raise
    except Exception as error:
        if kind is None:
            raise
        raise kind.damaged(path, error) from error


def make_folder(path: str | Path) -> None:
    """Makes a folder with its parents; raises `UnderstudyError` where that fails, before any work is done for it."""
    try:
        with writing(path):
            Path(path).mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # below /proc, or on a drive that is gone
        raise UnderstudyError("the folder cannot be made", where=path, fix=_ANOTHER) from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it replaces `path`, flushed to disk, if the block succeeds."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except OSError as error:
            if error.filename == str(temporary):
                error.filename = str(path)  # the one that the user knows
            raise
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def held_lock(path: Path, where: str, problem: str, fix: str) -> Iterator[None]:
    """Holds an exclusive lock on a file; the kernel frees it when the process ends, however it ends.

    Args:
        where: this process runs, for the message that another one gets.
        problem, fix: that message; `{holder}` in it is replaced.
    """
    # The kernel's flock and not filelock, which empties or deletes the file: this one names its holder.
    with writing(path.parent):
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
    with handle:
        for last in [False] * 20 + [True]:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if last:
                    handle.seek(0)
                    holder = handle.read().strip() or "unknown"
                    raise UnderstudyError(problem.format(holder=holder), where=path.parent, fix=fix) from error
                time.sleep(0.01)  # held for an instant, it is a look at the lock (`understudy status`), not work
        with writing(path.parent):
            handle.truncate(0)
            handle.write(f"process {os.getpid()} {where}\n")
            handle.flush()
        yield


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files need not be UTF-8


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """The value as JSON has it: lists for tuples and sets, records for a table, None for NaN and infinities."""
    if hasattr(value, "to_dict"):  # a DataFrame
        value = value.to_dict(orient="records")
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # a NumPy scalar
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


class Record(dict[str, Any]):
    """An object of a JSON file; reading a missing key raises `MissingField`, which names the file."""

    def __init__(self, content: Any = (), path: str | Path = "") -> None:
        super().__init__(content)  # content alone, too: `dataclasses.asdict` rebuilds dictionaries so
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise MissingField(
            f"the file has no field `{key}`: another version of Understudy, or another program, wrote it",
            where=self.path, fix="give the file or folder that this version made, or make it again")  # fmt: skip


def read_json(path: str | Path, kind: type | None = None, encoding: str = "utf-8") -> Any:
    """Reads JSON, its objects as `Record`s; raises `UnderstudyError` for no JSON, or another `kind` (dict or list).

    `encoding`: "utf-8-sig" for files of other programs, which may begin with a byte order mark.
    """
    with reading(path, JSON):  # also bytes that are no text, endless digits, deep nesting
        budget = Budget(path, JSON)
        budget.spend(Path(path).stat().st_size)
        text = Path(path).read_text(encoding=encoding)
        budget.spend(items=sum(map(text.count, ",[{")))
        found = json.loads(text, object_hook=lambda content: Record(content, path))
    if kind is not None and not isinstance(found, kind):
        raise UnderstudyError("another program wrote this file", where=path, fix="give the one that Understudy made")
    return found


def canonical_json(value: Any) -> str:
    """The same text for equal values, whatever the order of keys: what job ids are hashed from."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_json(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode(errors="backslashreplace")).hexdigest()


def sha256_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with reading(path), open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
