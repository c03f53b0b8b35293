"""YAML within a budget, with the line of each field; nothing in it is executed."""

from collections.abc import Hashable
from typing import Any

import yaml

from understudy.errors import UnderstudyError
from understudy.io.foreign import YAML, Budget, OverBudget

Lines = dict[tuple[str, ...], int]  # ("generators", "stylegan2", "samples") -> line of the file, from 1


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML would silently take the last, and says where a value cannot be read."""

    def __init__(self, text: str, budget: Budget) -> None:
        super().__init__(text)
        self.budget, self.levels = budget, 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.levels += 1
        spend(self.budget, self.peek_event().start_mark, self.levels)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self.levels -= 1
        return node  # type: ignore[no-any-return]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, Hashable):  # else the base class reports it
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


def load_yaml(text: str, name: str) -> tuple[Any, Lines]:
    """The content of a YAML text, and the line of each of its fields; `name` stands for the file in messages."""
    lines: Lines = {}
    budget = Budget(name, YAML, len(text))
    try:
        budget.spend(len(text))
        loader = _Loader(text, budget)
        node = loader.get_single_node()
        if node is None:
            return {}, lines
        _collect_lines(node, (), lines, Budget(name, YAML, len(text)))
        return loader.construct_document(node), lines  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        where = f"{name}, line {error.problem_mark.line + 1}" if error.problem_mark else name
        fix = "correct that line: `name: value`, indented with spaces; a text with a colon or a # in quotes"
        raise UnderstudyError(f"{YAML.what}: {error.problem or error.context}", where, fix) from error
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise YAML.damaged(name, error) from error


def spend(budget: Budget, mark: yaml.Mark, depth: int) -> None:
    """Takes one value off the budget; an error names its line."""
    try:
        budget.spend(items=1, depth=depth)
    except OverBudget as error:
        where = f"{budget.path}, line {mark.line + 1}"
        raise OverBudget(f"{error.what}, each alias counted", where, "write the values out, without & and *") from error


def _collect_lines(node: yaml.Node, path: tuple[str, ...], lines: Lines, budget: Budget) -> None:
    entries: list[tuple[str, yaml.Node, yaml.Node]] = []  # key, where it is, value
    if isinstance(node, yaml.MappingNode):
        entries = [(str(key.value)[:200], key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        entries = [(str(i), value, value) for i, value in enumerate(node.value)]
    for key, place, value in entries:
        spend(budget, node.start_mark, len(path) + 1)  # an alias counts as often as it is used
        lines[*path, key] = place.start_mark.line + 1
        _collect_lines(value, (*path, key), lines, budget)
