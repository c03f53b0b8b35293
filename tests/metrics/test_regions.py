"""BraTS' regions by the names of classes, and regions of one's own."""

from __future__ import annotations

import pytest

from understudy.errors import UnderstudyError
from understudy.metrics.regions import auto_regions, resolve_regions


@pytest.mark.parametrize(
    ("names", "whole", "core"),
    [
        (["NCR/NET", "ED", "ET"], ["NCR/NET", "ED", "ET"], ["NCR/NET", "ET"]),
        (["NCR", "ED", "ET"], ["NCR", "ED", "ET"], ["NCR", "ET"]),
        (["ET", "ED", "NCR_NET"], ["ET", "ED", "NCR_NET"], ["ET", "NCR_NET"]),
        (["NCR", "ED", "NET", "ET", "RC"], ["NCR", "ED", "NET", "ET"], ["NCR", "NET", "ET"]),
        (["necrosis", "edema", "enhancing"], ["necrosis", "edema", "enhancing"], ["necrosis", "enhancing"]),
        (["NETC", "SNFH", "ET"], ["NETC", "SNFH", "ET"], ["NETC", "ET"]),
        (["NETWORK", "ED", "ET"], [], []),
        (["lesion"], [], []),
        (["NCR", "ED"], [], []),
        (["1", "2", "4"], [], []),
    ],
)
def test_brats_regions_by_name(names: list[str], whole: list[str], core: list[str]) -> None:
    expected = {"WT": whole, "TC": core} if whole else {}
    assert auto_regions(names) == resolve_regions("auto", names) == expected
    assert resolve_regions("none", names) == {}


def test_own_regions_are_checked() -> None:
    names = ["NCR", "ED", "ET"]
    assert resolve_regions({"TC": ["ET", "NCR"]}, names) == {"TC": ["ET", "NCR"]}
    for bad in ({"x": ["NCR", "NET"]}, {"x": []}, {"x": ["ED", "ED"]}):
        with pytest.raises(UnderstudyError, match=r"union of classes[\s\S]*NCR, ED, ET"):
            resolve_regions(bad, names)
    for name in ("foreground", "mean", "ED", ""):
        with pytest.raises(UnderstudyError, match="cannot be called"):
            resolve_regions({name: ["NCR"]}, names)
    with pytest.raises(UnderstudyError, match="unknown regions 'all'"):
        resolve_regions("all", names)
