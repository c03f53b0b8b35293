"""SHA256SUMS of a folder, and its own hash: the one number by which a package is known."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.files import sha256_file, write_text

SUMS = "SHA256SUMS"


def names_below(folder: Path) -> list[str]:
    """What lies below a folder and is no folder, links among it: relative names, sorted.

    As strings, since packages hold hundreds of thousands of files and a `Path` takes ten times as much memory.

    Raises:
        OSError: a folder that cannot be opened.
    """

    def listed(place: str, before: str) -> Iterator[str]:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from listed(entry.path, f"{before}{entry.name}/")
                else:
                    yield before + entry.name

    return sorted(listed(str(folder), ""))


def write_sums(folder: Path) -> str:
    """Writes the hash of every file, as `sha256sum -c` reads it; returns the package's root hash."""
    lines = [f"{sha256_file(folder / n)}  {n}\n" for n in names_below(folder) if n != SUMS]
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
    there = names_below(folder)
    for name in there:
        if name == SUMS:
            continue
        place = folder / name
        if place.is_symlink() or not place.is_file():
            problems.append(f"{name} is a link or no plain file")
        elif name not in said:
            problems.append(f"{name} does not belong to the package")
        elif sha256_file(place) != said[name]:
            problems.append(f"{name} was changed")
    problems += [f"{name} is missing" for name in sorted(said.keys() - set(there))]
    return len(said), problems
