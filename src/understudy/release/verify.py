"""What a recipient can know of a package: is it whole, does it hold what its audit judged, and what does it look like?

Hashes inside a package show damage and careless changes. Whoever writes the whole package anew, hashes, manifest and
certificate, can only be told by the root hash that its publisher has made known elsewhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from understudy.audit.recheck import controls_of
from understudy.errors import UnderstudyError
from understudy.exchange.packaged import CERTIFICATE, certificate_of
from understudy.files import read_json, sha256_file
from understudy.release.content import COLUMNS, content_root, read_back, slice_hash
from understudy.release.documents import stamp
from understudy.release.package import DOCUMENTS
from understudy.release.sums import SUMS, check_sums
from understudy.report.pictures import channel_window, contact_sheet, enlarged, overlay, upright, windowed

_SHEET, _TILE = 12, 96  # slices on a contact sheet; pixels of a small one


@dataclass
class Verification:
    """What was found: `problems` empty means intact."""

    root: str
    compared: bool
    certificate: dict[str, Any]
    files: int
    slices: int
    override: str
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "intact": not self.problems}


def verify(package: str | Path, root: str | None = None, pictures: Path | None = None) -> Verification:
    """Checks a package.

    Args:
        package: its folder.
        root: hash that its publisher made known; None: not compared.
        pictures: PNG file for a contact sheet.

    Raises:
        UnderstudyError: no package, or a list of hashes that cannot be read.
    """
    folder = Path(package)
    certificate = certificate_of(folder)
    files, problems = check_sums(folder)
    own = sha256_file(folder / SUMS)
    if root is not None and root.strip().lower() != own:
        problems.insert(0, f"its root hash is {own}, not the published one: this is another package")
    problems += [
        f"{name} is missing"
        for name in (*DOCUMENTS, "ro-crate-metadata.json")
        if not (folder / name).is_file()
    ]
    found = Verification(own, root is not None, certificate, files, 0, "", problems)
    if certificate.get("kind") != "slices":
        problems.append("its certificate describes no slices")
        return found
    try:
        found.override = stamp(certificate)
        manifest = pd.read_parquet(folder / "manifest.parquet")
        _manifest(found, manifest)
        _audit(found, folder, manifest)
        _metadata(found, folder)
        chosen = _pixels(found, folder, manifest)
        if pictures is not None and chosen:
            _draw(chosen, certificate["data"], pictures)
    except (UnderstudyError, OSError, KeyError, TypeError, ValueError) as error:
        found.problems.append(f"it cannot be read: {error}")
    return found


def _manifest(found: Verification, manifest: pd.DataFrame) -> None:
    data = found.certificate["data"]
    areas = [f"area.{c['name']}" for c in data["classes"][1:]]
    if set(manifest.columns) != {*COLUMNS, *areas}:
        found.problems.append("manifest.parquet has other columns than a release has")
    if len(manifest) != data["slices"] or manifest["id"].duplicated().any():
        found.problems.append("manifest.parquet does not list each slice once")
    if (
        content_root({k: data[k] for k in ("channels", "classes", "resolution")}, manifest)
        != found.certificate["content"]["root"]
    ):
        found.problems.append("the manifest is not the one that was certified: ids or slices were changed")


def _audit(found: Verification, folder: Path, manifest: pd.DataFrame) -> None:
    said, path = found.certificate["audit"], folder / "audit" / "audit.json"
    numbers = read_json(path)
    wrong = []
    if sha256_file(path) != said["sha256"]:
        wrong.append("the audit is not the one that was certified")
    if numbers["sets"]["synthetic"]["content_hash"] != said["audited_set"]:
        wrong.append("the audit is of another set")
    if said["before"] - said["flagged"] - said["alike"] != len(manifest):
        wrong.append(f"{said['before']} audited less those taken out are not the {len(manifest)} slices here")
    if (manifest["p"] <= 1 - said["quantile"] + 1e-12).any():
        wrong.append("a flagged slice is in the manifest")
    if controls_of(numbers).missed and not found.override:
        wrong.append("the audit misses its planted copies")
    found.problems += wrong


def _metadata(found: Verification, folder: Path) -> None:
    listed = {p["@id"]: p for p in read_json(folder / "croissant.json")["distribution"]}
    if listed["manifest.parquet"]["sha256"] != sha256_file(folder / "manifest.parquet"):
        found.problems.append("croissant.json names another manifest")
    crate = {e["@id"] for e in read_json(folder / "ro-crate-metadata.json")["@graph"]}
    if not {"./", "data/", CERTIFICATE} <= crate:
        found.problems.append("ro-crate-metadata.json does not describe this package")
    if found.override and "AGAINST THE GATE" not in (folder / "DATASHEET.md").read_text(encoding="utf-8"):
        found.problems.append("the datasheet hides that the release was forced")


def _pixels(
    found: Verification, folder: Path, manifest: pd.DataFrame
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Every slice read and hashed; some of them to look at."""
    wanted = dict(zip(manifest["id"], manifest["sha256"], strict=True))
    shown = set(manifest["id"].sample(min(_SHEET, len(manifest)), random_state=0))
    seen, chosen = set(), []
    for name, image, labels in read_back(folder, found.certificate["data"]):
        if wanted.get(name) != slice_hash(image, labels):
            known = "was changed" if name in wanted else "is not in the manifest"
            found.problems.append(f"slice {name} {known}")
        seen.add(name)
        if name in shown:
            chosen.append((image, labels))
    found.slices = len(seen)
    found.problems += [f"slice {name} is missing" for name in wanted.keys() - seen]
    return chosen


def _draw(
    chosen: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], data: dict[str, Any], path: Path
) -> None:
    """A row a slice: its channels, then the first one with the annotation."""
    axes = data["axes"]
    factor = max(1, _TILE // data["resolution"])
    windows = [
        channel_window(np.stack([image[c] for image, _ in chosen])) for c in range(len(data["channels"]))
    ]
    tiles = []
    for image, labels in chosen:
        grey = [enlarged(upright(windowed(x, w), axes), factor) for x, w in zip(image, windows, strict=True)]
        drawn = enlarged(upright(labels, axes), factor)
        tiles += [np.repeat(g[..., None], 3, axis=-1) for g in grey]
        tiles.append(overlay(grey[-1], drawn, len(data["classes"]) - 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(tiles, len(data["channels"]) + 1)).save(path)
