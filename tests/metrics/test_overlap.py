"""Counts and Dice against counting by hand, MedPy and MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary
from monai.metrics import compute_dice

from understudy.metrics.overlap import confusion, counts, dice, precision, recall, union_box

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))


@st.composite
def label_pairs(draw: st.DrawFn, classes: int) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    volume = arrays(np.uint8, shape, elements=st.integers(0, classes - 1))
    return draw(volume), draw(volume)


@pytest.mark.parametrize("classes", [2, 4, 16, 17, 40, 256])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_confusion_counts_every_pair(classes: int, data: st.DataObject) -> None:
    truth, prediction = data.draw(label_pairs(classes))
    expected = np.zeros((classes, classes), np.int64)
    for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        expected[t, p] += 1
    assert np.array_equal(confusion(truth, prediction, classes), expected)


@settings(max_examples=60, deadline=None)
@given(pair=label_pairs(5), members=st.sets(st.integers(1, 4), min_size=1))
def test_counts_of_a_union_equal_those_of_its_mask(pair: tuple[np.ndarray, np.ndarray], members: set[int]) -> None:
    truth, prediction = (np.isin(v, list(members)) for v in pair)
    tp, fp, fn = counts(confusion(*pair, 5), members)
    assert (tp, fp, fn) == ((truth & prediction).sum(), (prediction & ~truth).sum(), (truth & ~prediction).sum())


@settings(max_examples=60, deadline=None)
@given(pair=label_pairs(3))
def test_union_box_is_tight(pair: tuple[np.ndarray, np.ndarray]) -> None:
    box = union_box(*pair)
    where = np.argwhere((pair[0] > 0) | (pair[1] > 0))
    if not len(where):
        assert box is None
    else:
        assert box is not None
        assert [(s.start, s.stop) for s in box] == [(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True)]


def test_scores_equal_medpy_and_monai() -> None:
    rng = np.random.default_rng(5)
    truth, prediction = rng.integers(0, 4, (2, 9, 11, 13), dtype=np.uint8)
    table = confusion(truth, prediction, 4)
    onehot = [torch.from_numpy(np.stack([v == k for k in range(4)])[None]) for v in (prediction, truth)]
    monai = compute_dice(*onehot, include_background=False)[0].numpy()
    for k in (1, 2, 3):
        c = counts(table, [k])
        masks = prediction == k, truth == k
        assert dice(*c) == pytest.approx(binary.dc(*masks), abs=1e-12)
        assert dice(*c) == pytest.approx(monai[k - 1], abs=1e-6)
        assert precision(c.tp, c.fp) == pytest.approx(binary.precision(*masks), abs=1e-12)
        assert recall(c.tp, c.fn) == pytest.approx(binary.recall(*masks), abs=1e-12)


def test_undefined_quotients_are_nan() -> None:
    assert np.isnan(dice(0, 0, 0))
    assert dice(0, 3, 0) == 0
    assert np.isnan(precision(0, 0))
    assert np.isnan(recall(0, 0))
    assert dice([4, 0], [2, 0], [2, 1]).tolist() == [8 / 12, 0]
