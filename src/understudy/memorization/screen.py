"""What may be released: the synthetic set without flagged slices and their near-duplicates, audited again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.memorization.config import AuditConfig
from understudy.memorization.result import FORMAT
from understudy.memorization.similarity import nearest
from understudy.slices import SliceSet, SliceWriter


@dataclass(frozen=True)
class Screened:
    """What became of a set.

    Attributes:
        before, kept: slices.
        flagged: taken out because they are flagged.
        alike: taken out because they are near-duplicates of a flagged one.
    """

    before: int
    kept: int
    flagged: int
    alike: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def screen(
    synthetic: SliceSet, audit_dir: str | Path, out: str | Path, device: str = "cpu", progress: bool = False
) -> tuple[SliceSet, Screened]:
    """Writes the slices of a set that its audit leaves.

    A slice is a near-duplicate of a flagged one if the two are nearer to each other than the audit's threshold for
    "nearer than a new patient is to the training patients" (all channels together).

    Args:
        synthetic: the set that was audited.
        audit_dir: the audit's folder.
        out: folder of the new set; its index keeps all columns, and `row_before` says where a slice was.

    Raises:
        UnderstudyError: an audit of another set, one without controls, nothing left, other things at `out`, disk full.
    """
    _refuse_to_replace(Path(out), synthetic)
    numbers, table = _audit_of(synthetic, Path(audit_dir))
    flagged = np.flatnonzero(table["flagged"].to_numpy(bool))
    alike = near_duplicates(synthetic, flagged, numbers, device, progress)
    gone = np.union1d(flagged, alike)
    kept = np.setdiff1d(np.arange(len(synthetic)), gone)
    done = Screened(len(synthetic), len(kept), len(flagged), len(alike))
    if not len(kept):
        raise UnderstudyError(
            f"all {len(synthetic):,} slices are flagged, or near-duplicates of flagged ones: none is left to release",
            where=synthetic.path,
            fix="train the generator on more patients, sample and audit again",
        )
    return _written(synthetic, kept, Path(out), done), done


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


def _audit_of(synthetic: SliceSet, folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    numbers = read_json(folder / "audit.json")
    if numbers.get("format") != FORMAT or not numbers.get("controls"):
        raise UnderstudyError(
            "this is no audit with its controls",
            where=folder,
            fix="run `understudy audit --out FOLDER` with this version",
        )
    if numbers["sets"]["synthetic"]["content_hash"] != synthetic.content_hash:
        raise UnderstudyError(
            "the audit is of another synthetic set, or the set was changed since",
            where=folder,
            fix="audit this set first",
        )
    return numbers, pd.read_parquet(folder / "p_values.parquet")


def near_duplicates(
    synthetic: SliceSet,
    flagged: NDArray[np.int64],
    numbers: dict[str, Any],
    device: str,
    progress: bool,
    memory_bytes: int | None = None,
) -> NDArray[np.int64]:
    """Rows of near-duplicates of flagged slices, without these; `memory_bytes`: of the search, else the audit's."""
    limit = numbers["null"]["thresholds"]["stacked"]
    others = np.setdiff1d(np.arange(len(synthetic)), flagged)
    if not len(flagged) or not len(others) or limit is None:
        return np.zeros(0, np.int64)
    config = AuditConfig.model_validate(numbers["config"]).search(more=False)
    search = config.model_copy(update={"views": ("stacked",), "memory_bytes": memory_bytes or config.memory_bytes})
    found = nearest(
        synthetic, synthetic, query_rows=others, training_rows=flagged, config=search, device=device, progress=progress
    )
    return np.asarray(others[found["stacked.score"].fillna(-1).to_numpy() > limit], np.int64)


def _refuse_to_replace(out: Path, synthetic: SliceSet) -> None:
    """What stands at `out` may only be an earlier screening of the same set: never the set itself, or real slices."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if (out / "index.parquet").is_file():
        earlier = SliceSet.open(out).attrs.get("screened") or {}
        if earlier.get("content_hash_before") == synthetic.content_hash:
            return
    raise UnderstudyError(
        "the place for the slices that are left holds something else, which is not replaced",
        where=out,
        fix="choose a new folder (--out)",
    )


def _written(synthetic: SliceSet, kept: NDArray[np.int64], out: Path, done: Screened) -> SliceSet:
    identity = {"source": synthetic.content_hash, "kept": kept.tolist()}
    writer = SliceWriter(
        out, synthetic.channels, synthetic.classes, synthetic.resolution, synthetic.spacing, synthetic.axes, identity
    )
    for rows, images, labels in synthetic.blocks(kept[writer.done :]):
        writer.append(images, labels, synthetic.index.iloc[rows].assign(row_before=rows))
    attrs = {k: v for k, v in synthetic.attrs.items() if k != "software_version"}
    return writer.close(**attrs, screened={**done.as_dict(), "content_hash_before": synthetic.content_hash})
