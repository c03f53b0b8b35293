"""The picture of the architecture is that of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

HOOK = Path(__file__).parents[2] / "docs" / "hooks" / "architecture.py"


def test_the_picture_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("architecture", HOOK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.drawing() == module.PICTURE.read_text(encoding="utf-8"), f"run python {HOOK}"
