"""What the importers of all models share: rules from official variable names to ours, and filling a network by them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from understudy.errors import UnderstudyError

Arrays = Mapping[str, NDArray[Any]]
Rules = list[tuple[str, str | Callable[[re.Match[str]], str] | None]]
"""(pattern of the whole official name, our name or a function that makes it); None: derived, not a weight"""


def translate(official: str, rules: Rules) -> str | None:
    for pattern, target in rules:
        match = re.fullmatch(pattern, official)
        if match:
            return match.expand(target) if isinstance(target, str) else target and target(match)
    raise UnderstudyError(
        "unknown variable in the official weights", where=official, fix="check that the model kind is right"
    )


def our_arguments(
    arguments: Mapping[str, Any], known: Mapping[str, str], required: Mapping[str, tuple[Any, ...]], ignored: set[str]
) -> dict[str, Any]:  # fmt: skip
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


def fill(
    module: nn.Module,
    arrays: Arrays,
    rules: Rules,
    part: str,
    transform: Callable[[str, NDArray[Any]], NDArray[Any]] | None = None,
) -> None:
    """Fills every parameter and buffer of `module`; every array is used or known to be derived.

    Args:
        transform: official name and array -> the array in our layout; None where both agree.
    """
    state = module.state_dict()
    missing = set(state)
    for official, array in arrays.items():
        name = translate(official, rules)
        if name is None:
            continue
        array = transform(official, array) if transform else array
        if name not in state or state[name].shape != array.shape:
            expected = tuple(state[name].shape) if name in state else "nothing"
            raise UnderstudyError(
                f"official weight of shape {array.shape} where {expected} is expected",
                where=f"{part}/{official}",
                fix="check resolution, channels and widths in the configuration",
            )
        state[name] = torch.from_numpy(np.array(array, np.float32))
        missing.discard(name)
    if missing:
        raise UnderstudyError(
            f"the official weights lack {len(missing)} variables, e.g. {sorted(missing)[0]}",
            where=part,
            fix="the file is incomplete or of another configuration",
        )
    module.load_state_dict(state)
