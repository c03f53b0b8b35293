"""Debian's Chromium driven by Playwright, and a server process that can be killed: what the browser tests share."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from understudy.reading.store import Store

CHROMIUM = "/usr/bin/chromium"
ASKED = pytest.mark.skipif(
    os.environ.get("UNDERSTUDY_BROWSER") != "1" or not Path(CHROMIUM).exists(),
    reason="browser test: pip install '.[browser]', apt install chromium, then UNDERSTUDY_BROWSER=1 pytest",
)
READERS = ("alice", "bob")


class Served:
    """A server process that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.process = folder, None  # type: tuple[Path, Any]
        with Store(folder) as store:
            self.links = {n: f"http://127.0.0.1:{self.port}/r/{store.new_token(n)}" for n in READERS}
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
                "SELECT item, value, seconds, comment, nonce FROM answers WHERE reader = ? ORDER BY id", (reader,)
            ).fetchall()


@contextmanager
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="pip install '.[browser]'")
    with api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def opened(browser: Any, link: str, width: int = 1280, height: int = 720) -> Any:
    """The reading page in a browser context of its own, which no other reader shares."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda m: page.problems.append(m.text) if "Content Security" in m.text else None)
    page.goto(link)
    page.wait_for_selector("#start[open]")
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


def press(page: Any, *keys: str) -> str:
    """Answers one item by keyboard and waits for the next; returns its id."""
    until(page, "shown !== null")
    item = page.evaluate("shown")
    for key in keys:
        page.keyboard.press(key)
    until(page, f"document.body.dataset.shown !== '{item}'")
    return str(item)


def stored(page: Any) -> None:
    until(page, "document.body.dataset.pending === '0'")
