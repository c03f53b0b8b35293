"""Looks at samples of a generator while it trains (`until: memorization`): are more too near than chance explains?

A look faces two kinds of chance. Which patients are held out is drawn once for all looks: how far one new patient
can stand out among few is told by the held-out patients themselves, each against the others, and the worst of them is
taken as what an honest generator may do. Which samples are drawn is another draw at every look: an exact binomial test,
whose level the training divides by the number of planned looks (Bonferroni). Looks at fixed seeds resemble each other,
so that this is on the safe side; a boundary that spends more alpha later would gain little for so few looks.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from understudy.io.files import sha256_json
from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Floats, Ints
from understudy.memorization.controls import scores_of
from understudy.memorization.copies import Copies
from understudy.roles import Part, UnfitSets, check_alike, check_other_patients
from understudy.slices import SliceSet

FEWEST, FEW = 3, 6  # held-out patients: below the first they cannot be judged by each other
# of a sample's search, and beside one training slice; as in study/engine/estimate.py
OPERATIONS = 6e8, 3e4


class Looks:
    """Compares samples with training slices as the audit does; a `Judge` of `generators.training.until`.

    Args:
        training: what the generator is trained on.
        heldout: slices of validation patients. Never of test patients: the state that is kept would be chosen by them,
            and neither their Dice nor the audit by them could judge it any more.

    Raises:
        UnfitSets: fewer than 3 patients held out, a patient on both sides, sets that do not fit together.
    """

    def __init__(self, training: Part, heldout: Part, device: str = "cpu") -> None:
        check_alike([training, heldout])
        check_other_patients(training, heldout)
        if heldout.count < FEWEST:
            what = f"`until: memorization` needs slices of {FEWEST} validation patients, here are {heldout.count}"
            raise UnfitSets(what, where=heldout.slices.path, fix="raise `split.validation_fraction`")
        self.training, self.heldout, self.device = training, heldout, device
        self.config = AuditConfig()
        rows = [[part.slices.content_hash, part.rows.tolist()] for part in (training, heldout)]
        self.identity = sha256_json([rows, self.config.model_dump(mode="json")])
        self.operations = OPERATIONS[0] + OPERATIONS[1] * len(training.rows)  # a sample

    def __call__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> dict[str, float]:
        """Of samples [n, C, H, W]: how many are `too_near`, `of` how many with contrast; `by_chance`: the share that an
        honest generator may show; `p`: of as many or more at this share."""
        slices = self.training.slices
        made = SliceSet.from_arrays(images, labels, channels=slices.channels, classes=slices.classes)
        part = self._judged(Part("synthetic", made, np.arange(len(made))))
        found = scores_of(self._copies.search(part))[:, 0] if len(part.rows) else np.zeros(0)
        near, chance = int((found > self._limit).sum()), self.by_chance
        p = float(binom.sf(near - 1, len(found), chance)) if len(found) else 1.0
        return {"too_near": near, "of": len(found), "by_chance": chance, "p": p}

    def _judged(self, part: Part) -> Part:
        contrast = self.training.contrast
        return part.kept(part.contrast >= max(1e-9, self.config.least_content * np.median(contrast[contrast > 0])))

    @cached_property
    def _copies(self) -> Copies:
        return Copies(self.training, self.config.transforms == "dihedral", self.device)

    @cached_property
    def _null(self) -> tuple[Floats, Ints]:
        part = self._judged(self.heldout)
        if not len(part.rows) or part.count < FEWEST:
            raise UnfitSets("most validation slices are nearly empty", self.heldout.slices.path, "check the slice rule")
        return scores_of(self._copies.search(part))[:, 0], part.codes

    @cached_property
    def _limit(self) -> float:
        return limit(self._null[0], self.config.quantile)

    @cached_property
    def by_chance(self) -> float:
        return by_chance(*self._null, self.config.quantile)


def limit(scores: Floats, quantile: float) -> float:
    """What a slice must exceed to be too near: as the audit's threshold, and at least all of fewer than 99 slices."""
    allowed = max(1, int(np.floor((1 - quantile) * (len(scores) + 1) + 1e-9)))
    return float(np.sort(scores)[-allowed])


def by_chance(scores: Floats, patients: Ints, quantile: float) -> float:
    """Share of its slices by which the worst held-out patient is too near, judged by the others; 1 - q at least.

    Of fewer than `FEW` patients the others are taken without one of them: so few say little about the next patient.
    """
    names, worst = np.unique(patients), 1 - quantile
    for one in names:
        for spared in [other for other in names if other != one] if len(names) < FEW else [one]:
            others = scores[(patients != one) & (patients != spared)]
            worst = max(worst, float((scores[patients == one] > limit(others, quantile)).mean()))
    return worst
