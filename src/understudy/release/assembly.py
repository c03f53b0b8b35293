"""What packages of slices and of generators have in common: whole or absent, searched, sealed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import writing
from understudy.release.scan import Scan, refuse, scan, secret_words
from understudy.release.sums import write_sums
from understudy.slices import SliceSet


@dataclass(frozen=True)
class Released:
    """A finished package: its folder, root hash (to be published), certificate and scan."""

    path: Path
    root: str
    certificate: dict[str, Any]
    scan: Scan


@contextmanager
def assembling(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that takes `out`'s place if the block succeeds, and one for work that is gone afterwards.

    Raises:
        UnderstudyError: `out` exists, disk full, no permission.
    """
    if out.exists():
        raise UnderstudyError("the package is there already", where=out, fix="use a new folder")
    partial, work = out.with_name(out.name + ".partial"), out.with_name(out.name + ".work")
    with writing(out):
        for folder in (partial, work):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            yield partial, work
            os.replace(partial, out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)


def copy_audit(audit: Path, folder: Path) -> None:
    """The shareable parts of an audit: its numbers and words, no neighbour and no p-value by slice."""
    (folder / "audit").mkdir(exist_ok=True)
    for name in ("audit.json", "audit.md"):
        shutil.copyfile(audit / name, folder / "audit" / name)


def sealed(
    folder: Path, out: Path, certificate: dict[str, Any], real: Sequence[SliceSet], paths: Sequence[Path]
) -> Released:
    """Searches the folder for what must not leave, then writes its hashes.

    Args:
        folder: everything else is written.
        out: the place that it will have.
        real: sets of patients that nothing may be of.
        paths: that no file may hold, besides those of `real` and the folder's own.

    Raises:
        UnderstudyError: the scan found something.
    """
    sets = list({id(s): s for s in real}.values())
    words = secret_words(sets, [*paths, *(s.folder for s in sets), folder])
    searched = scan(folder, certificate.get("data", {}), sets, words)
    refuse(searched, folder)
    return Released(out, write_sums(folder), certificate, searched)
