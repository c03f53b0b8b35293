"""SHA256SUMS of a folder, and its own hash: the one number by which a package is known."""

from __future__ import annotations

import re
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.files import sha256_file, write_text

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> str:
    """Writes the hash of every file, as `sha256sum -c` reads it; returns the package's root hash."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / SUMS)
    lines = [f"{sha256_file(p)}  {p.relative_to(folder).as_posix()}\n" for p in files]
    write_text(folder / SUMS, "".join(lines))
    return sha256_file(folder / SUMS)


def check_sums(folder: Path) -> tuple[int, list[str]]:
    """Files listed, and what is wrong with them: changed, missing, not listed, links.

    Raises:
        UnderstudyError: no list, or one that cannot be read.
    """
    path = folder / SUMS
    if not path.is_file():
        raise UnderstudyError("the package has no SHA256SUMS", where=folder, fix="get it again")
    said: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  ([^\0]+)", line)
        parts = match[2].split("/") if match else []
        if match is None or "" in parts or ".." in parts or match[2] in said or "\\" in match[2]:
            raise UnderstudyError(f"line {number} cannot be read", where=path, fix="get the package again")
        said[match[2]] = match[1]
    problems = []
    there = {
        p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()
    }
    for name, place in sorted(there.items()):
        if name == SUMS:
            continue
        if place.is_symlink() or not place.is_file():
            problems.append(f"{name} is a link or no plain file")
        elif name not in said:
            problems.append(f"{name} does not belong to the package")
        elif sha256_file(place) != said[name]:
            problems.append(f"{name} was changed")
    problems += [f"{name} is missing" for name in sorted(said.keys() - there.keys())]
    return len(said), problems
