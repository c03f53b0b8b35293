"""Distances in one call: from arrays and sets, the same numbers as the measurement's; what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_slices import Pooled, slice_set

from understudy import quality
from understudy.errors import UnderstudyError
from understudy.quality.config import QualityConfig
from understudy.quality.features import FeatureCache
from understudy.quality.measure import make_parts, measure
from understudy.quality.radiomics import RadiomicExtractor

REAL = np.random.default_rng(0).integers(0, 256, (40, 2, 8, 8), dtype=np.uint8)


def test_sets_give_what_the_measurement_says(tmp_path: Path) -> None:
    real = slice_set(tmp_path / "r", 60, 0, patients=("a", "b"))
    made = slice_set(tmp_path / "s", 50, 1, shift=20, channels=("FLAIR", "T1w"))
    rows = measure(make_parts(made, real), Pooled(), FeatureCache(tmp_path / "f"), QualityConfig())
    means = {row.metric: row.value for row in rows if row.channel == "mean"}
    assert quality.fid(made, real, extractor=Pooled()) == pytest.approx(means["frechet_distance"], rel=1e-9)
    found = quality.precision_recall(made, real, extractor=Pooled())
    assert found == pytest.approx({name: means[name] for name in found})
    assert set(found) == {"precision", "recall", "density", "coverage"}
    mean, sd = quality.kid(made, real, extractor=Pooled())
    assert mean == pytest.approx(means["kernel_distance"], rel=0.2)
    assert sd > 0


def test_arrays_are_compared_channel_by_channel() -> None:
    assert quality.fid(REAL, REAL, extractor=Pooled()) == pytest.approx(0, abs=1e-6)
    darker = REAL // 2
    alone = [quality.fid(darker[:, [c]], REAL[:, [c]], extractor=Pooled()) for c in (0, 1)]
    assert quality.fid(darker, REAL, extractor=Pooled()) == pytest.approx(np.mean(alone))
    both = quality.fid(darker, REAL, extractor=Pooled(channels=("channel1", "channel2")))
    assert both > max(alone)


def test_radiomics_are_standardised_by_the_real_slices() -> None:
    found = quality.precision_recall(REAL[:20], REAL, extractor="radiomics")
    assert found == quality.precision_recall(REAL[:20], REAL, extractor=RadiomicExtractor())
    assert found["precision"] == 1


class Classes(Pooled):
    def logits(self, features: np.ndarray) -> np.ndarray:
        return features


def test_the_inception_score_needs_classes() -> None:
    mean, sd = quality.inception_score(REAL, extractor=Classes(), splits=4)
    assert 1 <= mean <= 4
    assert sd >= 0
    with pytest.raises(UnderstudyError, match="no classes"):
        quality.inception_score(REAL, extractor=Pooled())
    with pytest.raises(UnderstudyError, match="file of weights") as error:
        quality.inception_score(REAL)
    assert "torch-fidelity" in str(error.value.fix)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="128 dimensions") as error:
        quality.fid(REAL, REAL)
    assert "kid" in str(error.value.fix)
    real = slice_set(tmp_path / "r", 4, 0)
    with pytest.raises(UnderstudyError) as error:
        quality.kid(REAL, real, extractor=Pooled())
    assert "slices.images" in str(error.value.fix)
    for synthetic in (REAL[:, :1], REAL[..., :4, :4], REAL[:0]):  # other channels, another size, none
        with pytest.raises(UnderstudyError, match="synthetic slices"):
            quality.kid(synthetic, REAL, extractor=Pooled())
    with pytest.raises(UnderstudyError, match="real is a path"):
        quality.fid(REAL, "folder", extractor=Pooled())  # type: ignore[arg-type]
    with pytest.raises(UnderstudyError, match="N, C, H, W"):
        quality.kid(REAL[:, 0], REAL, extractor=Pooled())
    with pytest.raises(AttributeError):
        _ = quality.nothing  # type: ignore[attr-defined]


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = "import sys, understudy.quality, understudy.memorization; print({'torch', 'pandas'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
