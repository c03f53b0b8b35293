"""Seals: size and SHA-256 of every file of finished work, looked at again before it is used.

`done.json` seals the folder of a job: `files` lists what the job wrote, `seal` is the hash of all that it says. A slice
set has the same two fields in its metadata. A file is hashed once a process; afterwards its size and time of
modification tell that it is the same.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, reading, sha256_file, sha256_json

DONE = "done.json"
REPAIR = "restore it from a copy, or redo it and what depends on it: understudy run STUDY --repair"
AGAIN = "restore it from a copy, or write it again"
# beside the results: the engine's own files, and TensorBoard's, which nothing reads
_UNSEALED = {"lock", "heartbeat.json", "memory.json", "failed.json", "error.log", DONE, "tensorboard"}
_hashed: dict[str, tuple[tuple[int, ...], str]] = {}  # path -> size and times of modification, SHA-256

Files = Mapping[str, Any]  # path below a folder -> [size in bytes, SHA-256 (hex)]


class Damaged(UnderstudyError):
    """A file is not the one that was written: changed, cut off, missing, or another job's."""


def file_hash(path: str | Path) -> str:
    """SHA-256 (hex) of a file; read once a process unless its size or time of modification change."""
    name, status = os.path.abspath(path), os.stat(path)
    mark = status.st_size, status.st_mtime_ns, status.st_ctime_ns  # the last also of a file whose time was set back
    if name not in _hashed or _hashed[name][0] != mark:
        _hashed[name] = mark, sha256_file(path)
    return _hashed[name][1]


def files_of(folder: Path, names: Iterable[str] | None = None) -> dict[str, list[Any]]:
    """These files below a folder as a seal lists them; None: all but hidden ones, which are not ours."""
    listed = sorted(_names(folder) if names is None else names)
    return {name: [(folder / name).stat().st_size, file_hash(folder / name)] for name in listed}


def _names(folder: Path) -> Iterator[str]:
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _UNSEALED]
        prefix = "" if path == str(folder) else f"{os.path.relpath(path, folder)}/".replace(os.sep, "/")
        yield from (prefix + n for n in names if not n.startswith(".") and (prefix or n not in _UNSEALED))


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its hash as the field `seal`."""
    return {**content, "seal": _seal(content)}


def _seal(content: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps({name: value for name, value in content.items() if name != "seal"}))
    return sha256_json(plain)  # as it is read again: with keys that are text, and lists for tuples


def check_seal(content: Mapping[str, Any], path: Path, fix: str = AGAIN) -> None:
    """Raises `Damaged` where a content is not the one that was sealed; one of an older version has no seal."""
    known = {"files", "seal"} & content.keys()
    if known and content.get("seal") != _seal(content):
        raise Damaged("the file was changed or damaged", where=path, fix=fix)


def problem(folder: Path, name: str, files: Files, contents: bool = True) -> str:
    """What is wrong with a file of a sealed folder, "" for nothing; `contents`: not only with its size."""
    shown = os.fsencode(name).decode(errors="backslashreplace")
    if name not in files:
        return f"{shown} was added"
    try:
        found = os.stat(folder / name).st_size
        if found != files[name][0]:
            return f"{shown} has {found:,} bytes, {files[name][0]:,} were written"
        return f"{shown} was changed" if contents and file_hash(folder / name) != files[name][1] else ""
    except (FileNotFoundError, NotADirectoryError):
        return f"{shown} is missing"
    except OSError as error:
        if error.errno != errno.ELOOP:  # a drive that does not answer is no damage
            raise
        return f"{shown} is a link to itself"


def check_file(folder: Path, name: str, files: Files, fix: str = AGAIN) -> None:
    """Raises `Damaged` where a file of a sealed folder is not the one that was written."""
    with reading(folder / name):
        if wrong := problem(folder, name, files):
            raise Damaged(f"the file was changed or damaged: {wrong}", where=folder / name, fix=fix)


def are_intact(folder: Path, description: Mapping[str, Any], *names: str) -> bool:
    """Whether files (no names: all) have the hashes of the field `sha256`: file -> SHA-256; true without the field."""
    hashes = description.get("sha256") or {}
    if not isinstance(hashes, Mapping):
        return False
    asked = [(folder / name, hashes[name]) for name in names or hashes if name in hashes]
    return all(path.is_file() and file_hash(path) == expected for path, expected in asked)


def check_intact(path: Path, description: Mapping[str, Any]) -> None:
    """Raises `Damaged` unless the file is the one that its folder's description says, see `are_intact`."""
    if not are_intact(path.parent, description, path.name):
        raise Damaged("the file is not the one that was written: it was changed or damaged", where=path, fix=AGAIN)


def read_done(folder: Path) -> dict[str, Any] | None:
    """The content of a job's `done.json`; None if the job is not done. `Damaged` where it is not as it was written."""
    path = folder / DONE
    if not os.path.lexists(path):
        return None
    try:
        done: dict[str, Any] = read_json(path, dict)
        check_seal(done, path, REPAIR)
    except UnderstudyError as error:
        raise Damaged(f"{_job(folder)} is damaged: done.json was changed or cut off", path, REPAIR) from error
    if folder.parent.name == "jobs" and not folder.name.endswith(f"-{str(done.get('id'))[:12]}"):
        raise Damaged(f"{_job(folder)} is damaged: done.json is that of the job {done.get('name')!r}", path, REPAIR)
    return done


def damage(folder: Path, contents: bool = True) -> str:
    """The first thing that is wrong with the folder of a job that is done, "" for nothing; see `problem`."""
    try:
        done = read_done(folder) or {}
    except Damaged as error:
        return error.what.split(": ", 1)[-1]
    if "files" not in done:  # of a version that did not list them
        return ""
    files = done["files"]
    with reading(folder):
        found = set(_names(folder))
        names = sorted(files.keys() - found) + sorted(found - files.keys()) + sorted(files.keys() & found)
        return next(filter(None, (problem(folder, name, files, contents) for name in names)), "")


def check_sealed(folder: Path, contents: bool = True) -> None:
    """Raises `Damaged`, which names file and job, unless a job's folder is as the job left it."""
    if wrong := damage(folder, contents):
        raise Damaged(f"{_job(folder)} is damaged: {wrong}", where=folder, fix=REPAIR)


def check_opened(path: Path) -> None:
    """The same of a file or folder that somebody opens, if it lies in the folder of a job that is done."""
    for place in {Path(os.path.abspath(path)), Path(os.path.realpath(path))}:  # also through a link to a job's folder
        for folder in [place, *place.parents][:4]:
            if folder.parent.name == "jobs" and (done := read_done(folder)) is not None:
                part = place.relative_to(folder).as_posix()
                for name in done.get("files", ()):
                    wanted = part in (".", name) or name.startswith(f"{part}/")
                    if wanted and (wrong := problem(folder, name, done["files"])):
                        raise Damaged(f"{_job(folder)} is damaged: {wrong}", where=folder, fix=REPAIR)


def _job(folder: Path) -> str:
    """The job in words, by the name in its `spec.json` if that can be read."""
    try:
        return f"the job `{read_json(folder / 'spec.json', dict)['name']}` ({folder.name})"
    except UnderstudyError:
        return f"the job {folder.name}"
