"""Features of whole slice sets, computed once: kept by content, extractor and input rule, continued block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, sha256_json, write_json
from understudy.quality.extractor import Extractor, Features, LabelledExtractor
from understudy.runtime.progress import track
from understudy.slices import SHARD, SliceSet

ALL = "all"
"""Name in results of all channels together, for extractors that want them so."""

BLOCK = 4 * SHARD  # slices whose features are written at a time: what an interruption loses at most
FORMAT = 1


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features: `<key>/features.npy` float32 [n, d] with `key.json`, or its blocks while incomplete."""

    folder: Path

    def features(
        self,
        slices: SliceSet,
        channels: Sequence[str],
        extractor: Extractor,
        block: int = BLOCK,
        progress: bool = False,
    ) -> dict[str, Features]:
        """Features of all slices of a set, each channel's as a file mapped into memory.

        Args:
            slices: the set.
            channels: names; an extractor that wants several channels together gives one entry called "all" instead.
            extractor: what turns slices into vectors.
            block: slices at a time.
            progress: show progress.

        Raises:
            UnderstudyError: a channel is absent, features are not finite, disk full, no permission.
        """
        wanted = _inputs(slices, channels, extractor)
        entries = {name: self._entry(slices, names, extractor) for name, names in wanted.items()}
        starts = range(0, len(slices), block)
        missing = [(s, n) for s in starts for n, e in entries.items() if not _has(e, s, block)]
        done = len(slices) * len(entries) - sum(min(block, len(slices) - start) for start, _ in missing)
        title = f"features ({extractor.name})"
        with track(len(slices) * len(entries), title, "slices", done, progress) as meter:
            for start in sorted({s for s, _ in missing}):
                images, labels = slices.read(np.arange(start, min(start + block, len(slices))))
                for name in (n for s, n in missing if s == start):
                    found = _extracted(images, labels, slices, wanted[name], extractor)
                    _write_block(entries[name], start, block, found)
                    meter.advance(len(images))
        return {name: _joined(entry, len(slices), extractor.dimension, block) for name, entry in entries.items()}

    def _entry(self, slices: SliceSet, names: Sequence[str], extractor: Extractor) -> Path:
        key: dict[str, Any] = {
            "format": FORMAT,
            "slices": slices.content_hash,
            "channels": list(names),
            "extractor": extractor.name,
            "sha256": extractor.sha256,
            "rule": extractor.rule,
        }
        entry = self.folder / sha256_json(key)[:32]
        if not (entry / "key.json").is_file():
            write_json(entry / "key.json", key)
        return entry


def _inputs(slices: SliceSet, channels: Sequence[str], extractor: Extractor) -> dict[str, tuple[str, ...]]:
    """Name in results -> channels that make one input."""
    wanted: dict[str, tuple[str, ...]] = {c: (c,) for c in channels}
    if extractor.channels is not None:
        wanted = {ALL: tuple(extractor.channels)}
    for name in {c for names in wanted.values() for c in names}:
        if name not in slices.channels:
            raise UnderstudyError(
                f"there is no channel {name} (for the extractor {extractor.name}); there are"
                f" {', '.join(slices.channels)}",
                where=slices.path,
                fix="name channels that all sets have",
            )
    return wanted


def _extracted(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], slices: SliceSet, names: tuple[str, ...], extractor: Extractor
) -> Features:
    order = [slices.channels.index(n) for n in names]
    shown = np.ascontiguousarray(images[:, order[0]] if extractor.channels is None else images[:, order])
    if isinstance(extractor, LabelledExtractor):
        found = extractor.labelled_features(shown, labels)
    else:
        found = extractor.features(shown)
    if found.shape != (len(images), extractor.dimension) or not np.isfinite(found).all():
        raise UnderstudyError(
            f"the extractor {extractor.name} gives features of shape {found.shape} that are"
            f"{'' if np.isfinite(found).all() else ' not'} finite",
            where=slices.path,
            fix="check the weights",
        )
    return found


def _has(entry: Path, start: int, block: int) -> bool:
    return (entry / "features.npy").is_file() or _block(entry, start, block).is_file()


def _block(entry: Path, start: int, block: int) -> Path:
    return entry / f"block-{block}-{start:012d}.npy"


def _write_block(entry: Path, start: int, block: int, features: Features) -> None:
    with atomic_path(_block(entry, start, block)) as temporary, open(temporary, "wb") as handle:
        np.save(handle, features, allow_pickle=False)


def _joined(entry: Path, count: int, dimension: int, block: int) -> Features:
    """The finished file; its blocks are put together on first use and deleted."""
    path = entry / "features.npy"
    if not path.is_file():
        blocks = [_block(entry, start, block) for start in range(0, count, block)]
        try:
            _join(path, blocks, count, dimension)
        except FileNotFoundError:  # another process has joined them meanwhile
            if not path.is_file():
                raise
        for part in entry.glob("block-*.npy"):
            part.unlink(missing_ok=True)
    found: Features = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.shape != (count, dimension):
        raise UnderstudyError("the kept features do not fit the set", where=path, fix="delete the folder")
    return found


def _join(path: Path, blocks: list[Path], count: int, dimension: int) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
        np.lib.format.write_array_header_1_0(handle, header)
        for part in blocks:
            handle.write(np.load(part, allow_pickle=False).astype("<f4").tobytes())
