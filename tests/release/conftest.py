"""Packages of every format, made once for all tests that look into them."""

from pathlib import Path

import pytest
from made_release import every_format


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return every_format(tmp_path_factory.mktemp("packages"))
