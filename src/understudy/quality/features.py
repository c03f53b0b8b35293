"""Features of whole slice sets, computed once: kept by content, extractor and input rule, continued block by block."""

import contextlib
import logging
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, read_json, reading, sha256_json, write_json
from understudy.io.foreign import NUMPY
from understudy.io.seals import file_hash
from understudy.quality.extractors import Extractor, Features, LabelledExtractor
from understudy.quality.radiomics import RadiomicExtractor
from understudy.runtime.progress import track
from understudy.slices import SHARD, SliceSet

log = logging.getLogger(__name__)

BLOCK = 4 * SHARD  # slices whose features are written at a time: what an interruption loses at most


def inputs_of(slices: SliceSet, channels: Sequence[str], extractor: Extractor) -> dict[str, tuple[str, ...]]:
    """Name in results -> channels of one input of the extractor: "all" if it wants several together, else each one."""
    wanted: dict[str, tuple[str, ...]] = {c: (c,) for c in channels}
    if extractor.channels is not None:
        wanted = {"all": tuple(extractor.channels)}
    for name in {c for names in wanted.values() for c in names} - set(slices.channels):
        what = f"there is no channel {name} (for the extractor {extractor.name})"
        raise UnderstudyError(what, where=slices.path, fix=f"name some of {', '.join(slices.channels)}")
    return wanted


def extracted(
    slices: SliceSet, images: NDArray[np.uint8], labels: NDArray[np.uint8], names: Sequence[str], extractor: Extractor
) -> Features:
    """Features [n, d] of these channels of images uint8 [n, C, H, W] of a set, with labels [n, H, W]."""
    places = [slices.channels.index(name) for name in names]
    shown = np.ascontiguousarray(images[:, places[0]] if extractor.channels is None else images[:, places])
    if isinstance(extractor, LabelledExtractor):
        found = extractor.labelled_features(shown, labels)
    else:
        found = extractor.features(shown)
    finite = bool(np.isfinite(found).all())
    if found.shape != (len(images), extractor.dimension) or not finite:
        what = f"the extractor {extractor.name} gives features of shape {found.shape}{'' if finite else ', not finite'}"
        raise UnderstudyError(what, where=slices.path, fix="check the weights")
    return found


def fitted(
    extractor: RadiomicExtractor, slices: SliceSet, rows: NDArray[np.int64], channels: Sequence[str]
) -> RadiomicExtractor:
    """The extractor standardised by at most 2,000 of these rows, evenly taken, all channels together."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(2000, len(rows))).astype(int))]
    found = [
        extracted(slices, images, labels, [name], extractor)
        for _, images, labels in slices.blocks(chosen)
        for name in channels
    ]
    return extractor.standardised(np.concatenate(found))


@dataclass(frozen=True)
class FeatureCache:
    """A folder of features: `<key>/features.npy` float32 [n, d] with `key.json`, or its blocks while incomplete.

    `features.json` holds the hash of the former: features that are damaged are computed again.
    """

    folder: Path

    def features(
        self, slices: SliceSet, channels: Sequence[str], extractor: Extractor, block: int = BLOCK,
        progress: bool = False,
    ) -> dict[str, Features]:  # fmt: skip
        """Features of all slices of a set, each channel's (see `inputs_of`) as a file mapped into memory."""
        wanted, every = inputs_of(slices, channels, extractor), len(slices)
        entries = {name: self._entry(slices, names, extractor) for name, names in wanted.items()}
        unfinished = [name for name, entry in entries.items() if not _is_whole(entry)]
        missing = {
            start: names
            for start in range(0, every, block)
            if (names := [n for n in unfinished if not _block(entries[n], start, block).is_file()])
        }
        done = every * len(entries) - sum(len(names) * min(block, every - start) for start, names in missing.items())
        with track(every * len(entries), f"features ({extractor.name})", "slices", done, progress) as meter:
            for start, names in missing.items():
                images, labels = slices.read(np.arange(start, min(start + block, every)))
                for name in names:
                    found = extracted(slices, images, labels, wanted[name], extractor)
                    with atomic_path(_block(entries[name], start, block)) as temporary, open(temporary, "wb") as handle:
                        np.savez(handle, features=found)  # with a checksum, which an .npy has not
                    meter.advance(len(images))
        return {name: _joined(entry, every, extractor.dimension, block) for name, entry in entries.items()}

    def _entry(self, slices: SliceSet, names: Sequence[str], extractor: Extractor) -> Path:
        key: dict[str, Any] = {
            "format": 1, "slices": slices.content_hash, "channels": list(names), "extractor": extractor.name,
            "sha256": extractor.sha256, "rule": extractor.rule,
        }  # fmt: skip
        entry = self.folder / sha256_json(key)[:32]
        if not (entry / "key.json").is_file():
            write_json(entry / "key.json", key)
        return entry


def _is_whole(entry: Path) -> bool:
    """Whether the finished file is the one that was written; it is deleted if not."""
    path, seal = entry / "features.npy", entry / "features.json"
    if not path.is_file():
        return False
    with contextlib.suppress(UnderstudyError):
        if read_json(seal, dict).get("sha256") == file_hash(path):
            return True
    log.warning("the features in %s are damaged, or of an older version, and are computed again", entry)
    path.unlink(missing_ok=True)
    return False


def _block(entry: Path, start: int, block: int) -> Path:
    return entry / f"block-{block}-{start:012d}.npz"


def _read_block(path: Path) -> bytes:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return bytes(arrays["features"].astype("<f4").tobytes())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        path.unlink(missing_ok=True)
        what, fix = "the kept features were damaged", "run the same command again: they are computed again"
        raise UnderstudyError(what, where=path, fix=fix) from error


def _joined(entry: Path, count: int, dimension: int, block: int) -> Features:
    """The finished file; its blocks are put together on first use and deleted."""
    path = entry / "features.npy"
    if not path.is_file():
        try:
            with atomic_path(path) as temporary, open(temporary, "wb") as handle:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
                np.lib.format.write_array_header_1_0(handle, header)
                for start in range(0, count, block):
                    handle.write(_read_block(_block(entry, start, block)))
            write_json(entry / "features.json", {"sha256": file_hash(path)})
        except FileNotFoundError:  # another process has joined them meanwhile
            if not path.is_file():
                raise
        for part in entry.glob("block-*.np?"):
            part.unlink(missing_ok=True)
    with reading(path, NUMPY):
        found: Features = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.shape != (count, dimension):
        raise UnderstudyError("the kept features do not fit the set", where=path, fix="delete the folder")
    return found
