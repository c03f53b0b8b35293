"""Synthetic and held-out slices beside the training slices: which are searched for, which are flagged, how they spread.

The numbers from which `verdict` decides are made here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from understudy.memorization import conformal
from understudy.memorization.concentration import Concentration, Names, concentration, votes_of
from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Ints, Null, PValues
from understudy.memorization.controls import Controls, scores_of
from understudy.memorization.search import Search, equal
from understudy.memorization.verdict import Findings, Flags
from understudy.memorization.views import IN_PLACE, TESTED
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
    rows as held-out slices; other sets give all their rows. Raises `UnfitSets`.
    """
    if held_out is train and "split" not in train.index:
        what, fix = "the set has no column `split`", "give slices of other patients (held_out=, --heldout)"
        raise UnfitSets(f"there are no held-out slices: {what}", where=train.path, fix=fix)
    first = part_of("training", train, TRAINING)
    if training_rows is not None:
        first = Part(first.name, train, np.asarray(training_rows, np.int64))
    parts = Sides(first, part_of("held-out", held_out, HELD_OUT), part_of("synthetic", synthetic))
    check_alike(parts)
    check_other_patients(parts.training, parts.heldout)
    return parts


@dataclass(frozen=True)
class Compared:
    """Synthetic slices and what was found for them."""

    part: Part
    nearest: pd.DataFrame  # their nearest training slices, as of a `Search`
    null: Null  # what they are judged by, a column a view
    views: tuple[str, ...] = TESTED

    @cached_property
    def p(self) -> PValues:
        return conformal.p_values(scores_of(self.nearest, self.views), self.null)

    @cached_property
    def alone(self) -> list[PValues]:
        """p-values of each view alone."""
        return [conformal.p_values(self.p.scores[:, [v]], self.null.view(v)) for v in range(len(self.views))]

    def kept(self, rows: Ints) -> Compared:
        """Only these rows of the synthetic set."""
        mask = np.isin(self.part.rows, rows)
        return Compared(self.part.kept(mask), self.nearest[mask], self.null, self.views)


@dataclass(frozen=True)
class Comparison:
    """What the searches of an audit found."""

    config: AuditConfig
    parts: Sides
    judged: Sides  # their rows with enough contrast to be judged
    heldout: pd.DataFrame  # nearest training slices of the judged held-out rows
    main: Compared  # the judged synthetic slices
    faint: Compared  # synthetic slices with so little contrast that they may be dimmed copies

    @property
    def groups(self) -> list[Compared]:
        """The groups of synthetic slices that are not empty."""
        return [group for group in (self.main, self.faint) if len(group.nearest)]

    @cached_property
    def neighbours(self) -> pd.DataFrame:
        """The nearest training slice of each synthetic one, in the view where it is the more unusual one.

        With pseudonyms of the patients who are hit, the worst hit one first.
        """
        frame = pd.concat([self._neighbours_of(group) for group in self.groups])
        frame = frame.sort_values("row", kind="stable").reset_index(drop=True)
        counts = frame.loc[frame["flagged"], "patient"].value_counts()
        order = sorted(counts.index, key=lambda name: (-counts[name], name))
        names = {name: f"patient {i}" for i, name in enumerate(order, start=1)}
        return frame.assign(name=[names.get(p, "") for p in frame["patient"]])

    def _neighbours_of(self, group: Compared) -> pd.DataFrame:
        found, take = group.nearest, np.arange(len(group.nearest))
        view = np.stack([alone.by_slice for alone in group.alone], axis=1).argmin(axis=1)
        rows, turned = (
            np.stack([found[f"{v}.{field}"].to_numpy() for v in group.views], axis=1)[take, view]
            for field in ("row", "transform")
        )
        return pd.DataFrame(
            {
                "row": found["row"].to_numpy(),
                "p": group.p.by_slice,
                "flagged": group.p.flagged(self.config.quantile),
                "view": np.array(group.views)[view],
                "training_row": rows,
                "transform": turned,
                "patient": self._patients(rows),
                **{c: found[c].to_numpy() for v in (*TESTED, IN_PLACE) if (c := f"{v}.score") in found},
                **{n: found[c].to_numpy() for n in ("kind", "y", "x") if (c := f"copy.{n}") in found},
            }
        )

    def _patients(self, rows: Ints) -> list[str]:
        training = self.parts.training
        patient_of = dict(zip(training.rows.tolist(), training.patients.tolist(), strict=True))
        return [patient_of.get(int(row), "") for row in rows]

    @cached_property
    def beside(self) -> tuple[Names, Names, Names]:
        """Training patients beside the flagged judged slices, beside all judged ones, and whom held-out ones vote for.

        As `concentration.concentration` takes them.
        """
        beside = [self._patients(self.heldout[f"{v}.row"].to_numpy()) for v in self.main.views]
        near = self._neighbours_of(self.main)
        patients = near["patient"].to_numpy().astype(np.str_)
        votes = votes_of(self.main.null, np.array(beside, dtype=np.str_).T, self.config.quantile)
        return patients[near["flagged"].to_numpy()], patients, votes

    @cached_property
    def concentration(self) -> Concentration | None:
        """Whether the judged flagged slices are concentrated on few training patients; None where none is flagged."""
        return concentration(*self.beside)

    def findings(self, controls: Controls, rows: Ints | None = None, screened: bool | None = None) -> Findings:
        """What the verdict is made of, of all synthetic slices or some rows; of these without the patients they hit.

        `screened`: whether the rows were chosen by an audit, so that no flag is left; None: as the set says.
        """
        main, faint, hits = self.main, self.faint, {}
        count = len(self.parts.synthetic.rows)
        if rows is None:
            counts = self.neighbours.loc[self.neighbours["flagged"], "name"].value_counts()
            hits = {name: int(counts[name]) for name in sorted(counts.index, key=lambda name: int(name.split()[1]))}
        else:
            main, faint, count = main.kept(rows), faint.kept(rows), len(rows)
        if screened is None:
            screened = "screened" in self.parts.synthetic.slices.attrs
        flags, null, quantile = flags_of(main, faint, count, controls, self.config), main.null, self.config.quantile
        concentrated = None if screened and rows is not None else self.concentration
        return Findings(
            flags, hits, self.parts.training.count, controls, null.count, null.slices,
            conformal.slices_needed(quantile), quantile, screened, concentrated,
        )  # fmt: skip

    @cached_property
    def slices(self) -> pd.DataFrame:
        """One row a synthetic slice: p-values and flags; never with whom. Faint slices are not called judged."""
        synthetic = self.parts.synthetic.slices
        frame = pd.DataFrame({"row": np.arange(len(synthetic))})
        if "id" in synthetic.index:
            frame["id"] = synthetic.index["id"].astype(str).to_numpy()
        frame["judged"], frame["flagged"] = False, False
        frame.loc[self.main.part.rows, "judged"] = True
        frame[["p", "patient_p", *(f"p.{view}" for view in dict.fromkeys((*TESTED, IN_PLACE)))]] = np.nan
        for group in self.groups:
            rows = group.part.rows
            frame.loc[rows, "flagged"] = group.p.flagged(self.config.quantile)
            frame.loc[rows, "p"], frame.loc[rows, "patient_p"] = group.p.by_slice, group.p.by_patient
            for view, alone in zip(group.views, group.alone, strict=True):
                frame.loc[rows, f"p.{view}"] = alone.by_slice
        return frame


def compare(parts: Sides, config: AuditConfig, search: Search) -> Comparison:
    """Searches for held-out and synthetic slices among the training slices; raises `UnfitSets`."""
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
    if same := int(equal(judged.heldout, parts.training, heldout).sum()):
        what = f"{same} of the held-out slices are training slices under another name of their patient"
        fix = "hold out whole patients whom the generator never saw"
        raise UnfitSets(what, where=parts.heldout.slices.path, fix=fix)
    synthetic = search("synthetic", judged.synthetic, parts.training)
    # Faint slices are compared with judged training slices only, since nearly empty slices are all alike, and in place.
    low = parts.synthetic
    faint = low.kept(~np.isin(low.rows, judged.synthetic.rows) & (low.contrast > 0))
    of_faint = search("faint", faint, judged.training) if len(faint.rows) else heldout[:0]
    null, in_place = (Null(scores_of(heldout, views), judged.heldout.codes) for views in (TESTED, (IN_PLACE,)))
    groups = Compared(judged.synthetic, synthetic, null), Compared(faint, of_faint, in_place, (IN_PLACE,))
    return Comparison(config, parts, judged, heldout, *groups)


def flags_of(main: Compared, faint: Compared, slices: int, controls: Controls, config: AuditConfig) -> Flags:
    """How many judged (`main`) and faint ones of so many slices are flagged, with intervals."""
    p, null, q, seed = main.p, main.null, config.quantile, config.seed
    m, count = len(p.row), int(p.flagged(q).sum())
    rate, expected = count / m, round(1 - q, 12)
    drawn = p.resampled_rates(q, config.resamples, seed)
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
    certain, flagged_faint = int(p.certain(m, config.resamples, seed).sum()), 0
    if faint_slices := len(faint.nearest):
        certain += int(faint.p.certain(m + faint_slices, config.resamples, seed).sum())
        flagged_faint = int(faint.p.flagged(q).sum())
    return Flags(
        judged=m, count=count, rate=rate, low=low, high=high, wilson_low=sample_low, wilson_high=sample_high,
        expected=expected, excess=rate - expected, excess_low=low - expected, excess_high=high - expected,
        residual=(rate - base) / (1 - base), residual_low=residual_low, residual_high=residual_high,
        bound=conformal.upper_bound(count, m),
        views={v: float(alone.flagged(q).mean()) for v, alone in zip(main.views, main.alone, strict=True)},
        beyond=int(p.beyond.sum()), strict_p=strictest, strict=int((p.by_patient <= strictest + 1e-12).sum()),
        certain=certain, skipped=slices - m, faint=faint_slices, faint_count=flagged_faint,
    )  # fmt: skip
