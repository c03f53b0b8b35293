"""What was counted or measured once and is kept for the next plan: in the package, and in this machine's cache folder.

The cache is `$XDG_CACHE_HOME/understudy` (`~/.cache/understudy`). It may be deleted at any time.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_json, write_json

COUNTING = 1  # raise it when a network changes what it computes under the same configuration


def cache_folder() -> Path:
    """Where this machine's figures are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "understudy"


def read_cached(name: str) -> dict[str, Any]:
    """A file of the cache; {} if it is not there or not whole (another process may be writing, or it was cut off)."""
    try:
        found = read_json(cache_folder() / name)
    except UnderstudyError:
        return {}
    return found if isinstance(found, dict) else {}


def write_cached(name: str, value: dict[str, Any]) -> None:
    """Keeps a file; where the cache cannot be written (a home that is read-only) it is measured again next time."""
    with suppress(UnderstudyError, OSError):
        write_json(cache_folder() / name, value)


@functools.cache
def shipped() -> dict[str, list[int]]:
    """Counts of the presets' networks, made by `python -m understudy.study.engine.count_presets`."""
    return dict(read_json(Path(str(resources.files("understudy.study.engine") / "costs.json"))))


@functools.cache
def _kept() -> dict[str, list[int]]:
    return read_cached("costs.json")


def cost_key(kind: str, **what: Any) -> str:
    """Name of a count: what was counted and under which rules."""
    return sha256_json({"counting": COUNTING, "kind": kind, **what})[:16]


def counted(key: str, count: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """The numbers under a key; counted, and kept in the cache, if they are not known yet."""
    known = shipped().get(key) or _kept().get(key)
    if known is None:
        known = list(count())
        _kept()[key] = known
        write_cached("costs.json", {**read_cached("costs.json"), key: known})
    return tuple(known)
