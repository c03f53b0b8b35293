"""Sets of the tests of this room, and one audit of them."""

from __future__ import annotations

import numpy as np
import pytest
from made import FAST, new_slices, real_set, split_of, synthetic_set

from understudy.memorization.perform import AuditResult, audit
from understudy.slices import SliceSet


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    return real_set(tmp_path_factory.mktemp("real") / "s", split_of(8, 12))


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory, real: SliceSet) -> SliceSet:
    """90 new slices, then 10 noisy copies of the slices of T2."""
    images, labels = new_slices(90)
    copies, marks = real.read(real.rows(subject="T2")[:10])
    noisy = np.clip(copies + np.random.default_rng(1).normal(0, 3, copies.shape), 0, 255).astype(np.uint8)
    folder = tmp_path_factory.mktemp("mixed")
    return synthetic_set(folder / "s", np.concatenate([images, noisy]), np.concatenate([labels, marks]))


@pytest.fixture(scope="session")
def found(real: SliceSet, mixed: SliceSet) -> AuditResult:
    return audit(real, real, mixed, FAST)
