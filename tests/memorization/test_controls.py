"""The controls: what each planted copy is, and what the rule does to patients whom the generator never saw."""

from __future__ import annotations

import numpy as np
import pytest
from made import heads

from understudy.memorization.config import AuditConfig
from understudy.memorization.conformal import Null
from understudy.memorization.controls import (
    blend,
    contrasts,
    false_alarms,
    gamma,
    moved,
    noise,
    pasted,
    planted_copies,
    warp,
)

IMAGES, LABELS = heads(0, 6)
CONFIG = AuditConfig(splits=20, resamples=200)


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def test_every_kind_keeps_shape_and_type_and_repeats_itself() -> None:
    names = [s.name for s in planted_copies(IMAGES, 1.0, True)]
    assert len(set(names)) == len(names)
    for kind in planted_copies(IMAGES, 1.0, True):
        images, labels = kind.change(IMAGES, LABELS, rng())
        again, _ = kind.change(IMAGES, LABELS, rng())
        assert images.shape == IMAGES.shape
        assert labels.shape == LABELS.shape
        assert images.dtype == labels.dtype == np.uint8
        assert (images == again).all()
        assert set(np.unique(labels)) <= {0, 1}
        assert kind.name == "exact" or (images != IMAGES).any()


def test_simple_changes_are_what_their_names_say() -> None:
    kinds = {kind.name: kind for kind in planted_copies(IMAGES, 2.0, quarter_turns=True)}
    assert (kinds["exact"].change(IMAGES, LABELS, rng())[0] == IMAGES).all()
    assert (kinds["mirrored"].change(IMAGES, LABELS, rng())[0] == IMAGES[..., ::-1]).all()
    assert (kinds["quarter turn"].change(IMAGES, LABELS, rng())[0][0, 0] == np.rot90(IMAGES[0, 0])).all()
    assert "moved by 3.2 mm" in kinds  # a tenth of 16 pixels of 2 mm
    bright = gamma(np.full((1, 1, 2, 2), 64, np.uint8), LABELS[:1], rng(), 0.5)[0]
    assert bright.max() == round(255 * (64 / 255) ** 0.5)
    assert (np.diff(contrasts(np.full((3, 2, 2, 2), 64, np.uint8), LABELS[:3], rng())[0][:, :, 0, 0]) != 0).all()


def test_a_copy_is_moved_turned_and_magnified_by_what_is_said() -> None:
    edge = 65
    dot, labels = np.zeros((20, 1, edge, edge), np.uint8), np.zeros((20, edge, edge), np.uint8)
    dot[:, :, 31:34, 41:44], labels[:, 31:34, 41:44] = 255, 1  # 10 pixels right of the middle

    def middle(images: np.ndarray) -> np.ndarray:  # [n, 2]
        at = np.arange(edge) - (edge - 1) / 2
        weight = images[:, 0].astype(float) / images[:, 0].sum((1, 2))[:, None, None]
        return np.stack([(weight * at[:, None]).sum((1, 2)), (weight * at).sum((1, 2))], 1)

    away = middle(moved(dot, labels, rng(), share=0.1)[0]) - [0, 10]
    assert np.hypot(*away.T) == pytest.approx(6.5, abs=0.1)
    assert len(np.unique(away.round(1), axis=0)) > 10  # in all directions
    turned = middle(moved(dot, labels, rng(), degrees=30)[0])
    assert np.abs(np.rad2deg(np.arctan2(turned[:, 0], turned[:, 1]))) == pytest.approx(30, abs=0.5)
    assert {1, -1} == set(np.sign(turned[:, 0]))
    images, marks = moved(dot, labels, rng(), magnified=1.2)
    assert middle(images)[:, 1] == pytest.approx(12, abs=0.1)
    assert middle(255 * marks[:, None])[:, 1] == pytest.approx(12, abs=0.3)


def test_only_the_lesion_of_a_pasted_copy_is_the_patients() -> None:
    images, labels = np.full((2, 1, 64, 64), 200, np.uint8), np.zeros((2, 64, 64), np.uint8)
    labels[:, 20:30, 20:30] = 1
    made, marks = pasted(images, labels, rng(), np.full((3, 1, 64, 64), 50, np.uint8), lesion=True)
    assert (marks == labels).all()
    assert (made[:, 0, 22:28, 22:28] >= 199).all()
    assert (made[:, 0, 40:] == 50).all()
    disc, none = pasted(images, labels, rng(), np.full((3, 1, 64, 64), 50, np.uint8), lesion=False)
    assert not none.any()
    assert 150 < (disc[0, 0] > 125).sum() <= np.pi * (64 / 6 + 1) ** 2


def test_noise_is_a_share_of_bright_tissue() -> None:
    images = np.full((4, 1, 64, 64), 100, np.uint8)
    off = noise(images, np.zeros((4, 64, 64), np.uint8), rng(), 0.1)[0].astype(float) - 100
    assert off.std() == pytest.approx(10, rel=0.03)


def test_blends_and_warps() -> None:
    half = blend(IMAGES, LABELS, rng(), 0.5)[0].astype(int)
    assert np.abs(half - (IMAGES.astype(int) + np.roll(IMAGES, 3, 0)) / 2).max() <= 0.5
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, None] * 3, (3, 1, 64, 64)).copy()
    bent = warp(ramp, np.zeros((3, 64, 64), np.uint8), rng(), 1 / 64)[0].astype(float)
    assert 0.3 < np.abs(bent - ramp)[..., 8:-8, 8:-8].mean() / 3 < 1.0  # along one axis of the mean displacement


def test_quarter_turns_must_be_found_only_where_they_are_looked_for() -> None:
    must = {s.name for s in planted_copies(IMAGES) if s.must}
    assert must == {"exact", "noise 2 %", "noise 5 %", "gamma 0.7", "gamma 1.4"}
    assert {s.name for s in planted_copies(IMAGES, None, True) if s.must} == must | {"quarter turn"}


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
