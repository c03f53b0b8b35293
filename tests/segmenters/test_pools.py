from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.segmenters.pools import channel_order, class_table, split_counts


@settings(max_examples=50, deadline=None)
@given(st.floats(0.001, 0.999), st.integers(0, 10**6), st.integers(1, 300))
def test_two_streams_share_every_stretch_in_proportion(share: float, start: int, n: int) -> None:
    k = np.arange(start, start + n)
    first, in_first, in_second = split_counts(k, share)
    assert abs(first.sum() - n * share) < 1.1  # shares are taken to the fourth digit
    np.testing.assert_array_equal(np.diff(in_first), first[:-1].astype(int))
    np.testing.assert_array_equal(in_first + in_second, k)


def test_names_not_positions() -> None:
    assert channel_order(("a", "b", "c"), ("c", "a"), "here") == [2, 0]
    table = class_table(("background", "ET", "ED"), ("background", "NCR", "ED", "ET"), "here")
    assert table[:3].tolist() == [0, 3, 2]
    with pytest.raises(UnderstudyError, match="unknown class WM"):
        class_table(("background", "WM"), ("background", "ET"), "here")
