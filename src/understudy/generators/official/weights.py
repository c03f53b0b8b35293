"""The networks of this package with official weights, by the kind of the official model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from torch import nn

from understudy.errors import UnderstudyError
from understudy.generators.official import diffusion, gans
from understudy.generators.official.rules import Arrays

_LOADERS: dict[str, Callable[[Mapping[str, Any], Arrays], nn.Module]] = {
    "progan": gans.load_progan,
    "sg1": gans.load_stylegan1,
    "sg2": gans.load_stylegan2,
    "stylegan2": gans.load_stylegan2,
    "sg3t": gans.load_stylegan3,
    "sg3r": gans.load_stylegan3,
    "diffusion": diffusion.load_diffusion,
}


def load_official_arrays(config: Mapping[str, Any], weights: Arrays) -> nn.Module:
    """The network of this package with official weights.

    Args:
        config: arguments of the official network by their official names, and `kind` ("sg2").
        weights: arrays by their official names, "G/..." and "D/..." (either may be absent, or the prefixes).

    Raises:
        UnderstudyError: unknown kind, argument or variable, a value that the network here cannot have, a wrong shape,
            or missing variables.
    """
    kind = str(config.get("kind", "sg2"))
    if kind not in _LOADERS:
        raise UnderstudyError(f"unknown kind of official model {kind!r}", fix=f"supported: {', '.join(_LOADERS)}")
    try:
        return _LOADERS[kind](config, weights)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        reason = f"{name}: {problem['msg']}" if name else problem["msg"].removeprefix("Value error, ")
        fix = "resolutions are powers of two from 16 to 512"
        if kind == "diffusion":
            fix = "check the options --resolution, --schedule, --heads and --head-channels"
        raise UnderstudyError(f"the model cannot be built here: {reason}", fix=fix) from error
