"""Copies of the patients on whom results are tested: the audit with its sides exchanged.

Validation and test patients are searched for as training patients are, and training patients say how near new
patients come by chance. A synthetic slice that is a copy of a test patient makes every Dice worthless.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from understudy.memorization.comparison import Sides, compare
from understudy.memorization.config import COMPARED, AuditConfig
from understudy.memorization.conformal import Ints
from understudy.memorization.controls import Controls, evenly, false_alarms
from understudy.memorization.search import Search, equal, in_place
from understudy.memorization.verdict import REASONS, Kind, Verdict, reason
from understudy.roles import UnfitSets

PARTS = {"val": "validation patients", "validation": "validation patients", "test": "test patients"}
EXACT = "exact"  # reason where the numbers of patients and slices tell nothing but copies are equal to the last pixel


@dataclass(frozen=True)
class Leaks:
    """What was found among the synthetic slices."""

    kind: Kind  # as of a verdict
    why: str  # its reason, or why the search could not be made
    judged: int
    flagged: int  # nearer to a held-out slice than the quantile of training patients' slices
    parts: dict[str, str]  # row of a synthetic slice that is a copy -> part of the split that it shows; {} if none

    @property
    def rows(self) -> Ints:
        """Rows of the copies."""
        return np.array([int(row) for row in self.parts], np.int64)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `counts`: part of the split -> copies; `words`: a sentence."""
        found = {**asdict(self), "counts": dict(Counter(self.parts.values()))}
        return {**found, "words": words(found)}

    def kept(self, rows: Ints) -> "Leaks":
        """What is left of it in some rows."""
        known = set(rows.tolist())
        left = {row: part for row, part in self.parts.items() if int(row) in known}
        return Leaks("no_sign" if self.parts and not left else self.kind, self.why, self.judged, len(left), left)

    def marked(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table with one row a synthetic slice and a column `leaked`: the part of the split, "" for no copy."""
        return table.assign(leaked=[self.parts.get(str(row), "") for row in range(len(table))])

    def joined(self, decided: Verdict) -> Verdict:
        """The verdict of an audit together with this search: copies of any patient are copies."""
        sentences = [*decided.sentences, words(self.as_dict())]
        if self.kind != "copies_found":
            return Verdict(decided.kind, decided.headline, sentences, decided.limits)
        headline = f"Copies found: {counted(self.as_dict())}, whom no generator may have seen."
        if decided.kind == "copies_found":
            headline = f"{decided.headline} And {headline[:1].lower()}{headline[1:]}"
        return Verdict("copies_found", headline, sentences, decided.limits)


def counted(leak: dict[str, Any]) -> str:
    """E.g. "54 slices are copies of validation patients and 86 of test patients"."""
    whose = [f"{n:,} of {PARTS.get(part, 'held-out patients')}" for part, n in sorted(leak["counts"].items())]
    first, several = whose[0].split(" of ", 1), sum(leak["counts"].values()) > 1
    said = f"{first[0]} slice{'s are copies' if several else ' is a copy'} of {first[1]}"
    return " and ".join([said, *whose[1:]])


def words(leak: dict[str, Any]) -> str:
    """One sentence on what `Leaks.as_dict` says."""
    if leak["kind"] == "copies_found":
        rows = ", ".join([*list(leak["parts"])[:20], *(["..."] if len(leak["parts"]) > 20 else [])])
        return f"Of the patients held out for validation and test, {counted(leak)}: rows {rows} of the synthetic set."
    if leak["kind"] == "no_sign":
        return "The same search for copies of the patients held out for validation and test found no sign of any."
    if leak["why"] == "concentrated":
        return (
            "The same search for copies of the patients held out for validation and test cannot tell: its few flagged"
            " slices are concentrated on one to three of these patients."
        )
    return (
        "Whether there are copies of the patients held out for validation and test could not be told: it takes slices"
        " of at least 5 training patients, 99 or more, to compare with."
    )


def find_leaks(parts: Sides, config: AuditConfig, search: Search, device: str = "cpu") -> Leaks:
    """Searches for the synthetic slices among the held-out ones (`parts.heldout`); `search` as of `compare`.

    Raises nothing for sets that do not allow it: then `kind` is "cannot_tell".
    """
    held, training, made = parts.heldout, parts.training, parts.synthetic
    sides = Sides(held, training.at(np.sort(evenly(training, COMPARED, [config.seed, 26]))), made)
    beside = in_place(made, held, device)
    exact = equal(made, held, beside)
    copies = dict(zip(made.rows[exact].tolist(), beside["stacked.row"][exact].tolist(), strict=True))
    try:
        found = compare(sides, config, lambda name, part, among: search(f"leaks-{name}", part, among))
    except UnfitSets as error:
        kind, why, judged, count = REASONS["too_few_patients"], error.what, 0, 0
    else:
        # planted copies would be found or missed as in the audit itself
        findings = found.findings(Controls((), false_alarms(found.main.null, config)))
        why, near = reason(findings), found.neighbours
        kind, judged, count = REASONS[why], findings.flags.judged, int(near["flagged"].sum())
        if kind == "copies_found":
            near = near[near["flagged"]]
            copies = dict(zip(near["row"].tolist(), near["training_row"].tolist(), strict=True)) | copies
    if not copies:
        return Leaks(kind, why, judged, count, {})
    index = held.slices.index
    split = index["split"].astype(str).to_numpy() if "split" in index else np.full(len(index), "held-out")
    parts_of = {str(row): str(split[copies[row]]) for row in sorted(copies)}
    return Leaks("copies_found", why if kind == "copies_found" else EXACT, judged, count, parts_of)
