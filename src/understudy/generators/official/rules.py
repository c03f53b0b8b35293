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
from torch import nn

from understudy.errors import UnderstudyError

Arrays = Mapping[str, NDArray[Any]]
Rules = list[tuple[str, str | Callable[[re.Match[str]], str] | None]]
# Official name of an argument -> our name, the only values that this package implements, or None: without effect here.
Arguments = dict[str, str | tuple[Any, ...] | None]


def our_arguments(arguments: Mapping[str, Any], known: Arguments) -> dict[str, Any]:
    """Arguments of the official network by our names.

    Raises:
        UnderstudyError: an argument that is unknown or has a value that this package does not implement.
    """
    ours: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in known:
            raise UnderstudyError("unknown argument of the official network", where=name)
        meaning = known[name]
        if isinstance(meaning, str):
            ours[meaning] = value
        elif meaning is not None and (tuple(value) if isinstance(value, list) else value) not in meaning:
            raise UnderstudyError(f"{name} = {value!r} is not supported", name, f"use {' or '.join(map(str, meaning))}")
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
        part: "G", "D" or "M", for messages.
        layout: official name and array -> the array in our layout.

    Raises:
        UnderstudyError: an unknown name, a wrong shape, or a variable that no array fills.
    """
    state = module.state_dict()
    missing = set(state)
    for official, array in arrays.items():
        matches = ((re.fullmatch(pattern, official), target) for pattern, target in rules)
        match, target = next(((m, target) for m, target in matches if m), (None, None))
        if match is None:
            raise UnderstudyError("unknown variable in the official weights", official, "check the kind of the model")
        if target is None:
            continue
        name = match.expand(target) if isinstance(target, str) else target(match)
        array = layout(official, array) if layout else array
        if name not in state or state[name].shape != array.shape:
            expected = tuple(state[name].shape) if name in state else "nothing"
            problem = f"official weight of shape {array.shape} where {expected} is expected"
            raise UnderstudyError(problem, f"{part}/{official}", "check resolution, channels and widths")
        state[name] = torch.from_numpy(np.array(array, np.float32))
        missing.discard(name)
    if missing:
        problem = f"the official weights lack {len(missing)} variables, e.g. {sorted(missing)[0]}"
        raise UnderstudyError(problem, part, "the file is incomplete or of another configuration")
    module.load_state_dict(state)
