"""What an audit is used for afterwards: the set without flagged slices, and the audit done again before a release."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import plain, read_json, sha256_json
from understudy.io.readers import read_table
from understudy.io.seals import check_opened
from understudy.memorization.comparison import Comparison, compare, sides
from understudy.memorization.concentration import Concentration
from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Ints
from understudy.memorization.controls import Controls
from understudy.memorization.leaks import Leaks, find_leaks
from understudy.memorization.perform import FORMAT, judge
from understudy.memorization.search import in_place, searching
from understudy.memorization.verdict import Verdict
from understudy.memorization.words import verdict
from understudy.roles import Part
from understudy.slices import SliceSet, SliceWriter

# what audit.json states and a release rests on; the verdict's words are written anew
_STATED = ("sets", "rule", "null", "flags", "patients", "concentration", "exposed", "leaks", "controls", "within")
_AGAIN = "audit these files again: understudy audit --out FOLDER"


@dataclass(frozen=True)
class Screened:
    """What became of a set, in slices."""

    before: int
    kept: int
    flagged: int  # taken out because they are flagged
    alike: int  # taken out because they are near-duplicates of a flagged one
    leaked: int = 0  # taken out because they are copies of patients held out for validation or test
    unjudged: int = 0  # taken out because they have too little contrast to be judged

    def words(self) -> str:
        """E.g. "3 flagged, 1 near-duplicate of them and 2 that could not be judged"."""
        named = {
            "flagged": self.flagged, "copies of held-out patients": self.leaked,
            "near-duplicates of these": self.alike, "too faint to be judged": self.unjudged,
        }  # fmt: skip
        return ", ".join(f"{number:,} {name}" for name, number in named.items() if number or name == "flagged")


def screen(
    synthetic: SliceSet, audit_dir: str | Path, out: str | Path, device: str = "cpu", progress: bool = False
) -> tuple[SliceSet, Screened]:
    """Writes the slices of a set that its audit judged and left: neither flagged nor near-duplicates of flagged ones.

    `out`: folder of the new set; its index keeps all columns, and `row_before` says where a slice was. Raises
    `UnderstudyError` for an audit of another set or without controls, nothing left, other things at `out`.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        # only an earlier screening of the same set is replaced: never the set itself, or real slices
        earlier = SliceSet.open(out).attrs.get("screened") or {} if (out / "index.parquet").is_file() else {}
        if earlier.get("content_hash_before") != synthetic.content_hash:
            what = "the place for the slices that are left holds something else, which is not replaced"
            raise UnderstudyError(what, where=out, fix="choose a new folder (--out)")
    numbers = read_audit(audit_dir)
    if numbers["sets"]["synthetic"]["content_hash"] != synthetic.content_hash:
        what = "the audit is of another synthetic set, or the set was changed since"
        raise UnderstudyError(what, where=audit_dir, fix="audit this set first")
    table = read_table(Path(audit_dir) / "p_values.parquet", "flagged", "judged", "leaked")
    kept, done = rows_left(synthetic, table, numbers, device, progress)
    identity = {"source": synthetic.content_hash, "kept": kept.tolist()}
    s = synthetic
    writer = SliceWriter(out, s.channels, s.classes, s.resolution, s.spacing, s.axes, identity, replace=True)
    for rows, images, labels in synthetic.blocks(kept[writer.done :]):
        writer.append(images, labels, synthetic.index.iloc[rows].assign(row_before=rows))
    attrs = {k: v for k, v in synthetic.attrs.items() if k not in ("software_version", "screened")}
    earlier, record = synthetic.attrs.get("screened") or {}, asdict(done)
    record |= {k: record[k] + int(earlier.get(k, 0)) for k in ("flagged", "alike", "leaked", "unjudged")}
    record |= {"before": earlier.get("before", done.before), "content_hash_before": synthetic.content_hash}
    return writer.close(**attrs, screened=record), done


def rows_left(
    synthetic: SliceSet, table: pd.DataFrame, numbers: dict[str, Any], device: str, progress: bool
) -> tuple[Ints, Screened]:
    """Rows that were judged, are no copies and no near-duplicates of copies; raises `UnderstudyError` if none is left.

    `table`: of p_values.parquet, `numbers`: of audit.json.
    """
    flagged, leaked = table["flagged"].to_numpy(bool), table["leaked"].to_numpy(str) != ""
    copies = np.flatnonzero(flagged | leaked)
    alike = near_duplicates(synthetic, copies, numbers, device)
    rest = np.setdiff1d(np.arange(len(synthetic)), np.union1d(copies, alike))
    kept = rest[table["judged"].to_numpy(bool)[rest]]
    counts = int(flagged.sum()), len(alike), int((leaked & ~flagged).sum()), len(rest) - len(kept)
    done = Screened(len(synthetic), len(kept), *counts)
    if not len(kept):
        what = f"refused: {len(copies) + len(alike):,} of {len(synthetic):,} slices are copies"
        what += f", and the other {len(rest):,} have too little contrast to be judged" if len(rest) else ""
        fix = "train the generator on more patients, sample and audit again"
        raise UnderstudyError(what, where=synthetic.path, fix=fix)
    return kept, done


def near_duplicates(synthetic: SliceSet, flagged: Ints, numbers: dict[str, Any], device: str) -> Ints:
    """Rows of near-duplicates of flagged slices, without these.

    Two slices are near-duplicates if they are nearer to each other (all channels together) than the audit's threshold
    for "nearer than a new patient is to the training patients". `numbers`: of audit.json.
    """
    limit = numbers["null"]["thresholds"]["stacked"]
    others = np.setdiff1d(np.arange(len(synthetic)), flagged)
    if not len(flagged) or not len(others) or limit is None:
        return np.zeros(0, np.int64)
    asked, known = (Part("synthetic", synthetic, rows) for rows in (others, flagged))
    return np.asarray(others[in_place(asked, known, device)["stacked.score"].to_numpy() > limit], np.int64)


def read_audit(folder: str | Path) -> dict[str, Any]:
    """The content of an audit's audit.json; raises `UnderstudyError` if it is no audit with its controls."""
    check_opened(Path(folder))
    numbers: dict[str, Any] = read_json(Path(folder) / "audit.json")
    if numbers.get("format") != FORMAT or not numbers.get("controls"):
        if numbers.get("refusal"):  # its headline says what to do
            said = str(numbers["verdict"]["headline"])
            raise UnderstudyError("the search for copies could not be made", where=folder, fix=said)
        raise UnderstudyError("this is no audit with its controls", where=folder, fix=_AGAIN)
    return numbers


def check_training(training: SliceSet, audit_dir: str | Path) -> None:
    """Raises `UnderstudyError` if the audit was made with other training slices than those at hand."""
    sets = read_json(Path(audit_dir) / "audit.json").get("sets") or {}
    if sets and sets["training"]["content_hash"] != training.content_hash:
        fix = "give the training slices of that audit, or audit the set again with these"
        raise UnderstudyError("the audit was made with other training slices", where=audit_dir, fix=fix)


@dataclass(frozen=True)
class Recheck:
    """An audit done again."""

    numbers: dict[str, Any]  # as in audit.json, but for the views for information and membership inference
    found: Comparison  # what the searches found now
    leaks: Leaks
    controls: Controls

    @property
    def config(self) -> AuditConfig:
        return self.found.config

    @property
    def table(self) -> pd.DataFrame:
        """As p_values.parquet: row, judged, flagged, p, ..."""
        return self.leaks.marked(self.found.slices)

    @property
    def concentration(self) -> Concentration | None:
        return self.found.concentration

    def rest(self, kept: Ints, screened: bool = True) -> Verdict:
        """The verdict on these rows; if they were not `screened` by this audit, they are all that could be judged.

        Its sentences name no patients that were hit.
        """
        return self.leaks.kept(kept).joined(verdict(self.found.findings(self.controls, kept, screened)))


def recheck(
    train: SliceSet, held_out: SliceSet, synthetic: SliceSet, audit_dir: str | Path, training_rows: Ints | None = None,
    device: str = "cpu", progress: bool = False,
) -> Recheck:  # fmt: skip
    """Hashes the three sets (as in `perform.audit`) again, audits them again, and compares with the audit's folder.

    A release rests on nothing that is only written there: raises `UnderstudyError` for no audit with its controls,
    other sets or rows, changed files, other p-values or other numbers.
    """
    folder = Path(audit_dir)
    recorded = read_audit(folder)
    parts = sides(train, held_out, synthetic, training_rows)
    for part in parts:
        told = recorded["sets"].get(part.name) or {}
        hashes = {"content_hash": part.slices.content_hash, "rows_hash": sha256_json(part.rows.tolist())}
        if any(told.get(name) != found for name, found in hashes.items()):
            what = f"the audit is of other {part.name} slices or other rows of them, or they were changed since"
            raise UnderstudyError(what, where=folder, fix=_AGAIN)
    for slices in {id(part.slices): part.slices for part in parts}.values():
        slices.verify()
    config = AuditConfig.model_validate(recorded["config"])

    search = searching(config, device, progress)
    found, leaks = compare(parts, config, search), find_leaks(parts, config, search, device)
    _check_p_values(folder / "p_values.parquet", leaks.marked(found.slices))
    controls, _, numbers = judge(found, leaks, search, device)
    numbers = plain(numbers)
    told = [{name: of.get(name) for name in _STATED} | {"verdict": of["verdict"]["kind"]} for of in (recorded, numbers)]
    if place := _difference(told[0], told[1], "")[1:]:
        what = f"audit.json states another `{place}` than these slices give: it was changed, or is another version's"
        raise UnderstudyError(what, where=folder / "audit.json", fix=_AGAIN)
    return Recheck(numbers, found, leaks, controls)


def _check_p_values(path: Path, table: pd.DataFrame) -> None:
    if not path.is_file():
        raise UnderstudyError("the audit has no p-values", where=path, fix=_AGAIN)
    stored = read_table(path, "judged", "flagged", "leaked", "p")
    same = len(stored) == len(table) and all(
        name in stored and stored[name].astype(bool).equals(table[name].astype(bool))
        for name in ("judged", "flagged", "leaked")
    )
    if not same or not np.allclose(stored["p"], table["p"], rtol=0, atol=1e-9, equal_nan=True):
        what = "the audit's p-values are not those of these slices: they were changed, or are of another audit"
        raise UnderstudyError(what, where=path, fix=_AGAIN)


def _difference(recorded: Any, found: Any, place: str) -> str:
    """Where two contents of audit.json differ by more than another machine's rounding; "" if nowhere."""
    if isinstance(found, dict) and isinstance(recorded, dict) and recorded.keys() == found.keys():
        inner = (_difference(recorded[key], found[key], f"{place}.{key}") for key in found)
        return next(filter(None, inner), "")
    if isinstance(found, list) and isinstance(recorded, list) and len(recorded) == len(found):
        pairs = enumerate(zip(recorded, found, strict=True))
        return next(filter(None, (_difference(a, b, f"{place}.{i}") for i, (a, b) in pairs)), "")
    if isinstance(found, float) and isinstance(recorded, float):
        return "" if abs(recorded - found) <= 1e-6 else place
    return "" if type(recorded) is type(found) and recorded == found else place
