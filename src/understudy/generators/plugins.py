"""Generators that other packages bring: found by their entry point, imported only where a study names them.

A package declares, in its `pyproject.toml`,

```toml
[project.entry-points."understudy.generators"]
mine = "my_package:Mine"
```

and `Mine` is a class with

    Config        a pydantic model of its settings (optional; none: it takes no settings)
    version       changes whenever the same settings would give other slices (optional; none: the package's version)
    train(slices, config, folder, seed, device)     static or class method: writes what it learned to `folder`
    __init__(folder, device)                        reads it again
    sample(count, seed) -> [count, C + A, H, W]     joint images in [-1, 1], NumPy or torch

`slices` is a `TrainingSlices`: joint images of the training patients and of nobody else. `docs/your-own-generator.md`
has an example of 30 lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from understudy.errors import UnderstudyError
from understudy.generators.registry import KINDS

GROUP = "understudy.generators"


class NoSettings(BaseModel):
    """The configuration of a plug-in that has none."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Plugin:
    """A plug-in that was imported.

    Attributes:
        name: of its entry point.
        made_by: its class.
        distribution: the installed package that declares it, "" where unknown.
        version: that the class declares, else that of the distribution.
    """

    name: str
    made_by: Any
    distribution: str
    version: str

    @property
    def identity(self) -> dict[str, str]:
        """What the id of a job depends on: a changed comment is none of it, a new version is."""
        return {"name": self.name, "distribution": self.distribution, "version": self.version}

    @property
    def settings(self) -> type[BaseModel]:
        """Class of its configuration."""
        found: type[BaseModel] = getattr(self.made_by, "Config", NoSettings)
        return found

    def configured(self, fields: Mapping[str, Any]) -> BaseModel:
        """Its validated configuration.

        Raises:
            ValidationError: see `settings_problem`.
        """
        return self.settings.model_validate(dict(fields))

    def settings_problem(self, error: ValidationError) -> tuple[tuple[str, ...], str]:
        """The first thing that is wrong in its configuration: path of the field below `config`, and words."""
        entries = error.errors()
        first = entries[0]
        path = tuple(str(key) for key in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(self.settings.model_fields) or "none"
            what = f"is no setting of the plug-in {self.name} (its settings: {known})"
        else:
            what = f"{first['msg'].removeprefix('Value error, ')} (a setting of the plug-in {self.name})"
        return path, what + (f"; and {len(entries) - 1} more" if len(entries) > 1 else "")


def installed() -> dict[str, EntryPoint]:
    """Plug-ins by name, by what installed packages declare; none is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def told_installed() -> str:
    """The plug-ins in words, e.g. "installed plug-ins: mine, yours"."""
    names = ", ".join(installed())
    return f"installed plug-ins: {names}" if names else "no plug-in is installed"


def plugin_called(name: str) -> Plugin:
    """Imports a plug-in.

    Raises:
        UnderstudyError: not installed, not importable, not of the form that is described above.
    """
    points = installed()
    if name not in points:
        close = difflib.get_close_matches(name, points, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UnderstudyError(
            f"there is no plug-in generator {name!r} ({told_installed()})",
            where=f"entry points of the group {GROUP}",
            fix=f"{hint}install the package that has it into the environment of understudy",
        )
    point = points[name]
    if name in KINDS:
        raise UnderstudyError(
            f"the plug-in has the name of a built-in generator, {name!r}", where=point.value, fix="rename it"
        )
    made_by = _imported(point)
    distribution = point.dist
    own = getattr(made_by, "version", None) or (distribution.version if distribution else None)
    if own is None:
        raise UnderstudyError(
            f"the plug-in {name} has no version, so a change of it would go unnoticed",
            where=point.value,
            fix='give its class one: version = "1"',
        )
    return Plugin(name, made_by, distribution.name if distribution else "", str(own))


def _imported(point: EntryPoint) -> Any:
    """The class that an entry point names, after a look at its form."""
    try:
        made_by = point.load()
    except Exception as error:  # whatever the import of foreign code may raise
        raise UnderstudyError(
            f"the plug-in {point.name} cannot be imported ({type(error).__name__}: {error})",
            where=f"{point.value}, entry point of the group {GROUP}",
            fix="repair it, or install its package again",
        ) from error
    missing = [word for word in ("train", "sample") if not callable(getattr(made_by, word, None))]
    settings = getattr(made_by, "Config", NoSettings)
    if not isinstance(settings, type) or not issubclass(settings, BaseModel):
        missing.append("Config (a pydantic model)")
    if not isinstance(made_by, type) or missing:
        lacks = f"has no {' and no '.join(missing)}" if missing else "is no class"
        raise UnderstudyError(
            f"the plug-in {point.name} {lacks}",
            where=point.value,
            fix="see docs/your-own-generator.md for what a plug-in must have",
        )
    return made_by
