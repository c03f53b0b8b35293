"""A released package as a data set of the Hugging Face hub: Parquet with pictures, data card, Croissant; no upload.

Only packages: what stands on a hub is given to everybody, and cannot be called back. Texts, limits and RAI fields are
those of the package, which its steward has signed; nothing is said here that does not stand there.
"""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from understudy.exchange.description import CERTIFICATE
from understudy.exchange.export import new_folder
from understudy.io.files import read_json, sha256_file, write_json, write_text
from understudy.release.content import SIGNATURE, SUMS
from understudy.release.documents import HUGGING_FACE, stamp, usefulness
from understudy.release.outgoing import SYNTHETIC, Outgoing, Pixels, released_only
from understudy.runtime.progress import track

ROWS = 2000  # slices a file: some 400 MB of 256 x 256 pixels with four channels
GROUP = 100  # rows that a viewer reads at once
PROVENANCE = "package"  # folder of the package's own documents
_COPIED = (CERTIFICATE, SUMS, SIGNATURE, "DATASHEET.md", "decision.json", "evidence.html", "manifest.parquet")
_PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def export_huggingface(
    package: str | Path, out: str | Path, progress: bool = True, root: str | None = None, key: Path | None = None
) -> Outgoing:
    """Writes a folder that `datasets.load_dataset` reads and that can be pushed to the hub as it is.

    `data/train-*.parquet` has a row a slice: `id`, `image.<channel>` and `annotation` (grey values of the classes, as
    the card says) as PNG, then the columns of the package's manifest. The hash of each slice is among them, so that the
    pictures can be compared with the certificate. There is one split, since none is recommended. `root`, `key`: as for
    `verify`.

    Raises:
        UnderstudyError: `package` is no intact package of slices, `out` is not empty, disk full.
    """
    given = released_only(package, root, key)
    said, table = given.data, pq.read_table(given.path / "manifest.parquet")  # which `verify` has read
    rows = {row["id"]: row for row in table.to_pylist()}
    count, names, made = -(-said["slices"] // ROWS), dict[str, str](), list[dict[str, Any]]()
    with new_folder(out) as folder, track(said["slices"], "writing", "slices", show=progress) as meter:
        (folder / "data").mkdir()
        for name, image, labels in given.slices():
            made.append({**rows[name], **_pictures(given, image, labels)})
            meter.advance(1)
            if len(made) == ROWS or meter.done == said["slices"]:
                path = folder / "data" / f"train-{len(names):05d}-of-{count:05d}.parquet"
                _write(path, made, given)
                names[path.relative_to(folder).as_posix()], made = sha256_file(path), []
        _documents(given, folder, names)
    return given


def _pictures(given: Outgoing, image: Pixels, labels: Pixels) -> dict[str, dict[str, Any]]:
    codes = np.array([c["code"] for c in given.data["classes"]], np.uint8)
    planes = dict(zip(_columns(given), (*image, codes[labels]), strict=True))
    return {name: {"bytes": _png(pixels), "path": None} for name, pixels in planes.items()}


def _columns(given: Outgoing) -> list[str]:
    return [*(f"image.{channel}" for channel in given.data["channels"]), "annotation"]


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _write(path: Path, rows: list[dict[str, Any]], given: Outgoing) -> None:
    """A Parquet file whose schema tells `datasets` which columns are pictures."""
    manifest = pq.read_schema(given.path / "manifest.parquet")
    pictures = [pa.field(name, _PICTURE) for name in _columns(given)]
    schema = pa.schema([manifest.field("id"), *pictures, *(f for f in manifest if f.name != "id")])
    kinds = {pa.string(): "string", pa.int64(): "int64"}
    features = {f.name: {"_type": "Image"} if f.type == _PICTURE else {"dtype": kinds[f.type], "_type": "Value"}
                for f in schema}  # fmt: skip
    noted = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(pa.Table.from_pylist(rows, noted), path, row_group_size=GROUP)


def _documents(given: Outgoing, folder: Path, files: dict[str, str]) -> None:
    """Data card, Croissant, and the package's documents; `files`: name of a Parquet file -> SHA-256."""
    described = read_json(given.path / "croissant.json", dict)
    write_json(folder / "croissant.json", _croissant(given, described, files))
    write_text(folder / "README.md", _card(given, described))
    for name in ("LICENSE", "CITATION.cff"):
        shutil.copyfile(given.path / name, folder / name)
    for name in _COPIED:
        if (given.path / name).is_file():
            (folder / PROVENANCE).mkdir(exist_ok=True)
            shutil.copyfile(given.path / name, folder / PROVENANCE / name)
    shutil.copytree(given.path / "audit", folder / PROVENANCE / "audit")


def _croissant(given: Outgoing, described: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """The package's croissant.json, RAI fields and all, for these files."""
    listed = [{"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "sha256": value,
               "encodingFormat": "application/x-parquet"} for name, value in files.items()]  # fmt: skip
    whole = {"@type": "cr:FileSet", "@id": "files", "name": "files", "encodingFormat": "application/x-parquet",
             "includes": "data/*.parquet"}  # fmt: skip
    fields = []
    for name in _columns(given):
        what = "the annotation, as grey values" if name == "annotation" else f"the channel {name.partition('.')[2]}"
        fields.append(_field(name, "sc:ImageObject", what))
        fields[-1]["source"]["transform"] = {"jsonPath": "bytes"}
    for field in described["recordSet"][0]["field"]:
        column = field["source"]["extract"]["column"]
        fields.append(_field(column, field["dataType"], field["description"]))
    records = {**described["recordSet"][0], "field": fields}
    return {**described, "distribution": [*listed, whole], "recordSet": [records]}


def _field(column: str, kind: str, what: str) -> dict[str, Any]:
    source = {"fileSet": {"@id": "files"}, "extract": {"column": column}}
    return {"@type": "cr:Field", "@id": f"slices/{column}", "name": f"slices/{column}", "description": what,
            "dataType": kind, "source": source}  # fmt: skip


def _licence(said: str) -> dict[str, str]:
    """How the hub names a licence that is given by its name or its address."""
    found = re.search(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)/(\d\.\d)", said)
    plain = f"cc-{found[1]}-{found[2]}".replace("cc-zero", "cc0") if found else said.lower().replace(" ", "-")
    return {"license": plain} if plain in HUGGING_FACE else {
        "license": "other", "license_name": said, "license_link": "LICENSE"
    }  # fmt: skip


def _card(given: Outgoing, described: dict[str, Any]) -> str:
    said, certificate = given.data, given.certificate or {}
    sizes = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
    front = {
        "pretty_name": certificate["title"], **_licence(described["license"]),
        "tags": ["synthetic", "medical", "mri", *described["keywords"]], "annotations_creators": ["machine-generated"],
        "task_categories": ["image-segmentation", "unconditional-image-generation"],
        "size_categories": [sizes[min(4, max(0, len(str(said["slices"])) - 3))]],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    }  # fmt: skip
    forced = stamp(certificate)
    codes = ", ".join(f"{c['code']} {c['name']}" for c in said["classes"])
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {certificate["title"]}

{usefulness(certificate)}

{f"> **{forced}**" if forced else f"**{SYNTHETIC}**"}

{described["description"]}

{said["slices"]:,} slices of {said["resolution"]} x {said["resolution"]} pixels ({", ".join(said["channels"])}) with
annotations drawn by the same generator. Grey values of the column `annotation`: {codes}. There is one split: slices do
not belong together, and no other is recommended.

```python
from datasets import load_dataset

slices = load_dataset("path or name of this data set", split="train")
```

## Is it a copy of patients?

{certificate["audit"]["verdict"]["headline"]}

What the audit cannot say:

{chr(10).join(f"- {line}" for line in certificate["audit"]["verdict"]["limits"])}

{described["rai:dataSocialImpact"]}

`{PROVENANCE}/` holds the package's certificate, datasheet, audit, evidence and decision. Its root hash is
`{given.root}`; the column `sha256` is the hash of each slice's pixels that the certificate counts.
Contact, and how a slice is taken down: `{PROVENANCE}/DATASHEET.md`.

## Cite

{described["citeAs"]} Cite its sources as well:

{chr(10).join(f"- {source}" for source in described["prov:wasDerivedFrom"])}
"""
