"""YAML with line numbers, and validation errors that name the line, the field, what is allowed and what was meant."""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from understudy.errors import UnderstudyError
from understudy.generators.registry import list_plugins
from understudy.io.files import reading

Lines = dict[tuple[str, ...], int]  # ("generators", "stylegan2", "samples") -> line of the file, from 1


class Strict(BaseModel):
    """A section of a study file: a field that it does not know is an error."""

    model_config = ConfigDict(extra="forbid")


LONGEST = 4 << 20  # bytes of a study file
DEEPEST, MOST = 40, 100_000  # its levels and values, aliases counted as often as they are used


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML would silently take the last, and says where a value cannot be read."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, Hashable):
                continue  # the base class reports it
            if key in seen:
                what = f"`{key}` is given twice, first in line {seen[key]}"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            seen[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (ValueError, OverflowError, TypeError) as error:  # a 13th month, thousands of digits
            what = f"{str(node.value)[:30]!r} cannot be read ({error})"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """A YAML file of one mapping, and the line of each of its fields.

    Raises:
        UnderstudyError: not there, not YAML, a key given twice, not a mapping, too large or too deep.
    """
    try:
        with reading(path), open(path, "rb") as file:
            content = file.read(LONGEST + 1)
    except UnderstudyError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UnderstudyError("the study file does not exist", where=path, fix="check the path") from error
        raise
    if len(content) > LONGEST:
        raise UnderstudyError("too long for a study file", where=path, fix="give a .yaml file, or a preset's name")
    try:
        return parse_yaml(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        fix = "give a .yaml file; if it is one, save it as UTF-8 in your editor"
        raise UnderstudyError("the study file is not text in UTF-8", where=path, fix=fix) from error


def parse_yaml(text: str, name: str) -> tuple[dict[str, Any], Lines]:
    """As `read_yaml`, of text; `name` stands for the file in messages."""
    lines: Lines = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            _collect_lines(node, (), lines, name)
        content = loader.construct_document(node) if node is not None else {}  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        where = f"{name}, line {error.problem_mark.line + 1}" if error.problem_mark else name
        fix = "correct that line: `name: value`, indented with spaces"
        raise UnderstudyError(f"not a valid YAML file: {error.problem or error.context}", where, fix) from error
    except yaml.YAMLError as error:  # characters that YAML does not allow
        what = f"not a valid YAML file: {str(error).splitlines()[0]}"
        raise UnderstudyError(what, where=name, fix="give a text file of `name: value` lines") from error
    except RecursionError as error:
        raise _too_large(name) from error
    fix = "start from a preset: understudy preset quickstart > my-study.yaml"
    if not isinstance(content, dict):
        raise UnderstudyError("a study file is a list of `name: value` lines", where=name, fix=fix)
    if wrong := [key for key in content if not isinstance(key, str)]:
        raise UnderstudyError(f"the field name {wrong[0]!r} is not text", where=name, fix=fix)
    return content, lines


def _too_large(where: str) -> UnderstudyError:
    what = f"the study file is nested too deep, or holds more than {MOST:,} values, each alias (*name) counted"
    return UnderstudyError(what, where=where, fix="write the values out, without & and *")


def _collect_lines(node: yaml.Node, path: tuple[str, ...], lines: Lines, name: str) -> None:
    if len(path) > DEEPEST or len(lines) > MOST:
        raise _too_large(f"{name}, line {node.start_mark.line + 1}")
    entries: list[tuple[str, yaml.Node, yaml.Node]] = []  # key, where it is, value
    if isinstance(node, yaml.MappingNode):
        entries = [(str(key.value)[:200], key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        entries = [(str(i), value, value) for i, value in enumerate(node.value)]
    for key, place, value in entries:
        lines[*path, key] = place.start_mark.line + 1
        _collect_lines(value, (*path, key), lines, name)


def named_kinds(entries: Any, kinds: Sequence[str], default: str, also: Mapping[str, str]) -> Any:
    """Networks of a study file: one named like one of `kinds` is of this kind, others of the `default`; null drops one.

    Args:
        also: other names of kinds, e.g. {"ddpm": "diffusion"}.

    Raises:
        PydanticCustomError: a name seems to mean a kind that it would not get.
    """
    if not isinstance(entries, Mapping):
        return entries
    found = {name: spec for name, spec in entries.items() if spec is not None}
    for name, spec in found.items():
        if not isinstance(spec, Mapping) or {"folder", "plugin"} & set(spec):  # no network
            continue
        parts = [part for part in (spec.get("model"), spec.get("training")) if part is not None]
        if name in kinds and isinstance(spec.get("model", {}), Mapping):
            found[name] = merged({"model": {"kind": name}}, spec)
        elif all(isinstance(part, Mapping) and "kind" not in part for part in parts) and (
            meant := kinds_meant(str(name), kinds, default, also)
        ):
            fix = f"Call it so, or add `model: {{kind: {meant[0]}}}` to keep the name"
            raise problem_at((str(name),), f"is {' or '.join(meant)} meant? {fix}")
    return found


def kinds_meant(name: str, kinds: Sequence[str], default: str, also: Mapping[str, str]) -> list[str]:
    """The kinds that a name seems to mean although a network called so would be of the default kind.

    Example:
        >>> kinds_meant("difusion", ("stylegan2", "diffusion"), "stylegan2", {"ddpm": "diffusion"})
        ['diffusion']
    """
    plain = "".join(c for c in name.lower() if c.isalnum())
    words = {kind: kind for kind in kinds} | dict(also)
    inside = {kind for word, kind in words.items() if word in plain}
    if inside:
        inside -= {default}
    else:
        near = {kind: difflib.SequenceMatcher(None, plain, kind).ratio() for kind in kinds}
        inside = {kind for kind, ratio in near.items() if ratio >= max(0.75, *near.values())}
    return [] if inside <= {default} else sorted(inside, key=list(kinds).index)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`: mappings are merged field by field, anything else (lists, null) replaces."""
    result = dict(base) | dict(over)
    for key in base.keys() & over.keys():
        if isinstance(base[key], Mapping) and isinstance(over[key], Mapping):
            result[key] = merged(base[key], over[key])
    return result


def explain(error: ValidationError, model: type[BaseModel], lines: Lines, name: str) -> UnderstudyError:
    """The validation errors of a study file as one message, a line for each."""
    return refusal([_explain_one(dict(entry), model, lines) for entry in error.errors()], name)


def settings_problems(error: ValidationError) -> list[str]:
    """A line for each of pydantic's errors about settings that no study file gave."""
    return [_explain_one(dict(entry), BaseModel, {}) for entry in error.errors()]


def refusal(problems: Sequence[str], name: str) -> UnderstudyError:
    """Problems of a study file as one message; `name` stands for the file."""
    lines = list(dict.fromkeys(problems))
    head = f"the study file has {len(lines)} problem{'s' if len(lines) > 1 else ''}:"
    return UnderstudyError("\n  ".join([head, *lines]), where=name, fix="correct the file; nothing was run")


def odd_numbers(content: Any, lines: Lines, path: tuple[str, ...] = ()) -> list[str]:
    """A problem for each number that is not finite or beyond 2^63 in what a model holds."""
    if isinstance(content, Mapping | list | tuple):
        entries = content.items() if isinstance(content, Mapping) else enumerate(content)
        return [p for key, value in entries for p in odd_numbers(value, lines, (*path, str(key)))]
    field = f"{_prefix(path, lines)}`{'.'.join(_known_keys(path, lines))}`"
    if isinstance(content, float) and not math.isfinite(content):
        return [f"{field}: should be a finite number (given: {content})"]
    if isinstance(content, int) and abs(content) >= 1 << 63:
        return [f"{field}: should be a smaller number"]
    return []


def problem_at(path: tuple[str, ...], what: str) -> PydanticCustomError:
    """An error of a whole model that is about one of its fields; `explain` names the field and its line."""
    return PydanticCustomError("problem_at", "{what}", {"what": what, "path": path})


_TYPES = {  # pydantic's names of errors: in words
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), "`name: value` lines"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"), "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"), "int_parsing_size": "a smaller number",
    **dict.fromkeys(("list_type", "tuple_type"), "a list: [a, b]"), "string_type": "text", "path_type": "a path",
}  # fmt: skip


def _explain_one(entry: dict[str, Any], model: type[BaseModel], lines: Lines) -> str:
    kind, value, details = entry["type"], entry["input"], entry.get("ctx", {})
    keys = tuple(str(key) for key in entry["loc"])
    if kind == "problem_at":  # perhaps of a field that the file leaves at its default
        keys = tuple(key for key in (*keys, *details["path"]) if not _is_tag(key))
        path = ".".join(keys)
    else:
        path = ".".join(_known_keys(keys, lines))
    prefix = _prefix(keys, lines)
    if kind == "extra_forbidden":
        allowed = fields_at(model, keys[:-1])
        close = difflib.get_close_matches(keys[-1], allowed, n=1, cutoff=0.75)
        elsewhere = "" if close else _elsewhere(_known_keys(keys, lines), value, model)
        hint = f"; did you mean `{close[0]}`?" if close else elsewhere
        if allowed and not elsewhere:
            hint += f" (allowed: {', '.join(allowed)})"
        return f"{prefix}`{path}` is not a known field{hint}"
    if kind == "missing":
        return f"{prefix}`{path}` is missing"
    if kind in _TYPES and value is None:
        return f"{prefix}`{path}` is empty: give it a value, or remove the line"
    message = entry["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind in _TYPES:
        message = f"should be {_TYPES[kind]}{_example(kind, value, model, keys)}"
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


def _yaml(value: Any, plain: Callable[[Any], str] = str) -> str:
    """A value on one line, null, true and false as YAML writes them and the others as `plain` does."""
    if isinstance(value, Mapping | list | BaseModel):
        return "..."
    text = json.dumps(value) if value is None or isinstance(value, bool) else plain(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _example(kind: str, value: Any, model: type[BaseModel], keys: tuple[str, ...]) -> str:
    """How a value that is of another type would be written: ", e.g. `cohort: {path: /data}`"."""
    keys = tuple(key for key in keys if not _is_tag(key))
    if kind in ("list_type", "tuple_type") and isinstance(value, str | int | float):
        return f", e.g. `{keys[-1]}: [{value}]`"
    if "lines" not in _TYPES[kind] or not isinstance(value, str | list):
        return ""
    fields = fields_at(model, keys)
    if fields and fields == fields_at(model, (*keys, "a name")):  # models by name
        names = [value] if isinstance(value, str) else [name for name in value if isinstance(name, str)]
        inside = ", ".join(f"{name}: {{}}" for name in names)
        return f", e.g. `{keys[-1]}: {{{inside}}}`" if inside else ""
    field = next((f for f in ("path", "recipe") if f in fields), None)
    return f", e.g. `{keys[-1]}: {{{field}: {value}}}`" if field and isinstance(value, str) else ""


# Fields that a model has but a study file may not set: they follow from others.
_FOLLOWS = {"model.resolution", "model.channels", "training.seed", "augment.enabled"}
_NAME = "*"  # stands for any name in a path of fields


def _elsewhere(keys: tuple[str, ...], value: Any, model: type[BaseModel]) -> str:
    """The field of another level that was meant by an unknown one: "; did you mean `training: {kimg: 5}`?", or ""."""
    here, unknown = keys[:-1], keys[-1]
    places = [p for p in _field_paths(model, here) if ".".join(p[-2:]) not in _FOLLOWS]
    named = [p for p in places if p[-1] == unknown]
    if not named and (close := difflib.get_close_matches(unknown, {p[-1] for p in places}, n=1, cutoff=0.8)):
        named = [p for p in places if p[-1] == close[0]]
    if not named:
        return ""

    def shared(path: tuple[str, ...]) -> int:  # levels that lead to the place in the file as well
        same = [a in (b, _NAME) for a, b in zip(path[:-1], here, strict=False)]
        return next((i for i, yes in enumerate(same) if not yes), min(len(path) - 1, len(here)))

    best = min(named, key=lambda p: (-shared(p), len(p)))
    common = shared(best)
    text = _yaml(value)
    for key in reversed(best[common:]):
        text = f"{{{key.replace(_NAME, 'NAME')}: {text}}}"
    place = f" in `{'.'.join(here[:common])}`" if common else " at the top of the file"
    return f"; did you mean `{text[1:-1]}`{place if common < len(here) else ''}?"


def _prefix(keys: tuple[str, ...], lines: Lines) -> str:
    """E.g. "line 3: ", of the field or of the closest part of the file that encloses it."""
    kept: tuple[str, ...] = ()
    for key in keys:
        if (*kept, key) in lines:
            kept = (*kept, key)
    return f"line {lines[kept]}: " if kept in lines else ""


def _known_keys(keys: tuple[str, ...], lines: Lines) -> tuple[str, ...]:
    """The path without the parts that pydantic adds (tags of unions, "[key]")."""
    kept: tuple[str, ...] = ()
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if (*kept, key) in lines or last or not any(line[: len(kept)] == kept for line in lines):
            kept = (*kept, key)
    return tuple(key for key in kept if key != "[key]" and not _is_tag(key))


def _is_tag(key: str) -> bool:
    """Whether pydantic names a member of a union: "<network>"."""
    return key.startswith("<")


# --- the fields of a model --------------------------------------------------------------------------------------------


def fields_at(model: Any, keys: tuple[str, ...]) -> list[str]:
    """Names of the fields that a model has at a path; [] if the path leads out of it."""
    if not _is_model(model):
        return []
    if not keys:
        return list(model.model_fields)
    candidates = _inside(model.model_fields[keys[0]].annotation) if keys[0] in model.model_fields else []
    tags = {_tag(candidate) for candidate, _ in candidates} - {None}
    for candidate, skip in candidates:
        rest = keys[1 + skip :]
        if rest and rest[0] in tags:  # pydantic names the member of the union that it tried
            if rest[0] != _tag(candidate):
                continue
            rest = rest[1:]
        if found := fields_at(candidate, rest):
            return found
    return []


def _field_paths(model: type[BaseModel], here: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    # "*" stands for any name or number; of a union whose member is named in `here` only that member counts
    found: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        found.append((name,))
        inside = _inside(field.annotation)
        chosen = [entry for entry in inside if _tag(entry[0]) in here]
        for inner, skip in chosen or inside:
            found += [(name, *[_NAME] * skip, *path) for path in _field_paths(inner, here)]
    return found


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _tag(model: Any) -> str | None:
    """The `kind` or tag by which a model is chosen from a union, if it has one."""
    if hasattr(model, "union_tag"):
        return str(model.union_tag)
    field = model.model_fields.get("kind")
    return field.default if field is not None and isinstance(field.default, str) else None


def _inside(annotation: Any) -> list[tuple[type[BaseModel], int]]:
    """Models inside an annotation and how many keys (of a dict or list) lead to each."""
    if _is_model(annotation):
        return [(annotation, 0)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        arguments = arguments[:1]
    elif origin not in (typing.Union, types.UnionType, dict, list, tuple):
        return []
    keys = 1 if origin in (dict, list, tuple) else 0
    return [(model, skip + keys) for argument in arguments for model, skip in _inside(argument)]
