"""Understudy: synthetic MR slices that stand in for patients' images - are they useful, and are they copies?

    import understudy as us

Names are imported when they are first used: `import understudy` loads neither torch nor pandas.
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy import metrics, quality
    from understudy.api import (
        Diffusion,
        Evaluation,
        Generator,
        ProgressiveGAN,
        Segmenter,
        StyleGAN1,
        StyleGAN2,
        StyleGAN3,
        Swin,
        UNet,
        audit,
        evaluate,
        phantoms,
        read,
    )  # fmt: skip
    from understudy.errors import UnderstudyError
    from understudy.slices import LabelClass, SliceSet

__version__ = version("understudy-mri")

__all__ = [
    "Diffusion", "Evaluation", "Generator", "LabelClass", "ProgressiveGAN", "Segmenter", "SliceSet", "StyleGAN1",
    "StyleGAN2", "StyleGAN3", "Swin", "UNet", "UnderstudyError", "audit", "evaluate", "metrics", "phantoms", "quality",
    "read",
]  # fmt: skip
_ELSEWHERE = {"UnderstudyError": "errors", "LabelClass": "slices", "SliceSet": "slices"}  # the others are in `api`


def __getattr__(name: str) -> Any:
    if name in ("metrics", "quality"):  # whose functions are public: us.metrics.dice
        return importlib.import_module(f"understudy.{name}")
    if name in __all__:
        return getattr(importlib.import_module(f"understudy.{_ELSEWHERE.get(name, 'api')}"), name)
    raise AttributeError(f"module 'understudy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
