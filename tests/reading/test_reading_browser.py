"""The reading page in Debian's Chromium: two readers at once, reload, back, kill and restart, 600 items.

Never part of CI: it runs where the extra `browser` and /usr/bin/chromium are, and UNDERSTUDY_BROWSER=1 asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_reading import ASKED, Served, begin, chromium, opened, press, stored, until
from served_study import made_study

pytestmark = ASKED


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(made_study(tmp_path / "study", items=600, size=64))
    yield made
    made.kill()


def read(page: Any, call: str = "r", sure: str = "3") -> str:
    return press(page, call, sure, " ")


def test_two_readers_reload_back_kill_and_six_hundred_items(browser: Any, served: Served) -> None:
    alice, bob = (opened(browser, served.links[name]) for name in ("alice", "bob"))
    begin(alice)
    begin(bob)
    seen: dict[str, list[str]] = {"alice": [], "bob": []}
    for _ in range(5):
        seen["alice"].append(read(alice))
        seen["bob"].append(read(bob, "s", "5"))
    assert seen["alice"] != seen["bob"]

    alice.reload()  # goes on where it was
    begin(alice)
    assert alice.evaluate("at") == 5
    alice.keyboard.press("Backspace")
    until(alice, "shown !== null && at === 4")
    assert alice.get_attribute("button[data-value=real]", "aria-pressed") == "true"
    alice.keyboard.press("c")
    alice.keyboard.type("I changed my mind: r s 1 2")
    alice.keyboard.press("Control+Enter")
    assert read(alice, "s", "1") == seen["alice"][4]

    served.kill()  # in the middle: the page holds the answer and says so
    waiting = read(alice, "s", "2")
    until(alice, "document.body.dataset.pending === '1'")
    assert "kept here" in (alice.text_content("#saved") or "") or "saving" in (alice.text_content("#saved") or "")
    assert waiting not in [row[0] for row in served.rows("alice")]
    served.start()
    stored(alice)
    assert served.rows("alice")[-1][0] == waiting

    for number in range(6, 600):
        if number == 300:
            served.kill()
            served.start()
        read(alice, "rs"[number % 2], "12345"[number % 5])
    alice.wait_for_selector("#end[open]")
    stored(alice)
    assert "All 600 answers are stored" in (alice.text_content("#end-text") or "")

    rows = served.rows("alice")
    assert len({row[0] for row in rows}) == 600
    assert len(rows) == 601  # one was changed
    assert rows[5][3] == "I changed my mind: r s 1 2"
    assert all(row[2] >= 0 for row in rows)
    stored(bob)
    assert [row[0] for row in served.rows("bob")] == seen["bob"]
    assert alice.problems == bob.problems == []


def test_mouse_zoom_window_and_segmentations(browser: Any, tmp_path: Path) -> None:
    served = Served(made_study(tmp_path / "pairs", items=2, kind="segmentations", size=64))
    page = opened(browser, served.links["alice"])
    begin(page)
    page.mouse.move(300, 300)
    page.mouse.wheel(0, -200)
    page.mouse.down()
    page.mouse.move(340, 280)
    page.mouse.up()
    assert page.evaluate("view.zoom > 1.1 && view.width > 280 && view.level > 130")
    page.keyboard.press("0")
    assert page.evaluate("view.zoom === 1 && view.width === 256 && view.level === 128")
    for key in ("a", "4", "2", " "):
        page.keyboard.press(key)
    until(page, "at === 1 && shown !== null")
    page.click("button[data-value=same]")
    page.click("button[data-field=rating_a][data-value='5']")
    page.click("button[data-field=rating_b][data-value='1']")
    page.click("#next")
    page.wait_for_selector("#end[open]")
    stored(page)
    values = [row[1] for row in served.rows("alice")]
    assert values == [
        '{"prefer": "A", "rating_a": 4, "rating_b": 2}', '{"prefer": "same", "rating_a": 5, "rating_b": 1}',
    ]  # fmt: skip
    assert page.problems == []
    served.kill()
