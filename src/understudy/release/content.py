"""The slices of a package: written in a layout, read back from it, and hashed whatever the layout; SHA256SUMS."""

import gzip
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from understudy.errors import UnderstudyError, first_line
from understudy.exchange.description import describe, unpacked
from understudy.exchange.export import export_images, export_nnunet, nnunet_reading, png_reading
from understudy.exchange.read import open_folder
from understudy.exchange.sources import SEGMENTATION, ShardFiles, token
from understudy.exchange.spec import FolderSpec
from understudy.io.files import atomic_path, canonical_json, plain, sha256_file
from understudy.release.words import NEUTRAL
from understudy.slices import READ, SliceSet, SliceWriter

LAYOUTS = ("sliceset", "png", "nifti", "nnunet", "webdataset")
INDEX = {"id": pa.string(), "generator": pa.string(), "seed": pa.int64()}  # columns of the index, and of the manifest
MANIFEST = {**INDEX, "sha256": pa.string()}  # with area.<class>
COLUMNS = tuple(MANIFEST)
SHARD_BYTES = 2_000_000_000
SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
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
    classes = [asdict(c) for c in slices.classes]
    return {"channels": list(slices.channels), "classes": classes, "resolution": slices.resolution}


def neutral_id(number: int) -> str:
    """The id of a released slice: its number, and nothing of where it comes from."""
    return f"{NEUTRAL}{number:06d}"


def clean_set(
    synthetic: SliceSet, kept: NDArray[np.int64], out: Path, order: int | None = None
) -> tuple[SliceSet, pa.Table, str]:
    """The slices that may go, in random order and under new ids, with generator and seed; the manifest; and the map.

    Args:
        order: seed of the order; None: one that nobody knows.

    Returns:
        The map is CSV: new id, id and row in the audited set. It stays with whoever releases.
    """
    s, index = synthetic, synthetic.index
    rows_of = kept[np.random.default_rng(secrets.randbits(128) if order is None else order).permutation(len(kept))]
    # SHA256SUMS seals a package; a hash more could be taken for a patient's id by whoever scans it
    writer = SliceWriter(out, s.channels, s.classes, s.resolution, s.spacing, s.axes, seal=False)
    parts: list[pd.DataFrame] = []
    for rows, images, labels in s.blocks(rows_of):
        done = READ * len(parts)
        frame = pd.DataFrame({"id": [neutral_id(done + i) for i in range(len(rows))]})
        for name in ("generator", "seed"):
            frame[name] = index[name].to_numpy()[rows] if name in index else None
        writer.append(images, labels, frame)
        for k, name in enumerate(s.class_names, start=1):
            frame[f"area.{name}"] = (labels == k).sum(axis=(1, 2))
        frame["sha256"] = [slice_hash(i, n) for i, n in zip(images, labels, strict=True)]
        parts.append(frame)
    path = writer.close().folder / "index.parquet"
    whole = pd.concat(parts, ignore_index=True)
    schema = table_schema(MANIFEST, s.class_names)
    try:
        manifest = pa.Table.from_pandas(whole, schema, preserve_index=False).replace_schema_metadata()
    except pa.ArrowException as error:
        what = f"generator or seed of a slice is of another type ({first_line(error)})"
        raise UnderstudyError(what, where=s.path, fix="write the set with text and whole numbers there") from error
    path.write_bytes(table_bytes(manifest.select(list(INDEX))))
    ids = pd.DataFrame({"released": whole["id"], "id": index["id"].to_numpy()[rows_of], "row": rows_of})
    return SliceSet.open(out, cache_bytes=0), manifest, ids.to_csv(index=False)


def table_schema(columns: dict[str, pa.DataType], classes: Sequence[str]) -> pa.Schema:
    """Columns and types of a table of a package; of the manifest with the pixels of each class."""
    areas = {f"area.{name}": pa.int64() for name in classes} if "sha256" in columns else {}
    return pa.schema(list((columns | areas).items()))


def table_bytes(table: pa.Table) -> bytes:
    """A Parquet file with its columns and nothing else, neither pandas' description of them nor Arrow's."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, store_schema=False)
    return buffer.getvalue()


def write_layout(slices: SliceSet, layout: str, out: Path, limit: int = SHARD_BYTES) -> dict[str, Any]:
    """Writes the set into `out` as png, nnunet, nifti or webdataset; returns the `FolderSpec` that reads it."""
    if layout == "png":
        export_images(slices, out, progress=False)
        return png_reading(slices)
    if layout == "nnunet":
        raw = export_nnunet(slices, out, folds=min(5, max(2, len(slices))), progress=False)
        return nnunet_reading(slices, raw.relative_to(out).as_posix())
    names = {c: token(c) for c in slices.channels}
    reading: dict[str, Any] = {
        "layout": layout,
        "channels": names,
        "codes": {c.name: c.code for c in slices.classes[1:]},
    }
    if layout == "nifti":
        reading |= {"pattern": "{channel}/{id}_{channel}.nii.gz", "labels": "seg"}
        _write_nifti(slices, (*names.values(), "seg"), out)
    else:
        reading |= {"labels": SEGMENTATION}
        shards = ShardFiles(out, limit)
        for key, planes, row in _each(slices):
            members = []
            for name, pixels in zip((*names.values(), SEGMENTATION), planes, strict=True):
                buffer = io.BytesIO()
                Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=3)
                members.append((f"{name}.png", buffer.getvalue()))
            shards.add(key, [*members, ("json", row_json(row))])
        shards.close()
    describe(slices, out, reading)
    return reading


def _write_nifti(slices: SliceSet, names: Sequence[str], out: Path) -> None:
    if slices.axes not in (None, ("P", "L")):
        raise UnderstudyError(f"NIfTI of slices with axes {slices.axes}", fix="use another format")
    for name in names:
        (out / name).mkdir(parents=True)
    for key, planes, _ in _each(slices):
        for name, pixels in zip(names, planes, strict=True):
            content = nifti_bytes(pixels, slices.spacing)
            (out / name / f"{key}_{name}.nii.gz").write_bytes(gzip.compress(content, 6, mtime=0))


def nifti_bytes(pixels: Pixels, spacing: Sequence[float] | None) -> bytes:
    """A slice [H, W] as a NIfTI file."""
    height, width, depth = spacing or (1.0, 1.0, 1.0)
    affine = np.diag([-width, -height, depth, 1.0])  # columns to the left, rows to posterior; NIfTI counts RAS
    return bytes(nib.Nifti1Image(np.ascontiguousarray(pixels.T)[..., None], affine).to_bytes())


def row_json(row: dict[str, Any]) -> bytes:
    """A slice's row of the index, as it stands beside the slice in WebDataset."""
    return (json.dumps(plain(row), sort_keys=True) + "\n").encode()


def _each(slices: SliceSet) -> Iterator[tuple[str, list[Pixels], dict[str, Any]]]:
    """Id, planes (channels, then the annotation in grey values) and index row of each slice."""
    codes = np.array([c.code for c in slices.classes], np.uint8)
    for rows, images, labels in slices.blocks():
        index = slices.index.iloc[rows].to_dict(orient="records")
        for row, image, label in zip(index, images, labels, strict=True):
            yield str(row["id"]), [*image, codes[label]], {str(k): v for k, v in row.items()}


def read_back(package: Path, head: dict[str, Any]) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Id, image uint8 [C, H, W] and labels uint8 [H, W] of each slice in a package's own files."""
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
    for raw in open_folder(root, spec, head["channels"]).source.slices():
        labels = table[np.asarray(raw.drawn[0]).astype(np.uint8)]
        if (labels == 255).any():
            raise UnderstudyError("a grey value that is no class", where=raw.annotated_in, fix="use an intact copy")
        yield str(raw.row["id"]), raw.images, labels


def names_below(folder: Path) -> list[str]:
    """Relative names, sorted, of all below a folder that is no folder, links among it."""
    # Strings: packages hold hundreds of thousands of files, and a `Path` takes ten times as much memory.
    found, left = list[str](), [""]
    while left:
        before = left.pop()
        with os.scandir(folder / before) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(f"{before}{entry.name}/")
                else:
                    found.append(before + entry.name)
    return sorted(found)


def write_sums(folder: Path) -> str:
    """Writes SHA256SUMS, as `sha256sum -c` reads it; returns its own hash: the package's root hash."""
    names = names_below(folder)
    with atomic_path(folder / SUMS) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{sha256_file(folder / n)}  {n}\n" for n in names if n not in (SUMS, SIGNATURE))
    return sha256_file(folder / SUMS)


def check_sums(folder: Path) -> tuple[int, list[str]]:
    """Number of files listed in SHA256SUMS, and what is wrong: changed, missing, not listed, links, empty folders."""
    path, wanted = folder / SUMS, dict[str, bytes]()  # name -> 32 bytes
    if not path.is_file():
        raise UnderstudyError("the package has no SHA256SUMS", where=folder, fix="get it again")
    with open(path, encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            match = re.fullmatch(r"([0-9a-f]{64})  ([^\0\\]+)", line.removesuffix("\n"))
            if match is None or {"", ".."} & set(match[2].split("/")) or match[2] in wanted:
                raise UnderstudyError(f"line {number} cannot be read", where=path, fix="get the package again")
            wanted[match[2]] = bytes.fromhex(match[1])
    count, problems = len(wanted), []
    for name in names_below(folder):
        expected, place = wanted.pop(name, None), folder / name
        if name in (SUMS, SIGNATURE):  # the list itself, and what is made of it
            continue
        if place.is_symlink() or not place.is_file():
            problems.append(f"{name} is a link or no plain file")
        elif expected is None:
            problems.append(f"{name} does not belong to the package")
        elif sha256_file(place) != expected.hex():
            problems.append(f"{name} was changed")
    empty = sorted(os.path.relpath(path, folder) for path, folders, files in os.walk(folder) if not (folders or files))
    problems += [f"{name} is an empty folder, which does not belong to the package" for name in empty]
    return count, problems + [f"{name} is missing" for name in sorted(wanted)]
