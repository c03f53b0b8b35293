"""Order of files by the numbers in their names."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from understudy.exchange.recognise import recognise
from understudy.exchange.spec import FolderSpec
from understudy.io.folders import natural

NAMES = st.text(alphabet="ab019/_\u0661\u00b2", max_size=12)


def parts(name: str) -> list[tuple[int, int, str]]:
    """The order by its definition: runs of digits by value, then by how they are written; the rest as text."""
    pieces = re.split(r"(\d+)", name)
    return [(1, int(p), p) if i % 2 else (0, 0, p) for i, p in enumerate(pieces)]


@given(NAMES, NAMES)
def test_numbers_in_names_are_compared_by_value(one: str, other: str) -> None:
    assert (natural(one) < natural(other)) == (parts(one) < parts(other))
    assert (natural(one) == natural(other)) == (one == other)


def test_an_example() -> None:
    names = ["image_10", "image_9", "image_9b", "image", "image_09"]
    assert sorted(names, key=natural) == ["image", "image_09", "image_9", "image_9b", "image_10"]


def test_a_folder_for_each_slice():
    """0007/T1.png, 0007/T1ce.png, 0007/Seg.png."""
    files = [f"set/{i:04d}/{name}.png" for i in (7, 8) for name in ("T1", "T1ce", "Seg")]
    found = recognise(Path("x"), files, FolderSpec(), None)
    assert [entry.id for entry in found.slices] == ["set/0007", "set/0008"]
    assert found.channels == ("T1w", "T1wGd")
    assert found.slices[0].files["T1wGd"] == "set/0007/T1ce.png"
    assert not found.surplus
