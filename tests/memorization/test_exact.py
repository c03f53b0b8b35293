"""Exact products against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.memorization.exact import kernel_is_exact, product, signed


def test_signed_shifts_by_128() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert signed(every).tolist() == list(range(-128, 128))


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    terms=st.sampled_from([1, 2, 3, 15, 64, 1023, 1024, 1025, 5000]),
    seed=st.integers(0, 1000),
    kernel=st.booleans(),
)
def test_equals_integers(m: int, n: int, terms: int, seed: int, kernel: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-128, 128, (k, terms)).astype(np.int8) for k in (m, n))
    if seed % 3 == 0:
        a[:], b[:] = -128, rng.choice([-128, 127])
    found = product(torch.from_numpy(a), torch.from_numpy(b), kernel and kernel_is_exact(torch.device("cpu")))
    assert np.array_equal(found.numpy(), a.astype(np.int64) @ b.astype(np.int64).T)


@pytest.mark.parametrize("value", [-128, 127])
@pytest.mark.parametrize("kernel", [True, False])
def test_a_channel_of_512_pixels_squared_does_not_overflow(value: int, kernel: bool) -> None:
    a = torch.full((2, 512 * 512), value, dtype=torch.int8)
    found = product(a, a, kernel and kernel_is_exact(torch.device("cpu")))
    assert found.tolist() == [[value * value * 512 * 512] * 2] * 2  # 2^32 for the background: an int32 says 0
