"""The reading page's server: what readers can do, and that nobody else can do or learn anything."""

from __future__ import annotations

import io
import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served_study import LABELS, made_study
from starlette.testclient import TestClient
from typer.testing import CliRunner

from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.reading.app import LARGEST_BODY, SECURITY, make_app
from understudy.reading.folder import open_folder, plain_png
from understudy.reading.store import Store

INSIDE = (
    "SECRET",
    "feedface",
    "Traceback",
    "/tmp",
    "site-packages",
    "sqlite",
    "images/",
    ".png",
    "key.json",
    "token_sha",
)


class World:
    """A study that is being served, with a reader."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.study = folder, open_folder(folder)
        self.store = Store(folder)
        self.token = self.store.new_token("alice")
        # Failures must be answered as in a real server, not raised in the test.
        self.client = TestClient(
            make_app(self.study, self.store), base_url="http://127.0.0.1:8321", raise_server_exceptions=False
        )

    def state(self) -> dict[str, Any]:
        return self.client.get(f"/r/{self.token}/state").json()

    def post(self, item: str, nonce: int, value: Any = None, **more: Any) -> Any:
        value = {"call": "real", "confidence": 2} if value is None else value
        body = {"item": item, "value": value, "seconds": 2.5, "nonce": f"{nonce:032x}", **more}
        return self.client.post(f"/r/{self.token}/answers", json=body)

    def rows(self) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "answers.sqlite") as base:
            return [row for name in ("readers", "answers") for row in base.execute(f"SELECT * FROM {name} ORDER BY 1")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(made_study(tmp_path / "study"))
    yield made
    made.store.close()


def test_a_reader_reads_pauses_and_goes_on(world: World) -> None:
    state = world.state()
    order = [item["id"] for item in state["items"]]
    assert order == world.study.order("alice") != world.study.order("bob")
    assert sorted(order) == sorted(world.study.items)
    assert (state["done"], state["total"], state["current"]) == (0, 6, order[0])
    for number, item in enumerate(order[:3]):
        assert world.post(item, number, comment="odd vessel").status_code == 200
    again = World(world.folder)  # another day: another process, another link
    state = again.state()
    assert (state["done"], state["current"]) == (3, order[3])
    assert state["items"][1]["value"] == {"call": "real", "confidence": 2}
    assert again.post(order[1], 9, {"call": "synthetic", "confidence": 5}).status_code == 200  # back, and changed
    assert again.state()["items"][1]["value"]["call"] == "synthetic"
    assert len([row for row in again.rows() if len(row) == 9]) == 4  # the first answer is kept as well
    again.store.close()


def test_a_replayed_answer_is_told_to_be_stored_and_is_stored_once(world: World) -> None:
    item = world.state()["current"]
    assert [world.post(item, 7).json() for _ in range(3)] == [{"stored": f"{7:032x}"}] * 3
    assert world.post(item, 7, {"call": "synthetic", "confidence": 2}).status_code == 409
    assert world.state()["items"][0]["value"]["call"] == "real"


def test_panels_have_one_length_no_texts_and_their_own_pixels(world: World) -> None:
    sizes = {file.stat().st_size for file in (world.folder / "images").iterdir()}
    replies = {
        (item, n): world.client.get(f"/r/{world.token}/items/{item}/{n}")
        for item in world.study.items
        for n in range(4)
    }
    assert len(sizes) > 1
    assert len({len(reply.content) for reply in replies.values()}) == 1
    assert len({tuple(sorted(reply.headers.items())) for reply in replies.values()}) == 1
    for (item, n), reply in replies.items():
        assert b"SECRET" not in reply.content
        seen = np.asarray(Image.open(io.BytesIO(reply.content)))
        assert (seen == np.asarray(Image.open(world.folder / world.study.items[item].panels[n].file))).all()
    assert world.client.get(f"/r/{world.token}/items/{item}/4").status_code == 404


def test_nothing_of_the_truth_and_nothing_from_outside(world: World) -> None:
    pages = [f"/r/{world.token}", f"/r/{world.token}/state", "/static/reading.js", "/static/reading.css"]
    for page in pages:
        reply = world.client.get(page)
        assert reply.status_code == 200
        assert not [word for word in INSIDE if word in reply.text], page
        assert "http://" not in reply.text
        assert "https://" not in reply.text
        assert {name: reply.headers[name] for name in SECURITY} == SECURITY
    assert "style=" not in world.client.get(pages[0]).text
    assert set(world.state()["items"][0]) == {"id", "labels", "value", "comment"}
    assert tuple(world.state()["items"][0]["labels"]) == LABELS


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 400), ({"host": "127.0.0.1.evil.example:8321"}, 400), ({"host": ""}, 400),
        ({"host": "localhost@evil.example"}, 400), ({"host": "localhost:x"}, 400), ({"host": "a/localhost"}, 400),
        ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}, 403),
        ({"host": "localhost:1"}, 200), ({"host": "[::1]:8321"}, 200),
        ({"origin": "http://127.0.0.1:8321"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
    ],
)  # fmt: skip
def test_other_hosts_and_sites_are_refused(world: World, headers: dict[str, str], status: int) -> None:
    reply = world.client.get(f"/r/{world.token}/state", headers=headers)
    assert reply.status_code == status
    assert reply.headers["cache-control"] == "no-store"


def test_bodies_too_large_are_refused_by_length_and_while_reading(world: World) -> None:
    address = f"/r/{world.token}/answers"
    assert world.client.post(address, content=b"x" * (LARGEST_BODY + 1)).status_code == 413
    pulled = []

    def parts() -> Iterator[bytes]:
        for number in range(1000):
            pulled.append(number)
            yield b" " * 1024

    assert world.client.post(address, content=parts()).status_code == 413
    assert world.client.post(address, content=b"", headers={"content-length": "-1"}).status_code == 400


def test_segmentations_have_their_own_answers(tmp_path: Path) -> None:
    world = World(made_study(tmp_path / "pairs", kind="segmentations"))
    item = world.state()["current"]
    assert world.state()["items"][0]["labels"] == ["A", "B"]
    assert world.post(item, 1).status_code == 422
    assert world.post(item, 1, {"prefer": "same", "rating_a": 2, "rating_b": 5}).status_code == 200
    assert world.post(item, 2, {"prefer": "C", "rating_a": 2, "rating_b": 5}).status_code == 422
    world.store.close()


def test_a_binary_scale_has_no_confidence(tmp_path: Path) -> None:
    world = World(made_study(tmp_path / "binary", scale="binary"))
    item = world.state()["current"]
    assert world.post(item, 1).status_code == 422
    assert world.post(item, 1, {"call": "real"}).status_code == 200
    world.store.close()


def test_a_failing_disk_is_answered_503_and_says_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    item = world.state()["current"]

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full: /tmp/SECRET")

    monkeypatch.setattr(world.store, "add", full)
    reply = world.post(item, 1)
    assert (reply.status_code, reply.json()) == (503, {"error": "not possible now"})
    monkeypatch.undo()
    assert world.post(item, 1).status_code == 200


PATHS = [
    "/../key.json", "/r/../study-key.json", "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py",
    "/static/", "/static", "/static/reading.html", "/static/reading.js%00", "/items.json", "/study.json",
    "/answers.sqlite",
    "/r/", "/r", "/r/%00", "/r/{t}/", "/r/{t}/images", "/r/{t}/items/", "/r/{t}/items/{i}", "/r/{t}/items/{i}/-1",
    "/r/{t}/items/{i}/4", "/r/{t}/items/{i}/%d9%a1", "/r/{t}/items/{i}/0%00", "/r/{t}/items/{i}/1e0",
    "/r/{t}/items/{i}/00",
    "/r/{t}/items/..%2f..%2fstudy-key.json/0", "/r/{t}/items/%2e%2e/0", "/r/{t}/items/images%2fa.png/0",
    "/r/{t}/answers",
    "/r/{t}/items/{i}%00/0", "//evil.example/r/{w}", "/r/{w}%2fstate", "/r/{t};/state", "/r/{w}", "/r/{w}/state",
    "/r/{w}/items/{i}/0", "/r/{t}/../../etc/passwd", "/docs", "/openapi.json", "/r/{t}/key", "/%ff%fe", "/r/{t}/state/",
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "LOCK"]


def hostile_body(draw: random.Random, item: str, old: int) -> bytes:
    """A body that is not an honest answer, or one whose number was used for another answer."""
    right = {
        "item": item,
        "value": {"call": "real", "confidence": 3},
        "seconds": 1.0,
        "nonce": f"{draw.getrandbits(128):032x}",
    }
    wrong: dict[str, list[Any]] = {
        "item": [None, 1, "", item.upper() + "G", item + "\0", "../" + item, item + "\n", "f" * 16, [item],
                 {"$ne": ""}],
        "value": [None, {}, [], "real", {"call": "REAL", "confidence": 3}, {"call": "real"},
                  {"call": "real", "confidence": 6},
                  {"call": "real", "confidence": 0}, {"call": "real", "confidence": "3"},
                  {"call": "real", "confidence": True},
                  {"call": "real", "confidence": 3, "reader": "bob"}, {"prefer": "A", "rating_a": 1, "rating_b": 1}],
        "seconds": [None, -1, 1e9, "1", True, [], float("nan"), float("inf")],
        "comment": [None, 1, "\0", "a\x1b[31m", "x" * 2001, ["x"], {}],
        "nonce": [None, "", 1, "g" * 32, "a" * 31, "A" * 32, "a" * 33, "a" * 32 + "\n", "'; DROP TABLE answers; --"],
        "reader": ["bob"], "at": ["1999-01-01"], "id": [1], "__proto__": [{}],
    }  # fmt: skip
    field = draw.choice(list(wrong))
    text = json.dumps({**right, field: draw.choice(wrong[field])}).encode()
    absent = draw.choice(list(right))
    missing = json.dumps({name: value for name, value in right.items() if name != absent}).encode()
    used = json.dumps({**right, "seconds": 77, "nonce": f"{old:032x}"}).encode()
    lone = json.dumps({**right, "comment": "\ud800"}).encode()
    odd = [
        b"",
        b"null",
        b"[]",
        b"\0",
        b"{",
        b"[" * 9000,
        b"\xff\xfe{}",
        b'{"item":' * 900,
        b"x" * 40_000,
        b"NaN",
        b"1e999",
        lone,
    ]
    cut = text[: draw.randrange(len(text))]
    return draw.choice([text, text, text, missing, used, cut, draw.choice(odd), draw.randbytes(draw.randrange(300))])


def test_a_thousand_hostile_requests_change_nothing_and_learn_nothing(world: World) -> None:
    draw, item = random.Random(11), world.state()["current"]
    assert world.post(item, 1).status_code == 200
    before, known = world.rows(), 0
    for number in range(1000):
        wrong = "".join(draw.choice("abcXYZ019_-") for _ in range(22))
        if number % 2:
            token = draw.choice([world.token, world.token, world.token, wrong, world.token[:-1], "%00" * 7])
            address, method = f"/r/{token}/answers", "POST"
            body: bytes | None = hostile_body(draw, item, 1)
        else:
            path = draw.choice(PATHS).replace("{t}", world.token).replace("{i}", item).replace("{w}", wrong)
            address, method, body = path, draw.choice(METHODS), draw.choice([None, b"{}", b"\0" * 50])
        headers = draw.choice([{}, {}, {"cookie": "admin=1"}, {"x-forwarded-host": "evil"}, {"range": "bytes=0-"}])
        reply = world.client.request(method, address, content=body, headers=headers, follow_redirects=False)
        known += reply.status_code in (400, 404, 405, 409, 413, 422)
        assert reply.status_code in (400, 404, 405, 409, 413, 422), (method, address, body, reply.status_code)
        seen = reply.text + str(reply.headers)
        assert not [word for word in (*INSIDE, world.token, "alice") if word in seen], (method, address, seen)
        assert len(reply.content) < 100
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert known == 1000
    assert world.rows() == before
    world.store.close()
    assert world.rows() == before


def test_folders_that_cannot_be_served_say_why(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match=r"no study\.json"):
        open_folder(tmp_path)
    folder = made_study(tmp_path / "s")
    rows = json.loads((folder / "items.json").read_text())
    rows[0]["panels"][0]["file"] = "../s-key.json"
    (folder / "items.json").write_text(json.dumps(rows))
    with pytest.raises(UnderstudyError, match=r"panels\.0\.file"):
        open_folder(folder)
    other = made_study(tmp_path / "t")
    next((other / "images").iterdir()).unlink()
    with pytest.raises(UnderstudyError, match="1 pictures"):
        open_folder(other)
    for broken in (b"", b"GIF89a", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"):
        with pytest.raises(UnderstudyError):
            plain_png(broken)


def test_commands(tmp_path: Path) -> None:
    folder, run = str(made_study(tmp_path / "study")), CliRunner()
    link = run.invoke(app, ["reading", "token", folder, "alice", "--port", "9000"]).stdout.strip()
    assert link.startswith("http://127.0.0.1:9000/r/")
    with Store(folder) as store:
        assert store.reader_of(link.rsplit("/", 1)[1]) == "alice"
    found = json.loads(run.invoke(app, ["reading", "status", folder, "--json"]).stdout)
    assert found["items"] == 6
    assert found["readers"][0]["done"] == 0
    assert "0 of 6" in run.invoke(app, ["reading", "status", folder]).stdout
    refused = run.invoke(app, ["reading", "serve", folder, "--host", "0.0.0.0"])
    assert isinstance(refused.exception, UnderstudyError)
