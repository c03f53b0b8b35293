"""White-box check, for weights that are to be shared: do they tell training patients from held-out ones?

The network gives each slice a score (`generators.witness`; handed over as a callable, since rooms do not know each
other). The area under the ROC curve is the chance that a training slice scores higher than a held-out one: 0.5 is a
network that gives nothing away, 1 one that knows its patients by heart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from understudy.memorization.config import FEWEST_PATIENTS
from understudy.memorization.intervals import percentiles
from understudy.roles import Part
from understudy.slices import SliceSet

Witness = Callable[[SliceSet, NDArray[np.int64]], tuple[NDArray[np.float64], str]]
"""Slices and rows -> scores [n], higher for slices that the network knows, and what they are. Its attribute `weights`
(file -> SHA-256), where it has one, is recorded: a release is bound to exactly these weights."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Membership:
    """How well the weights tell training from held-out slices.

    Attributes:
        score: what was compared, in words.
        auc, low, high: area under the ROC curve with its interval by bootstrap over patients of both sides.
        training, heldout: slices asked about; patients likewise.
        weights: SHA-256 (hex) of each file of weights that was asked, by its name; empty if the witness does not say.
    """

    score: str
    auc: float
    low: float
    high: float
    training: int
    heldout: int
    training_patients: int
    heldout_patients: int
    weights: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """One sentence."""
        seen = f"AUC {self.auc:.2f}, 95 % interval by patient {self.low:.2f} to {self.high:.2f}"
        fewest = min(self.training_patients, self.heldout_patients)
        if fewest < FEWEST_PATIENTS:
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
        """Plain values."""
        return {**asdict(self), "words": self.words}


def membership(
    training: Part, heldout: Part, witness: Witness, slices: int = 400, resamples: int = 2000, seed: int = 0
) -> Membership:
    """Asks the network about at most `slices` slices of each side, drawn evenly over patients."""
    a, b = _drawn(training, slices, seed), _drawn(heldout, slices, seed + 1)
    scores_a, name = witness(a.slices, a.rows)
    scores_b, _ = witness(b.slices, b.rows)
    wins = _wins(scores_a, scores_b, a.codes, b.codes)
    sizes = np.bincount(a.codes), np.bincount(b.codes)
    rng = np.random.default_rng([seed, 41])
    draws = [rng.multinomial(len(n), np.full(len(n), 1 / len(n)), size=resamples).astype(float) for n in sizes]
    drawn = np.einsum("ri,ij,rj->r", draws[0], wins, draws[1]) / ((draws[0] @ sizes[0]) * (draws[1] @ sizes[1]))
    auc = float(wins.sum() / (len(a.rows) * len(b.rows)))
    weights = dict(getattr(witness, "weights", {}))
    return Membership(name, auc, *percentiles(drawn), len(a.rows), len(b.rows), a.count, b.count, weights)


def _wins(first: Floats, second: Floats, of_first: NDArray[np.int64], of_second: NDArray[np.int64]) -> Floats:
    """[P, Q]: pairs of slices in which a training patient's slice scores higher than a held-out one's; ties half."""
    wins = np.zeros((of_first.max() + 1, of_second.max() + 1))
    for j in range(wins.shape[1]):
        other = second[of_second == j]
        joint = rankdata(np.concatenate([first, other]))[: len(first)] - rankdata(first)
        np.add.at(wins[:, j], of_first, joint)
    return wins


def _drawn(part: Part, count: int, seed: int) -> Part:
    order = np.random.default_rng([seed, 42]).permutation(len(part.rows))
    turn = np.zeros(len(order), np.int64)
    seen: dict[int, int] = {}
    for place, row in enumerate(order):
        code = int(part.codes[row])
        turn[place] = seen[code] = seen.get(code, -1) + 1
    return Part(part.name, part.slices, np.sort(part.rows[order[np.argsort(turn, kind="stable")][:count]]))
