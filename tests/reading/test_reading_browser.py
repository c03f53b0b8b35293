"""The reading page in Debian's Chromium: two readers at once, reload, back, kill and restart, 600 items.

Never part of CI: it runs where the extra `browser` and /usr/bin/chromium are, and UNDERSTUDY_BROWSER=1 asks for it.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_study import made_study

from understudy.reading.store import Store

CHROMIUM = "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(
    os.environ.get("UNDERSTUDY_BROWSER") != "1" or not Path(CHROMIUM).exists(),
    reason="browser test: pip install '.[browser]', apt install chromium, then UNDERSTUDY_BROWSER=1 pytest",
)


class Served:
    """A server process that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.process = folder, None  # type: tuple[Path, Any]
        with Store(folder) as store:
            self.links = {n: f"http://127.0.0.1:{self.port}/r/{store.new_token(n)}" for n in ("alice", "bob")}
        self.start()

    def start(self) -> None:
        words = ["-m", "understudy.cli", "reading", "serve", str(self.folder), "--port", str(self.port)]
        self.process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def rows(self, reader: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "answers.sqlite") as base:
            return base.execute(
                "SELECT item, value, seconds, comment, nonce FROM answers WHERE reader = ? ORDER BY id",
                (reader,),
            ).fetchall()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="pip install '.[browser]'")
    with api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(made_study(tmp_path / "study", items=600, size=64))
    yield made
    made.kill()


def opened(browser: Any, link: str) -> Any:
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: page.problems.append(m.text) if "Content Security" in m.text else None)
    page.goto(link)
    begin(page)
    return page


def until(page: Any, expression: str) -> None:
    """Asks from outside: the page's own policy forbids the evaluation that Playwright's waiting needs."""
    for _ in range(3000):
        if page.evaluate(f"Boolean({expression})"):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never came true: {expression}")


def begin(page: Any) -> None:
    page.wait_for_selector("#start[open]")
    page.keyboard.press("Space")
    until(page, "document.body.dataset.shown")


def read(page: Any, call: str = "r", sure: str = "3") -> str:
    """One item by keyboard; returns its id."""
    until(page, "shown !== null")
    item = page.evaluate("shown")
    for key in (call, sure, " "):
        page.keyboard.press(key)
    until(page, f"document.body.dataset.shown !== '{item}'")
    return str(item)


def stored(page: Any) -> None:
    until(page, "document.body.dataset.pending === '0'")


def test_two_readers_reload_back_kill_and_six_hundred_items(browser: Any, served: Served) -> None:
    alice, bob = (opened(browser, served.links[name]) for name in ("alice", "bob"))
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
    assert "kept here" in (alice.text_content("#saved") or "") or "saving" in (
        alice.text_content("#saved") or ""
    )
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
