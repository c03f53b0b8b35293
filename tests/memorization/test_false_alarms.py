"""The negative control: what the rule, and the extrapolated tail, do to patients who were never trained on."""

from __future__ import annotations

import numpy as np

from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Null
from understudy.memorization.controls import false_alarms

CONFIG = AuditConfig(splits=20, resamples=200)


def null_of(scores: np.ndarray, patients: int) -> Null:
    return Null(scores, np.repeat(np.arange(patients), len(scores) // patients).astype(np.int64))


def test_slices_of_one_law_are_flagged_at_the_rate_that_is_promised_and_none_is_beyond_chance() -> None:
    rng = np.random.default_rng(0)
    found = false_alarms(null_of(np.tanh(1 + rng.exponential(0.1, (4000, 2))), 20), CONFIG)
    assert found.low <= 0.01 <= found.high
    assert found.certain == 0


def test_a_new_patient_beyond_all_others_is_counted() -> None:
    """E.g. a patient who was scanned again under another name: the tail's extrapolation does not hold here."""
    rng = np.random.default_rng(1)
    scores = np.tanh(1 + rng.exponential(0.02, (1000, 2)))
    scores[:3] = 0.99999
    assert false_alarms(null_of(scores, 20), CONFIG).certain == 3


def test_slices_that_are_alike_within_patients_are_flagged_patient_by_patient() -> None:
    """10 patients whose slices score the same: the nearest is flagged whole, 1 of 10, not 1 in 100."""
    scores = np.repeat(np.linspace(0.5, 0.9, 10), 40)[:, None].repeat(2, 1)
    found = false_alarms(null_of(scores, 10), CONFIG)
    assert found.rate == 0.1
    assert found.high > 0.1
