"""Recipes: what a generator and its training are set to for a purpose, one readable YAML file each.

`quick` (a CPU, minutes), `workstation` (one GPU, about a day), `paper` (Table 7 of Akbar et al.). A recipe gives for
each kind of generator the fields that differ from the defaults of its configuration; a study lays its own upon them.
"""

from __future__ import annotations

import copy
import functools
from importlib import resources
from typing import Any

import yaml

from understudy.errors import UnderstudyError

RECIPES = ("quick", "workstation", "paper")


def recipe_text(name: str) -> str:
    """The text of a recipe.

    Raises:
        UnderstudyError: there is none of this name.
    """
    if name not in RECIPES:
        raise UnderstudyError(f"there is no recipe {name!r}", fix=f"use one of {', '.join(RECIPES)}")
    return (resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")


def recipe(name: str, kind: str) -> dict[str, Any]:
    """What a recipe says of a kind of generator: {"model": {...}, "training": {...}, ...}.

    Raises:
        UnderstudyError: no such recipe, or it does not know the kind.
    """
    found = _read(name)
    if kind not in found:
        raise UnderstudyError(
            f"the recipe {name} knows no generator of kind {kind!r}", fix=f"use one of {', '.join(found)}"
        )
    content: dict[str, Any] = copy.deepcopy(found[kind])
    return content


@functools.cache
def _read(name: str) -> dict[str, Any]:
    """A recipe, read once."""
    return dict(yaml.safe_load(recipe_text(name)))
