"""What a recipient can know of a package: is it whole, does it hold what was audited, and what does it look like?

Hashes inside show damage; a package that somebody rewrote whole shows only by the root hash that was published.
"""

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.exchange.description import CERTIFICATE, certificate_of
from understudy.generators.folder import WEIGHTS, classes_of
from understudy.generators.joint import decode
from understudy.generators.registry import load_generator
from understudy.io.files import read_json, sha256_file
from understudy.io.readers import read_table
from understudy.memorization.controls import Controls
from understudy.release.allowed import DOCUMENTS, MODEL_DOCUMENTS
from understudy.release.content import COLUMNS, SUMS, check_sums, content_root, names_below, read_back, slice_hash
from understudy.release.documents import MODEL, SHOWN, Pixels, sheet, stamp
from understudy.release.gate import SAME_AUC
from understudy.release.package import weights_problems
from understudy.release.signature import form_problem, problem_of

_ASKED = (
    "score", "auc", "low", "high", "tpr", "smallest_fpr", "training", "heldout", "training_patients",
    "heldout_patients", "weights",
)  # fmt: skip


@dataclass
class Verification:
    """What was found. Without problems it is unchanged since its own list of hashes was written; by whom, only a
    published root hash or a key tells."""

    root: str
    compared: bool  # with the published root hash
    signed: bool  # by the holder of the key that was given
    certificate: dict[str, Any]
    files: int
    problems: list[str]
    slices: int = 0
    override: str = ""  # what is stamped on its documents: released against the gate, thresholds that came late

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        known = self.compared or self.signed
        return {**asdict(self), "unchanged": not self.problems, "intact": known and not self.problems}


def verify(
    package: str | Path, root: str | None = None, pictures: Path | None = None, key: Path | None = None
) -> Verification:
    """Checks a package; raises where there is none, or its list of hashes cannot be read.

    Args:
        root: hash that its publisher made known; None: not compared.
        pictures: PNG file for a contact sheet.
        key: public key of SSH that its publisher made known; None: of a signature only the form is checked.
    """
    folder = Path(package)
    if root is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", root.strip()):
        raise UnderstudyError(
            "this is no root hash", "root", "give the 64 digits (0-9, a-f) that its publisher made known"
        )
    certificate = certificate_of(folder)
    files, problems = check_sums(folder)
    own = sha256_file(folder / SUMS)
    if root is not None and root.strip().lower() != own:
        problems.insert(0, f"its root hash is {own}, not the published one: this is another package")
    if wrong := problem_of(folder, key) if key is not None else form_problem(folder):
        problems.insert(0, wrong)
    found = Verification(own, root is not None, key is not None, certificate, files, problems)
    if any(not stat.S_ISREG(os.lstat(folder / name).st_mode) for name in names_below(folder)):
        return found  # `check_sums` names it; reading a link or a pipe could lead anywhere
    check = {"slices": _check_slices, "generator": _check_generator}.get(str(certificate.get("kind")))
    if check is None:
        problems.append("its certificate describes neither slices nor a generator")
        return found
    try:
        found.override = stamp(certificate)
        shown = check(found, folder, pictures is not None)
        if pictures is not None and shown:
            pictures.parent.mkdir(parents=True, exist_ok=True)
            sheet(shown, certificate.get("data") or certificate["model"]).save(pictures)
    except (UnderstudyError, OSError, KeyError, TypeError, ValueError) as error:
        problems.append(f"it cannot be read: {error}")
    return found


def _check_slices(found: Verification, folder: Path, look: bool) -> list[tuple[Pixels, Pixels]]:
    """Adds the problems; returns some slices (image, labels) to look at."""
    problems, data, certified = found.problems, found.certificate["data"], found.certificate["audit"]
    _check_documents(found, folder, DOCUMENTS, ("README.md", "DATASHEET.md"), "data/")
    manifest = read_table(folder / "manifest.parquet", "id")
    columns = {*COLUMNS, *(f"area.{c['name']}" for c in data["classes"][1:])}
    if set(manifest.columns) - {"p"} != columns:  # p-values of slices were in packages of earlier versions
        problems.append("manifest.parquet has other columns than a release has")
    if len(manifest) != data["slices"] or manifest["id"].duplicated().any():
        problems.append("manifest.parquet does not list each slice once")
    head = {k: data[k] for k in ("channels", "classes", "resolution")}
    if content_root(head, manifest) != found.certificate["content"]["root"]:
        problems.append("the manifest is not the one that was certified: ids or slices were changed")
    _check_audit(found, folder)
    taken = sum(certified.get(name, 0) for name in ("flagged", "alike", "leaked", "unjudged"))
    if certified["before"] - taken != len(manifest):
        problems.append(f"{certified['before']} audited less those taken out are not the {len(manifest)} slices here")
    listed = {p["@id"]: p for p in read_json(folder / "croissant.json")["distribution"]}
    if listed["manifest.parquet"]["sha256"] != sha256_file(folder / "manifest.parquet"):
        problems.append("croissant.json names another manifest")

    # every slice is read and hashed; some of them are kept to look at
    wanted = dict(zip(manifest["id"], manifest["sha256"], strict=True))
    shown = set(manifest["id"].sample(min(SHOWN, len(manifest)), random_state=0)) if look else set()
    seen: set[str] = set()
    chosen: list[tuple[Pixels, Pixels]] = []
    for name, image, labels in read_back(folder, data):
        if wanted.get(name) != slice_hash(image, labels):
            problems.append(f"slice {name} {'was changed' if name in wanted else 'is not in the manifest'}")
        seen.add(name)
        if name in shown:
            chosen.append((image, labels))
    found.slices = len(seen)
    problems += [f"slice {name} is missing" for name in wanted.keys() - seen]
    return chosen


def _check_generator(found: Verification, folder: Path, look: bool) -> list[tuple[Pixels, Pixels]]:
    """Adds the problems; returns some samples, if there is no problem: damaged weights are not run."""
    problems, certificate = found.problems, found.certificate
    _check_documents(found, folder, MODEL_DOCUMENTS, ("README.md",), f"{MODEL}/{WEIGHTS}")
    problems += weights_problems(folder / MODEL, certificate["model"])
    numbers = _check_audit(found, folder)
    asked, stated, certified = numbers["membership"] or {}, certificate["white_box"], certificate["audit"]
    if asked.get("weights", {}).get(WEIGHTS) != sha256_file(folder / MODEL / WEIGHTS):
        problems.append("the membership inference is not of these weights")
    for one, other in ((asked.get(name), stated[name]) for name in _ASKED):
        near = isinstance(one, float) and isinstance(other, float) and abs(one - other) <= SAME_AUC
        if not near and one != other:
            problems.append("the certificate states another membership inference than the audit")
            break
    if numbers["flags"]["count"] != certified["flagged"] or numbers["verdict"]["kind"] != certified["verdict"]["kind"]:
        problems.append("the certificate states another verdict than the audit")
    if not certificate.get("override") and (numbers["verdict"]["kind"] != "no_sign" or asked.get("low", 1) > 0.5):
        problems.append("the audit speaks against a release that was not forced")
    if certificate["model"]["weights"]["sha256"] not in (folder / "README.md").read_text(encoding="utf-8"):
        problems.append("the model card is of other weights")
    if not look or problems:
        return []
    generator, config = load_generator(folder / MODEL)
    images, labels, _ = decode(generator.sample(SHOWN, 0), classes_of(config), config["annotation"])
    return list(zip(images, labels, strict=True))


def _check_documents(
    found: Verification, folder: Path, documents: Iterable[str], stamped: tuple[str, ...], held: str
) -> None:
    """Whether all are there, the `stamped` ones show an override, and the crate describes what the package holds."""
    missing = [name for name in [*documents, "ro-crate-metadata.json"] if not (folder / name).is_file()]
    found.problems += [f"{name} is missing" for name in missing]
    crate = {e["@id"] for e in read_json(folder / "ro-crate-metadata.json")["@graph"]}
    if not {"./", held, CERTIFICATE} <= crate:
        found.problems.append("ro-crate-metadata.json does not describe this package")
    for name in stamped:
        if found.override and found.override not in (folder / name).read_text(encoding="utf-8"):
            found.problems.append(f"{name} hides that the release was forced")


def _check_audit(found: Verification, folder: Path) -> dict[str, Any]:
    """The numbers of the audit, which must be the certified one and have found its planted copies."""
    certified, path = found.certificate["audit"], folder / "audit" / "audit.json"
    numbers: dict[str, Any] = read_json(path)
    if sha256_file(path) != certified["sha256"]:
        found.problems.append("the audit is not the one that was certified")
    if numbers["sets"]["synthetic"]["content_hash"] != certified["audited_set"]:
        found.problems.append("the audit is of another set")
    if Controls.of(numbers).missed and not found.certificate.get("override"):
        found.problems.append("the audit misses its planted copies")
    return numbers
