"""The inception score (Salimans et al. 2016, 1606.03498), for completeness: it looks at no real slice.

On MR slices it is about 2 whatever the generator: two "effective classes" of a network that knows 1008 kinds of
everyday things.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from understudy.errors import UnderstudyError


def inception_score(logits: NDArray[np.floating], rng: np.random.Generator, splits: int = 10) -> tuple[float, float]:
    """exp of the mean divergence of each slice's class probabilities from their mean.

    Args:
        logits: [n, classes].
        rng: shuffles the slices before they are split.
        splits: parts that are scored one by one.

    Returns:
        Mean and standard deviation over the parts (NaN for one).

    Raises:
        UnderstudyError: fewer slices than parts.
    """
    if len(logits) < splits:
        raise UnderstudyError(
            f"{len(logits)} slices cannot be scored in {splits} parts", fix="give more slices or fewer parts"
        )
    logs = log_softmax(np.asarray(logits, np.float64)[rng.permutation(len(logits))], axis=1)
    scores = []
    for part in np.array_split(logs, splits):
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(axis=0)))).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores)) if splits > 1 else float("nan")
