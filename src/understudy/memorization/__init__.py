"""Is a synthetic slice a copy of a training slice? The audit: nearest neighbours, a calibrated verdict, its controls.

Example:
    >>> from understudy import memorization
    >>> memorization.AuditConfig().quantile
    0.99
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.memorization.config import AuditConfig as AuditConfig
    from understudy.memorization.perform import AuditResult as AuditResult
    from understudy.memorization.perform import audit as audit

_FROM = {"audit": "perform", "AuditResult": "perform", "AuditConfig": "config"}
__all__ = list(_FROM)


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FROM[name]}"), name)
