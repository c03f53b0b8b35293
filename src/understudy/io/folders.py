"""A user's files: list a folder, and open a file that may be a dangling link or a pointer to absent content."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.io.files import explain_os_error, reading


@dataclass(frozen=True)
class Listing:
    """What lies below a folder."""

    # relative POSIX paths in natural order; dangling links too: who opens one can say whose file is missing
    files: list[str] = field(default_factory=list)
    problems: list[UnderstudyError] = field(default_factory=list)  # folders, names and links that cannot be read


def list_files(root: Path, endings: Sequence[str]) -> Listing:
    """All files below `root` with one of the endings (any case), without hidden ones and macOS's `__MACOSX`.

    Links to folders are followed, but no folder is visited twice, so that a cycle of links ends.
    """
    with reading(root):  # a name may be too long to ask for, or a folder above it closed
        is_folder, there = root.is_dir(), root.exists()
    if not is_folder:
        what = "this is a file, not a folder" if there else "the folder does not exist"
        raise UnderstudyError(what, where=root, fix="correct the path: give the folder that holds the images")
    lowered = tuple(ending.lower() for ending in endings)
    found, seen, left = Listing(), set(), [("", root)]
    while left:
        prefix, folder = left.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(folder))
        except OSError as error:
            problem = explain_os_error(error, folder, writing=False) or UnderstudyError(
                "the folder cannot be read", where=folder, fix="check the disk or the network share")  # fmt: skip
            if folder == root:
                raise problem from error
            found.problems.append(problem)
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            shown = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
            if shown != entry.name:  # Python keeps bytes that are no UTF-8 as lone surrogates
                fix = "rename it, for example with convmv -f latin1 -t utf8 --notest -r FOLDER"
                found.problems.append(UnderstudyError("the name is not UTF-8", where=f"{folder}/{shown}", fix=fix))
            elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():  # a link may lead to itself
                left.append((f"{prefix}{entry.name}/", Path(entry.path)))
            elif entry.name.lower().endswith(lowered):
                found.files.append(prefix + entry.name)
            elif entry.is_symlink() and "." not in entry.name and not os.path.exists(entry.path):
                # a link without an ending may have been a patient's folder
                what = f"this is a link to {os.readlink(entry.path)}, which is not there or cannot be read"
                fix = "restore what it points to, or remove the link"
                found.problems.append(UnderstudyError(what, where=entry.path, fix=fix))
    found.files.sort(key=natural)
    found.problems.sort(key=lambda problem: str(problem.where))
    return found


def files_below(root: Path, endings: Sequence[str]) -> list[str]:
    """The files of `list_files`; raises the first of its problems."""
    found = list_files(root, endings)
    if found.problems:
        raise found.problems[0]
    return found.files


def natural(name: str) -> str:
    """Sort key by which "image_10" comes after "image_9"."""

    # Each number is preceded by its length: a tuple of parts for each name would take ten times the memory.
    def key(digits: re.Match[str]) -> str:
        value = str(int(digits[0]))
        return f"\0{chr(len(value))}{value}{digits[0]}\0"

    return re.sub(r"\d{1,4000}", key, name)


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file, or its first `most` bytes; raises for a pointer to absent content as well."""
    annex = "fetch its content (git annex get, datalad get)"
    if path.is_symlink() and not path.exists():
        what = f"the file is a link to {os.readlink(path)}, which is not there"
        raise UnderstudyError(what, where=path, fix=f"{annex}, or restore the file that it points to")
    with reading(path), path.open("rb") as handle:
        content = handle.read(-1 if most is None else most)
    if content.startswith(b"version https://git-lfs"):
        raise UnderstudyError("the file is a Git LFS pointer, not the image", where=path, fix="git lfs pull")
    if b"/annex/objects/" in content[:200]:
        raise UnderstudyError("the file is a git-annex pointer, not the image", where=path, fix=annex)
    return content
