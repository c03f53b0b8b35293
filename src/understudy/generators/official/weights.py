"""Official weights by the names of their variables: rules from official names to ours, and filling a network by them.

Each rule is (pattern of the whole official name, our name or a function that makes it); None: derived, not a weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from understudy.errors import UnderstudyError

Arrays = Mapping[str, NDArray[Any]]
Rules = list[tuple[str, str | Callable[[re.Match[str]], str] | None]]

KINDS = ("progan", "sg1", "sg2", "stylegan2", "sg3t", "sg3r", "diffusion")


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
    from understudy.generators.official import diffusion, gans  # which need this module

    kind = str(config.get("kind", "sg2"))
    if kind not in KINDS:
        raise UnderstudyError(f"official models of kind {kind!r} cannot be loaded", fix=f"supported: {KINDS}")
    loaders: dict[str, Callable[[Mapping[str, Any], Arrays], nn.Module]]
    loaders = {"progan": gans.load_progan, "sg1": gans.load_stylegan1, "diffusion": diffusion.load_diffusion}
    loaders |= {"sg3t": gans.load_stylegan3, "sg3r": gans.load_stylegan3}
    try:
        return loaders.get(kind, gans.load_stylegan2)(config, weights)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        reason = f"{name}: {problem['msg']}" if name else problem["msg"].removeprefix("Value error, ")
        hint = "check the options --resolution, --schedule, --heads and --head-channels"
        raise UnderstudyError(
            f"the model cannot be built here: {reason}",
            fix=hint if kind == "diffusion" else "resolutions are powers of two from 16 to 512",
        ) from error


def our_arguments(
    arguments: Mapping[str, Any], known: Mapping[str, str], required: Mapping[str, tuple[Any, ...]], ignored: set[str]
) -> dict[str, Any]:
    """Arguments of the official network by our names.

    Args:
        known: official name -> ours. required: the values that this package implements. ignored: without effect.

    Raises:
        UnderstudyError: an argument that is unknown or has a value that this package does not implement.
    """
    ours: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in known:
            ours[known[name]] = value
        elif name in required:
            value = tuple(value) if isinstance(value, list) else value
            if value not in required[name]:
                allowed = " or ".join(str(v) for v in required[name])
                raise UnderstudyError(f"{name} = {value!r} is not supported", where=name, fix=f"use {allowed}")
        elif name not in ignored:
            raise UnderstudyError("unknown argument of the official network", where=name)
    return ours


def parts(weights: Arrays) -> tuple[Arrays, Arrays]:
    """(generator, discriminator) of arrays with the prefixes "G/" and "D/", or of names that have none."""
    found = [{k[2:]: v for k, v in weights.items() if k.startswith(prefix)} for prefix in ("G/", "D/")]
    if not any(found) and weights:
        if any(k.startswith("FromRGB") for k in weights):  # TensorFlow: one network alone
            return {}, weights
        judge = {k: v for k, v in weights.items() if re.match(r"b\d+\.", k)}  # PyTorch: one or both
        return {k: v for k, v in weights.items() if k not in judge}, judge
    return found[0], found[1]


def fill(
    module: nn.Module,
    arrays: Arrays,
    rules: Rules,
    part: str,
    layout: Callable[[str, NDArray[Any]], NDArray[Any]] | None = None,
) -> None:
    """Fills every parameter and buffer of `module`; every array is used or known to be derived.

    Args:
        part: "G", "D" or "M", for messages. layout: official name and array -> the array in our layout.

    Raises:
        UnderstudyError: an unknown name, a wrong shape, or a variable that no array fills.
    """
    state = module.state_dict()
    missing = set(state)
    for official, array in arrays.items():
        matches = ((re.fullmatch(pattern, official), target) for pattern, target in rules)
        match, target = next(((m, target) for m, target in matches if m), (None, None))
        if match is None:
            raise UnderstudyError(
                "unknown variable in the official weights", official, "check that the model kind is right"
            )
        if target is None:
            continue
        name = match.expand(target) if isinstance(target, str) else target(match)
        array = layout(official, array) if layout else array
        if name not in state or state[name].shape != array.shape:
            expected = tuple(state[name].shape) if name in state else "nothing"
            problem = f"official weight of shape {array.shape} where {expected} is expected"
            fix = "check resolution, channels and widths in the configuration"
            raise UnderstudyError(problem, f"{part}/{official}", fix)
        state[name] = torch.from_numpy(np.array(array, np.float32))
        missing.discard(name)
    if missing:
        problem = f"the official weights lack {len(missing)} variables, e.g. {sorted(missing)[0]}"
        raise UnderstudyError(problem, part, "the file is incomplete or of another configuration")
    module.load_state_dict(state)
