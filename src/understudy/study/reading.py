"""YAML with line numbers, and validation errors in words: which line, which field, what is allowed, what was meant."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from understudy.errors import UnderstudyError
from understudy.generators.plugins import told_installed

Lines = dict[tuple[str, ...], int]
"""Path of a field, e.g. ("generators", "stylegan2", "samples"), -> line of the file, from 1."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, Hashable):
                continue  # the base class reports it
            line = key_node.start_mark.line + 1
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key}` is given twice, first in line {seen[key]}", key_node.start_mark
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """A YAML file of one mapping, and the line of each of its fields.

    Raises:
        UnderstudyError: not there, not YAML, a key given twice, not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UnderstudyError("the study file does not exist", where=path, fix="check the path") from error
    except PermissionError as error:
        raise UnderstudyError(
            "the study file may not be read", where=path, fix="check its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise UnderstudyError(
            "the study file is not text in UTF-8", where=path, fix="save it as UTF-8"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], Lines]:
    """As `read_yaml`, of text; `name` stands for the file in messages."""
    loader = _UniqueKeyLoader(text)
    try:
        node = loader.get_single_node()
        content = loader.construct_document(node) if node is not None else {}  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise UnderstudyError(
            f"not a valid YAML file: {error.problem or error.context}",
            where=f"{name}, line {line}" if line else name,
            fix="correct that line (indentation with spaces, one `name: value` a line)",
        ) from error
    except yaml.YAMLError as error:
        raise UnderstudyError(f"not a valid YAML file: {error}", where=name, fix="correct it") from error
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]
    if not isinstance(content, dict):
        raise UnderstudyError(
            "a study file is a list of `name: value` lines",
            where=name,
            fix="start from a preset: preset: quickstart",
        )
    lines: Lines = {}
    if node is not None:
        _collect_lines(node, (), lines)
    return content, lines


def _collect_lines(node: yaml.Node, path: tuple[str, ...], lines: Lines) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            lines[here] = key.start_mark.line + 1
            _collect_lines(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[*path, str(i)] = value.start_mark.line + 1
            _collect_lines(value, (*path, str(i)), lines)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`: mappings are merged field by field, anything else (lists, null) replaces."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def explain(error: ValidationError, model: type[BaseModel], lines: Lines, name: str) -> UnderstudyError:
    """The validation errors of a study file as one message, a line for each."""
    problems = [_explain_one(dict(entry), model, lines) for entry in error.errors()]
    problems = list(dict.fromkeys(problems))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return UnderstudyError(
        f"the study file has {count}:\n" + "\n".join(f"  {p}" for p in problems),
        where=name,
        fix="correct it; nothing was run",
    )


def problem_at(path: tuple[str, ...], what: str) -> PydanticCustomError:
    """An error of a whole model that is about one of its fields; `explain` names the field and its line."""
    return PydanticCustomError("problem_at", "{what}", {"what": what, "path": path})


def _explain_one(entry: dict[str, Any], model: type[BaseModel], lines: Lines) -> str:
    keys = tuple(str(key) for key in entry["loc"])
    if entry["type"] == "problem_at":
        keys += entry["ctx"]["path"]
    path, line = _known_path(keys, lines), _line(keys, lines)
    prefix = f"line {line}: " if line else ""
    value = entry["input"]
    if entry["type"] == "extra_forbidden":
        allowed = fields_at(model, keys[:-1])
        close = difflib.get_close_matches(keys[-1], allowed, n=1, cutoff=0.5)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        listing = f" (allowed: {', '.join(allowed)})" if allowed else ""
        return f"{prefix}`{path}` is not a known field{hint}{listing}"
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "literal_error" and isinstance(value, str):
        options = [part.strip("' ") for part in entry["ctx"]["expected"].replace(" or ", ", ").split(",")]
        close = difflib.get_close_matches(value, options, n=1, cutoff=0.5)
        message = f"should be {', '.join(options)}" + (f"; did you mean {close[0]}?" if close else "")
    if entry["type"] == "union_tag_invalid":
        options = [part.strip("' ") for part in entry["ctx"]["expected_tags"].split(",")]
        close = difflib.get_close_matches(entry["ctx"]["tag"], options, n=1, cutoff=0.5)
        path, value = f"{path}.kind", entry["ctx"]["tag"]
        message = f"should be {', '.join(options)}" + (f"; did you mean {close[0]}?" if close else "")
        if keys[0] == "generators":  # a package's own is named by another field
            message += f"; a plug-in is named by `plugin: NAME` in place of `model` ({told_installed()})"
    message = message[:1].lower() + message[1:]
    if entry["type"] == "missing":
        return f"{prefix}`{path}` is missing"
    given = "" if isinstance(value, dict | list | BaseModel) else f" (given: {value!r})"
    return f"{prefix}`{path}`: {message}{given}" if path else f"{prefix}{message}"


def _known_path(keys: tuple[str, ...], lines: Lines) -> str:
    """Dotted path without the parts that pydantic adds (tags of unions, "[key]")."""
    kept: tuple[str, ...] = ()
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if (*kept, key) in lines or last or not any(line[: len(kept)] == kept for line in lines):
            kept = (*kept, key)
    return ".".join(key for key in kept if key != "[key]")


def _line(keys: tuple[str, ...], lines: Lines) -> int | None:
    """Line of the field, or of the closest part of the file that encloses it."""
    kept: tuple[str, ...] = ()
    for key in keys:
        if (*kept, key) in lines:
            kept = (*kept, key)
    return lines.get(kept)


def fields_at(model: Any, keys: tuple[str, ...]) -> list[str]:
    """Names of the fields that a model has at a path; [] if the path leads out of it."""
    if not keys:
        return list(model.model_fields) if _is_model(model) else []
    candidates = _inside(model.model_fields[keys[0]].annotation) if _has_field(model, keys[0]) else []
    tags = {_tag(candidate) for candidate, _ in candidates} - {None}
    for candidate, skip in candidates:
        rest = keys[1 + skip :]
        if rest and rest[0] in tags:  # pydantic names the member of the union that it tried
            if rest[0] != _tag(candidate):
                continue
            rest = rest[1:]
        found = fields_at(candidate, rest)
        if found:
            return found
    return []


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _tag(model: Any) -> str | None:
    """The `kind` or tag by which a model is chosen from a union, if it has one."""
    if hasattr(model, "union_tag"):
        return str(model.union_tag)
    field = model.model_fields.get("kind")
    return field.default if field is not None and isinstance(field.default, str) else None


def _has_field(model: Any, key: str) -> bool:
    return _is_model(model) and key in model.model_fields


def _inside(annotation: Any) -> list[tuple[type[BaseModel], int]]:
    """Models inside an annotation and how many keys (of a dict or list) lead to each."""
    if _is_model(annotation):
        return [(annotation, 0)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return [found for argument in arguments for found in _inside(argument)]
    if origin is typing.Annotated:
        return _inside(arguments[0])
    if origin in (dict, list, tuple):
        return [(found, skip + 1) for argument in arguments for found, skip in _inside(argument)]
    return []
