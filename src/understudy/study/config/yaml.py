"""YAML with line numbers, and validation errors that name the line, the field, what is allowed and what was meant."""

import difflib
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from understudy.errors import UnderstudyError
from understudy.generators.registry import list_plugins
from understudy.io.files import reading
from understudy.io.foreign import YAML
from understudy.io.settings import Settings
from understudy.io.yaml import Lines, load_yaml

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 20  # problems of one file; each is compared with every field that there is


class Strict(Settings):
    """A section of a study file: a field that it does not know is an error."""


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """A YAML file of one mapping, and the line of each of its fields."""
    if not path.exists():
        raise UnderstudyError("the study file does not exist", where=path, fix="check the path")
    with reading(path, YAML):
        if path.stat().st_size > YAML.most:
            raise UnderstudyError("too long for a study file", where=path, fix="give a .yaml file, or a preset's name")
        text = path.read_text(encoding="utf-8-sig")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], Lines]:
    """As `read_yaml`, of text; `name` stands for the file in messages."""
    content, lines = load_yaml(text, name)
    fix = "start from a preset: understudy preset quickstart > my-study.yaml"
    if not isinstance(content, dict):
        raise UnderstudyError("a study file is a list of `name: value` lines", where=name, fix=fix)
    if wrong := [key for key in content if not isinstance(key, str)]:
        raise UnderstudyError(f"the field name {wrong[0]!r} is not text", where=name, fix=fix)
    return content, lines


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`: mappings are merged field by field, anything else (lists, null) replaces."""
    result = dict(base) | dict(over)
    for key in base.keys() & over.keys():
        if isinstance(base[key], Mapping) and isinstance(over[key], Mapping):
            result[key] = merged(base[key], over[key])
    return result


# --- validation errors in words ---------------------------------------------------------------------------------------


def validated(model: type[Model], content: dict[str, Any], lines: Lines, name: str) -> Model:
    """The content of the file `name` as a model; an UnderstudyError with all problems and their lines."""
    try:
        return model.model_validate(content, context={"file": name})  # which is stricter about names
    except ValidationError as error:
        each = list(dict.fromkeys(problems_of(error, model, lines)))
        if (left := error.error_count() - _SHOWN) > 0:
            each.append(f"and {left:,} more")
        head = f"the study file has {len(each) + max(left - 1, 0):,} problem{'s' if len(each) > 1 else ''}:"
        fix = "correct the file; nothing was run"
        raise UnderstudyError("\n  ".join([head, *each]), where=name, fix=fix) from error


def problems_of(error: ValidationError, model: type[BaseModel] = BaseModel, lines: Lines | None = None) -> list[str]:
    """A line for each of pydantic's first errors; without model and lines those of settings that no file gave."""
    return [_explain(dict(entry), model, lines or {}) for entry in error.errors()[:_SHOWN]]


_TYPES = {  # pydantic's names of errors: in words
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), "`name: value` lines"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"), "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"), "int_parsing_size": "a smaller number",
    **dict.fromkeys(("list_type", "tuple_type"), "a list: [a, b]"), "string_type": "text", "path_type": "a path",
}  # fmt: skip


def _explain(entry: dict[str, Any], model: type[BaseModel], lines: Lines) -> str:
    kind, value, details = entry["type"], entry["input"], entry.get("ctx", {})
    loc = tuple(str(key) for key in entry["loc"])
    keys, tags = _located(loc, lines, {path[-1] for path in field_paths(model)})
    if kind == "problem_at":  # perhaps of a field that the file leaves at its default
        keys = tuple(key for key in (*loc, *details["path"]) if not key.startswith("<"))
    prefix, path = _prefix(keys, lines), ".".join(keys)
    if kind == "extra_forbidden":
        if keys[-1:] != loc[-1:]:  # a name that looks like one of ours for the parts of a union, such as "<<"
            keys, path = (*keys, loc[-1]), ".".join([*keys, loc[-1]])
        return f"{prefix}`{path}` is not a known field{_meant_field(keys, value, model, tags)}"
    if kind == "missing":
        return f"{prefix}`{path}` is missing"
    if kind in _TYPES and value is None:
        return f"{prefix}`{path}` is empty: give it a value, or remove the line"
    message = entry["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind in _TYPES:
        message = f"should be {_TYPES[kind]}{_example(kind, value, fields_at(model, keys, tags), keys)}"
    if kind == "union_tag_invalid":
        path, value = f"{path}.kind", details["tag"]
    if kind == "union_tag_invalid" or (kind == "literal_error" and isinstance(value, str)):
        listed = details.get("expected") or details["expected_tags"]
        options = [part.strip("' ") for part in listed.replace(" or ", ", ").split(",")]
        close = difflib.get_close_matches(value, options, n=1, cutoff=0.5)
        message = f"should be {', '.join(options)}" + (f"; did you mean {close[0]}?" if close else "")
    if kind == "union_tag_invalid" and keys[0] == "generators":  # a package's own is named by another field
        message += f"; a plug-in is named by `plugin: NAME` in place of `model` ({list_plugins()})"
    message = message[:1].lower() + message[1:]
    given = "" if isinstance(value, dict | list | BaseModel) else f" (given: {_yaml(value, repr)})"
    return f"{prefix}`{path}`: {message}{given}" if path else f"{prefix}{message}"


def _located(loc: tuple[str, ...], lines: Lines, fields: Collection[str]) -> tuple[tuple[str, ...], list[str]]:
    """The path of a field in the file, and what else pydantic names on the way to it: members of unions."""
    path: tuple[str, ...] = ()
    tags = []
    for number, key in enumerate(loc):
        given = any(line[: len(path)] == path for line in lines)  # the file says something here
        absent = given and (*path, key) not in lines and number < len(loc) - 1 and key not in fields
        if absent or key == "[key]" or key.startswith("<"):
            tags.append(key)
        else:
            path = (*path, key)
    return path, tags


def _prefix(keys: tuple[str, ...], lines: Lines) -> str:
    """E.g. "line 3: ", of the field or of the closest part of the file that encloses it."""
    known = [keys[:n] for n in range(len(keys), 0, -1) if keys[:n] in lines]
    return f"line {lines[known[0]]}: " if known else ""


def _yaml(value: Any, plain: Callable[[Any], str] = str) -> str:
    """A value on one line, null, true and false as YAML writes them and the others as `plain` does."""
    if isinstance(value, Mapping | list | BaseModel):
        return "..."
    text = json.dumps(value) if value is None or isinstance(value, bool) else plain(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _example(kind: str, value: Any, fields: list[str], keys: tuple[str, ...]) -> str:
    """How a value that is of another type would be written: ", e.g. `cohort: {path: /data}`"."""
    inside = ""
    if kind in ("list_type", "tuple_type"):
        inside = f"[{value}]" if isinstance(value, str | int | float) else ""
    elif "lines" in _TYPES[kind] and fields == [_NAME]:  # networks by name
        names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        inside = ", ".join(f"{name}: {{}}" for name in names if isinstance(name, str))
        inside = f"{{{inside}}}" if inside else ""
    elif "lines" in _TYPES[kind] and isinstance(value, str):
        inside = next((f"{{{field}: {value}}}" for field in ("path", "recipe") if field in fields), "")
    return f", e.g. `{keys[-1]}: {inside}`" if inside else ""


# Fields that a model has but a study file may not set: they follow from others.
_FOLLOWS = {"model.resolution", "model.channels", "training.seed", "augment.enabled"}
_NAME = "*"  # stands for any name in a path of fields


def _meant_field(keys: tuple[str, ...], value: Any, model: type[BaseModel], tags: Collection[str]) -> str:
    """What was meant by an unknown field: one of the same level, or of another ("`training: {kimg: 5}`")."""
    here, unknown = keys[:-1], keys[-1]
    allowed = fields_at(model, here, tags)
    listed = f" (allowed: {', '.join(allowed)})" if allowed else ""
    if close := difflib.get_close_matches(unknown, allowed, n=1, cutoff=0.75):
        return f"; did you mean `{close[0]}`?{listed}"
    places = [p for p in field_paths(model, here) if ".".join(p[-2:]) not in _FOLLOWS]
    close = difflib.get_close_matches(unknown, {p[-1] for p in places}, n=1, cutoff=0.8)  # itself, if it is one
    if not close:
        return listed

    def shared(path: tuple[str, ...]) -> int:  # levels that lead to the place in the file as well
        same = [a in (b, _NAME) for a, b in zip(path[:-1], here, strict=False)]
        return [*same, False].index(False)

    best = min((p for p in places if p[-1] == close[0]), key=lambda p: (-shared(p), len(p)))
    common, text = shared(best), _yaml(value)
    for key in reversed(best[common:]):
        text = f"{{{key.replace(_NAME, 'NAME')}: {text}}}"
    place = f" in `{'.'.join(here[:common])}`" if common else " at the top of the file"
    return f"; did you mean `{text[1:-1]}`{place if common < len(here) else ''}?"


# --- the fields of a model --------------------------------------------------------------------------------------------


def fields_at(model: type[BaseModel], keys: tuple[str, ...], tags: Collection[str] = ()) -> list[str]:
    """Names of the fields that a model has at a path, ["*"] for any name; [] if the path leads out of it."""
    paths = [path for path in field_paths(model, tags) if len(path) > len(keys)]
    at = [path for path in paths if all(a in (b, _NAME) for a, b in zip(path, keys, strict=False))]
    return list(dict.fromkeys(path[len(keys)] for path in at))


def field_paths(model: type[BaseModel], tags: Collection[str] = ()) -> list[tuple[str, ...]]:
    """The paths of all fields, "*" for any name or number; of a union only the members in `tags`, if there are any."""
    found: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        found.append((name,))
        inside = _inside(field.annotation)
        chosen = [entry for entry in inside if _tag(entry[0]) in tags]
        for inner, skip in chosen or inside:
            found += [(name, *[_NAME] * skip, *path) for path in field_paths(inner, tags)]
    return found


def _tag(model: Any) -> str | None:
    """The `kind` or tag by which a model is chosen from a union, if it has one."""
    field = model.model_fields.get("kind")
    return getattr(model, "union_tag", field.default if field is not None else None)


def _inside(annotation: Any) -> list[tuple[type[BaseModel], int]]:
    """Models inside an annotation and how many keys (of a dict or list) lead to each."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, 0)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        arguments = arguments[:1]
    elif origin not in (typing.Union, types.UnionType, dict, list, tuple):
        return []
    keys = 1 if origin in (dict, list, tuple) else 0
    return [(model, skip + keys) for argument in arguments for model, skip in _inside(argument)]
