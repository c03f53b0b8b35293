"""The audit: three sets in, a judged comparison with its controls out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.memorization.config import AuditConfig
from understudy.memorization.controls import run_controls
from understudy.memorization.findings import assembled, compared_all
from understudy.memorization.membership import Witness, membership
from understudy.memorization.result import Audit
from understudy.memorization.sides import faint_of, judged_of, refuse_training_slices, sides
from understudy.memorization.similarity import nearest
from understudy.roles import Part
from understudy.slices import SliceSet


def audit(
    training: SliceSet,
    heldout: SliceSet,
    synthetic: SliceSet,
    config: AuditConfig | None = None,
    training_rows: NDArray[np.int64] | None = None,
    witness: Witness | None = None,
    work_dir: Path | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Audit:
    """Compares every synthetic and every held-out slice with all training slices, with controls, and judges.

    Args:
        training, heldout: sets, or one prepared set with a column `split` for both (train against val and test).
        synthetic: what may be released.
        training_rows: what the generator was trained on, if it was not all.
        witness: the generator's score of slices, to ask its weights as well; None without a generator.
        work_dir: keeps the search's progress, so that a killed audit continues.

    Raises:
        UnfitSets: empty sets, other channels or sizes, a patient on both sides, constant slices only.
        UnderstudyError: disk full, too little memory allowed.
    """
    config = config or AuditConfig()
    parts = sides(training, heldout, synthetic, training_rows)
    judged = judged_of(parts, config)

    def search(name: str, queries: SliceSet, rows: NDArray[np.int64] | None, among: Part = parts[0]) -> pd.DataFrame:
        shown = name not in ("planted", "faint")
        return nearest(
            queries, training, query_rows=rows, training_rows=among.rows, config=config.search(shown),
            work_dir=work_dir / name if work_dir else None, device=device, progress=progress and shown,
        )  # fmt: skip  # a folder each, since a search clears the parts of another one from its folder

    of_heldout = search("heldout", heldout, judged[1].rows)
    refuse_training_slices(of_heldout, heldout)
    of_synthetic = search("synthetic", synthetic, judged[2].rows)
    faint = faint_of(parts[2], judged[2])
    of_faint = search("faint", synthetic, faint.rows, judged[0]) if len(faint.rows) else of_synthetic[:0]
    groups = compared_all(judged, faint, of_heldout, of_synthetic, of_faint)
    null = groups[0].null
    controls = run_controls(judged[0], null, lambda made: search("planted", made, None), config, work_dir)
    done = assembled(parts, judged, of_heldout, groups, controls, config, device)
    if witness is not None and config.membership:
        asked = membership(judged[0], judged[1], witness, config.membership_slices, config.resamples, config.seed)
        done.numbers["membership"] = asked.as_dict()
    return done
