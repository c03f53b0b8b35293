"""The slices of a package: written in a layout, read back from it, and hashed whatever the layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from understudy.errors import UnderstudyError
from understudy.exchange.description import describe
from understudy.exchange.export import export_images, export_nnunet, file_names, nnunet_reading, png_reading
from understudy.exchange.packaged import unpacked
from understudy.exchange.read import open_folder
from understudy.exchange.spec import FolderSpec
from understudy.exchange.webdataset import SEGMENTATION, ShardFiles, token
from understudy.io.files import canonical_json
from understudy.slices import SliceSet, SliceWriter

LAYOUTS = ("sliceset", "png", "nifti", "nnunet", "webdataset")
COLUMNS = ("id", "generator", "seed", "p", "sha256")  # of the manifest, beside area.<class>
SHARD_BYTES = 2_000_000_000
Pixels = NDArray[np.uint8]


def slice_hash(image: Pixels, labels: Pixels) -> str:
    """SHA-256 (hex) of a slice: image [C, H, W] then labels [H, W]."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes() + np.ascontiguousarray(labels).tobytes()).hexdigest()


def content_root(head: dict[str, Any], manifest: pd.DataFrame) -> str:
    """SHA-256 (hex) over channels, classes and size, and each slice's id and hash."""
    digest = hashlib.sha256(canonical_json(head).encode())
    for name, value in zip(manifest["id"], manifest["sha256"], strict=True):
        digest.update(f"\n{name}\t{value}".encode())
    return digest.hexdigest()


def head_of(slices: SliceSet) -> dict[str, Any]:
    """What names the axes of the pixels."""
    return {
        "channels": list(slices.channels),
        "classes": [{"name": c.name, "source": c.source, "code": c.code} for c in slices.classes],
        "resolution": slices.resolution,
    }


def clean_set(
    synthetic: SliceSet, kept: NDArray[np.int64], p: NDArray[np.float64], out: Path
) -> tuple[SliceSet, pd.DataFrame]:
    """The slices that may go, with nothing in their index but id, generator and seed; and the manifest."""
    index = synthetic.index
    ids = np.array([n.replace(".", "_") for n in file_names(synthetic)])
    if len(set(map(str.lower, ids))) < len(ids):
        raise UnderstudyError("ids are not unique", where=synthetic.path, fix="give slices other ids")
    writer = SliceWriter(
        out, synthetic.channels, synthetic.classes, synthetic.resolution, synthetic.spacing, synthetic.axes
    )
    parts = []
    for rows, images, labels in synthetic.blocks(kept):
        frame = pd.DataFrame({"id": ids[rows]})
        for name in ("generator", "seed"):
            frame[name] = index[name].to_numpy()[rows] if name in index else None
        writer.append(images, labels, frame)
        for k, entry in enumerate(synthetic.classes[1:], start=1):
            frame[f"area.{entry.name}"] = (labels == k).sum(axis=(1, 2))
        frame["p"] = p[rows]
        frame["sha256"] = [slice_hash(i, n) for i, n in zip(images, labels, strict=True)]
        parts.append(frame)
    writer.close()
    return SliceSet.open(out, cache_bytes=0), pd.concat(parts, ignore_index=True)


def write_layout(slices: SliceSet, layout: str, out: Path, limit: int = SHARD_BYTES) -> dict[str, Any]:
    """Writes the set into `out`; returns the fields of a `FolderSpec` that reads it.

    Raises:
        UnderstudyError: unknown layout, slices that NIfTI cannot place, disk full.
    """
    if layout == "png":
        export_images(slices, out, progress=False)
        return png_reading(slices)
    if layout == "nnunet":
        raw = export_nnunet(slices, out, folds=min(5, max(2, len(slices))), progress=False)
        return nnunet_reading(slices, raw.relative_to(out).as_posix())
    codes = {c.name: c.code for c in slices.classes[1:]}
    table = np.array([c.code for c in slices.classes], np.uint8)
    names = {c: token(c) for c in slices.channels}
    if layout == "nifti":
        if slices.axes not in (None, ("P", "L")):
            raise UnderstudyError(f"NIfTI of slices with axes {slices.axes}", fix="use another format")
        for name in (*names.values(), "seg"):
            (out / name).mkdir(parents=True)
        for key, image, drawn, _ in _each(slices, table):
            for name, pixels in zip((*names.values(), "seg"), (*image, drawn), strict=True):
                (out / name / f"{key}_{name}.nii.gz").write_bytes(_nifti(pixels, slices.spacing))
        reading = {
            "layout": "nifti",
            "pattern": "{channel}/{id}_{channel}.nii.gz",
            "channels": names,
            "labels": "seg",
            "codes": codes,
        }
        describe(slices, out, reading)
        return reading
    if layout == "webdataset":
        shards = ShardFiles(out, limit)
        for key, image, drawn, row in _each(slices, table):
            members = [
                (f"{n}.png", _png(x)) for n, x in zip((*names.values(), SEGMENTATION), (*image, drawn), strict=True)
            ]
            shards.add(key, [*members, ("json", (json.dumps(row, sort_keys=True, default=str) + "\n").encode())])
        shards.close()
        reading = {"layout": "webdataset", "channels": names, "labels": SEGMENTATION, "codes": codes}
        describe(slices, out, reading)
        return reading
    raise UnderstudyError(f"unknown format {layout!r}", where="--format", fix=f"use {', '.join(LAYOUTS)}")


def read_back(package: Path, head: dict[str, Any]) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Id, image uint8 [C, H, W] and labels uint8 [H, W] of each slice in a package's own files.

    Raises:
        UnderstudyError: a file that cannot be read, a grey value that is no class.
    """
    root, spec = unpacked(package, FolderSpec())
    if spec.layout == "slices":
        slices = SliceSet.open(root, cache_bytes=0)
        for rows, images, labels in slices.blocks():
            yield from zip(slices.index["id"].to_numpy()[rows], images, labels, strict=True)
        return
    table = np.full(256, 255, np.uint8)
    table[0] = 0
    for i, entry in enumerate(head["classes"][1:], start=1):
        table[int(spec.codes[entry["name"]])] = i
    for raw in open_folder(root, spec, head["channels"]).source.slices(0):
        labels = table[np.asarray(raw.drawn[0]).astype(np.uint8)]
        if (labels == 255).any():
            raise UnderstudyError("a grey value that is no class", where=raw.annotated_in, fix="use an intact copy")
        yield str(raw.row["id"]), raw.images, labels


def _each(slices: SliceSet, table: Pixels) -> Iterator[tuple[str, Pixels, Pixels, dict[str, Any]]]:
    for rows, images, labels in slices.blocks():
        said = slices.index.iloc[rows].to_dict(orient="records")
        for row, image, label in zip(said, images, labels, strict=True):
            yield str(row["id"]), image, table[label], {str(k): v for k, v in row.items()}


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _nifti(pixels: Pixels, spacing: tuple[float, float, float] | None) -> bytes:
    row, column, depth = spacing or (1.0, 1.0, 1.0)
    image = nib.Nifti1Image(np.ascontiguousarray(pixels.T)[..., None], np.diag([-column, -row, depth, 1.0]))
    return gzip.compress(image.to_bytes(), 6, mtime=0)
