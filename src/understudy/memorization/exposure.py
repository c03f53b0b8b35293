"""Which training patients have more flagged slices beside them than slices of new patients would leave there?

Held-out patients face the same training set, and tell what chance does by two things: how many slices are flagged (the
false alarms), and beside whom the near ones lie (one vote a patient, as in `concentration`). Both are known from few
patients, whose slices are alike, so that both are taken as uncertain by patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import comb
from scipy.stats import beta, binom, false_discovery_control, gamma, t

from understudy.memorization.comparison import Comparison
from understudy.memorization.concentration import VOTERS, Names
from understudy.memorization.conformal import slices_needed, upper_bound
from understudy.memorization.controls import FalseAlarms

Floats = NDArray[np.float64]
FALSE_DISCOVERIES = 0.05  # expected part, at most, of the patients called exposed
DRAWS = 50, 100  # quantiles that stand for the rate of flags, and for a patient's part of them


@dataclass(frozen=True)
class Chance:
    """What slices of new patients leave beside a training patient."""

    slices: int  # synthetic ones that are judged, each a draw of its own
    rate: float  # of them flagged by chance
    high: float  # upper limit of its 95 % interval by held-out patient
    heldout: int  # patients
    votes: int  # of them that say beside whom near slices lie

    def p_value(self, flagged: int, votes: int) -> float:
        """Chance of so many flagged slices beside a patient for whom so many held-out patients vote.

        Their number is binomial with rate times part. The rate follows a gamma law with the interval of the false
        alarms, by Student's quantile since the patients are few; the part Beta(votes + 1, others), the upper law of
        Clopper & Pearson (1934).
        """
        if not flagged:
            return 1.0
        spread = max((self.high - self.rate) / 1.96 * float(t.ppf(0.975, self.heldout - 1)) / 1.96, 1e-6)
        shape = (self.rate / spread) ** 2
        rates = np.minimum(gamma.ppf(_middles(DRAWS[0]), shape, scale=self.rate / shape), 1)
        p = float(np.mean(binom.sf(flagged - 1, self.slices, rates[:, None] * self._parts(votes))))
        return max(p, self.smallest(flagged))

    def expected(self, votes: int) -> float:
        """Flagged slices beside such a patient, by chance."""
        return float(self.slices * self.rate * self._parts(votes).mean())

    def smallest(self, flagged: int) -> float:
        """The smallest p-value that so many flagged slices allow: all beside one patient, all votes beside others."""
        return float(1 / comb(flagged + self.votes, self.votes))

    def _parts(self, votes: int) -> Floats:
        others = self.votes - votes
        return np.ones(1) if not others else np.asarray(beta.ppf(_middles(DRAWS[1]), votes + 1, others), np.float64)


def _middles(count: int) -> Floats:
    return (np.arange(count) + 0.5) / count


@dataclass(frozen=True)
class Exposure:
    """Who is exposed; `patients` has one row each, the worst hit first, and is not to be shared."""

    patients: pd.DataFrame  # patient, flagged, votes, expected, p, exposed
    smallest_p: float  # that a patient could have: all flagged slices beside them
    # of the smallest p-value: slices `flagged` beside them, `expected` by chance, `p`, `exposed`, and beside them of as
    # many other slices `at_most` (95 % upper bound, for all training patients at once)
    worst: dict[str, Any]
    level: float = FALSE_DISCOVERIES

    def as_dict(self) -> dict[str, Any]:
        """Plain values: counts, never who."""
        count, of = int(self.patients["exposed"].sum()), len(self.patients)
        told = {"level": self.level, "smallest_p": self.smallest_p, "testable": self.smallest_p * of <= self.level}
        return {"count": count, "of": of, **told, "worst": self.worst}


def exposure(comparison: Comparison, alarms: FalseAlarms) -> Exposure | None:
    """Of the judged slices; None where too few patients are held out.

    With 6 who differ much, 8 % of simulated honest sets exposed somebody (benchmarks/audit_concentration.py).
    """
    null, training = comparison.main.null, np.unique(comparison.parts.training.patients)
    few = null.count < VOTERS or null.slices < slices_needed(comparison.config.quantile)
    if few or np.isnan(alarms.rate):
        return None
    return beside_each(*comparison.beside, training, alarms, null.count)


def beside_each(
    flagged: Names, judged: Names, votes: Names, training: Names, alarms: FalseAlarms, heldout: int
) -> Exposure:
    """Tests each patient of `training`, false discoveries controlled over all (Benjamini & Hochberg 1995).

    The first three as `concentration.concentration` takes them; so many patients are held out. Synthetic slices are
    taken as drawn independently of each other; what a collapsed generator repeats counts as often as it does.
    """
    rate = max(alarms.nominal, alarms.rate)
    high = float(np.nanmax([rate, alarms.high, alarms.half_high]))
    chance = Chance(len(judged), rate, high, heldout, len(votes))
    p_value = cache(chance.p_value)
    counts, voted = (
        pd.Series(names).value_counts().reindex(training, fill_value=0).to_numpy() for names in (flagged, votes)
    )
    table = pd.DataFrame({"patient": training, "flagged": counts, "votes": voted})
    table["expected"] = [chance.expected(int(x)) for x in voted]
    table["p"] = [p_value(c, x) for c, x in zip(counts.tolist(), voted.tolist(), strict=True)]
    table["exposed"] = false_discovery_control(table["p"]) <= FALSE_DISCOVERIES
    table = table.sort_values(["p", "flagged"], ascending=[True, False], kind="stable").reset_index(drop=True)
    worst = {name: table[name].tolist()[0] for name in ("flagged", "expected", "p", "exposed")}
    worst["at_most"] = int(upper_bound(worst["flagged"], len(judged), 1 - 0.05 / len(training)) * len(judged))
    return Exposure(table, chance.smallest(len(flagged)), worst)
