"""Nested groups of training patients: what a generator is trained on where a study asks how many patients it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.slices import SliceSet


def training_rows(slices: SliceSet, subset: dict[str, Any] | None = None) -> NDArray[np.int64]:
    """Rows of the training patients, or of the first `patients` of them in an order drawn by `seed`.

    Args:
        slices: prepared slices, with subject and split in the index.
        subset: {"patients": 5, "seed": 0}, None for all training patients. Groups of one seed are nested: the 5
            patients are among the 10.

    Raises:
        UnderstudyError: there are not so many training patients.
    """
    rows = slices.rows(split="train")
    if subset is None:
        return rows
    subjects = slices.index["subject"].to_numpy()[rows]
    names = np.array(sorted(set(map(str, subjects))))
    count = int(subset["patients"])
    if not 0 < count <= len(names):
        raise UnderstudyError(
            f"{count} training patients wanted, but there are {len(names)}",
            where=slices.path,
            fix=f"ask for 1 to {len(names)}",
        )
    chosen = np.random.default_rng([int(subset["seed"]), 7]).permutation(names)[:count]
    return np.asarray(rows[np.isin(subjects.astype(str), chosen)], np.int64)
