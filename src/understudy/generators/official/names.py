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
