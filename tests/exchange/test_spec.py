"""File patterns as regular expressions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.exchange.spec import pattern_text


@given(st.from_regex(r"[A-Za-z0-9_.\-]{1,12}", fullmatch=True))
def test_a_pattern_finds_the_id_it_was_filled_with(patient: str) -> None:
    pattern = "data/{patient}/{patient}_flair.nii.gz"
    match = re.fullmatch(pattern_text(pattern, ["patient"]), pattern.replace("{patient}", patient))
    assert match is not None
    assert match["patient"] == patient


@pytest.mark.parametrize(
    ("pattern", "file", "found"),
    [
        ("{channel}/{id}.png", "t1/7.png", {"id": "7"}),
        ("./{id}_*.png", "7_x.png", {"id": "7"}),
        ("**/{id}.png", "a/b/7.png", {"id": "7"}),
        ("**/{id}.png", "7.png", {"id": "7"}),
        ("{id}/{id}.png", "7/8.png", None),
        ("{other}/{id}.png", "x/7.png", None),
        ("*.png", "a/7.png", None),
    ],
)
def test_wildcards_and_placeholders(pattern: str, file: str, found: dict[str, str] | None) -> None:
    match = re.fullmatch(pattern_text(pattern, ["id"], "t1|t2"), file)
    assert (match and match.groupdict()) == found
