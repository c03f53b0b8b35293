"""Slices that go into other people's systems: those of an intact package, or samples that no gate has judged.

A set that is not known to be synthetic is refused: nothing may be marked as synthetic that shows a patient. Samples of
a generator that were not released may be exported for trials, and say so wherever a reader looks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.exchange.description import CERTIFICATE, NOT_RELEASED
from understudy.release.content import head_of, neutral_id, read_back
from understudy.release.documents import stamp
from understudy.release.verify import verify
from understudy.slices import SliceSet

Pixels = NDArray[np.uint8]
SYNTHETIC = "Synthetic: drawn by a generative model, not acquired from a patient."


@dataclass(frozen=True)
class Outgoing:
    """Synthetic slices with what is known of them.

    Attributes:
        data: channels, classes, resolution, spacing, axes and slices, as in a certificate.
        certificate: of the package; None for slices that were not released.
        root: the package's root hash; of slices that were not released the hash of their content.
        publisher_known: the package was compared with what its publisher made known: a root hash or a key.
    """

    path: Path
    data: dict[str, Any]
    certificate: dict[str, Any] | None
    root: str
    publisher_known: bool = False

    @property
    def released(self) -> bool:
        return self.certificate is not None

    @property
    def statement(self) -> str:
        """What a reader has to know of each slice, wherever it is shown."""
        if self.certificate is None:
            return f"{SYNTHETIC} {NOT_RELEASED}"
        said, forced = self.certificate, stamp(self.certificate)
        package = f"Released as '{said['title']}', version {said['version']}, root hash {self.root}."
        return " ".join(x for x in (SYNTHETIC, package, forced) if x)

    def slices(self) -> Iterator[tuple[str, Pixels, Pixels]]:
        """Neutral id, image uint8 [C, H, W] and labels uint8 [H, W] of each slice, streamed."""
        if self.certificate is not None:
            yield from read_back(self.path, self.data)
            return
        for rows, images, labels in SliceSet.open(self.path, cache_bytes=0).blocks():
            yield from zip(map(neutral_id, rows.tolist()), images, labels, strict=True)


def released_only(folder: str | Path, root: str | None = None, key: Path | None = None) -> Outgoing:
    """The slices of a package whose files and slices were all found intact; raises for anything else.

    Whoever rewrites a package can write its hashes anew: only `root` or `key` (see `verify`) tells who made it.
    """
    path = Path(folder)
    found = verify(path, root, key=key)
    if found.problems:
        what = f"the package is not intact: {found.problems[0]}"
        raise UnderstudyError(what, where=path, fix="get it again; understudy verify PACKAGE names all problems")
    if found.certificate["kind"] != "slices":
        fix = "sample it: understudy sample PACKAGE SLICES"
        raise UnderstudyError("the package holds a generator, no slices", where=path, fix=fix)
    known = found.compared or found.signed
    return Outgoing(path, found.certificate["data"], found.certificate, found.root, known)


def outgoing(folder: str | Path, root: str | None = None, key: Path | None = None) -> Outgoing:
    """As `released_only`, or the slices of a set that a generator of this software made."""
    path = Path(folder)
    if (path / CERTIFICATE).is_file():
        return released_only(path, root, key)
    if root is not None or key is not None:
        raise UnderstudyError("only a package has a root hash or a signature", where=path, fix="give a package")
    made = SliceSet.open(path, cache_bytes=0)
    if made.attrs.get("source") != "synthetic" or {"subject", "split"} & set(made.index.columns):
        fix = "export a released package, or what `understudy sample` wrote"
        raise UnderstudyError("the slices are not known to be synthetic", where=path, fix=fix)
    data = {**head_of(made), "slices": len(made), "spacing": made.spacing, "axes": made.axes}
    return Outgoing(path, data, None, made.content_hash)
