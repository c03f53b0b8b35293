"""What a recipient can know of a package: is it whole, does it hold what was audited, and what does it look like?

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

from understudy.errors import UnderstudyError
from understudy.exchange.packaged import CERTIFICATE, certificate_of
from understudy.io.files import read_json, sha256_file
from understudy.memorization.recheck import controls_of
from understudy.release.content import COLUMNS, content_root, read_back, slice_hash
from understudy.release.documents import stamp
from understudy.release.model_package import DOCUMENTS as MODEL_DOCUMENTS
from understudy.release.package import DOCUMENTS
from understudy.release.pictures import SHOWN, sheet
from understudy.release.sums import SUMS, check_sums
from understudy.release.verify_model import drawn, model_problems


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
    found = Verification(own, root is not None, certificate, files, 0, "", problems)
    check = _CHECKS.get(str(certificate.get("kind")))
    if check is None:
        problems.append("its certificate describes neither slices nor a generator")
        return found
    try:
        found.override = stamp(certificate)
        check(found, folder, pictures)
    except (UnderstudyError, OSError, KeyError, TypeError, ValueError) as error:
        found.problems.append(f"it cannot be read: {error}")
    return found


def _slices(found: Verification, folder: Path, pictures: Path | None) -> None:
    found.problems += _missing(folder, [*DOCUMENTS, "croissant.json"])
    manifest = pd.read_parquet(folder / "manifest.parquet")
    _manifest(found, manifest)
    _audit(found, folder, manifest)
    _metadata(found, folder)
    chosen = _pixels(found, folder, manifest)
    if pictures is not None and chosen:
        _save(chosen, found.certificate["data"], pictures)


def _generator(found: Verification, folder: Path, pictures: Path | None) -> None:
    found.problems += _missing(folder, list(MODEL_DOCUMENTS))
    damaged = bool(found.problems)
    found.problems += model_problems(folder, found.certificate, found.override)
    if pictures is not None and not damaged and not found.problems:
        _save(drawn(folder, SHOWN), found.certificate["model"], pictures)


_CHECKS = {"slices": _slices, "generator": _generator}


def _missing(folder: Path, names: list[str]) -> list[str]:
    return [f"{name} is missing" for name in [*names, "ro-crate-metadata.json"] if not (folder / name).is_file()]


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
    found.problems += [
        f"{name} hides that the release was forced"
        for name in ("README.md", "DATASHEET.md")
        if found.override and found.override not in (folder / name).read_text(encoding="utf-8")
    ]


def _pixels(
    found: Verification, folder: Path, manifest: pd.DataFrame
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Every slice read and hashed; some of them to look at."""
    wanted = dict(zip(manifest["id"], manifest["sha256"], strict=True))
    shown = set(manifest["id"].sample(min(SHOWN, len(manifest)), random_state=0))
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


def _save(chosen: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], data: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(chosen, data).save(path)
