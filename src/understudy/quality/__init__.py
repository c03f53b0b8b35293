"""How near synthetic slices are to real ones: `fid`, `kid`, `precision_recall`, `inception_score` of sets or arrays.

Arguments: (synthetic, real), each a `SliceSet` or images uint8 [N, C, H, W].
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.quality.annotation import compare_annotations
    from understudy.quality.extractors import make_extractor
    from understudy.quality.functional import fid, inception_score, kid, precision_recall

__all__ = ["compare_annotations", "fid", "inception_score", "kid", "make_extractor", "precision_recall"]

_MODULES = {"compare_annotations": "annotation", "make_extractor": "extractors"}


def __getattr__(name: str) -> Any:  # imported when first used: torch takes a second
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'functional')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
