"""Patients' ids in the spellings of people and programs, and the places of a package where they can stand.

The tests plant a part of the product, `benchmarks/planted_ids.py` all of it.
"""

from __future__ import annotations

import base64
import gzip
import html
import io
import json
import os
import re
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from PIL import Image

from understudy.io.shards import crc32c
from understudy.slices import SHARD

IDS = ("MR.1234.567", "P 77 Smith", "Müller_01", "patient_h0", "sub-104477", "TCGA-CS-4941", "204477", "123-45-6789")
SECRETS = dict.fromkeys(IDS, "a patient's id") | {"Södersjukhuset": "a site's name", "MR.1234.567_012": "a slice's id"}

# --- spellings ------------------------------------------------------------------------------------------------------


def _parts(word: str) -> list[str]:
    return [p for p in "".join(c if c.isalnum() else " " for c in word).split(" ") if p]


def _joined(by: str) -> Callable[[str], str]:
    return lambda word: by.join(_parts(word))


def _shifted(letters: int, digits: int) -> Callable[[str], str]:
    """Letters and digits from another block of Unicode, given the places of A (or 0) and 0 there."""

    def change(word: str) -> str:
        plain = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode()
        return "".join(
            chr(letters + ord(c.upper()) - 65) if c.isalpha() and letters
            else chr(digits + int(c)) if c.isdigit() and digits
            else c
            for c in plain
        )  # fmt: skip

    return change


def _digits(word: str) -> str:
    return "".join(c for c in word if c.isdigit())


def _number(change: Callable[[str], str]) -> Callable[[str], str]:
    """Of the digits alone, where there are enough; else the word."""
    return lambda word: change(_digits(word)) if len(_digits(word)) >= 6 else word


def _plain(word: str) -> str:
    return unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode()


_TWO = str.maketrans({"ü": "ue", "ö": "oe", "ä": "ae"})
_CYRILLIC = str.maketrans("aeopcxMTPCH", "аеорсхМТРСН")
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "lower case": str.lower,
    "upper case": str.upper,
    "title": str.title,
    "swapped case": str.swapcase,
    "underscores": _joined("_"),
    "dashes": _joined("-"),
    "dots": _joined("."),
    "spaces": _joined(" "),
    "nothing between": _joined(""),
    "double dashes": _joined("--"),
    "slashes": _joined("/"),
    "tabs": _joined("\t"),
    "line breaks": _joined("\n"),
    "commas": _joined(", "),
    "no-break spaces": _joined("\u00a0"),
    "thin spaces": _joined("\u2009"),
    "en dashes": _joined("\u2013"),
    "zero-width spaces": lambda w: "\u200b".join(w),
    "soft hyphens": _joined("\u00ad"),
    "lower case, nothing between": lambda w: _joined("")(w).lower(),
    "upper case, underscores": lambda w: _joined("_")(w).upper(),
    "NFC": lambda w: unicodedata.normalize("NFC", w),
    "NFD": lambda w: unicodedata.normalize("NFD", w),
    "without accents": _plain,
    "umlauts as two letters": lambda w: w.translate(_TWO),
    "full width": _shifted(0xFF21, 0xFF10),
    "mathematical bold": _shifted(0x1D400, 0x1D7CE),
    "Arabic digits": _shifted(0, 0x0660),
    "superscript digits": lambda w: w.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")),
    "Cyrillic letters that look alike": lambda w: w.translate(_CYRILLIC),
    "other accents": lambda w: w.replace("e", "é").replace("a", "ä").replace("i", "í"),
    "letters before": lambda w: f"the{_joined('')(w)}",
    "letters after": lambda w: f"{_joined('')(w)}x",
    "letters on both sides": lambda w: f"xx{_joined('_')(w)}yy",
    "a slice's number behind": lambda w: f"{w}_012",
    "a generator's name around": lambda w: f"gen_{w}_0",
    "a file's name": lambda w: f"{w}_flair.nii.gz",
    "a path": lambda w: f"/data/hospital/{w}/t1",
    "a path of Windows": lambda w: f"D:\\scans\\{w}",
    "an address": lambda w: f"https://pacs.example.org/?id={quote(w)}",
    "an e-mail address": lambda w: f"{_joined('.')(w)}@example.org",
    "percent encoding": lambda w: "".join(f"%{b:02X}" for b in w.encode()),
    "HTML entities": lambda w: "".join(f"&#{ord(c)};" for c in w),
    "HTML entities in hexadecimal": lambda w: "".join(f"&#x{ord(c):x};" for c in w),
    "JSON escapes": lambda w: "".join(f"\\u{ord(c):04x}" for c in w),
    "YAML escapes": lambda w: "".join(f"\\x{ord(c):02x}" if ord(c) < 256 else c for c in w),
    "bold in parts": lambda w: f"**{w[:3]}**{w[3:]}",
    "tags inside": lambda w: f"{w[:3]}<b>{w[3:]}</b>",
    "quotation marks": lambda w: f"“{w}”",
    "key and value": lambda w: f"PatientID={w};",
    "numbers without zeros before them": lambda w: re.sub(r"(?<!\d)0+(?=\d)", "", w),
    "numbers with zeros before them": lambda w: re.sub(r"\d+", lambda m: f"00{m[0]}", w),
    "digits alone": _number(str),
    "digits, zeros before": _number(lambda d: f"000{d}"),
    "digits in groups": _number(lambda d: f"{d[:-3]} {d[-3:]}"),
    "digits with a point": _number(lambda d: f"{d[:-3]}.{d[-3:]}"),
    "as a floating-point number": _number(lambda d: f"{d}.0"),
    "digits, a slice's number behind": _number(lambda d: f"{d}.012"),
    "digits in a DICOM UID": _number(lambda d: f"1.2.840.{d}.3"),
    "a line break of HTML inside": _joined("<br>"),
    "cells of a table between": _joined("</td> <td>"),
    "digits in letters": _number(lambda d: f"no{d}b"),
}

# --- places ---------------------------------------------------------------------------------------------------------
# Each takes the folder of a package and the text to be planted.

Plant = Callable[[Path, str], Any]


def _append(name: str, before: str = "\n", after: str = "\n") -> Plant:
    def plant(folder: Path, text: str) -> None:
        with open(folder / name, "a", encoding="utf-8", newline="") as file:
            file.write(before + text + after)

    return plant


def _in_json(name: str, change: Callable[[Any, str], Any], ascii_only: bool = False) -> Plant:
    def plant(folder: Path, text: str) -> None:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        change(found, text)
        (folder / name).write_text(json.dumps(found, ensure_ascii=ascii_only), encoding="utf-8")

    return plant


def _set(*keys: str) -> Callable[[Any, str], None]:
    def change(found: Any, text: str) -> None:
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = text

    return change


def _file(name: str, content: Callable[[str], bytes]) -> Plant:
    def plant(folder: Path, text: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(text))

    return plant


def _safe(text: str) -> str:
    return text.replace("/", "_").replace("\0", "")[:80]


def _zip(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", text)
    return buffer.getvalue()


def _npy(text: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([text]))
    return buffer.getvalue()


def _table(name: str, change: Callable[[pa.Table, str], pa.Table]) -> Plant:
    def plant(folder: Path, text: str) -> None:
        pq.write_table(change(pq.read_table(folder / name), text), folder / name)

    return plant


def _column(name: str, first: Any, rest: Callable[[str], Any]) -> Callable[[pa.Table, str], pa.Table]:
    return lambda table, text: table.append_column(name, pa.array([first] + [rest(text)] * (len(table) - 1)))


def _field(table: pa.Table, text: str) -> pa.Table:
    fields = [f.with_metadata({"note": text}) if f.name == "p" else f for f in table.schema]
    return table.cast(pa.schema(fields))


def _replaced(name: str) -> Callable[[pa.Table, str], pa.Table]:
    def change(table: pa.Table, text: str) -> pa.Table:
        values = [*table[name].to_pylist()[:-1], text]
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values))

    return change


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_with(kind: bytes, content: bytes) -> Callable[[bytes], bytes]:
    return lambda png: png[:33] + chunk(kind, content) + png[33:]  # behind IHDR


def _trailing_stream(text: str) -> Callable[[bytes], bytes]:
    return lambda png: png[:-12] + chunk(b"IDAT", text.encode()) + png[-12:]


PNG_CHANGES: dict[str, Callable[[str], Callable[[bytes], bytes]]] = {
    "tEXt": lambda t: _png_with(b"tEXt", b"Comment\0" + t.encode("latin-1", "replace")),
    "zTXt": lambda t: _png_with(b"zTXt", b"Comment\0\0" + zlib.compress(t.encode())),
    "iTXt": lambda t: _png_with(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(t.encode())),
    "eXIf": lambda t: _png_with(b"eXIf", b"MM\0*" + t.encode("utf-16-be")),
    "an unknown chunk": lambda t: _png_with(b"prVt", t.encode()),
    "behind its end": lambda t: lambda png: png + t.encode(),
    "in IEND": lambda t: lambda png: png[:-12] + chunk(b"IEND", t.encode()),
    "behind its pixels": _trailing_stream,
}


def _first(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def _changed(pattern: str, change: Callable[[str], Callable[[bytes], bytes]]) -> Plant:
    def plant(folder: Path, text: str) -> None:
        path = _first(folder, pattern)
        path.write_bytes(change(text)(path.read_bytes()))

    return plant


def _figure(folder: Path, text: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    figure = base64.b64encode(PNG_CHANGES["zTXt"](text)(buffer.getvalue())).decode()
    _append("evidence.html")(folder, f'<img src="data:image/png;base64,{figure}">')


def _drawing(folder: Path, text: str) -> None:
    figure = base64.b64encode(f"<svg><text>{html.escape(text)}</text></svg>".encode()).decode()
    _append("evidence.html")(folder, f'<img src="data:image/svg+xml;base64,{figure}">')


def _encoded(folder: Path, text: str) -> None:
    _append("evidence.html")(folder, f'<a href="data:text/plain;base64,{base64.b64encode(text.encode()).decode()}">')


def _attribute(place: str) -> Plant:
    return lambda folder, text: os.setxattr(folder / place, b"user.note", text.encode())


EVERYWHERE: dict[str, Plant] = {
    "README.md": _append("README.md"),
    "LICENSE": _append("LICENSE"),
    "CITATION.cff, a comment": _append("CITATION.cff", "\n# "),
    "audit.md": _append("audit/audit.md"),
    "evidence.html": _append("evidence.html", "<p>", "</p>"),
    "evidence.html, a comment": _append("evidence.html", "<!-- ", " -->"),
    "evidence.html, an attribute": _append("evidence.html", '<p title="', '"></p>'),
    "evidence.html, a PNG's text": _figure,
    "evidence.html, a drawing": _drawing,
    "evidence.html, a file": _encoded,
    "release.json": _in_json("release.json", _set("title")),
    "release.json, as ASCII": _in_json("release.json", _set("title"), ascii_only=True),
    "audit.json": _in_json("audit/audit.json", _set("note")),
    "audit.json, a key": _in_json("audit/audit.json", lambda found, text: found.update({text: 1})),
    "decision.json": _in_json("decision.json", _set("by", "name")),
    "ro-crate-metadata.json": _in_json("ro-crate-metadata.json", _set("@context")),
    "SHA256SUMS": _append("SHA256SUMS", f"{'0' * 64}  "),
    "a file's name": lambda folder, text: (folder / f"{_safe(text)}.txt").write_text(""),
    "a folder's name, empty": lambda folder, text: (folder / _safe(text)).mkdir(),
    "a folder's name": lambda folder, text: _file(f"{_safe(text)}/notes.txt", lambda t: b"")(folder, text),
    "notes.txt": _file("notes.txt", str.encode),
    "a hidden file": _file(".notes", str.encode),
    "a file named by a digit": _file("audit/0", str.encode),
    "gzip": _file("notes.gz", lambda t: gzip.compress(t.encode())),
    "gzip under another name": _file("NOTICE", lambda t: gzip.compress(t.encode())),
    "zip": _file("notes.zip", _zip),
    "UTF-16": _file("notes.md", lambda t: t.encode("utf-16")),
    "UTF-16 in README.md": _file("README.md", lambda t: t.encode("utf-16")),
    "UTF-32 in LICENSE": _file("LICENSE", lambda t: t.encode("utf-32")),
    "Latin-1 in README.md": _file("README.md", lambda t: b"\xfc" + t.encode("latin-1", "replace")),
    "gzip in README.md": _file("README.md", lambda t: gzip.compress(t.encode())),
    "an array": _file("more.npy", _npy),
    "a link": lambda folder, text: (folder / "link").symlink_to("/data/" + _safe(text)),
    "an attribute of a file": _attribute("README.md"),
    "an attribute of a folder": _attribute("audit"),
    "an attribute of the package": _attribute("."),
}
OF_SLICES: dict[str, Plant] = {
    "DATASHEET.md": _append("DATASHEET.md"),
    "aida.md": _append("aida.md"),
    "croissant.json": _in_json("croissant.json", _set("description")),
    "manifest, a generator": _table("manifest.parquet", _replaced("generator")),
    "manifest, an id": _table("manifest.parquet", _replaced("id")),
    "manifest, a column's name": _table("manifest.parquet", lambda t, w: t.append_column(w, pa.array([1] * len(t)))),
    "manifest, a column": _table("manifest.parquet", _column("note", "x", str)),
    "manifest, a column that begins with None": _table("manifest.parquet", _column("note", None, str)),
    "manifest, a column of bytes": _table("manifest.parquet", _column("note", b"", str.encode)),
    "manifest, a column of lists": _table("manifest.parquet", _column("note", [], lambda t: [t])),
    "manifest, metadata": _table("manifest.parquet", lambda t, w: t.replace_schema_metadata({"note": w})),
    "manifest, metadata of a column": _table("manifest.parquet", _field),
    "manifest, behind it": _changed("manifest.parquet", lambda t: lambda raw: raw[:4] + t.encode() + raw[4:]),
}


def _header(offset: int, size: int) -> Callable[[str], Callable[[bytes], bytes]]:
    """Text in a field of a NIfTI header."""

    def change(text: str) -> Callable[[bytes], bytes]:
        field = text.encode()[:size].ljust(size, b"\0")
        return lambda raw: _packed(_unpacked(raw)[:offset] + field + _unpacked(raw)[offset + size :])

    return change


def _unpacked(raw: bytes) -> bytes:
    return gzip.decompress(raw)


def _packed(raw: bytes) -> bytes:
    return gzip.compress(raw, mtime=0)


def _extension(text: str) -> Callable[[bytes], bytes]:
    content = text.encode().ljust(-(-(len(text.encode()) + 8) // 16) * 16 - 8, b"\0")

    def change(raw: bytes) -> bytes:
        plain = _unpacked(raw)
        head = plain[:108] + struct.pack("<f", 352 + 8 + len(content)) + plain[112:348] + b"\1\0\0\0"
        return _packed(head + struct.pack("<ii", 8 + len(content), 6) + content + plain[352:])

    return change


def _gzip_name(text: str) -> Callable[[bytes], bytes]:
    name = text.encode("latin-1", "replace").replace(b"\0", b"") + b"\0"
    return lambda raw: raw[:3] + b"\x08" + raw[4:10] + name + raw[10:]


def _gzip_comment(text: str) -> Callable[[bytes], bytes]:
    comment = text.encode("latin-1", "replace").replace(b"\0", b"") + b"\0"
    return lambda raw: raw[:3] + b"\x10" + raw[4:10] + comment + raw[10:]


def _shard_change(where: str) -> Callable[[str], Callable[[bytes], bytes]]:
    """Bytes in the first shard of a Zarr array."""

    def change(text: str) -> Callable[[bytes], bytes]:
        def changed(raw: bytes) -> bytes:
            size, content = 16 * SHARD + 4, text.encode()
            table = np.frombuffer(raw[-size:-4], "<u8").reshape(SHARD, 2).copy()
            used, body = table[:, 0] != 2**64 - 1, raw[:-size]
            if where == "before":
                table[used, 0] += np.uint64(len(content))
                body = content + body
            elif where == "behind":
                body += content
            elif where == "unused":
                table[-1] = len(body), len(content)
                body += content
            else:  # a frame that decoders skip
                last = np.flatnonzero(used)[-1]
                frame = b"\x50\x2a\x4d\x18" + struct.pack("<I", len(content)) + content
                table[last, 1] += np.uint64(len(frame))
                body += frame
            index = table.tobytes()
            return body + index + crc32c(index).to_bytes(4, "little")

        return changed

    return change


def _tar(change: Callable[[tarfile.TarInfo, bytes, str], tuple[tarfile.TarInfo, bytes]], form: int) -> Plant:
    """The first JSON member (or PNG) changed."""

    def plant(folder: Path, text: str) -> None:
        path = _first(folder, "data/*.tar")
        with tarfile.open(path) as tar:
            members = [(m, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
        with tarfile.open(path, "w", format=form) as tar:
            for number, (member, content) in enumerate(members):
                entry = tarfile.TarInfo(member.name)
                entry.mode = 0o644
                if number == (0 if change is _png_member else 3):
                    entry, content = change(entry, content, text)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))

    return plant


def _member(**fields: Callable[[str], Any]) -> Plant:
    def change(entry: tarfile.TarInfo, content: bytes, text: str) -> tuple[tarfile.TarInfo, bytes]:
        for name, value in fields.items():
            setattr(entry, name, value(text))
        return entry, content

    return _tar(change, tarfile.PAX_FORMAT if "pax_headers" in fields else tarfile.GNU_FORMAT)


def _row(key: str) -> Plant:
    def change(entry: tarfile.TarInfo, content: bytes, text: str) -> tuple[tarfile.TarInfo, bytes]:
        row = json.loads(content) | {key: text}
        return entry, (json.dumps(row, sort_keys=True) + "\n").encode()

    return _tar(change, tarfile.USTAR_FORMAT)


def _png_member(entry: tarfile.TarInfo, content: bytes, text: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry, PNG_CHANGES["zTXt"](text)(content)


def _more_member(folder: Path, text: str) -> None:
    with tarfile.open(_first(folder, "data/*.tar"), "a", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo(f"{_safe(text)}.txt")
        tar.addfile(entry, io.BytesIO(b""))


def _padding(text: str) -> Callable[[bytes], bytes]:
    content = text.encode()[:200]
    return lambda raw: raw[: 1024 - len(content)] + content + raw[1024:] if not raw[1024 - len(content) : 1024].strip(
        b"\0") else raw[: -len(content)] + content  # fmt: skip


_SHARD = "data/images/c/0/0/0/0"
_RAW = "data/nnUNet_raw/Dataset501_Understudy"
OF_LAYOUT: dict[str, dict[str, Plant]] = {
    "sliceset": {
        "zarr.json, attributes": _in_json("data/zarr.json", _set("attributes", "attrs", "from")),
        "zarr.json of an array": _in_json("data/images/zarr.json", _set("attributes", "from")),
        "index, a column": _table("data/index.parquet", _column("subject", None, str)),
        "index, a generator": _table("data/index.parquet", _replaced("generator")),
        "index, metadata": _table("data/index.parquet", lambda t, w: t.replace_schema_metadata({"note": w})),
        **{
            f"a shard, {w}": _changed("data/images/c/0/0/0/0", _shard_change(w)) for w in ("before", "behind", "unused")
        },
        "a shard, a skipped frame": _changed("data/labels/c/0/0/0", _shard_change("skipped")),
        "another shard": _file("data/images/c/7/0/0/0", str.encode),
        "a shard of another depth": _file("data/images/c/0/0/0/1", str.encode),
        "another array": _file("data/notes/zarr.json", lambda t: json.dumps({"note": t}).encode()),
        "attributes of Zarr 2": _file("data/.zattrs", lambda t: json.dumps({"note": t}).encode()),
    },
    "png": {
        **{f"a PNG, {name}": _changed("data/FLAIR/*.png", change) for name, change in PNG_CHANGES.items()},
        "another PNG": lambda folder, text: Image.new("L", (16, 16)).save(
            folder / f"data/FLAIR/{_safe(text)}_FLAIR.png"
        ),
        "the description": _in_json("data/understudy-images.json", _set("labels")),
    },
    "nifti": {
        "description": _changed("data/flair/*.nii.gz", _header(148, 80)),
        "aux_file": _changed("data/flair/*.nii.gz", _header(228, 24)),
        "intent_name": _changed("data/flair/*.nii.gz", _header(328, 16)),
        "db_name": _changed("data/flair/*.nii.gz", _header(14, 18)),
        "data_type": _changed("data/flair/*.nii.gz", _header(4, 10)),
        "an extension": _changed("data/flair/*.nii.gz", _extension),
        "the name in gzip": _changed("data/flair/*.nii.gz", _gzip_name),
        "the comment in gzip": _changed("data/flair/*.nii.gz", _gzip_comment),
        "another member of gzip": _changed("data/flair/*.nii.gz", lambda t: lambda raw: raw + _packed(t.encode())),
        "behind the voxels": _changed(
            "data/flair/*.nii.gz", lambda t: lambda raw: _packed(_unpacked(raw) + t.encode())
        ),
        "behind gzip": _changed("data/flair/*.nii.gz", lambda t: lambda raw: raw + t.encode()),
        "a sidecar": _file("data/flair/syn000000_flair.json", lambda t: json.dumps({"PatientID": t}).encode()),
    },
    "nnunet": {
        **{f"a PNG, {name}": _changed(f"{_RAW}/labelsTr/*.png", change) for name, change in PNG_CHANGES.items()},
        "dataset.json": _in_json(f"{_RAW}/dataset.json", _set("description")),
        "splits_final.json": _in_json(
            "data/nnUNet_preprocessed/Dataset501_Understudy/splits_final.json", lambda f, t: f[0]["train"].append(t)
        ),
        "a test image": _file(f"{_RAW}/imagesTs/syn000000_0000.png", str.encode),
        "a channel too many": _file(f"{_RAW}/imagesTr/syn000000_0002.png", str.encode),
    },
    "webdataset": {
        "the owner": _member(uname=_safe),
        "the group": _member(gname=_safe),
        "a link's target": _member(linkname=_safe),
        "a comment": _member(pax_headers=lambda t: {"comment": t}),
        "a PNG, zTXt": _tar(_png_member, tarfile.USTAR_FORMAT),
        "a row, another field": _row("subject"),
        "a row, the generator": _row("generator"),
        "a row, the seed": _row("seed"),
        "another member": _more_member,
        "padding": _changed("data/*.tar", _padding),
        "behind the end": _changed("data/*.tar", lambda t: lambda raw: raw + t.encode()),
        "another shard": _file("data/shard-000009.tar", str.encode),
        "index": _file("data/index.idx", str.encode),
    },
}


def _weights(change: Callable[[dict[str, Any], Path, str], Any]) -> Plant:
    def plant(folder: Path, text: str) -> None:
        path = folder / "model" / "generator.safetensors"
        change(safetensors.torch.load_file(path), path, text)

    return plant


OF_MODELS: dict[str, Plant] = {
    **{f"samples.png, {name}": _changed("samples.png", change) for name, change in PNG_CHANGES.items()},
    "config.json": _in_json("model/config.json", _set("torch")),
    "config.json, another field": _in_json("model/config.json", _set("run")),
    "safetensors, metadata": _weights(lambda w, path, t: safetensors.torch.save_file(w, path, {"from": t})),
    "safetensors, a tensor's name": _weights(
        lambda w, path, t: safetensors.torch.save_file({**w, t: torch.zeros(1)}, path)
    ),
    "safetensors, a tensor": _weights(
        lambda w, path, t: safetensors.torch.save_file({**w, "x": torch.tensor(list(t.encode()))}, path)
    ),
    "behind safetensors": _append("model/generator.safetensors", "", ""),
    "history": _file("model/history.jsonl", str.encode),
}


def places(layout: str) -> dict[str, Plant]:
    """All places of a package of slices in a layout, or of a "model"."""
    return EVERYWHERE | (OF_MODELS if layout == "model" else OF_SLICES | OF_LAYOUT[layout])
