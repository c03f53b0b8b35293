"""Generators by name. A built-in one is one line of `KINDS`; others are entry points of installed packages.

Nothing is imported before it is named.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from understudy.errors import UnderstudyError
from understudy.generators.folder import read_config
from understudy.generators.interface import GeneratorType, recipe_file, shipped

if TYPE_CHECKING:
    from understudy.generators.builtin import NetworkType
    from understudy.generators.plugins import PluginType

KINDS = {  # name -> module and class, a `NetworkType`
    "progan": "understudy.generators.builtin:ProGanType",
    "stylegan1": "understudy.generators.builtin:StyleGan1Type",
    "stylegan2": "understudy.generators.builtin:StyleGan2Type",
    "stylegan3": "understudy.generators.builtin:StyleGan3Type",
    "diffusion": "understudy.generators.builtin:DiffusionType",
}
DEFAULT_KIND = "stylegan2"
PLUGINS = "understudy.generators"  # group of entry points


def network_type(name: str) -> NetworkType:
    """A built-in generator by its name, e.g. "stylegan2"."""
    if name not in KINDS:
        raise UnderstudyError(f"there is no generator of kind {name!r}", fix=f"use one of {', '.join(KINDS)}")
    module, _, attribute = KINDS[name].partition(":")
    found: NetworkType = getattr(importlib.import_module(module), attribute)(name)
    return found


def plugin_type(name: str) -> PluginType:
    """A plug-in by its name; raises UnderstudyError if it is not installed, or not of the form in `plugins`."""
    from understudy.generators.plugins import imported_plugin  # torch, which those who list names need not wait for

    points = installed_plugins()
    if name not in points:
        close = difflib.get_close_matches(name, points, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UnderstudyError(
            f"there is no plug-in generator {name!r} ({list_plugins()})",
            where=f"entry points of the group {PLUGINS}",
            fix=f"{hint}install the package that has it into the environment of understudy",
        )
    if name in KINDS:
        what = f"the plug-in has the name of a built-in generator, {name!r}"
        raise UnderstudyError(what, where=points[name].value, fix="rename it")
    return imported_plugin(points[name])


def installed_plugins() -> dict[str, EntryPoint]:
    """Plug-ins by name, as installed packages declare them; none is imported."""
    return {point.name: point for point in sorted(entry_points(group=PLUGINS), key=lambda point: point.name)}


def list_plugins() -> str:
    """The plug-ins in words, e.g. "installed plug-ins: mine, yours"."""
    names = ", ".join(installed_plugins())
    return f"installed plug-ins: {names}" if names else "no plug-in is installed"


def model_config(fields: Mapping[str, Any]) -> Any:
    """The architecture that the fields describe, by their "kind" (StyleGAN 2 without one)."""
    return network_type(fields.get("kind", DEFAULT_KIND)).config(**fields)


def build(config: Any, seed: int = 0) -> Any:
    """A network of an architecture with fresh weights; what is sampled is its `generator`."""
    return network_type(config.kind).build(config, seed)


def type_of(config: Mapping[str, Any]) -> GeneratorType:
    """The type of a trained generator by its `config.json`."""
    return plugin_type(config["plugin"]["name"]) if "plugin" in config else network_type(config["kind"])


def load_generator(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """The EMA generator of any kind (float32, CPU, evaluation only) and `config.json` of a finished training.

    Raises:
        UnderstudyError: the training is not finished, or its files are damaged; a plug-in that is not there.
    """
    config = read_config(Path(folder))
    return type_of(config).load(Path(folder), config), config


def recipe_text(name: str, generator: str | None = None) -> str:
    """What a recipe sets, as YAML: for all generators that are built in, or for one of them or a plug-in.

    Raises:
        UnderstudyError: there is no such recipe or generator.
    """
    if generator is not None:
        kind = network_type(generator) if generator in KINDS else plugin_type(generator)
        return yaml.safe_dump({generator: kind.recipe(name)}, sort_keys=False)
    text = recipe_file(name)
    for own in (network_type(kind) for kind in KINDS if kind not in shipped(name)):
        if name in own.recipes:
            text += "\n" + yaml.safe_dump({own.name: own.recipe(name)}, sort_keys=False)
    if installed_plugins():  # which are not imported before they are named
        text += f"\n# {list_plugins()}; of one of them: understudy recipe {name} NAME\n"
    return text
