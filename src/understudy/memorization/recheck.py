"""An audit done again from the slices, but for its planted copies: are its p-values those of exactly these files?

A release rests on an audit's p-values. They are not taken on trust: sets are hashed again, nearest neighbours are
searched again (the search is exact, so that the numbers have to agree), and the rest that is to be released is judged
by the same rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_json
from understudy.memorization.concentration import Concentration
from understudy.memorization.config import TESTED, AuditConfig
from understudy.memorization.conformal import slices_needed
from understudy.memorization.controls import Controls, Detection, FalseAlarms
from understudy.memorization.findings import (
    Compared,
    compared_all,
    concentration_of,
    flags_of,
    neighbours_of,
    slice_table,
)
from understudy.memorization.result import FORMAT
from understudy.memorization.sides import faint_of, judged_of, refuse_training_slices, sides
from understudy.memorization.similarity import nearest
from understudy.memorization.verdict import Hits, Verdict, verdict
from understudy.roles import Part
from understudy.runtime.memory import release_memory
from understudy.slices import SliceSet

MEMORY = 1 << 28  # bytes of a search that is done again
_ALIKE = 1e-9  # by which p-values that were written and read may differ
_AGAIN = "audit these files again: understudy audit --out FOLDER"


@dataclass(frozen=True)
class Recheck:
    """An audit's p-values, found again.

    Attributes:
        numbers: of audit.json.
        table: as p_values.parquet, computed now: row, judged, flagged, p, ...
        correlation: [n] each synthetic slice's highest correlation with a training slice, all channels; NaN where it
            is constant.
        training, heldout: the rows that were compared with.
        asked: of them, those with enough contrast: the rows that a white-box check asks about.
        controls: of the audit.
        concentration: whether its flags heap up beside few training patients; None without flags.
    """

    numbers: dict[str, Any]
    table: pd.DataFrame
    correlation: NDArray[np.float64]
    training: Part
    heldout: Part
    asked: tuple[Part, Part]
    controls: Controls
    concentration: Concentration | None
    _groups: tuple[Compared, Compared]

    def rest(self, kept: NDArray[np.int64], screened: bool = True) -> Verdict:
        """The verdict on these rows of the synthetic set.

        Args:
            kept: the rows.
            screened: whether they were chosen by this audit; no flag is left then, so that none can heap up. Else they
                are all rows. Its sentences name no patients that were hit.

        Raises:
            UnderstudyError: none of them can be judged.
        """
        groups = tuple(_kept(group, kept) for group in self._groups)
        if not len(groups[0].found):
            raise UnderstudyError(
                "no slice that is left can be judged", where="audit", fix="sample and audit more slices"
            )
        config = AuditConfig.model_validate(self.numbers["config"])
        null = groups[0].null
        flags = flags_of((groups[0], groups[1]), len(kept), self.controls, config)
        hits, needed = Hits(0, self.training.count, {}), slices_needed(config.quantile)
        heaped = None if screened else self.concentration
        return verdict(flags, hits, self.controls, null.count, null.slices, needed, config.quantile, screened, heaped)


def recheck(
    training: SliceSet,
    heldout: SliceSet,
    synthetic: SliceSet,
    audit_dir: str | Path,
    training_rows: NDArray[np.int64] | None = None,
    memory_bytes: int = MEMORY,
    device: str = "cpu",
    progress: bool = False,
) -> Recheck:
    """Hashes the three sets again, searches again, and compares with what the audit's folder says.

    Args:
        training, heldout, synthetic, training_rows: as in `perform.audit`.
        audit_dir: its folder.
        memory_bytes: of the search; the result does not depend on it.

    Raises:
        UnfitSets: see `sides`.
        UnderstudyError: no audit with its controls, other sets or rows, changed files, other p-values.
    """
    folder = Path(audit_dir)
    numbers = _read(folder)
    parts = sides(training, heldout, synthetic, training_rows)
    for part in parts:
        _bound(part, numbers["sets"].get(part.name) or {}, folder)
    for slices in {id(part.slices): part.slices for part in parts}.values():
        slices.verify()
    config = AuditConfig.model_validate(numbers["config"])
    judged = judged_of(parts, config)
    search = config.search(more=False).model_copy(update={"memory_bytes": memory_bytes})

    def found(part: Part, among: Part = parts[0]) -> pd.DataFrame:
        table = nearest(
            part.slices, training, query_rows=part.rows, training_rows=among.rows, config=search, device=device,
            progress=progress,
        )  # fmt: skip
        release_memory()
        return table

    of_heldout, of_synthetic = found(judged[1]), found(judged[2])
    refuse_training_slices(of_heldout, heldout)
    faint = faint_of(parts[2], judged[2])
    of_faint = found(faint, judged[0]) if len(faint.rows) else of_synthetic[:0]
    groups = compared_all(judged, faint, of_heldout, of_synthetic, of_faint)
    table = slice_table(synthetic, groups, config.quantile)
    _agree(table, folder)
    correlation = np.full(len(synthetic), np.nan)
    for group in groups:
        correlation[group.part.rows] = group.scores[:, TESTED.index("stacked")]
    near = neighbours_of(parts[0], groups[0], config)
    heaped = concentration_of(parts[0], groups[0], near, of_heldout, config)
    return Recheck(numbers, table, correlation, parts[0], parts[1], judged[:2], controls_of(numbers), heaped, groups)


def _kept(group: Compared, rows: NDArray[np.int64]) -> Compared:
    mask = np.isin(group.part.rows, rows)
    return replace(group, part=group.part.kept(mask), found=group.found[mask])


def controls_of(numbers: dict[str, Any]) -> Controls:
    """The controls that audit.json records."""
    found = numbers["controls"]
    alarms: dict[str, Any] = {k: float("nan") if v is None else v for k, v in found["false_alarms"].items()}
    return Controls(tuple(Detection(**d) for d in found["detection"]), FalseAlarms(**alarms))


def _read(folder: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = read_json(folder / "audit.json")
    if numbers.get("format") != FORMAT or not numbers.get("controls"):
        said = numbers.get("refusal")
        raise UnderstudyError(
            f"this is no audit with its controls{f': {said}' if said else ''}", where=folder, fix=_AGAIN
        )
    return numbers


def _bound(part: Part, said: dict[str, Any], folder: Path) -> None:
    """The audit is of this set and these rows."""
    if said.get("content_hash") != part.slices.content_hash:
        raise UnderstudyError(
            f"the audit is of other {part.name} slices, or they were changed since", where=folder, fix=_AGAIN
        )
    if said.get("rows_hash") != sha256_json(part.rows.tolist()):
        raise UnderstudyError(f"the audit is of other rows of the {part.name} slices", where=folder, fix=_AGAIN)


def _agree(table: pd.DataFrame, folder: Path) -> None:
    """The p-values that lie in the folder are those that were found."""
    path = folder / "p_values.parquet"
    if not path.is_file():
        raise UnderstudyError("the audit has no p-values", where=path, fix=_AGAIN)
    stored = pd.read_parquet(path)
    same = len(stored) == len(table) and all(
        name in stored and stored[name].astype(bool).equals(table[name].astype(bool)) for name in ("judged", "flagged")
    )
    if not same or not np.allclose(stored["p"], table["p"], rtol=0, atol=_ALIKE, equal_nan=True):
        raise UnderstudyError(
            "the audit's p-values are not those of these slices: they were changed, or are of another audit",
            where=path,
            fix=_AGAIN,
        )
