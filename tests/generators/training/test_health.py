"""What counts as a broken generator, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.generators.joint import encode
from understudy.generators.training.health import (
    Diverged,
    Reference,
    check_divergence,
    faults,
    sample_stats,
    spread,
    summary,
)
from understudy.slices import SliceSet

REAL = Reference(spread=0.5, annotated=0.4)


def lines(*diversity: float | None, annotated: float = 0.3) -> list[dict[str, Any]]:
    return [{"kimg": float(i + 1), "diversity": d, "annotated": annotated} for i, d in enumerate(diversity)]


def test_spread_is_the_mean_standard_deviation() -> None:
    images = torch.randn(20, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert spread(images) == pytest.approx(float(images.std(dim=0).mean()), rel=1e-5)
    assert spread(images[:1]) == 0


def test_real_slices_are_as_diverse_as_real_slices(slices: SliceSet) -> None:
    rows = np.arange(len(slices))
    real = Reference.of(slices, rows, "coded")
    assert real.annotated == 0.5
    images, labels = slices.read(rows)
    signs = sample_stats(encode(images, labels, slices.classes), slices.classes, "coded", real)
    assert signs == pytest.approx({"diversity": 1, "annotated": 0.5, "share_core": 0.25, "share_oedema": 0.25})


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (lines(), []),
        (lines(0.01, 0.02), []),  # too early to tell
        (lines(0.01, 0.02, 0.01), ["collapsed"]),
        (lines(0.01, 0.02, 0.01, 0.8), []),  # it came back
        (lines(*[0.8] * 60, 0.01, 0.01, 0.01), []),  # not for a tenth of the training yet
        (lines(*[0.8] * 60, *[0.01] * 7), ["collapsed"]),
        (lines(0.8, 0.8, 0.8, annotated=0.0), ["empty annotation"]),
        (lines(0.8, 0.8, 0.8, annotated=0.09), ["rare annotation"]),  # real slices: 0.4
        (lines(0.8, 0.8, 0.8, annotated=0.11), []),
        (lines(0.8, 0.8, annotated=0.0) + lines(0.8, annotated=0.25), ["rare annotation"]),
        (lines(0.8, 0.8, annotated=0.0) + lines(0.8, annotated=0.35), []),
        (lines(0.0, None, 0.0, None, 0.0), ["collapsed"]),  # lines without samples do not count
    ],
)
def test_faults_have_to_last(history: list[dict[str, Any]], expected: list[str]) -> None:
    assert faults(history, REAL) == expected


def test_an_annotation_that_real_slices_lack_is_not_missed() -> None:
    assert faults(lines(0.8, 0.8, 0.8, annotated=0.0), Reference(0.5, 0.0)) == []


def test_the_summary_says_since_when() -> None:
    broken = summary(lines(0.8, 0.8, 0.01, 0.01, 0.01, 0.01), REAL)
    assert not broken["ok"]
    assert broken["faults"] == {"collapsed": 5.0}
    assert broken["diversity"] == 0.01
    recovered = summary([*lines(0.01, 0.01, 0.01, 0.9), {"kimg": 5.0, "repaired_gradients": 2.0}], REAL)
    assert recovered == {"ok": True, "faults": {}, "diversity": 0.9, "annotated": 0.3, "repaired_gradients": 2.0}


def test_a_loss_that_is_no_number_is_divergence(tmp_path: Path) -> None:
    check_divergence({"loss": 1.0, "pl": None}, 3.0, tmp_path)
    with pytest.raises(Diverged, match=r"at 3\.0 kimg"):
        check_divergence({"loss_d": None, "loss_g": 1.0}, 3.0, tmp_path)
