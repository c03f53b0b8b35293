"""Features of whole sets: computed once, continued block by block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_slices import Pooled, slice_set

from understudy.errors import UnderstudyError
from understudy.quality.features import FeatureCache
from understudy.slices import SliceSet


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    return slice_set(tmp_path_factory.mktemp("real") / "set", 180, 0, patients=tuple("abcdef"))


def test_features_are_computed_once_and_continued_by_block(real: SliceSet, tmp_path: Path) -> None:
    class Stops(Pooled):
        def features(self, images: np.ndarray) -> np.ndarray:
            if self.seen >= 100:
                raise KeyboardInterrupt
            return super().features(images)

    cache, stops = FeatureCache(tmp_path), Stops()
    with pytest.raises(KeyboardInterrupt):
        cache.features(real, ["T1w"], stops, block=50)
    goes_on = Pooled()
    found = cache.features(real, ["T1w"], goes_on, block=50)["T1w"]
    assert (stops.seen, goes_on.seen) == (100, 80)
    np.testing.assert_array_equal(found, Pooled().features(real.read(slice(None))[0][:, 0]))
    again = Pooled()
    cache.features(real, ["T1w"], again, block=64)
    assert again.seen == 0
    other = Pooled()
    other.sha256 = "1" * 64  # other weights are another extractor
    cache.features(real, ["T1w"], other)
    assert other.seen == 180


def test_features_that_are_not_finite_are_refused(real: SliceSet, tmp_path: Path) -> None:
    class Broken(Pooled):
        def features(self, images: np.ndarray) -> np.ndarray:
            return super().features(images) * np.nan

    with pytest.raises(UnderstudyError, match="not finite"):
        FeatureCache(tmp_path).features(real, ["T1w"], Broken())


def test_a_channel_that_is_not_there_is_refused(real: SliceSet, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="T2w") as error:
        FeatureCache(tmp_path).features(real, ["T2w"], Pooled())
    assert error.value.where == str(real.path)
