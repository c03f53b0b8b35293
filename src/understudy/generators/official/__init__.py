"""Weights of the official implementations, read by the names of their variables.

`load_official_arrays` takes the arrays as they are called in the official networks and gives the network of this
package with these weights. Each model has one module here; nothing official is executed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from torch import nn

from understudy.errors import UnderstudyError
from understudy.generators.official.names import Arrays

__all__ = ["load_official_arrays", "supported_kinds"]

# Kind of the official configuration -> the module here whose `load(arguments, weights)` makes our network.
_MODULES = {
    "progan": "progan",
    "sg1": "stylegan1",
    "sg2": "stylegan2",
    "stylegan2": "stylegan2",
    "sg3t": "stylegan3",
    "sg3r": "stylegan3",
    "diffusion": "diffusion",
}


def supported_kinds() -> tuple[str, ...]:
    """Kinds of official models that can be loaded."""
    return tuple(_MODULES)


def load_official_arrays(config: Mapping[str, Any], weights: Arrays) -> nn.Module:
    """The network of this package with official weights.

    Args:
        config: arguments of the official network by their official names, and `kind` ("sg2").
        weights: arrays by their official names, "G/..." for the generator and "D/..." for the discriminator (either
            may be absent; names without a prefix are told apart by their form).

    Raises:
        UnderstudyError: unknown kind, argument or variable, a value that the network here cannot have, a wrong shape,
            or missing variables.
    """
    kind = str(config.get("kind", "sg2"))
    if kind not in _MODULES:
        raise UnderstudyError(
            f"official models of kind {kind!r} cannot be loaded", fix=f"supported: {supported_kinds()}"
        )
    module = importlib.import_module(f"{__name__}.{_MODULES[kind]}")
    try:
        network: nn.Module = module.load(config, weights)
    except ValidationError as error:
        problem = error.errors()[0]
        reason = problem["msg"].removeprefix("Value error, ")
        name = ".".join(str(part) for part in problem["loc"])
        hint = "check the options --resolution, --schedule, --heads and --head-channels"
        raise UnderstudyError(
            f"the model cannot be built here: {name + ': ' if name else ''}{reason}",
            fix=hint if kind == "diffusion" else "resolutions are powers of two from 16 to 512",
        ) from error
    return network
