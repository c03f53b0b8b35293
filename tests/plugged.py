"""Plug-ins for tests: declared as `pip install` declares them, and the one of docs/examples/plugin."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "plugin"


def declare_plugin(folder: Path, name: str, value: str, version: str = "0.1.0") -> None:
    """A dist-info folder as `pip install` leaves it, for a distribution `understudy-<name>` with one entry point."""
    info = folder / f"understudy_{name}-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: understudy-{name}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(f"[understudy.generators]\n{name} = {value}\n")


@pytest.fixture
def example_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plug-in of docs/examples/plugin, installed for this test; its folder."""
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copy(EXAMPLE / "principal.py", folder)
    declare_plugin(folder, "principal", "principal:Principal")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "principal", raising=False)
    yield folder
    sys.modules.pop("principal", None)
