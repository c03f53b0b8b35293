"""SHA256SUMS of a folder, and its own hash: the one number by which a package is known."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, sha256_file

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
    names = names_below(folder)
    with atomic_path(folder / SUMS) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{sha256_file(folder / n)}  {n}\n" for n in names if n != SUMS)
    return sha256_file(folder / SUMS)


def check_sums(folder: Path) -> tuple[int, list[str]]:
    """Files listed, and what is wrong with them: changed, missing, not listed, links.

    Raises:
        UnderstudyError: no list, or one that cannot be read.
    """
    path = folder / SUMS
    if not path.is_file():
        raise UnderstudyError("the package has no SHA256SUMS", where=folder, fix="get it again")
    said = _said(path)
    listed, problems = len(said), []
    for name in names_below(folder):
        wanted = said.pop(name, None)
        place = folder / name
        if name == SUMS:
            continue
        if place.is_symlink() or not place.is_file():
            problems.append(f"{name} is a link or no plain file")
        elif wanted is None:
            problems.append(f"{name} does not belong to the package")
        elif sha256_file(place) != wanted.hex():
            problems.append(f"{name} was changed")
    return listed, problems + [f"{name} is missing" for name in sorted(said)]


def _said(path: Path) -> dict[str, bytes]:
    """Hash (32 bytes) of every file by a list of hashes."""
    said: dict[str, bytes] = {}
    with open(path, encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            match = re.fullmatch(r"([0-9a-f]{64})  ([^\0]+)", line.removesuffix("\n"))
            parts = match[2].split("/") if match else []
            if match is None or "" in parts or ".." in parts or match[2] in said or "\\" in match[2]:
                raise UnderstudyError(f"line {number} cannot be read", where=path, fix="get the package again")
            said[match[2]] = bytes.fromhex(match[1])
    return said
