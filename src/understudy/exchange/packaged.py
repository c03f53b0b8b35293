"""A released package as what it holds: a folder of images in a layout, channels and codes, or a generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.exchange.spec import FolderSpec
from understudy.io.files import read_json, sha256_file

CERTIFICATE = "release.json"
FORMAT = "understudy-release-1"


def certificate_of(package: str | Path) -> dict[str, Any]:
    """What release.json says.

    Raises:
        UnderstudyError: no package, or one of another version.
    """
    path = Path(package) / CERTIFICATE
    if not path.is_file():
        raise UnderstudyError(
            "this is no released package: it has no release.json", where=package, fix="give its folder"
        )
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UnderstudyError(
            "the package is of an unknown format", where=path, fix=f"use a version that knows {FORMAT}"
        )
    return found


def unpacked(root: Path, spec: FolderSpec, known: Sequence[str] | None = None) -> tuple[Path, FolderSpec]:
    """The data folder of a package and how it is read; any other folder as it is.

    Args:
        root: a package, or another folder.
        spec: what the user says; what the package says takes its place, but for sizes.
        known: channels that are wanted; the package's others are left out.

    Raises:
        UnderstudyError: a damaged certificate, or a package of a generator.
    """
    if not (root / CERTIFICATE).is_file():
        return root, spec
    said = certificate_of(root)
    try:
        data = said["data"]
        reading = dict(data["reading"])
        if isinstance(reading.get("channels"), dict):  # JSON sorts names; their order is that of the certificate
            wanted = known or data["channels"]
            reading["channels"] = {k: reading["channels"][k] for k in wanted if k in reading["channels"]}
        keep = {"sizes": spec.sizes, "resolution": spec.resolution}
        return root / "data", FolderSpec.model_validate({**reading, **keep})
    except (KeyError, TypeError, ValueError) as error:
        raise UnderstudyError(
            "the package holds no slices that its certificate describes",
            where=root / CERTIFICATE,
            fix="check the package: understudy verify PACKAGE",
        ) from error


def generator_in(folder: Path) -> Path:
    """The generator's folder in a package of weights; any other folder as it is.

    Raises:
        UnderstudyError: a package of slices, or weights that are not those of its certificate.
    """
    if not (folder / CERTIFICATE).is_file():
        return folder
    said = certificate_of(folder)
    if said.get("kind") != "generator":
        raise UnderstudyError(
            "the package holds slices, not a generator",
            where=folder,
            fix="use its slices: understudy evaluate --synthetic PACKAGE",
        )
    try:
        wanted = {said["model"]["weights"]["file"]: said["model"]["weights"]["sha256"]}
        wanted["model/config.json"] = said["model"]["config_sha256"]
        intact = all(sha256_file(folder / name) == value for name, value in wanted.items())
    except (KeyError, TypeError, OSError):
        intact = False
    if not intact:
        raise UnderstudyError(
            "the weights are not those that its certificate describes",
            where=folder,
            fix="check the package: understudy verify PACKAGE",
        )
    return folder / "model"
