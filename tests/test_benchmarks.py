"""Benchmarks run by hand and rarely: what they use of the package has to be there all the same."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_it_imports_of_us_is_there(path: Path) -> None:
    used = [
        (node.module, name.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("understudy")
        for name in node.names
    ]
    for module, name in used:
        found = importlib.import_module(str(module))
        assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module} has no {name}"


def test_there_are_benchmarks() -> None:
    assert len(BENCHMARKS) > 10
