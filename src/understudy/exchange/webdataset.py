"""WebDataset: tar files whose members share a key up to the first dot, `ID.t1w.png`, `ID.seg.png`, `ID.json`.

https://github.com/webdataset/webdataset: members of one sample stand next to each other.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.exchange.sources import RawSlice
from understudy.exchange.spec import ALIASES, LABELS, FolderSpec
from understudy.io.folders import read_bytes

SEGMENTATION = "seg"
_LARGEST = 1 << 28  # bytes of a member that is read
_INTACT = "use an intact copy"


def token(name: str) -> str:
    """What stands for a channel in a member's name: "T1wGd" -> "t1wgd"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


class ShardFiles:
    """Writes samples into `folder/shard-000000.tar`, ..., none larger than `limit` bytes.

    The headers hold no name, number or time of whoever wrote them, so that equal slices give equal bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._handle: BinaryIO | None = None
        self._tar: tarfile.TarFile | None = None
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, key: str, members: Iterable[tuple[str, bytes]]) -> None:
        """A sample: (ending, content) pairs, kept together in one shard."""
        listed = list(members)
        size = sum(512 + -(-len(content) // 512) * 512 for _, content in listed)
        if self._handle is None or self._handle.tell() + size + 10240 > self._limit:
            self.close()
            self._handle = open(self._folder / f"shard-{self.count:06d}.tar", "wb")  # noqa: SIM115
            self._tar = tarfile.open(fileobj=self._handle, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.count += 1
        assert self._tar is not None
        for ending, content in listed:
            entry = tarfile.TarInfo(f"{key}.{ending}")  # its defaults: no owner, time 0
            entry.size, entry.mode = len(content), 0o644
            self._tar.addfile(entry, io.BytesIO(content))
        self._tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header; a writer needs none

    def close(self) -> None:
        if self._tar is not None and self._handle is not None:
            self._tar.close()
            self._handle.close()
        self._tar = self._handle = None


class TarSource:
    """Shards of PNG files, one a channel and one for the annotation."""

    def __init__(self, root: Path, files: Sequence[str], spec: FolderSpec, known: Sequence[str] | None) -> None:
        if spec.pattern or isinstance(spec.labels, int | dict):
            fix = "leave `pattern` out, and say what stands for channels and annotation: --channels T1w=t1w"
            raise UnderstudyError("members of a tar file are found by their endings", where="pattern, labels", fix=fix)
        self._files = [root / file for file in files]
        wanted = list(spec.named) or list(known or [])
        self._channel_of = {str(value or token(name)): name for name, value in spec.named.items()}
        if not self._channel_of:
            for name in [name for name in wanted or ALIASES if name != LABELS]:
                self._channel_of |= dict.fromkeys([token(name), *ALIASES.get(name, ())], name)
        self._channel_of |= dict.fromkeys([spec.labels] if spec.labels else ALIASES[LABELS], LABELS)
        first = next(self._samples(), None)
        if first is None:
            raise UnderstudyError("the shards hold no sample", where=root, fix="check the files")
        self.channels = tuple(wanted) or tuple(n for n in ALIASES if n in first[1] and n != LABELS)
        self.classes: tuple[str, ...] = ()
        self.annotated = True
        self.count: int | None = None
        self.notes: list[str] = []

    def slices(self) -> Iterator[RawSlice]:
        """See `Source`."""
        for key, parts, shard in self._samples():
            if missing := [name for name in (*self.channels, LABELS) if name not in parts]:
                raise UnderstudyError(f"sample {key} has no {missing[0]}", where=shard, fix=_INTACT)
            images = np.stack([_png(parts[name], shard, key) for name in self.channels])
            yield RawSlice({"id": key}, images, _png(parts[LABELS], shard, key)[None], shard, shard)

    def _samples(self) -> Iterator[tuple[str, dict[str, bytes], Path]]:
        """Key, channel -> PNG, and the shard of each sample."""
        for shard in self._files:
            key = ""
            parts: dict[str, bytes] = {}
            for name, content in members_of(shard):
                own, _, ending = name.partition(".")
                if own != key and parts:
                    yield key, parts, shard
                    parts = {}
                key = own
                channel = self._channel_of.get(ending.removesuffix(".png")) if ending.endswith(".png") else None
                if channel in parts:
                    raise UnderstudyError(f"two files for {channel} of sample {key}", where=shard, fix=_INTACT)
                if channel:
                    parts[channel] = content
            if parts:
                yield key, parts, shard


def members_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a tar file, one after the other; refuses anything but plain files."""
    read_bytes(path, 1)  # says what is wrong with links and permissions
    try:
        with tarfile.open(path, "r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]
                if not entry.isreg() or entry.size > _LARGEST:
                    raise UnderstudyError(f"{entry.name} is no plain file of a slice", where=path, fix=_INTACT)
                held = tar.extractfile(entry)
                content = held.read() if held else b""
                if len(content) < entry.size:
                    raise tarfile.ReadError("it ends too early")
                yield entry.name, content
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UnderstudyError(f"the tar file cannot be read ({error})", where=path, fix=_INTACT) from error


def _png(content: bytes, shard: Path, key: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.mode != "L":
                raise ValueError(f"its mode is {image.mode}, not 8-bit grey")
            return np.array(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's errors are OSError's
        raise UnderstudyError(f"an image of sample {key} cannot be read ({error})", where=shard, fix=_INTACT) from error
