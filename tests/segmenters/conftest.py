"""Toy sets shared by the tests of this room."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the toys are a plain module beside the tests

import toys

from understudy.slices import SliceSet
from understudy.volumes import VolumeSet


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    return toys.slice_set(tmp_path_factory.mktemp("real") / "set")


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> SliceSet:
    """Channels in another order than the real set's."""
    return toys.slice_set(
        tmp_path_factory.mktemp("synthetic") / "set", n=30, seed=1, channels=("FLAIR", "T1w"), generated=True
    )


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> VolumeSet:
    return toys.volume_set(tmp_path_factory.mktemp("volumes") / "set")
