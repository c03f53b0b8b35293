"""Synthetic and held-out slices beside the training slices: which are searched for, and which are flagged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from understudy.memorization import conformal
from understudy.memorization.concentration import Concentration, concentration, votes_of
from understudy.memorization.config import CERTAIN, AuditConfig
from understudy.memorization.conformal import Floats, Ints, Null, PValues
from understudy.memorization.controls import Controls, scores_of
from understudy.memorization.verdict import Findings, Flags
from understudy.memorization.views import TESTED
from understudy.roles import HELD_OUT, TRAINING, Part, UnfitSets, check_alike, check_other_patients, part_of
from understudy.slices import SliceSet


class Sides(NamedTuple):
    """The three sets of an audit, or some rows of each."""

    training: Part
    heldout: Part
    synthetic: Part


def sides(train: SliceSet, held_out: SliceSet, synthetic: SliceSet, training_rows: Ints | None = None) -> Sides:
    """The three sets, checked before anything expensive.

    A set with a column `split` gives its "train" rows (or `training_rows`) as training and its validation and test
    rows as held-out slices; other sets give all their rows.

    Raises:
        UnfitSets: an empty part, other sizes or channels, a patient on both sides.
    """
    if held_out is train and "split" not in train.index:
        what, fix = "the set has no column `split`", "give slices of patients never trained on (--heldout)"
        raise UnfitSets(f"there are no held-out slices: {what}", where=train.path, fix=fix)
    first = part_of("training", train, TRAINING)
    if training_rows is not None:
        first = Part(first.name, train, np.asarray(training_rows, np.int64))
    found = Sides(first, part_of("held-out", held_out, HELD_OUT), part_of("synthetic", synthetic))
    check_alike(found)
    check_other_patients(found.training, found.heldout)
    return found


@dataclass(frozen=True)
class Compared:
    """Synthetic slices and what was found for them."""

    part: Part
    found: pd.DataFrame  # their nearest training slices (`search.nearest`)
    null: Null  # what they are judged by, a column a view
    views: tuple[str, ...] = TESTED

    @cached_property
    def scores(self) -> Floats:
        """[m, V] in the views."""
        return scores_of(self.found, self.views)

    @cached_property
    def p(self) -> PValues:
        return conformal.p_values(self.scores, self.null)

    @cached_property
    def alone(self) -> list[PValues]:
        """p-values of each view alone."""
        return [conformal.p_values(self.scores[:, [v]], self.null.view(v)) for v in range(len(self.views))]

    def kept(self, rows: Ints) -> Compared:
        """Only these rows of the synthetic set."""
        mask = np.isin(self.part.rows, rows)
        return Compared(self.part.kept(mask), self.found[mask], self.null, self.views)


@dataclass(frozen=True)
class Comparison:
    """What the searches of an audit found."""

    parts: Sides
    judged: Sides  # their rows with enough contrast to be judged
    heldout: pd.DataFrame  # nearest training slices of the judged held-out rows
    main: Compared  # the judged synthetic slices
    faint: Compared  # synthetic slices with so little contrast that they may be dimmed copies

    @property
    def groups(self) -> list[Compared]:
        """The groups of synthetic slices that are not empty."""
        return [group for group in (self.main, self.faint) if len(group.found)]


def compare(parts: Sides, config: AuditConfig, search: Callable[[str, Part, Part], pd.DataFrame]) -> Comparison:
    """Searches for held-out and synthetic slices among the training slices.

    `search`: its name, queries, training slices -> nearest training slices (`search.nearest`).

    Raises:
        UnfitSets: constant slices only; a held-out slice that is a training slice.
    """
    contrast = parts.training.contrast
    if not contrast.any():
        where, fix = parts.training.slices.path, "check how they were prepared"
        raise UnfitSets("all training slices are constant", where=where, fix=fix)
    # below this s.d. a slice is nearly empty; a constant one always is
    least = max(1e-9, config.least_content * float(np.median(contrast[contrast > 0])))
    judged = Sides(*(part.kept(part.contrast >= least) for part in parts))
    for part in judged:
        if not len(part.rows):
            what, fix = f"all {part.name} slices are constant or nearly empty", "check how they were made"
            raise UnfitSets(what, where=part.slices.path, fix=fix)
    heldout = search("heldout", judged.heldout, parts.training)
    if same := int((heldout["stacked.score"] >= 1).sum()):
        what = f"{same} of the held-out slices are training slices under another name of their patient"
        fix = "hold out whole patients who were never trained on"
        raise UnfitSets(what, where=parts.heldout.slices.path, fix=fix)
    synthetic = search("synthetic", judged.synthetic, parts.training)
    # Faint slices are compared with judged training slices only, since nearly empty slices are all alike, and by the
    # first view alone: less the mean training image, a dimmed copy is mostly the negative of that.
    low = parts.synthetic
    faint = low.kept(~np.isin(low.rows, judged.synthetic.rows) & (low.contrast > 0))
    of_faint = search("faint", faint, judged.training) if len(faint.rows) else synthetic[:0]
    null = Null(scores_of(heldout), judged.heldout.codes)
    groups = Compared(judged.synthetic, synthetic, null), Compared(faint, of_faint, null.view(0), TESTED[:1])
    return Comparison(parts, judged, heldout, *groups)


def neighbours_of(training: Part, group: Compared, config: AuditConfig) -> pd.DataFrame:
    """The nearest training slice of each synthetic slice, in the view where it is the more unusual one."""
    found, take = group.found, np.arange(len(group.found))
    view = np.stack([alone.slice for alone in group.alone], axis=1).argmin(axis=1)
    rows, turned = (
        np.stack([found[f"{v}.{field}"].to_numpy() for v in group.views], axis=1)[take, view]
        for field in ("row", "transform")
    )
    return pd.DataFrame(
        {
            "row": found["row"].to_numpy(),
            "p": group.p.slice,
            "flagged": group.p.flagged(config.quantile),
            "view": np.array(group.views)[view],
            "training_row": rows,
            "transform": turned,
            "patient": _patients(training, rows),
            **{f"{v}.score": group.scores[:, i] for i, v in enumerate(group.views)},
        }
    )


def _patients(training: Part, rows: Ints) -> list[str]:
    patient_of = dict(zip(training.rows.tolist(), training.patients.tolist(), strict=True))
    return [patient_of.get(int(row), "") for row in rows]


def all_neighbours(found: Comparison, config: AuditConfig) -> pd.DataFrame:
    """`neighbours_of` all synthetic slices, with pseudonyms of the patients who are hit, the worst hit one first."""
    frame = pd.concat([neighbours_of(found.parts.training, group, config) for group in found.groups])
    frame = frame.sort_values("row", kind="stable").reset_index(drop=True)
    counts = frame.loc[frame["flagged"], "patient"].value_counts()
    order = sorted(counts.index, key=lambda name: (-counts[name], name))
    names = {name: f"patient {i}" for i, name in enumerate(order, start=1)}
    return frame.assign(name=[names.get(p, "") for p in frame["patient"]])


def concentration_of(found: Comparison, config: AuditConfig) -> Concentration | None:
    """Whether the judged flagged slices are concentrated on few training patients; None where none is flagged."""
    training, main = found.parts.training, found.main
    beside = np.array([_patients(training, found.heldout[f"{v}.row"].to_numpy()) for v in main.views], dtype=np.str_).T
    near = neighbours_of(training, main, config)
    patients = near["patient"].to_numpy().astype(np.str_)
    votes = votes_of(main.null, beside, config.quantile)
    return concentration(patients[near["flagged"].to_numpy()], patients, votes)


def findings(
    found: Comparison, neighbours: pd.DataFrame, controls: Controls, concentrated: Concentration | None,
    config: AuditConfig,
) -> Findings:  # fmt: skip
    """What the verdict is made of."""
    counts = neighbours.loc[neighbours["flagged"], "name"].value_counts()
    ordered = sorted(counts.index, key=lambda name: int(name.split()[1]))
    hits = {name: int(counts[name]) for name in ordered}
    flags = flags_of(found.main, found.faint, len(found.parts.synthetic.rows), controls, config)
    screened = "screened" in found.parts.synthetic.slices.attrs
    null, needed = found.main.null, conformal.slices_needed(config.quantile)
    return Findings(
        flags, hits, found.parts.training.count, controls, null.count, null.slices, needed, config.quantile, screened,
        concentrated,
    )  # fmt: skip


def flags_of(main: Compared, faint: Compared, slices: int, controls: Controls, config: AuditConfig) -> Flags:
    """How many judged (`main`) and faint ones of so many slices are flagged, with intervals."""
    compared, null, q, seed = main.p, main.null, config.quantile, config.seed
    m, count = len(compared.pattern), int(compared.flagged(q).sum())
    rate, expected = count / m, round(1 - q, 12)
    drawn = compared.resampled_rates(q, config.resamples, seed)
    low, high = conformal.percentiles(drawn)
    sample_low, sample_high = conformal.wilson(count, m)
    low, high = min(low, sample_low), max(high, sample_high)  # also where no resample is flagged
    alarms = controls.false_alarms
    base, spread = expected, 0.0
    if not np.isnan(alarms.rate):  # their own spread, taken as a normal one, widens the residual's interval
        base, spread = alarms.rate, (alarms.high - alarms.low) / 3.92
    bases = np.clip(np.random.default_rng([seed, 12]).normal(base, spread, len(drawn)), 0, 0.999)
    residual_low, residual_high = conformal.percentiles((drawn - bases) / (1 - bases))
    strictest = 1 / (null.count + 1)
    certain = conformal.beyond_chance(main.scores, compared, m, CERTAIN, config.resamples, seed).sum()
    if len(faint.found):
        tests = m + len(faint.found)
        certain += conformal.beyond_chance(faint.scores, faint.p, tests, CERTAIN, config.resamples, seed).sum()
    return Flags(
        judged=m, count=count, rate=rate, low=low, high=high, wilson_low=sample_low, wilson_high=sample_high,
        expected=expected, excess=rate - expected, excess_low=low - expected, excess_high=high - expected,
        residual=(rate - base) / (1 - base), residual_low=residual_low, residual_high=residual_high,
        bound=conformal.upper_bound(count, m),
        views={v: float(alone.flagged(q).mean()) for v, alone in zip(main.views, main.alone, strict=True)},
        beyond=int(compared.beyond.sum()),
        strict_p=strictest, strict=int((compared.patient <= strictest + 1e-12).sum()),
        certain=int(certain), skipped=slices - m, faint=len(faint.part.rows),
        faint_count=int(faint.p.flagged(q).sum()) if len(faint.found) else 0,
    )  # fmt: skip


def slice_table(found: Comparison, quantile: float) -> pd.DataFrame:
    """One row a synthetic slice: p-values and flags; never with whom. Faint slices are not called judged."""
    synthetic = found.parts.synthetic.slices
    frame = pd.DataFrame({"row": np.arange(len(synthetic))})
    if "id" in synthetic.index:
        frame["id"] = synthetic.index["id"].astype(str).to_numpy()
    frame["judged"], frame["flagged"] = False, False
    frame.loc[found.main.part.rows, "judged"] = True
    frame[["p", "patient_p", *(f"p.{view}" for view in TESTED)]] = np.nan
    for group in found.groups:
        rows = group.part.rows
        frame.loc[rows, "flagged"] = group.p.flagged(quantile)
        frame.loc[rows, "p"], frame.loc[rows, "patient_p"] = group.p.slice, group.p.patient
        for view, alone in zip(group.views, group.alone, strict=True):
            frame.loc[rows, f"p.{view}"] = alone.slice
    return frame
