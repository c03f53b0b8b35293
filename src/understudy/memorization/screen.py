"""What an audit is used for afterwards: the set without flagged slices, and the audit done again before a release."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_json
from understudy.memorization.comparison import Comparison, compare, concentration_of, flags_of, sides, slice_table
from understudy.memorization.concentration import Concentration
from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Floats, Ints, slices_needed
from understudy.memorization.controls import Controls
from understudy.memorization.perform import FORMAT
from understudy.memorization.search import nearest
from understudy.memorization.verdict import Findings, Hits, Verdict
from understudy.memorization.views import TESTED
from understudy.memorization.words import verdict
from understudy.roles import Part
from understudy.runtime.memory import release_memory
from understudy.slices import SliceSet, SliceWriter

MEMORY = 1 << 28  # bytes of a search that is done again
_ALIKE = 1e-9  # by which p-values that were written and read may differ
_AGAIN = "audit these files again: understudy audit --out FOLDER"


@dataclass(frozen=True)
class Screened:
    """What became of a set, in slices."""

    before: int
    kept: int
    flagged: int  # taken out because they are flagged
    alike: int  # taken out because they are near-duplicates of a flagged one

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def screen(
    synthetic: SliceSet, audit_dir: str | Path, out: str | Path, device: str = "cpu", progress: bool = False
) -> tuple[SliceSet, Screened]:
    """Writes the slices of a set that its audit leaves: neither flagged nor near-duplicates of flagged ones.

    Args:
        synthetic: the set that was audited.
        audit_dir: the audit's folder.
        out: folder of the new set; its index keeps all columns, and `row_before` says where a slice was.

    Raises:
        UnderstudyError: an audit of another set, one without controls, nothing left, other things at `out`, disk full.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        # only an earlier screening of the same set is replaced: never the set itself, or real slices
        earlier = SliceSet.open(out).attrs.get("screened") or {} if (out / "index.parquet").is_file() else {}
        if earlier.get("content_hash_before") != synthetic.content_hash:
            raise UnderstudyError(
                "the place for the slices that are left holds something else, which is not replaced",
                where=out,
                fix="choose a new folder (--out)",
            )
    numbers = read_audit(audit_dir)
    if numbers["sets"]["synthetic"]["content_hash"] != synthetic.content_hash:
        what = "the audit is of another synthetic set, or the set was changed since"
        raise UnderstudyError(what, where=audit_dir, fix="audit this set first")
    flagged = np.flatnonzero(pd.read_parquet(Path(audit_dir) / "p_values.parquet")["flagged"].to_numpy(bool))
    alike = near_duplicates(synthetic, flagged, numbers, device, progress)
    kept = rows_left(synthetic, flagged, alike)
    done = Screened(len(synthetic), len(kept), len(flagged), len(alike))
    identity = {"source": synthetic.content_hash, "kept": kept.tolist()}
    writer = SliceWriter(
        out, synthetic.channels, synthetic.classes, synthetic.resolution, synthetic.spacing, synthetic.axes, identity
    )
    for rows, images, labels in synthetic.blocks(kept[writer.done :]):
        writer.append(images, labels, synthetic.index.iloc[rows].assign(row_before=rows))
    attrs = {k: v for k, v in synthetic.attrs.items() if k != "software_version"}
    return writer.close(**attrs, screened={**done.as_dict(), "content_hash_before": synthetic.content_hash}), done


def rows_left(synthetic: SliceSet, flagged: Ints, alike: Ints) -> Ints:
    """Rows that are neither flagged nor near-duplicates of flagged ones.

    Raises:
        UnderstudyError: none.
    """
    kept = np.setdiff1d(np.arange(len(synthetic)), np.union1d(flagged, alike))
    if not len(kept):
        raise UnderstudyError(
            f"all {len(synthetic):,} slices are flagged, or near-duplicates of flagged ones: none is left to release",
            where=synthetic.path,
            fix="train the generator on more patients, sample and audit again",
        )
    return kept


def near_duplicates(
    synthetic: SliceSet, flagged: Ints, numbers: dict[str, Any], device: str, progress: bool,
    memory_bytes: int | None = None,
) -> Ints:  # fmt: skip
    """Rows of near-duplicates of flagged slices, without these.

    Two slices are near-duplicates if they are nearer to each other (all channels together) than the audit's threshold
    for "nearer than a new patient is to the training patients".

    Args:
        numbers: of audit.json.
        memory_bytes: of the search; None: the audit's.
    """
    limit = numbers["null"]["thresholds"]["stacked"]
    others = np.setdiff1d(np.arange(len(synthetic)), flagged)
    if not len(flagged) or not len(others) or limit is None:
        return np.zeros(0, np.int64)
    search = AuditConfig.model_validate(numbers["config"]).search(more=False) | {"views": ("stacked",)}
    if memory_bytes is not None:
        search["memory_bytes"] = memory_bytes
    found = nearest(
        synthetic, synthetic, query_rows=others, training_rows=flagged, **search, device=device, progress=progress
    )
    return np.asarray(others[found["stacked.score"].fillna(-1).to_numpy() > limit], np.int64)


def read_audit(folder: str | Path) -> dict[str, Any]:
    """The content of an audit's audit.json.

    Raises:
        UnderstudyError: no audit with its controls.
    """
    numbers: dict[str, Any] = read_json(Path(folder) / "audit.json")
    if numbers.get("format") != FORMAT or not numbers.get("controls"):
        said = f": {numbers['refusal']}" if numbers.get("refusal") else ""
        raise UnderstudyError(f"this is no audit with its controls{said}", where=folder, fix=_AGAIN)
    return numbers


def check_training(training: SliceSet, audit_dir: str | Path) -> None:
    """Refuses an audit against other training slices than those at hand.

    Raises:
        UnderstudyError: it was made with others; no audit in the folder.
    """
    sets = read_json(Path(audit_dir) / "audit.json").get("sets") or {}
    if sets and sets["training"]["content_hash"] != training.content_hash:
        raise UnderstudyError(
            "the audit was made with other training slices",
            where=audit_dir,
            fix="give the training slices of that audit, or audit the set again with these",
        )


# --- the audit done again ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recheck:
    """An audit done again, but for its planted copies.

    Attributes:
        numbers: of audit.json.
        found: what the searches found now.
    """

    numbers: dict[str, Any]
    found: Comparison

    @cached_property
    def config(self) -> AuditConfig:
        """Of the audit."""
        return AuditConfig.model_validate(self.numbers["config"])

    @cached_property
    def table(self) -> pd.DataFrame:
        """As p_values.parquet: row, judged, flagged, p, ..."""
        return slice_table(self.found, self.config.quantile)

    @cached_property
    def correlation(self) -> Floats:
        """Each synthetic slice's highest correlation with a training slice, all channels; NaN where constant: [n]."""
        correlation = np.full(len(self.table), np.nan)
        for group in self.found.groups:
            correlation[group.part.rows] = group.scores[:, TESTED.index("stacked")]
        return correlation

    @property
    def training(self) -> Part:
        """All training rows that were compared with."""
        return self.found.parts.training

    @property
    def asked(self) -> tuple[Part, Part]:
        """Training and held-out rows with enough contrast: those whose membership is scored."""
        return self.found.judged.training, self.found.judged.heldout

    @cached_property
    def controls(self) -> Controls:
        """Of the audit."""
        return Controls.of(self.numbers)

    @cached_property
    def concentration(self) -> Concentration | None:
        """Whether the flags are concentrated on few training patients; None without flags."""
        return concentration_of(self.found, self.config)

    def rest(self, kept: Ints, screened: bool = True) -> Verdict:
        """The verdict on these rows of the synthetic set. Its sentences name no patients that were hit.

        Args:
            kept: the rows.
            screened: whether they were chosen by this audit; no flag is left then. Else they are all rows.

        Raises:
            UnderstudyError: none of them can be judged.
        """
        main, faint = self.found.main.kept(kept), self.found.faint.kept(kept)
        if not len(main.found):
            what = "no slice that is left can be judged"
            raise UnderstudyError(what, where="audit", fix="sample and audit more slices")
        quantile, null = self.config.quantile, main.null
        flags, hits = flags_of(main, faint, len(kept), self.controls, self.config), Hits(0, self.training.count, {})
        sizes = null.count, null.slices, slices_needed(quantile), quantile
        concentrated = None if screened else self.concentration
        return verdict(Findings(flags, hits, self.controls, *sizes, screened, concentrated))


def recheck(
    train: SliceSet,
    held_out: SliceSet,
    synthetic: SliceSet,
    audit_dir: str | Path,
    training_rows: Ints | None = None,
    memory_bytes: int = MEMORY,
    device: str = "cpu",
    progress: bool = False,
) -> Recheck:
    """Hashes the three sets again, searches again, and compares with what the audit's folder says.

    A release rests on an audit's p-values, which are not taken on trust.

    Args:
        train, held_out, synthetic, training_rows: as in `perform.audit`.
        audit_dir: its folder.
        memory_bytes: of the search; the result does not depend on it.

    Raises:
        UnfitSets: see `comparison.sides`.
        UnderstudyError: no audit with its controls, other sets or rows, changed files, other p-values.
    """
    folder = Path(audit_dir)
    numbers = read_audit(folder)
    parts = sides(train, held_out, synthetic, training_rows)
    for part in parts:
        said, what = numbers["sets"].get(part.name) or {}, ""
        if said.get("content_hash") != part.slices.content_hash:
            what = f"the audit is of other {part.name} slices, or they were changed since"
        elif said.get("rows_hash") != sha256_json(part.rows.tolist()):
            what = f"the audit is of other rows of the {part.name} slices"
        if what:
            raise UnderstudyError(what, where=folder, fix=_AGAIN)
    for slices in {id(part.slices): part.slices for part in parts}.values():
        slices.verify()
    config = AuditConfig.model_validate(numbers["config"])
    options = config.search(more=False) | {"memory_bytes": memory_bytes}

    def search(name: str, part: Part, among: Part) -> pd.DataFrame:
        table = nearest(
            part.slices, train, query_rows=part.rows, training_rows=among.rows, **options, device=device,
            progress=progress,
        )  # fmt: skip
        release_memory()
        return table

    done, path = Recheck(numbers, compare(parts, config, search)), folder / "p_values.parquet"
    if not path.is_file():
        raise UnderstudyError("the audit has no p-values", where=path, fix=_AGAIN)
    stored, table = pd.read_parquet(path), done.table
    same = len(stored) == len(table) and all(
        name in stored and stored[name].astype(bool).equals(table[name].astype(bool)) for name in ("judged", "flagged")
    )
    if not same or not np.allclose(stored["p"], table["p"], rtol=0, atol=_ALIKE, equal_nan=True):
        what = "the audit's p-values are not those of these slices: they were changed, or are of another audit"
        raise UnderstudyError(what, where=path, fix=_AGAIN)
    return done
