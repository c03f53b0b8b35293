"""Regions: unions of classes that are scored beside them, such as BraTS' whole tumour (WT) and tumour core (TC)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from understudy.errors import UnderstudyError
from understudy.metrics.rows import FOREGROUND

RESERVED = (FOREGROUND, "background", "mean")

_CORE = re.compile(r"(NCR|NETC?)([^A-Z].*)?|NECRO.*")  # NCR, NCR/NET, NCR_NET, NET, NETC, necrosis
_EDEMA = re.compile(r"ED|(PERITUMOU?RAL )?(O?EDEMA)|SNFH")
_ENHANCING = re.compile(r"ET|AT|ENHANCING( TUMOU?R)?")


def auto_regions(class_names: Sequence[str]) -> dict[str, list[str]]:
    """BraTS' regions where the names of the classes allow it.

    WT = necrosis, edema and enhancing tumour, TC = the same without edema. ET is a class already and gets no row of
    its own. Other classes, such as a resection cavity, are in neither.

    Returns:
        {} unless classes called NCR.../NET..., ED and ET (upper or lower case) are all there.

    Example:
        >>> auto_regions(["NCR/NET", "ED", "ET"])
        {'WT': ['NCR/NET', 'ED', 'ET'], 'TC': ['NCR/NET', 'ET']}
    """
    found = {
        kind: [name for name in class_names if pattern.fullmatch(name.upper())]
        for kind, pattern in (("core", _CORE), ("edema", _EDEMA), ("enhancing", _ENHANCING))
    }
    if not all(found.values()) or {"WT", "TC"} & set(class_names):
        return {}
    core = [*found["core"], *found["enhancing"]]
    inside = {*core, *found["edema"]}
    return {
        "WT": [name for name in class_names if name in inside],
        "TC": [name for name in class_names if name in core],
    }


def resolve_regions(regions: Mapping[str, Sequence[str]] | str, class_names: Sequence[str]) -> dict[str, list[str]]:
    """Regions by name, checked: "auto", "none" or {region: [class, ...]}.

    Raises:
        UnderstudyError: a region named like a class or reserved; a class that is not there, or twice; no class.
    """
    if isinstance(regions, str):
        if regions not in ("auto", "none"):
            raise UnderstudyError(f"unknown regions {regions!r}", fix="auto, none, or names with their classes")
        return auto_regions(class_names) if regions == "auto" else {}
    for name, members in regions.items():
        if not name or name in RESERVED or name in class_names:
            raise UnderstudyError(
                f"a region cannot be called {name!r}",
                fix=f"choose another name: classes ({', '.join(class_names)}) and {', '.join(RESERVED)} are taken",
            )
        unknown = [m for m in members if m not in class_names]
        if unknown or not members or len(set(members)) < len(members):
            raise UnderstudyError(
                f"the region {name!r} is not a union of classes: {list(members)}",
                fix=f"name some of the classes {', '.join(class_names)}, each once",
            )
    return {name: list(members) for name, members in regions.items()}
