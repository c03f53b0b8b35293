"""Packages of every format, made once for all tests that look into them."""

from pathlib import Path

import pytest
from made_release import every_format, make_inputs, released

from understudy.release.package import Released


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return every_format(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="session")
def exportable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Released, dict[str, Path]]:
    """An intact package of PNG files whose slices have a geometry, and what it was made from."""
    root = tmp_path_factory.mktemp("exportable")
    inputs = make_inputs(root / "inputs", (0.9, 0.8, 1.5), ("P", "L"))
    return released(inputs, root / "heads", "png"), inputs
