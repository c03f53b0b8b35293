"""Membership inference on weights that are to be shared: do they tell training patients from held-out ones?"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from understudy.memorization.config import FEWEST_PATIENTS
from understudy.memorization.conformal import percentiles
from understudy.memorization.controls import evenly
from understudy.roles import Part
from understudy.slices import SliceSet

# Slices and rows -> scores [n], higher for slices that the network knows, and what they are. Its attribute `weights`
# (file -> SHA-256), where it has one, is recorded: a release is bound to exactly these weights.
MembershipScore = Callable[[SliceSet, NDArray[np.int64]], tuple[NDArray[np.float64], str]]


@dataclass(frozen=True)
class Membership:
    """How well the weights tell training from held-out slices."""

    score: str  # what was compared, in words
    auc: float  # area under the ROC curve: chance that a training slice scores higher than a held-out one
    low: float  # bootstrap over patients of both sides
    high: float
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
        if self.low > 0.5:
            return (
                f"The weights give training patients away: the {self.score} tells slices of training patients from"
                f" those of new ones ({seen}; 0.5 is chance). Do not share the weights; slices can be released once"
                " they are audited."
            )
        return (
            f"No sign that the weights give training patients away: the {self.score} does not tell slices of training"
            f" patients from those of new ones ({seen}; 0.5 is chance)."
        )

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "words": self.words}


def membership(
    training: Part, heldout: Part, score: MembershipScore, slices: int = 400, resamples: int = 2000, seed: int = 0
) -> Membership:
    """Scores at most `slices` slices of each side, drawn evenly over patients, and compares the two sides."""
    a, b = (
        Part(part.name, part.slices, np.sort(part.rows[evenly(part, slices, [seed + i, 42])]))
        for i, part in enumerate((training, heldout))
    )
    (scores_a, name), (scores_b, _) = score(a.slices, a.rows), score(b.slices, b.rows)
    # [P, Q]: pairs of slices in which a training patient's slice scores higher than a held-out one's; ties half
    wins = np.zeros((a.count, b.count))
    for j in range(b.count):
        other = scores_b[b.codes == j]
        joint = rankdata(np.concatenate([scores_a, other]))[: len(scores_a)] - rankdata(scores_a)
        np.add.at(wins[:, j], a.codes, joint)
    sizes = np.bincount(a.codes), np.bincount(b.codes)
    rng = np.random.default_rng([seed, 41])
    draws = [rng.multinomial(len(n), np.full(len(n), 1 / len(n)), size=resamples).astype(float) for n in sizes]
    drawn = np.einsum("ri,ij,rj->r", draws[0], wins, draws[1]) / ((draws[0] @ sizes[0]) * (draws[1] @ sizes[1]))
    auc = float(wins.sum() / (len(a.rows) * len(b.rows)))
    weights = dict(getattr(score, "weights", {}))
    return Membership(name, auc, *percentiles(drawn), len(a.rows), len(b.rows), a.count, b.count, weights)
