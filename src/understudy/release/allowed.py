"""The files of each format of a package, and what may stand in a file of each kind. Everything else is refused."""

import base64
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors import safe_open

from understudy.errors import first_line
from understudy.exchange.description import CERTIFICATE, DESCRIPTION
from understudy.exchange.pixels import png_chunks
from understudy.exchange.sources import SEGMENTATION, tar_header, token
from understudy.generators.folder import CONFIG, WEIGHTS
from understudy.generators.registry import load_generator
from understudy.release import content
from understudy.release.content import SIGNATURE, SUMS, Pixels, neutral_id
from understudy.release.documents import MODEL
from understudy.release.signature import FORM
from understudy.release.words import NEUTRAL, Words
from understudy.slices import SHARD

_OF_EVERY_PACKAGE = {
    "LICENSE": "licence",
    "CITATION.cff": "citation",
    "evidence.html": "evidence",
    "decision.json": "the decision",
    "audit/audit.json": "the audit",
    "audit/audit.md": "the audit in words",
    CERTIFICATE: "certificate",
}
DOCUMENTS = {
    "README.md": "where to begin",
    "manifest.parquet": "one row a slice",
    "DATASHEET.md": "datasheet",
    "aida.md": "record for AIDA data hub",
    "croissant.json": "Croissant metadata",
    **_OF_EVERY_PACKAGE,
}
MODEL_DOCUMENTS = {
    "README.md": "model card",
    f"{MODEL}/{WEIGHTS}": "weights",
    f"{MODEL}/{CONFIG}": "architecture, channels, classes and recipe",
    "samples.png": "samples that the audit did not flag",
    **_OF_EVERY_PACKAGE,
    "audit/audit.json": "the audit of its samples, and membership inference on the weights",
}
CRATE = "ro-crate-metadata.json"
_NNUNET = "Dataset501_Understudy"  # as `export_nnunet` calls it
_ID = rf"(?P<id>{NEUTRAL}\d{{6,}})"
_CONTROL = re.compile(r"[^\t\n\x20-\x7e\x85\xa0-\U0010ffff]")
_ENCODED = re.compile(r"[A-Za-z0-9+/=_-]{400,}")  # nothing that is written here has so long a word
_FIGURE = re.compile(r"data:image/(png|svg\+xml);base64,([A-Za-z0-9+/=]+)")
_ABSENT = 2**64 - 1  # as in `io.shards`
_LARGEST = 1 << 26  # pixels of a picture, bytes of a member of a tar file

Content = tuple[list[str], list[Pixels]]  # texts of a file, to be searched, and pictures beside the slices
Check = Callable[[Path, dict[str, Any]], Content]  # reads a file, given what the certificate says of the data


def held(
    folder: Path, certificate: dict[str, Any], words: Words, problems: list[str]
) -> Iterator[tuple[str, list[str], list[Pixels]]]:
    """Name, texts and pictures of each file of a package; adds to `problems` what is not on the list or unreadable."""
    listed, data = _listed(certificate), certificate.get("data", {})
    empty = [path for path, folders, files in os.walk(folder) if not (folders or files)]
    below = [os.path.relpath(path, folder) for path, _, _ in os.walk(folder)]
    for name in [*below, *content.names_below(folder)]:
        path = folder / name
        try:
            attributes = os.listxattr(path, follow_symlinks=False) if hasattr(os, "listxattr") else []
            if any(not a.startswith(("security.", "system.")) for a in attributes):  # such as access rights
                raise ValueError("it has extended attributes")
            if str(path) in empty:
                raise ValueError("an empty folder")
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ValueError("a link, or no plain file")
            if path.is_dir():
                continue
            match, check = next(((m, c) for p, c in listed.items() if (m := re.fullmatch(p, name))), (None, None))
            if match is None or check is None:
                raise ValueError("no file of a release")
            if "id" in match.groupdict():
                _check_id(match["id"], data)
            yield name, *check(path, data)
        except Exception as error:  # whatever a file does to its reader, it does not pass
            problems += [f"a name holds {what}" for what in words.found_in(name)]
            problems.append(f"{words.spoken(name)}: {words.spoken(first_line(error))}")


def _listed(certificate: dict[str, Any]) -> dict[str, Check]:
    """The list: regular expression of a file's name -> what reads a file of this kind."""
    slices = certificate["kind"] == "slices"
    names = (*(DOCUMENTS if slices else MODEL_DOCUMENTS), CRATE)
    found = {re.escape(name): _BY_ENDING[PurePosixPath(name).suffix] for name in names} | {
        SUMS: _sums,
        re.escape(SIGNATURE): _signature,
    }
    if not slices:
        return found
    data, layout = certificate["data"], certificate["layout"]
    reading = data["reading"]
    channels = map(re.escape, map(str, (*reading.get("channels", {}).values(), reading.get("labels"))))
    named = f"(?P<channel>{'|'.join(channels)})"
    planes = "|".join(f"{i:04d}" for i in range(len(data["channels"])))
    raw, folds = f"data/nnUNet_raw/{_NNUNET}", f"data/nnUNet_preprocessed/{_NNUNET}"
    of_layout: dict[str, dict[str, Check]] = {
        "sliceset": {
            r"data/(zarr|images/zarr|labels/zarr)\.json": _json,
            r"data/index\.parquet": partial(_table, content.INDEX),
            r"data/(images/c/\d+/0|labels/c/\d+)/0/0": _shard,
        },
        "png": {rf"data/{named}/{_ID}_(?P=channel)\.png": _plane},
        "nifti": {rf"data/{named}/{_ID}_(?P=channel)\.nii\.gz": _nifti},
        "nnunet": {
            rf"{raw}/imagesTr/{_ID}_({planes})\.png": _plane,
            rf"{raw}/labelsTr/{_ID}\.png": _plane,
            rf"{raw}/dataset\.json|{folds}/splits_final\.json": _json,
        },
        "webdataset": {r"data/shard-\d{6}\.tar": _tar},
    }
    return found | of_layout[layout] | ({} if layout == "sliceset" else {f"data/{re.escape(DESCRIPTION)}": _json})


def _check_id(name: str, data: dict[str, Any]) -> None:
    number = int(name.removeprefix(NEUTRAL))
    if name != neutral_id(number) or number >= data["slices"]:
        raise ValueError("the id of no slice of this package")


def _text(path: Path, data: dict[str, Any]) -> Content:
    return [_checked_text(path.read_bytes())], []


def _checked_text(raw: bytes, figures: re.Pattern[str] | None = None) -> str:
    """UTF-8 of readable characters, without `figures`; raises for what may hide something."""
    text = raw.decode("utf-8")
    text = figures.sub(" ", text) if figures else text
    if _CONTROL.search(text) or _ENCODED.search(text):
        raise ValueError("a character that no text has, or a word of 400 characters, which may be anything encoded")
    return text


def _sums(path: Path, data: dict[str, Any]) -> Content:
    """Hashes of files that are here, whose names are on the list; there may be hundreds of thousands."""
    names = {*content.names_below(path.parent)}
    with open(path, encoding="utf-8", newline="\n") as lines:
        if not all(re.match(r"[0-9a-f]{64}  ", line) and line[66:].removesuffix("\n") in names for line in lines):
            raise ValueError("a line that is no hash of a file here")
    return [], []


def _signature(path: Path, data: dict[str, Any]) -> Content:
    if not re.fullmatch(FORM, _checked_text(path.read_bytes())):
        raise ValueError("more than a signature")
    return [], []


def _json(path: Path, data: dict[str, Any]) -> Content:
    json.loads(path.read_bytes())
    return _text(path, data)


def _page(path: Path, data: dict[str, Any]) -> Content:
    """A page whose figures are in it."""
    raw = path.read_bytes()
    figures = [(kind, base64.b64decode(x, validate=True)) for kind, x in _FIGURE.findall(raw.decode("utf-8"))]
    texts = [_checked_text(raw, _FIGURE), *(_checked_text(x) for kind, x in figures if kind != "png")]
    if any(re.search(r"\bdata:\w+/|<!ENTITY|<script", text) for text in texts):
        raise ValueError("something embedded that is no picture")
    return texts, [_pixels(x) for kind, x in figures if kind == "png"]


def _picture(path: Path, data: dict[str, Any]) -> Content:
    return [], [_pixels(path.read_bytes())]


def _plane(path: Path, data: dict[str, Any]) -> Content:
    _check_plane(path.read_bytes(), data)
    return [], []


def _check_plane(png: bytes, data: dict[str, Any]) -> None:
    if _pixels(png).shape != (data["resolution"], data["resolution"]):
        raise ValueError("not the grey pixels of a slice")


def _pixels(png: bytes) -> Pixels:
    """The pixels of a PNG that holds them and nothing else: no text, no profile, no time, nothing behind its end."""
    packed = b""
    for kind, chunk in png_chunks(png):
        if kind not in (b"IHDR", b"IDAT", b"IEND") or (kind == b"IEND" and len(chunk) > 12):
            raise ValueError(f"{len(chunk)} bytes beside its pixels ({kind.decode('latin1') or 'behind its end'})")
        packed += chunk[8:-4] if kind == b"IDAT" else b""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if image.mode not in ("L", "RGB") or image.width * image.height > _LARGEST:
            raise ValueError(f"a picture of mode {image.mode} and {image.size} pixels")
        pixels = np.asarray(image)
    _inflated(packed, zlib.MAX_WBITS, pixels.nbytes + len(pixels))  # a byte a row names its filter
    return pixels


def _inflated(packed: bytes, bits: int, size: int) -> bytes:
    """What is in a compressed stream of exactly `size` bytes, with nothing behind it."""
    stream = zlib.decompressobj(bits)
    found = stream.decompress(packed, size + 1)
    if len(found) != size or not stream.eof or stream.unused_data:
        raise ValueError("more or less than its pixels")
    return found


@cache
def _empty_nifti(edge: int, spacing: tuple[float, ...]) -> bytes:
    return content.nifti_bytes(np.zeros((edge, edge), np.uint8), spacing)


def _nifti(path: Path, data: dict[str, Any]) -> Content:
    raw, edge = path.read_bytes(), data["resolution"]
    empty = _empty_nifti(edge, tuple(data["spacing"] or ()))
    found, header = _inflated(raw, 16 + zlib.MAX_WBITS, len(empty)), len(empty) - edge * edge
    if raw[3:8] != bytes(5) or found[:header] != empty[:header]:  # flags of gzip (a name, a comment), its time
        raise ValueError("another header than that of a slice")
    return [], []


def _table(columns: dict[str, pa.DataType], path: Path, data: dict[str, Any]) -> Content:
    schema = content.table_schema(columns, [c["name"] for c in data["classes"][1:]])
    table = pq.read_table(path)
    if not table.schema.equals(schema):
        raise ValueError("columns, or types of columns, that a release does not have")
    hashes = table["sha256"].to_pylist() if "sha256" in columns else []
    counted = table["id"].to_pylist() == [neutral_id(i) for i in range(data["slices"])]
    if not counted or not all(re.fullmatch(r"[0-9a-f]{64}", str(value)) for value in hashes):
        raise ValueError("ids that are no counter, or hashes that are none")
    if content.table_bytes(table) != path.read_bytes():
        raise ValueError("more than its columns, or written by another version of pyarrow")
    return ["\n".join(str(v) for name in ("generator", "seed") for v in table[name].unique().to_pylist())], []


def _shard(path: Path, data: dict[str, Any]) -> Content:
    """Chunks without a gap, one Zstandard frame each, for slices of the set, then their table."""
    raw, size, at = path.read_bytes(), 16 * SHARD + 4, 0
    first = SHARD * int(path.parts[-3 if "labels" in path.parts[-5:] else -4])
    for item, (start, length) in enumerate(np.frombuffer(raw[-size:-4], "<u8").reshape(SHARD, 2).tolist(), first):
        if not start == length == _ABSENT:
            if start != at or item >= data["slices"] or not _is_one_frame(raw[at : at + length]):
                raise ValueError("something between the slices")
            at += length
    if at != len(raw) - size:
        raise ValueError("something behind the slices")
    return [], []


def _is_one_frame(chunk: bytes) -> bool:
    """Whether it is one frame of Zstandard (RFC 8878) to its last byte: no frame to be skipped, nothing behind it."""
    if chunk[:4] != b"\x28\xb5\x2f\xfd" or len(chunk) < 9:
        return False
    single, last = chunk[4] >> 5 & 1, 0
    at = 5 + (1 - single) + (0, 1, 2, 4)[chunk[4] & 3] + (single, 2, 4, 8)[chunk[4] >> 6]
    while not last and at + 3 <= len(chunk):
        block = int.from_bytes(chunk[at : at + 3], "little")
        last, at = block & 1, at + 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
    return bool(last) and at + 4 * (chunk[4] >> 2 & 1) == len(chunk)


def _tar(path: Path, data: dict[str, Any]) -> Content:
    values, endings = set[str](), {f"{token(c)}.png" for c in (*data["channels"], SEGMENTATION)}
    with open(path, "rb") as file:
        while (header := file.read(512)).strip(b"\0"):
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            if tar_header(entry.name, entry.size).tobuf(tarfile.USTAR_FORMAT) != header or entry.size > _LARGEST:
                raise ValueError("a member whose header says more than name and size")
            padded = file.read(-(-entry.size // 512) * 512)
            (key, _, ending), member = entry.name.partition("."), padded[: entry.size]
            _check_id(key, data)
            if len(member) < entry.size or padded[entry.size :].strip(b"\0") or ending not in {*endings, "json"}:
                raise ValueError("a member that is no channel, annotation or row of a slice, or something behind it")
            if ending in endings:
                _check_plane(member, data)
                continue
            row = {"id": key} | {k: json.loads(member)[k] for k in ("generator", "seed")}
            if member != content.row_json(row) or not isinstance(row["seed"], int | None):
                raise ValueError("a row that says more than id, generator and seed")
            values |= {str(row["generator"]), str(row["seed"])}
        if file.read().strip(b"\0"):
            raise ValueError("something behind the last member")
    return ["\n".join(sorted(values))], []


def _weights(path: Path, data: dict[str, Any]) -> Content:
    """Weights of the network that the configuration describes, and of no other."""
    with safe_open(path, "pt") as tensors:  # refuses gaps, and bytes behind the last tensor
        if said := tensors.metadata():
            raise ValueError(f"metadata ({len(said)} fields)")
    load_generator(path.parent)  # refuses tensors that are missing, strange, or of another shape
    return [], []


_BY_ENDING: dict[str, Check] = {
    "": _text, ".md": _text, ".cff": _text, ".json": _json, ".html": _page, ".png": _picture,
    ".parquet": partial(_table, content.MANIFEST), ".safetensors": _weights,
}  # fmt: skip
