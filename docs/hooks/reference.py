"""Pages that mkdocs makes while it builds: the study file from its pydantic schema, the commands from Typer.

What a field or an option is described by is written once, in the code.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def on_config(config: Any) -> Any:
    """Puts pages that the navigation does not name at the end of its How to; called by mkdocs."""
    named = json.dumps(config["nav"])
    pages = sorted(path.name for path in Path(config["docs_dir"]).glob("*.md") if f'"{path.name}"' not in named)
    (section,) = (entry["How to"] for entry in config["nav"] if "How to" in entry)
    section += pages
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages; called by mkdocs."""
    from mkdocs.structure.files import File

    for path, text in (("study-file", study_page()), ("commands", commands_page())):
        files.append(File.generated(config, f"reference/{path}.md", content=text))
    return files


def study_page() -> str:
    """Every field of a study file, a section for each group of fields."""
    from understudy.study.config.schema import Study

    parts = [
        "# Study file\n\nEvery field with its type, default and meaning, made from the schema that a file is checked"
        " against. A study file may begin with `preset: quickstart`, `workstation` or `paper`; below it stands only"
        " what differs. Paths are relative to the file.\n"
    ]
    for title, model in groups(Study):
        parts.append(f"## {title} {{ #{anchor(model)} }}\n\n{first_paragraph(model)}\n\n{field_table(model)}\n")
    return "\n".join(parts)


def groups(root: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """(title, model) of the root and of all models below it, each once, where it is first named."""
    seen: set[type[BaseModel]] = set()

    def walk(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
        if model in seen:
            return
        seen.add(model)
        kind = model.model_fields.get("kind")
        single = kind is not None and len(typing.get_args(kind.annotation)) == 1
        of = f" ({kind.default})" if kind is not None and single else ""
        tag = str(getattr(model, "union_tag", "")).strip("<>")
        yield f"{path}{of or (f' ({tag})' if tag else '')}" if path else "Top level", model
        for name, field in model.model_fields.items():
            for inner, keyed in models_in(field.annotation):
                below = f"{path}.{name}" if path else name
                yield from walk(inner, f"{below}.NAME" if keyed else below)

    yield from walk(root, "")


def models_in(annotation: Any) -> list[tuple[type[BaseModel], bool]]:
    """Models inside an annotation, and whether they stand in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, False)]
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        arguments = arguments[:1]
    return [(model, keyed or origin is dict) for a in arguments for model, keyed in models_in(a)]


def field_table(model: type[BaseModel]) -> str:
    """The fields of a model as a Markdown table."""
    lines = ["| field | meaning |", "| --- | --- |"]
    for name, field in model.model_fields.items():
        default = default_of(field)
        limits = [limit for m in field.metadata for limit in limits_of(m)]
        facts = ", ".join(
            [type_in_words(field.annotation), f"default {default}" if default.startswith("`") else default, *limits]
        )
        lines.append(f"| `{name}` | {escaped(field.description or '')}<br><small>{facts}</small> |")
    return "\n".join(lines)


def limits_of(constraint: Any) -> list[str]:
    """E.g. ["at least 1"] of pydantic's `Ge(1)`."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}
    return [f"{word} {value:g}" for key, word in words.items() if (value := getattr(constraint, key, None)) is not None]


def type_in_words(annotation: Any) -> str:
    """A type for people; models link to their section."""
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{anchor(annotation)})"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_in_words(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_in_words(a) for a in arguments))
    if origin is dict:
        return f"{type_in_words(arguments[0])} → {type_in_words(arguments[1])}"
    if origin in (list, tuple):
        inner = ", ".join(dict.fromkeys(type_in_words(a) for a in arguments if a is not Ellipsis))
        return f"list of {inner}"
    names = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "Path": "path",
        "Any": "any",
    }
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def default_of(field: Any) -> str:
    """A default as it would be written in the file."""
    value = field.get_default(call_default_factory=not takes_data(field))
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
        return "`" + ", ".join(map(str, value)) + "`"
    if isinstance(value, list) and any(isinstance(v, BaseModel) for v in value):
        return ", ".join(f"`{getattr(v, 'name', v)}`" for v in value)
    if isinstance(value, Enum):
        value = value.value
    return f"`{escaped(json.dumps(value, default=str, ensure_ascii=False))}`"


def takes_data(field: Any) -> bool:
    return bool(getattr(field, "default_factory_takes_validated_data", False))


def first_paragraph(model: type[BaseModel]) -> str:
    """What the docstring of a model begins with."""
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())


def anchor(model: type[BaseModel]) -> str:
    """Where a model's section is; two models of the same name are of different modules."""
    return "-".join([*model.__module__.split(".")[1:], model.__name__]).lower()


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from understudy.cli import app

    root: Any = typer.main.get_command(app)
    parts = ["# Commands\n\nMade from the program itself; `understudy COMMAND --help` prints the same.\n"]
    for path, command in commands(root):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        usage = " ".join([*path, *map(shown_argument, arguments)])
        parts.append(
            f"## {' '.join(path[1:])}\n\n{escaped_angles(command.help or '')}\n\n```\n{usage} [OPTIONS]\n```\n"
        )
        rows = [option_row(p) for p in [*arguments, *options]]
        if rows:
            parts.append("\n".join(["| option | meaning |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


def commands(root: Any, path: tuple[str, ...] = ("understudy",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every command, groups opened."""
    for name, command in sorted(root.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def shown_argument(parameter: Any) -> str:
    """E.g. "STUDY", "[NAME]", "OUT..."."""
    name = str(parameter.metavar or parameter.name.upper())
    name += "..." if parameter.nargs == -1 else ""
    return name if parameter.required else f"[{name}]"


def option_row(parameter: Any) -> str:
    """A line of the table of a command."""
    names = ", ".join(f"`{n}`" for n in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name.upper())}`"
    default = parameter.default() if callable(parameter.default) else parameter.default
    if parameter.required:
        shown = "required"
    elif default is None or default is False or default in ("", ()):
        shown = ""
    else:
        shown = f"default `{' '.join(map(str, default)) if isinstance(default, tuple | list) else default}`"
    after = f"<br><small>{shown}</small>" if shown else ""
    return f"| {names} | {escaped(parameter.help or '')}{after} |"


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return escaped_angles(" ".join(text.split())).replace("|", "\\|")


def escaped_angles(text: str) -> str:
    return text.replace("<", "&lt;")
