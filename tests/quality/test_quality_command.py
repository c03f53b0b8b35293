"""`understudy quality` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_slices import slice_set
from typer.testing import CliRunner

from understudy import cli
from understudy.errors import UnderstudyError


def run(*arguments: str | Path) -> str:
    found = CliRunner().invoke(cli.app, ["quality", "--quiet", *map(str, arguments)], catch_exceptions=True)
    if found.exception is not None:
        raise found.exception
    return found.stdout


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    people, splits = ("a", "b", "c"), ("train", "train", "val")
    real = slice_set(tmp_path / "real", 450, 0, patients=people, splits=splits).path
    made = slice_set(tmp_path / "made", 140, 1).path
    given = ["--real", real, "--synthetic", made, "--channels", "T1w", "--out", tmp_path / "out", "--device", "cpu"]
    text = run(*given)
    assert "Frechet distance" in text
    assert "floor: 150 slices of 1 other patients" in text
    assert "a floor of 1 patients is rough" in text
    content = json.loads(run(*given, "--json"))
    assert content == json.loads((tmp_path / "out" / "quality.json").read_text())
    assert {r["channel"] for r in content["rows"]} == {"T1w"}
    with pytest.raises(UnderstudyError, match="needs a file of weights"):
        run(*given, "--extractor", "inception2015")
    with pytest.raises(UnderstudyError, match="0 hashes for 0 extractors"):
        run(*given, "--weights", made)
    with pytest.raises(UnderstudyError, match="nearest") as error:
        run(*given, "--resize", "nearest")
    assert (error.value.where, "tf1" in str(error.value.fix)) == ("--resize", True)
