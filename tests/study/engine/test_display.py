"""The terminal display: a line a worker that fits, with what it counts; nothing where there is no terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from understudy.runtime.progress import latest, track
from understudy.study.engine.display import Display, Line, remaining, table_of
from understudy.study.engine.jobs import Job

TRAINING = {"what": "training", "done": 300.0, "total": 1000.0, "unit": "images", "rate": 7.0, "figures": "loss 0.5"}
LINES = [
    Line(1, "generator stylegan2", 63.0, TRAINING),
    Line(2, "segmenter both-stylegan2.unet.aug, repeat 12 of a study with long names", 5.0),
]


def drawn(lines: list[Line], done: int, total: int, failed: int, left: float | None, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(table_of(lines, done, total, failed, left, width))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_each_worker_is_one_line_that_fits(width: int) -> None:
    shown = drawn(LINES, 3, 12, 1, 3700.0, width)
    assert len(shown) == 3
    assert all(len(line) <= width for line in shown)
    assert "30 %" in shown[0]
    assert "7 images/s" in shown[0]
    assert "1 min 40 s left" in shown[0]  # 700 images at 7 a second
    assert "since 5 s" in shown[1]
    assert "25 %" in shown[2]
    assert "1 h 01 min left" in shown[2]
    if width >= 80:
        assert "study: 3 of 12 jobs, 1 failed" in shown[2]
    assert ("loss 0.5" in shown[0]) == (width >= 120)


@settings(max_examples=30, deadline=None)
@given(
    st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=90),
    st.floats(0, 1e7),
    st.floats(0, 1e7),
    st.floats(0, 1e6),
)
def test_no_name_and_no_count_breaks_a_line(name: str, done: float, total: float, rate: float) -> None:
    told = {"done": done, "total": total, "rate": rate, "unit": "slices", "figures": "[x]"}
    shown = drawn([Line(1, name, 1.0, told)], 0, 0, 0, None, 80)
    assert len(shown) == 2
    assert all(len(line) <= 80 for line in shown)


def test_what_is_left_is_shared_by_the_workers_and_no_less_than_what_the_longest_needs() -> None:
    a, b = Job("x", "a", {}, seconds=100), Job("x", "b", {}, seconds=60)
    assert remaining([a, b], [], 2) == 80
    half = Line(1, "a", 1.0, {"done": 5, "total": 10, "rate": 1.0})
    assert remaining([a, b], [half], 1) == 110
    slow = Line(1, "a", 1.0, {"done": 0, "total": 10, "rate": 0.01})
    assert remaining([a], [slow], 1) == pytest.approx(1000)
    assert remaining([Job("x", "a", {})], [], 1) is None


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    with Display(Console(file=file)) as display:
        assert not display.due
        display.show(LINES, 0, 1, 0, None)
    assert file.getvalue() == ""


def test_another_process_can_show_what_a_silent_one_does() -> None:
    assert latest() is None
    with track(10, "training", "images", done=4, show=False) as meter, track(3, "inner", show=False):
        meter.advance(1, loss=0.25)
        told: dict[str, Any] = latest() or {}
    assert (told["what"], told["done"], told["total"], told["unit"]) == ("training", 5, 10, "images")
    assert told["rate"] > 0
    assert told["figures"] == "loss 0.25"
    assert latest() is None
