"""The commands that take a folder of images have the options that their errors name, and say whose slices these are."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from foreign import save_png
from test_patients import labelled, people
from typer.testing import CliRunner

import understudy.exchange
import understudy.quality.annotation  # or it would be imported while `compared` is in force, and keep that
from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.exchange.export import export_images
from understudy.roles import UnfitSets
from understudy.slices import BACKGROUND, LabelClass, SliceSet, SliceWriter

COMPARING = ("audit", "screen", "quality", "annotations")  # patients matter, sizes are fitted
READING = ("read", "evaluate")
PATIENTS = {"--patients", "--trust-patients"}


def options(command: str) -> set[str]:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts}


def named_in_messages() -> set[str]:
    """Options in the texts of the modules that read folders."""
    found: set[str] = set()
    for path in Path(understudy.exchange.__path__[0]).glob("*.py"):
        if path.stem in ("export", "description"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", node.value))
    return found - {"--help"}


def test_an_error_names_only_options_that_the_command_has() -> None:
    named = named_in_messages()
    assert {"--codes", "--channels", "--labels", "--layout", "--pattern", "--values", "--clip"} <= named
    for command in COMPARING:
        assert named - {"--sizes"} <= options(command), command
    for command in READING:
        assert named - PATIENTS <= options(command), command


class Compared(Exception):
    """Stands in for the comparison itself: the sets that it would have been given."""


@dataclass
class Ran:
    """The real, held-out and synthetic slices that a command compares, and what it said on stderr."""

    real: SliceSet
    heldout: SliceSet | None
    made: SliceSet
    stderr: str


@pytest.fixture(autouse=True)
def compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def audit(real: SliceSet, held: SliceSet, made: SliceSet, *rest: object) -> None:
        raise Compared(real, held, made)

    def measure(made: SliceSet, real: SliceSet, held: SliceSet | None, *rest: object, **more: object) -> None:
        raise Compared(real, held, made)

    monkeypatch.setattr("understudy.memorization.perform.audit", audit)
    monkeypatch.setattr("understudy.quality.measure.make_parts", measure)
    monkeypatch.setattr("understudy.quality.annotation.compare_annotations", measure)


def run(command: str, real: Path, made: Path, *more: str | Path) -> Ran:
    name = "--training" if command == "audit" else "--real"
    given = [command, name, real, "--synthetic", made, "--out", made.parent / command, *more, "--quiet"]
    found = CliRunner().invoke(app, [str(word) for word in given])
    if isinstance(found.exception, Compared):
        real_set, held, made_set = found.exception.args
        return Ran(real_set, held, made_set, found.stderr)
    assert found.exception is not None, found.output
    raise found.exception


COMMANDS = ("audit", "quality", "annotations")


def pictures(folder: Path, names: list[str], images: np.ndarray) -> Path:
    for name, image in zip(names, images, strict=True):
        save_png(folder / f"{name}.png", image[0])
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_our_own_export_is_read_without_a_word(tmp_path: Path, command: str) -> None:
    """A class of code 255, channels with names of their own, and patients."""
    classes = [BACKGROUND, LabelClass("lesion", 1, 255)]
    for name, people_of in (("real", labelled(4, 8, 1)), ("made", None)):
        writer = SliceWriter(tmp_path / "set" / name, ["T1w", "T1wGd"], classes, 32)
        rows = [{"id": f"{i}"} | ({"subject": people_of[i], "split": "train"} if people_of else {}) for i in range(32)]
        writer.append(
            np.repeat(people(4, 8).reshape(-1, 1, 32, 32), 2, 1), np.eye(32, dtype=np.uint8)[None].repeat(32, 0), rows
        )
        export_images(writer.close(), tmp_path / name, progress=False)
    ran = run(command, tmp_path / "real", tmp_path / "made")
    for found in (ran.real, ran.made):
        assert found.channels == ("T1w", "T1wGd")
        assert found.classes == tuple(classes)
        assert found.read([0])[1].sum() == 32
    assert set(ran.real.index["subject"]) == {f"p{k:02d}_0" for k in range(4)}
    assert "32 slices of 4 patients" in ran.stderr
    kept = json.loads((tmp_path / command / "private" / "read" / "patients.json").read_text())
    assert kept[str(tmp_path / "real")]["slices"] == {f"p{k:02d}_0": 8 for k in range(4)}


def test_an_audit_needs_to_know_whose_slices_they_are_and_quality_says_what_is_missing(tmp_path: Path) -> None:
    names = [f"p{i % 3}_{i:04d}" for i in range(24)]
    real = pictures(tmp_path / "real", [n[3:] for n in names], people(3, 8).reshape(-1, 1, 32, 32))
    for more in ([], ["--patients", r"(\d+)$"]):
        with pytest.raises(UnderstudyError) as caught:
            run("audit", real, real, *more)
        assert "(24)" in caught.value.what
        assert "--patients '(.*)'" in str(caught.value.fix)
    with pytest.raises(UnderstudyError) as caught:
        run("audit", real, real, "--patients", "^(0)")
    assert "of one patient" in caught.value.what
    assert "--trust-patients" in str(caught.value.fix)
    assert run("audit", real, real, "--patients", "^(0)", "--trust-patients").real.index["subject"].nunique() == 1
    assert run("audit", real, real, "--patients", "(.*)").real.index["subject"].tolist() == [n[3:] for n in names]
    said = run("quality", real, real).stderr
    assert "(24)" in said
    assert "--patients" in said


def test_an_audit_stops_at_patients_that_look_like_one(tmp_path: Path) -> None:
    images = people(16, 12).reshape(-1, 1, 32, 32)
    names = [f"p{i // 12:02d}{'ab'[i % 12 // 6]}_z{i % 12:02d}" for i in range(192)]
    real = pictures(tmp_path / "real", names, images)
    assert run("audit", real, real, "--patients", "^(p..)").real.index["subject"].nunique() == 16
    with pytest.raises(UnderstudyError, match="neighbouring slices") as caught:
        run("audit", real, real)
    assert "--trust-patients" in str(caught.value.fix)
    with pytest.raises(UnderstudyError, match="neighbouring slices"):
        run("audit", real, real, "--patients", "^(p...)")
    assert run("audit", real, real, "--trust-patients").real.index["subject"].nunique() == 32
    assert "neighbouring slices" in run("quality", real, real).stderr


@pytest.mark.parametrize("command", ["audit", "quality"])
def test_single_slices_as_arrays_are_named_not_guessed(tmp_path: Path, command: str) -> None:
    """[3, H, W] was read as three slices of one channel, and every slice as a patient."""
    images = np.repeat(people(4, 8).reshape(-1, 1, 32, 32), 3, axis=1)
    (tmp_path / "real").mkdir()
    for i, image in enumerate(images):
        np.save(tmp_path / "real" / f"p{i // 8:02d}_z{i % 8:03d}.npy", image)
    with pytest.raises(UnderstudyError) as caught:
        run(command, tmp_path / "real", tmp_path / "real")
    assert "--channels NAME1,NAME2,NAME3" in str(caught.value.fix)
    ran = run(command, tmp_path / "real", tmp_path / "real", "--channels", "T1w,T1wGd,FLAIR")
    assert ran.real.channels == ran.made.channels == ("T1w", "T1wGd", "FLAIR")
    np.testing.assert_array_equal(ran.real.read(slice(None))[0], images)
    assert ran.real.index["subject"].nunique() == 4
    assert "32 slices of 4 patients" in ran.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_what_an_error_asks_for_is_taken(tmp_path: Path, command: str) -> None:
    """An unknown value of the annotation, then the option that the error names."""
    for i in range(8):
        save_png(tmp_path / "x" / f"p{i // 4}_{i}_T1.png", people(1, 8)[0, i, 0])
        save_png(tmp_path / "x" / f"p{i // 4}_{i}_Seg.png", np.eye(32, dtype=np.uint8) * 255)
    with pytest.raises(UnderstudyError) as caught:
        run(command, tmp_path / "x", tmp_path / "x")
    assert "--codes" in str(caught.value.fix)
    ran = run(command, tmp_path / "x", tmp_path / "x", "--codes", "lesion=255")
    assert ran.real.class_names == ("lesion",)
    assert ran.real.read([0])[1].sum() == 32


def test_annotations_are_asked_for_where_there_are_none(tmp_path: Path) -> None:
    real = pictures(tmp_path / "real", [f"p{i // 4}_z{i % 4}" for i in range(8)], people(2, 4).reshape(-1, 1, 32, 32))
    with pytest.raises(UnderstudyError) as caught:
        run("annotations", real, real)
    assert caught.value.where == str(real)
    assert "--labels" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--pattern", "{id}.png"), ("--values", "3,1"), ("--codes", "a=300"), ("--channels", "a=,b"), ("--layout", "x")],
)
def test_an_option_that_cannot_be_understood_is_named_with_what_it_takes(
    tmp_path: Path, option: str, value: str
) -> None:
    with pytest.raises(UnderstudyError) as caught:
        run("audit", tmp_path, tmp_path, option, value)
    assert str(caught.value.where).startswith(option)
    assert caught.value.fix


def test_an_error_about_a_set_that_was_read_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(real: SliceSet, held: SliceSet, made: SliceSet, *rest: object) -> None:
        raise UnfitSets("no", where=held.path, fix="so")

    monkeypatch.setattr("understudy.memorization.perform.audit", refuse)
    for folder in ("real", "held"):
        names = [f"p{i // 4}_z{i % 4}" for i in range(8)]
        pictures(tmp_path / folder, names, people(2, 4).reshape(-1, 1, 32, 32))
    with pytest.raises(UnfitSets) as caught:
        run("audit", tmp_path / "real", tmp_path / "real", "--heldout", tmp_path / "held")
    assert caught.value.where == str(tmp_path / "held")
