"""What a generator is to the rest of the program, whether built in (`builtin`) or of a plug-in (`plugins`).

A recipe is what a generator and its training are set to for a purpose: `quick` (a CPU, minutes), `workstation` (one
GPU, about a day), `paper` (Table 7 of Akbar et al.). `recipes/` has a YAML file for each, with fields of the five
built-in generators (`paper`: all of them); others bring their own. A study lays its fields upon them.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    import torch

RECIPES = ("quick", "workstation", "paper")
Scorer = Callable[["torch.Tensor"], "torch.Tensor"]
"""Joint images [N, C, R, R] -> scores [N], higher for slices that the generator was trained on."""


class GeneratorType(ABC):
    """A kind of generator."""

    name: str  # in study files and records
    recipes: Mapping[str, Mapping[str, Any]] = {}  # its own: name -> the fields that it sets
    truncation = False  # whether it can be sampled with a `psi` other than 1; `GanType`, of GANs: True
    takes_sampler = False  # whether it is sampled with a `SamplerConfig`

    @abstractmethod
    def load(self, folder: Path, config: dict[str, Any]) -> Any:
        """The generator of a finished training, with `sample(count, seed, start, psi)` and `to(device)`."""

    @abstractmethod
    def weights(self, folder: Path, config: dict[str, Any]) -> dict[str, str]:
        """SHA-256 (hex) of each file of weights; the first is that of what is sampled."""

    @abstractmethod
    def supports_membership_inference(self, folder: Path) -> bool:
        """Whether `membership_scorer` can score slices."""

    @abstractmethod
    def membership_scorer(self, folder: Path, config: dict[str, Any], device: torch.device) -> tuple[Scorer, str]:
        """The score by which training slices are told from others, and its name."""

    def known_recipes(self) -> dict[str, Mapping[str, Any]]:
        """Those of `recipes/` and its own: name -> the fields that it sets."""
        return {of: shipped(of)[self.name] for of in RECIPES if self.name in shipped(of)} | dict(self.recipes)

    def recipe(self, name: str) -> dict[str, Any]:
        """The fields that a recipe sets; an UnderstudyError names the recipes that this generator has."""
        known = self.known_recipes()
        if name not in known:
            fix = f"use one of {', '.join(known)}" if known else "leave `recipe` out"
            raise UnderstudyError(f"the generator {self.name} has no recipe {name!r}", fix=fix)
        return copy.deepcopy(dict(known[name]))


def recipe_file(name: str) -> str:
    """The text of a recipe of the built-in generators; an UnderstudyError where there is none of this name."""
    if name not in RECIPES:
        raise UnderstudyError(f"there is no recipe {name!r}", fix=f"use one of {', '.join(RECIPES)}")
    return (Path(__file__).with_name("recipes") / f"{name}.yaml").read_text(encoding="utf-8")


@functools.cache
def shipped(name: str) -> dict[str, Any]:
    """A recipe of the built-in generators: kind -> the fields that it sets."""
    return dict(yaml.safe_load(recipe_file(name)))
