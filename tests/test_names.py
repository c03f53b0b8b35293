"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from understudy.names import display_name, duration, percent


def test_a_known_key_is_shown_by_its_name() -> None:
    assert (display_name("stylegan2"), display_name("our-wgan")) == ("StyleGAN 2", "our-wgan")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3.2 * 86400, "3 d 4 h"),
        (None, "–"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_percentages_are_as_fine_as_asked_or_as_needed() -> None:
    assert [percent(share) for share in (0, 0.0004, 0.015, 0.02, 0.99, math.nan)] == [
        "0 %", "0.04 %", "1.5 %", "2 %", "99 %", "–",
    ]  # fmt: skip
    assert (percent(0.5, 1), percent(math.inf), percent(0.87, 0, "_")) == ("50.0 %", "∞", "87_%")
