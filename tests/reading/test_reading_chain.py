"""A whole reading study on phantoms: prepare, serve, two scripted readers in two browsers, analyse, report.

One reader looks at the pictures (she calls blurred ones synthetic), the other one guesses. Takes five minutes; never
part of CI. UNDERSTUDY_SHOTS=folder is where it leaves screenshots, UNDERSTUDY_CHAIN=folder where the study is kept
for the next time.
"""

from __future__ import annotations

import json
import os
import statistics
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_reading import ASKED, Served, begin, chromium, opened, press, stored, until
from chain_reading import GENERATORS, Chain, boxes, least_contrast, picture, unnamed

pytestmark = ASKED
SHARPNESS = """(() => { let sum = 0, n = 0;
  for (const { pixels } of panels) {
    const d = pixels.data, w = pixels.width;
    for (let y = 1; y < pixels.height; y += 2) for (let x = 1; x < w; x += 2) {
      const i = 4 * (y * w + x);
      if (d[i] > 26) { n++; sum += Math.abs(d[i] - d[i - 4]) + Math.abs(d[i] - d[i - 4 * w]); }
    }
  }
  return sum / n; })()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    kept = os.environ.get("UNDERSTUDY_CHAIN")
    return Chain(Path(kept) if kept else tmp_path_factory.mktemp("chain"))


class Reader:
    """A reader at a page, and what this reader last said of each item."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.said: dict[str, list[Any]] = {}
        self.seen: list[float] = []

    def looks(self) -> list[str]:
        """Synthetic if blurred, as compared with the median of what was seen; the surer the farther from it."""
        until(self.page, "shown !== null")
        self.seen.append(self.page.evaluate(SHARPNESS))
        blurred = sum(s > self.seen[-1] for s in self.seen) / len(self.seen)
        return ["s" if blurred > 0.3 else "r", str(min(5, 1 + int(abs(blurred - 0.3) * 8)))]

    def guesses(self) -> list[str]:
        until(self.page, "shown !== null")
        code = zlib.crc32(self.page.evaluate("shown").encode())
        return ["rs"[code % 2], "12345"[code // 2 % 5]]

    def answer(self, keys: list[str]) -> str:
        item = press(self.page, *keys, " ")
        self.said[item] = keys
        return item


def mouse(page: Any) -> None:
    """Window and level by dragging, zoom by the wheel, moving, reset: all panels together."""
    x, y = 300, 300
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    page.mouse.down()
    page.mouse.move(x + 60, y - 40, steps=4)
    page.mouse.up()
    assert page.evaluate("view.zoom > 1.1 && view.width > 300 && view.level > 140")
    assert "W 316 · L 148 · Zoom 1.2" in (page.text_content("#window") or "")
    page.mouse.down(button="right")
    page.mouse.move(x + 90, y - 20)
    page.mouse.up(button="right")
    assert page.evaluate("view.x !== 0")
    page.mouse.dblclick(x, y)
    assert page.text_content("#window") == "W 256 · L 128 · Zoom 1.0×"


def change_of_mind(reader: Reader) -> None:
    """Back to the last item, a comment, another answer."""
    page = reader.page
    page.keyboard.press("Backspace")
    until(page, "shown !== null")
    before = boxes(page)
    page.keyboard.press("c")
    page.keyboard.type("I changed my mind: r s 1 2")
    page.keyboard.press("Control+Enter")
    assert boxes(page) == before
    reader.answer(["s", "1"])


def killed(reader: Reader, served: Served) -> None:
    """Answers while the server is dead, changes one, with the clock set back in between: the last word counts."""
    page = reader.page
    stored(page)
    served.kill()
    first = reader.answer(["r", "5"])
    page.evaluate("void (Date.now = () => 1000)")
    page.keyboard.press("Backspace")
    until(page, "shown !== null")
    assert page.evaluate("shown") == first
    reader.answer(["s", "2"])
    until(page, "document.body.dataset.pending === '2'")
    until(page, "document.getElementById('saved').textContent.includes('server not reached · 2 kept here')")
    assert first not in [row[0] for row in served.rows("alice")]
    picture(page, "server-away")
    served.start()
    stored(page)
    assert served.rows("alice")[-1][1] == '{"call": "synthetic", "confidence": 2}'


def nothing_of_the_truth(page: Any, responses: list[Any], key: dict[str, Any]) -> None:
    """Whatever came to this browser: no names, no patients, pictures of one length and with equal headers."""
    words = [
        *GENERATORS,
        "phantom",
        "repeat_of",
        "margin",
        "seed",
        *{e["subject"] for e in key["items"].values()} - {""},
    ]
    lengths, headers, kinds = set(), set(), set()
    for response in responses:
        body = response.body()
        if "/items/" in response.url:
            lengths.add(len(body))
            headers.add(tuple(sorted((k, v) for k, v in response.headers.items() if k != "date")))
            kinds.add(body[16:29])  # IHDR: width, height, depth, colour
            assert all(name not in body for name in (b"tEXt", b"tIME", b"pHYs", b"eXIf", b"iTXt", b"zTXt"))
        elif "/static/" not in response.url:
            text = body.decode().lower()
            assert [w for w in words if w.lower() in text] == []
    assert (len(lengths), len(headers), len(kinds)) == (1, 1, 1)
    kept = page.evaluate("JSON.stringify(localStorage) + document.documentElement.outerHTML + document.cookie").lower()
    assert [w for w in words if w.lower() in kept] == []


def readable(page: Any) -> None:
    text, ratio = least_contrast(page)
    assert ratio >= 4.5, (text, ratio)
    assert unnamed(page) == []
    print(f"least contrast {ratio:.1f} ({text!r})")


def test_real_or_synthetic_with_two_readers_at_once(browser: Any, chain: Chain) -> None:
    print(chain.prepare("four", GENERATORS, "--design", "paper", "--real-count", "150", "--pixels", "384"))
    key = json.loads((chain.place / "four-key.json").read_text())
    assert len(key["items"]) == 600
    served = Served(chain.place / "four")
    alice, bob = (Reader(opened(browser, served.links[n], 1366, 768)) for n in ("alice", "bob"))
    responses: list[Any] = []
    bob.page.on("response", lambda response: responses.append(response))
    readable(alice.page)
    picture(alice.page, "start")
    begin(alice.page)
    begin(bob.page)
    bob.page.evaluate("performance.setResourceTimingBufferSize(9999)")
    readable(alice.page)
    for number in range(600):
        alice.answer(alice.looks())
        bob.answer(bob.guesses())
        if number == 20:
            stored(bob.page)
            nothing_of_the_truth(bob.page, responses, key)
            change_of_mind(alice)
            alice.page.reload()
            begin(alice.page)
            assert alice.page.evaluate("at") == 21
        elif number == 40:
            mouse(alice.page)
            for keys in (["r", "4"], ["?"], ["Escape", "p"]):
                for one in keys:
                    alice.page.keyboard.press(one)
                readable(alice.page)
                picture(alice.page, {"r": "four", "?": "help", "Escape": "pause"}[keys[0]])
            alice.page.keyboard.press("Space")
        elif number == 100:
            killed(alice, served)
        elif number == 300:  # another day, another browser
            stored(alice.page)
            alice.page.context.close()
            alice.page = opened(browser, served.links["alice"], 1366, 768)
            assert f"{len(alice.said)} of 600" in (alice.page.text_content("#resume") or "")
            begin(alice.page)
        elif number == 400:
            served.kill()
            served.start()
        if number >= 597:
            break
    finish(alice, served)
    finish(bob, served)
    times(bob.page)
    served.kill()
    analysed(chain, {"alice": alice, "bob": bob}, key)


def finish(reader: Reader, served: Served) -> None:
    """What is left; some have read one more than the others."""
    page = reader.page
    while page.evaluate("study.items.some((item) => !item.value)"):
        reader.answer(reader.guesses())
    page.wait_for_selector("#end[open]")
    stored(page)
    assert "All 600 answers are stored" in (page.text_content("#end-text") or "")
    readable(page)
    picture(page, "end")
    assert page.problems == []
    assert len(reader.said) == 600


def times(page: Any) -> None:
    """Prints how long the server took, as the browser saw it."""
    for what in ("answers", "items/"):
        taken = page.evaluate(
            "performance.getEntriesByType('resource').filter((e) => e.name.includes('/"
            + what
            + "')).map((e) => e.duration)"
        )
        cuts = statistics.quantiles(taken, n=20)
        print(f"{what}: {len(taken)} requests, median {statistics.median(taken):.0f} ms, 95 % within {cuts[-1]:.0f} ms")


def analysed(chain: Chain, readers: dict[str, Reader], key: dict[str, Any]) -> None:
    """Table 6 holds what was pressed; the study's report shows it, and nothing else is computed again."""
    print(chain.command("reading", "analyse", "four"))
    found = json.loads((chain.place / "four-results" / "reading.json").read_text())
    said = [(key["items"][item]["source"], keys) for r in readers.values() for item, keys in r.said.items()]
    for row in found["rows"]:
        calls = [keys[0] for source, keys in said if source == row["source"]]
        assert (row["n"], row["called_real"]) == (len(calls), calls.count("r")), row
    assert {row["source"] for row in found["rows"]} == {"real", *GENERATORS}
    assert found["auc"]["readers"]["alice"]["low"] > 0.6  # she can tell
    assert found["auc"]["readers"]["bob"]["low"] < 0.5 < found["auc"]["readers"]["bob"]["high"]  # he cannot
    assert found["readers"]["alice"]["comments"] == 1
    jobs = set((chain.out / "jobs").iterdir())
    chain.study.write_text(chain.study.read_text() + "report: {reading: four-results/table6.json}\n")
    chain.run_study()
    new = set((chain.out / "jobs").iterdir()) - jobs
    assert [job.name.split("-")[0] for job in new] == ["report"]
    page = (chain.out / "report.html").read_text()
    assert "Table 6" in page
    assert all(g in page for g in GENERATORS)


def test_single_pictures_on_a_binary_scale(browser: Any, chain: Chain) -> None:
    print(chain.prepare("one", ("pca200",), "--real-count", "6", "--channels", "FLAIR", "--scale", "binary"))
    served = Served(chain.place / "one")
    alice = opened(browser, served.links["alice"], 1366, 768)
    begin(alice)
    picture(alice, "single")
    for number in range(13):
        press(alice, "rs"[number % 2], " ")
    alice.wait_for_selector("#end[open]")
    stored(alice)
    served.kill()
    chain.command("reading", "analyse", "one")
    assert (chain.place / "one-results" / "table6.json").is_file()
    assert alice.problems == []


def test_two_segmentations(browser: Any, chain: Chain) -> None:
    chain.prepare_segmentations("which", 24)
    key = json.loads((chain.place / "which-key.json").read_text())
    served = Served(chain.place / "which")
    readers = {n: opened(browser, served.links[n], 1366, 768) for n in ("alice", "bob")}
    for page in readers.values():
        begin(page)
    page = readers["alice"]
    until(page, "shown !== null")
    with_outlines = page.locator("#grid").screenshot()
    page.keyboard.press("o")
    assert page.get_attribute("#outlines", "aria-pressed") == "true"
    assert page.locator("#grid").screenshot() != with_outlines
    page.keyboard.press("o")
    assert page.locator("#grid").screenshot() == with_outlines
    for one in "a42":
        page.keyboard.press(one)
    readable(page)
    picture(page, "segmentations")
    for _ in range(24):  # alice prefers whatever the key calls real, bob always the left one
        until(page, "shown !== null")
        side = "a" if key["items"][page.evaluate("shown")]["A"] == "real" else "b"
        press(page, side, *("42" if side == "a" else "24"), " ")
        press(readers["bob"], "a", "3", "3", " ")
    for page in readers.values():
        page.wait_for_selector("#end[open]")
        stored(page)
        assert page.problems == []
    served.kill()
    print(chain.command("reading", "analyse", "which"))
    found = json.loads((chain.place / "which-results" / "reading.json").read_text())
    left = sum(e["A"] == "real" for e in key["items"].values())
    assert found["preferred"]["real"] == 24 + left
    assert found["marks"]["real"] - found["marks"]["synthetic"] == pytest.approx(1)
    assert Path(chain.place / "which-results" / "reading.html").is_file()
