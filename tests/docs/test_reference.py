"""The generated pages name every field of the study file and every option of every command, once."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import pytest
import typer
from fences import ROOT
from pydantic import BaseModel

from understudy.cli import app
from understudy.study.config.schema import Study


@pytest.fixture(scope="module")
def reference() -> Any:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "hooks" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def models_of_schema(schema: Any) -> set[str]:
    """Titles of all models by pydantic's own JSON schema: an independent walk."""
    return {d["title"] for d in schema["$defs"].values() if d.get("type") == "object"} | {schema["title"]}


def test_every_model_has_one_section_and_every_field_a_row(reference: Any) -> None:
    page = reference.study_page()
    sections = re.findall(r"^## .+? \{ #(\S+) \}$", page, re.M)
    assert len(sections) == len(set(sections))
    found = {model.__name__ for _, model in reference.groups(Study)}
    assert found == models_of_schema(Study.model_json_schema())
    for link in re.findall(r"\]\(#([\w-]+)\)", page):
        assert link in sections


def test_every_field_says_what_it_means(reference: Any) -> None:
    silent = [
        f"{m.__name__}.{n}" for _, m in reference.groups(Study) for n, f in m.model_fields.items() if not f.description
    ]
    assert silent == []


def test_rows_are_whole(reference: Any) -> None:
    for page in (reference.study_page(), reference.commands_page()):
        for line in page.splitlines():
            if line.startswith("|"):
                bars = len(re.findall(r"(?<!\\)\|", line))
                assert bars == 3, line


def test_types_and_defaults_are_words(reference: Any) -> None:
    class Inner(BaseModel):
        """Inside."""

    class Outer(BaseModel):
        a: int | None = None
        b: list[Inner] = []
        c: dict[str, float] = {"x": 1.0}
        d: str

    table = reference.field_table(Outer)
    assert "| `a` | <br><small>whole number or null, default `null`</small> |" in table
    assert "| `b` | <br><small>list of [Inner](#" in table
    assert '| `c` | <br><small>text → number, default `{"x": 1.0}`</small> |' in table
    assert "| `d` | <br><small>text, required</small> |" in table


def test_every_command_and_option_is_there(reference: Any) -> None:
    page, root = reference.commands_page(), typer.main.get_command(app)

    def walk(command: Any, name: str) -> None:
        for below, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {below}".strip())
        if not hasattr(command, "commands"):
            section = page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
            for parameter in command.params:
                for option in parameter.opts if parameter.param_type_name == "option" else []:
                    assert f"`{option}`" in section or option == "--help", (name, option)

    walk(root, "")
