"""Membership inference on weights that are to be shared: do they tell training patients from held-out ones?"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.memorization.config import FEWEST_PATIENTS
from understudy.memorization.conformal import percentiles
from understudy.memorization.controls import evenly
from understudy.names import percent
from understudy.roles import Part
from understudy.slices import SliceSet

# Slices and rows -> scores [n], higher for slices that the network knows, and what they are. Its attribute `weights`
# (file -> SHA-256), where it has one, is recorded: a release is bound to exactly these weights.
MembershipScore = Callable[[SliceSet, NDArray[np.int64]], tuple[NDArray[np.float64], str]]
FALSE_POSITIVES = 0.01  # of held-out patients taken for training patients, at most


@dataclass(frozen=True)
class Membership:
    """How well the weights tell training patients from held-out ones, each by the mean score of their slices."""

    score: str  # what was compared, in words
    auc: float  # area under the ROC curve: chance that a training patient scores higher than a held-out one
    low: float  # bootstrap over patients of both sides
    high: float
    tpr: float  # training patients above all but `FALSE_POSITIVES` of the held-out ones
    tpr_low: float
    tpr_high: float
    smallest_fpr: float  # rate of false positives, the smallest above 0 that so many held-out patients can show
    training: int  # slices scored
    heldout: int
    training_patients: int
    heldout_patients: int
    weights: dict[str, str] = field(default_factory=dict)  # SHA-256 (hex) of each file of weights, where known

    @property
    def words(self) -> str:
        seen = f"AUC {self.auc:.2f}, 95 % interval by patient {self.low:.2f} to {self.high:.2f}"
        if min(self.training_patients, self.heldout_patients) < FEWEST_PATIENTS:
            return (
                f"Too few patients to tell whether the weights give training patients away: {self.training_patients}"
                f" training and {self.heldout_patients} held-out patients, and it takes {FEWEST_PATIENTS} of each (AUC"
                f" {self.auc:.2f}; 0.5 is chance). Do not share the weights on this audit; hold out more patients."
            )
        few = (
            f", that is above all {self.heldout_patients} held-out ones, of whom one is already"
            f" {percent(self.smallest_fpr)}"
        )
        above = few if self.smallest_fpr > FALSE_POSITIVES else ""
        single = (
            f" The AUC is an average over patients and says nothing of a single one: at {percent(FALSE_POSITIVES)}"
            f" false positives{above}, {percent(self.tpr)} of training patients are recognized (95 % interval"
            f" {percent(self.tpr_low)} to {percent(self.tpr_high)})."
        )
        if self.low > 0.5:
            return (
                f"The weights give training patients away: the {self.score} tells training patients from new ones"
                f" ({seen}; 0.5 is chance).{single} Do not share the weights; slices can be released once they are"
                " audited."
            )
        return (
            f"No sign that the weights give training patients away: the {self.score} does not tell training patients"
            f" from new ones ({seen}; 0.5 is chance).{single}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "words": self.words}


def membership(
    training: Part, heldout: Part, score: MembershipScore, slices: int = 400, resamples: int = 2000, seed: int = 0
) -> Membership:
    """Scores at most `slices` slices of each side, drawn evenly over patients, and compares the patients' means."""
    a, b = (
        Part(part.name, part.slices, np.sort(part.rows[evenly(part, slices, [seed + i, 42])]))
        for i, part in enumerate((training, heldout))
    )
    (scores_a, name), (scores_b, _) = score(a.slices, a.rows), score(b.slices, b.rows)
    if not (np.isfinite(scores_a).all() and np.isfinite(scores_b).all()):  # else they would count as slices not known
        what = f"the {name} of some slices is NaN or infinite, so that membership cannot be told"
        raise UnderstudyError(what, fix="use weights of an earlier snapshot, or audit without the generator")
    known, new = (np.bincount(p.codes, s) / np.bincount(p.codes) for p, s in ((a, scores_a), (b, scores_b)))
    new = np.sort(new)[::-1]
    wins = (known[:, None] > new) + 0.5 * (known[:, None] == new)  # [P, Q], as float64
    above = np.asarray(known[:, None] > new, np.float64)
    rng = np.random.default_rng([seed, 41])
    sides = [rng.multinomial(n, np.full(n, 1 / n), size=resamples) for n in wins.shape]
    # the first row is the patients as they are
    drawn_a, drawn_b = (np.concatenate([np.ones((1, n), np.int64), d]) for n, d in zip(wins.shape, sides, strict=True))
    auc = np.einsum("ri,ij,rj->r", drawn_a, wins, drawn_b) / wins.size
    # the highest held-out patient who may not be a false positive any more
    limit = (drawn_b.cumsum(1) > FALSE_POSITIVES * b.count).argmax(1)
    tpr = np.einsum("ri,ir->r", drawn_a, above[:, limit]) / a.count
    return Membership(
        name, float(auc[0]), *percentiles(auc[1:]), float(tpr[0]), *percentiles(tpr[1:]), 1 / b.count,
        len(a.rows), len(b.rows), a.count, b.count, dict(getattr(score, "weights", {})),
    )  # fmt: skip
