"""The real server on a real socket against 1,000 broken or hostile requests, byte by byte."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_study import made_study

from understudy.reading import deadline
from understudy.reading.app import listen, make_server
from understudy.reading.folder import open_folder
from understudy.reading.store import Store, checked_answers

INSIDE = (b"SECRET", b"feedface", b"Traceback", b"/tmp", b"site-packages", b"sqlite", b"key.json", b"alice", b"uvicorn")


class Wire:
    """A study behind uvicorn in a thread, and sockets to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder)
        self.token = self.store.new_token("alice")
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.server = make_server(open_folder(folder), self.store, "127.0.0.1")
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def send(self, data: bytes, patience: float = 20) -> bytes:
        """What comes back until the server closes, or says nothing for `patience` seconds (it waits for the rest)."""
        found = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as wire:
            try:
                wire.sendall(data)
                while part := wire.recv(65536):
                    found += part
            except (ConnectionResetError, BrokenPipeError, TimeoutError):
                pass  # thrown out in the middle of a body, or still waited for
        return found

    def request(self, method: str, path: str, body: bytes = b"", more: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n".encode()
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        return self.send(head + length + more + b"\r\n" + body)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
        self.store.close()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    made = Wire(made_study(tmp_path / "study"))
    yield made
    made.close()


def odd_heads(wire: Wire) -> list[bytes]:
    """Whole requests that no browser sends."""
    token, host = wire.token.encode(), b"Host: 127.0.0.1:%d\r\n" % wire.port
    answer = b'{"item": "' + b"0" * 16 + b'"}'
    post = b"POST /r/" + token + b"/answers HTTP/1.1\r\n" + host
    return [
        b"", b"\r\n" * 50, b"\0" * 200, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"A" * 90,
        b"GET /r/" + token + b"\r\n\r\n", b"GET / HTTP/9.9\r\n" + host + b"\r\n", b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + host + b"\r\n", b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /r/../../../../etc/passwd HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /static/..%2f..%2fstore.py HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /static/%2e%2e/%2e%2e/server.py HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /r/" + token + b"/items/..%2f..%2fstudy-key.json/0 HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /r/" + token + b"/items/0/0?x=" + b"a" * 70_000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"A: b\r\n" * 5_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"A\0b: c\r\n\r\n", b"GET / HTTP/1.1\r\n" + host + b" folded: x\r\n\r\n",
        post + b"Content-Length: 9999999999999\r\n\r\n" + answer, post + b"Content-Length: -1\r\n\r\n" + answer,
        post + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\n" + answer,
        post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /r/x HTTP/1.1\r\n\r\n",
        post + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + answer,
        post + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n" + answer,
        post + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n" * 30,
        post + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000, post + b"Content-Length: 900\r\n\r\n" + answer,
        post + b"Origin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}",
        b"CONNECT evil.example:443 HTTP/1.1\r\n" + host + b"\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ]  # fmt: skip


def damaged(draw: random.Random, request: bytes) -> bytes:
    """One to eight bytes changed, a part cut out, or cut short."""
    found = bytearray(request)
    kind = draw.randrange(3)
    if kind == 0:
        for _ in range(draw.randrange(1, 9)):
            found[draw.randrange(len(found))] = draw.randrange(256)
    elif kind == 1:
        start = draw.randrange(len(found))
        del found[start : start + draw.randrange(1, 40)]
    return bytes(found[: draw.randrange(len(found))] if kind == 2 else found)


def test_a_thousand_broken_requests_on_the_wire_change_nothing_and_learn_nothing(wire: Wire) -> None:
    item = json.loads(wire.request("GET", f"/r/{wire.token}/state").split(b"\r\n\r\n", 1)[1])["current"]
    value: dict[str, Any] = {"item": item, "value": {"call": "real", "confidence": 3}, "seconds": 1, "nonce": "a" * 32}
    assert b"200 OK" in wire.request("POST", f"/r/{wire.token}/answers", json.dumps(value).encode())
    before, _ = checked_answers(wire.folder)
    draw, odd = random.Random(3), odd_heads(wire)
    wrong = "".join(draw.choice("abcXYZ019_-") for _ in range(22))
    other = json.dumps({**value, "seconds": 9}).encode()  # the number of an answer that is stored
    honest = (
        f"POST /r/{wrong}/answers HTTP/1.1\r\nHost: 127.0.0.1:{wire.port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(other)}\r\n\r\n"
    ).encode() + other
    replay = honest.replace(wrong.encode(), wire.token.encode())
    for number in range(1000):
        sent = odd[number] if number < len(odd) else damaged(draw, draw.choice([honest, *odd[1:14], *odd[19:]]))
        seen = wire.send(sent, patience=0.02) if number % 50 else wire.send(replay)
        assert not [word for word in INSIDE if word in seen], (sent[:300], seen[:300])
        assert not seen or seen.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200 OK", b"HTTP/1.1 503", b"HTTP/1.0 4")), seen
        assert b"200 OK" not in seen or b"Open the link" in seen or b"<!doctype html>" in seen, (sent[:300], seen[:300])
    assert checked_answers(wire.folder)[0] == before
    assert wire.store.readers() == ["alice"]
    assert b"200 OK" in wire.request("GET", f"/r/{wire.token}/state")  # and it still serves


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ("Origin: http://HOST", 422), ("Origin: HTTP://HOST", 422), ("", 422), ("Origin: file://HOST", 403),
        ("Origin: ftp://HOST", 403), ("Origin: //HOST", 403), ("Origin: null", 403), ("Origin: http://HOST/a", 403),
        ("Origin: http://user@HOST", 403), ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate", 403),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors", 403), ("Sec-Fetch-Site: same-origin", 422),
    ],
)  # fmt: skip
def test_a_post_from_elsewhere_is_refused(wire: Wire, more: str, status: int) -> None:
    lines = more.replace("HOST", f"127.0.0.1:{wire.port}")
    found = wire.request("POST", f"/r/{wire.token}/answers", b"{}", f"{lines}\r\n".encode() if lines else b"")
    assert found.startswith(f"HTTP/1.1 {status} ".encode())
    link = b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"
    assert wire.request("GET", f"/r/{wire.token}", more=link).startswith(b"HTTP/1.1 200 ")  # a link in a mail


def test_requests_that_never_end_are_thrown_out(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a header, half a body, a second request on the same connection, and bytes that drip in: 48 at once."""
    monkeypatch.setattr(deadline, "SECONDS", 1.5)
    head = f"POST /r/{wire.token}/answers HTTP/1.1\r\nHost: 127.0.0.1:{wire.port}\r\n"
    whole = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{wire.port}\r\n\r\n"
    halves = [head, f"{head}Content-Length: 100\r\n\r\n{{", whole + head, "", "P"]
    held = [socket.create_connection(("127.0.0.1", wire.port), timeout=30) for _ in range(48)]
    for number, connection in enumerate(held):
        connection.sendall(halves[number % len(halves)].encode())
    for _ in range(3):
        time.sleep(0.3)
        for connection in held:
            connection.sendall(b"X")
    for connection in held:  # until the server closes; a timeout fails the test
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass
        connection.close()
    assert wire.request("GET", f"/r/{wire.token}").startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(("127.0.0.1", wire.port), timeout=30) as patient:  # whole requests are not hurried
        for _ in range(2):
            patient.sendall(whole.encode())
            found = b""
            while b"given.\n" not in found and (part := patient.recv(65536)):
                found += part
            assert found.startswith(b"HTTP/1.1 200 ")
            time.sleep(2)
