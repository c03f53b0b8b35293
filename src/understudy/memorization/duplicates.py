"""Does the synthetic set repeat itself? Slices that are nearer to each other than slices of different patients are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.memorization.config import TESTED, AuditConfig
from understudy.memorization.conformal import Null, p_values
from understudy.memorization.controls import scores_of
from understudy.memorization.similarity import nearest
from understudy.roles import Part


@dataclass(frozen=True)
class Repeats:
    """Near-duplicates within the synthetic set (mode collapse).

    Attributes:
        compared: synthetic slices compared with each other, drawn at random; as many as there are training slices at
            most, so that they have as many chances to find a neighbour as held-out slices have.
        count, rate: of them nearer to another one than the quantile of held-out slices is to other patients' slices.
        expected: 1 - q.
    """

    compared: int
    count: int
    rate: float
    expected: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def repeats(synthetic: Part, null: Null, training: int, config: AuditConfig, device: str = "cpu") -> Repeats | None:
    """Compares synthetic slices with each other; None if that is not wanted or there is one slice only.

    Args:
        synthetic: judged rows.
        null: of held-out slices, whose nearest slices are of other patients by design.
        training: training slices, which limit how many are compared.
    """
    count = min(len(synthetic.rows), config.within, training + 1)
    if count < 2:
        return None
    rng = np.random.default_rng([config.seed, 31])
    rows: NDArray[np.int64] = np.sort(rng.choice(synthetic.rows, count, replace=False))
    own = np.arange(count)
    found = nearest(
        synthetic.slices, synthetic.slices, query_rows=rows, training_rows=rows, apart=(own, own),
        config=config.search(more=False), device=device,
    )  # fmt: skip
    flagged = p_values(scores_of(found)[:, [TESTED.index("stacked")]], null.view(0)).flagged(config.quantile)
    return Repeats(count, int(flagged.sum()), float(flagged.mean()), round(1 - config.quantile, 12))
