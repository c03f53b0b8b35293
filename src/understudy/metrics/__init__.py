"""Dice and Hausdorff distances of arrays; `score_volume` for whole label volumes; the statistics of their tables."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.metrics.overlap import dice
    from understudy.metrics.scores import score_volume
    from understudy.metrics.surface import hd, hd95

__all__ = ["dice", "hd", "hd95", "score_volume"]

_MODULES = {"dice": "overlap", "hd": "surface", "hd95": "surface", "score_volume": "scores"}


def __getattr__(name: str) -> Any:  # imported when first used: SciPy takes half a second
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
