"""Planted copies: what each change does, and that it can be repeated."""

from __future__ import annotations

import numpy as np
import pytest
from made import heads

from understudy.memorization.plant import blend, exact, flip, gamma, noise, quarter_turn, severities, shift, warp

IMAGES, LABELS = heads(0, 6)


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def test_every_kind_keeps_shape_and_type_and_repeats_itself() -> None:
    names = [s.name for s in severities("dihedral")]
    assert len(set(names)) == len(names)
    for severity in severities("dihedral"):
        images, labels = severity.change(IMAGES, LABELS, rng())
        again, _ = severity.change(IMAGES, LABELS, rng())
        assert images.shape == IMAGES.shape
        assert labels.shape == LABELS.shape
        assert images.dtype == labels.dtype == np.uint8
        assert (images == again).all()
        assert set(np.unique(labels)) <= {0, 1}
        assert severity.name == "exact" or (images != IMAGES).any()


def test_simple_changes_are_what_their_names_say() -> None:
    assert (exact(IMAGES, LABELS, rng())[0] == IMAGES).all()
    assert (flip(IMAGES, LABELS, rng())[0] == IMAGES[..., ::-1]).all()
    assert (quarter_turn(IMAGES, LABELS, rng())[0][0, 0] == np.rot90(IMAGES[0, 0])).all()
    moved, marks = shift(2)(IMAGES, LABELS, rng())
    for image, original, mark, label in zip(moved, IMAGES, marks, LABELS, strict=True):
        rolls = [(axis, by) for axis in (1, 2) for by in (2, -2)]
        inner = np.s_[:, 2:-2, 2:-2]
        fits = [(image[inner] == np.roll(original, by, axis)[inner]).all() for axis, by in rolls]
        axis, by = rolls[fits.index(True)]
        assert sum(fits) == 1
        assert (mark[2:-2, 2:-2] == np.roll(label, by, axis - 1)[2:-2, 2:-2]).all()
    bright = gamma(0.5)(np.full((1, 1, 2, 2), 64, np.uint8), LABELS[:1], rng())[0]
    assert bright.max() == round(255 * (64 / 255) ** 0.5)


def test_noise_is_a_share_of_bright_tissue() -> None:
    images = np.full((4, 1, 64, 64), 100, np.uint8)
    off = noise(0.1)(images, np.zeros((4, 64, 64), np.uint8), rng())[0].astype(float) - 100
    assert off.std() == pytest.approx(10, rel=0.03)


def test_blends_and_warps() -> None:
    half = blend(0.5)(IMAGES, LABELS, rng())[0].astype(int)
    assert np.abs(half - (IMAGES.astype(int) + np.roll(IMAGES, 3, 0)) / 2).max() <= 0.5
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, None] * 3, (3, 1, 64, 64)).copy()
    moved = warp(1.0)(ramp, np.zeros((3, 64, 64), np.uint8), rng())[0].astype(float)
    assert 0.3 < np.abs(moved - ramp)[..., 8:-8, 8:-8].mean() / 3 < 1.0  # along one axis of the mean displacement


def test_mirrored_copies_must_be_found_only_where_they_are_looked_for() -> None:
    must = {s.name for s in severities() if s.must}
    assert must == {"exact", "noise 2 %", "noise 5 %", "gamma 0.7", "gamma 1.4"}
    assert {s.name for s in severities("dihedral") if s.must} == must | {"flip", "quarter turn"}
