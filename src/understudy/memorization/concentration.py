"""Are the flagged slices concentrated on few training patients, more than slices of new patients would be?

Some training patients are the nearest ones of nearly everybody (hubs), so that flags beside one patient prove nothing
by themselves. Held-out patients, who face the same training set, tell what honest slices do: each has one vote, the
training patient beside its own nearest slice.
"""

from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from understudy.memorization.config import CONCENTRATED
from understudy.memorization.conformal import Null

Names = NDArray[np.str_]
FEW = 3  # patients that are looked at together, at most
VOTERS = 8  # the nearest held-out patients; more where more reach the flags' level


@dataclass(frozen=True)
class Concentration:
    """How the flagged slices are spread over training patients, beside what new patients' slices do."""

    flagged: int  # F, judged slices that are flagged
    patients: int  # worst hit training patients looked at together: the fewest that show it, 1 to 3
    hit: int  # c, flagged slices beside these
    votes: int  # K, held-out patients that vote
    same: int  # x, of them, beside these patients too
    p: float  # of Fisher's exact test, corrected for the choice of patients
    smallest_p: float  # that so many flags and votes can give
    share_of_all: float  # of all judged slices, flagged or not, part beside these patients

    @property
    def found(self) -> bool:
        return self.p <= CONCENTRATED

    @property
    def testable(self) -> bool:
        """Whether so few flags and held-out patients could show it at all."""
        return self.smallest_p <= CONCENTRATED

    def as_dict(self) -> dict[str, Any]:
        """Plain values: counts, never which patients."""
        return {**asdict(self), "found": self.found, "testable": self.testable}


def concentration(flagged: Names, judged: Names, votes: Names) -> Concentration | None:
    """Tests whether flags are concentrated; None without flags or votes.

    Given are the training patients beside the flagged slices [F], beside the judged ones [m], and `votes_of` held-out
    patients [K]. If flagged slices were drawn as votes are, all ways of dividing the F + K between the two groups would
    be equally likely: Fisher's exact test (Fisher 1935), p the upper tail of the hypergeometric law. Since the patients
    are chosen because they are hit, p is multiplied by the number of sets of so many of the D patients that are named,
    and by the number of sizes tried (Bonferroni).
    """
    f, k = len(flagged), len(votes)
    if not f or not k:
        return None
    named, group = np.unique(np.concatenate([flagged, votes]), return_inverse=True)
    d = len(named)
    counts, votes_for = np.bincount(group[:f], minlength=d), np.bincount(group[f:], minlength=d)
    worst = np.lexsort((votes_for, -counts))
    sizes = range(1, max(1, min(FEW, d - 1)) + 1)
    tried = []
    for size in sizes:
        among = worst[:size]
        c, x = int(counts[among].sum()), int(votes_for[among].sum())
        p = min(1.0, len(sizes) * comb(d, size) * float(hypergeom.sf(c - 1, f + k, c + x, f)))
        tried.append((p, size, c, x))
    p, size, c, x = next((t for t in tried if t[0] <= CONCENTRATED), min(tried))  # the fewest patients that show it
    share = float(np.isin(judged, named[worst[:size]]).mean())
    return Concentration(f, size, c, k, x, p, smallest_p(f, k), share)


def smallest_p(flagged: int, votes: int) -> float:
    """The smallest p-value: all flags beside one training patient, all votes beside another one."""
    return min(1.0, 2 / comb(flagged + votes, votes))


def votes_of(null: Null, nearest: Names, quantile: float) -> Names:
    """The training patient beside the nearest slice of each voting held-out patient, [K], the nearest vote first.

    One vote a patient, since slices of one patient are alike. Nearest is the slice of the best rank in any view, as in
    the rule for flags; only patients about as near as flags vote, since hubs differ between near and far slices: the
    nearest `VOTERS`, and all with a slice at the level of `quantile`. `nearest` [n, V]: beside each slice in each view.
    """
    ranks = null.ranks()
    view = ranks.argmin(axis=1)
    best, at = ranks.min(axis=1), np.arange(null.slices)
    order = np.lexsort((at, -np.nan_to_num(null.scores[at, view], nan=-np.inf), best))
    first = order[np.sort(np.unique(null.patients[order], return_index=True)[1])]
    near = int((best[first] <= np.floor((1 - quantile) * (null.slices + 1) + 1e-9)).sum())
    chosen = first[: max(VOTERS, near)]
    return nearest[chosen, view[chosen]]
