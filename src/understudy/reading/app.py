"""The web application of a reading study. It knows items by random ids and has never seen the answer key.

Everything lies below `/r/<token>`: two readers can use one browser, and no cookie exists that another site could use.
"""

import errno
import socket
import sqlite3
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.errors import UnderstudyError
from understudy.io.files import held_lock
from understudy.reading.deadline import Deadline
from understudy.reading.folder import ReadingFolder, address
from understudy.reading.store import Store, parse_answer

LARGEST_BODY = 16 * 1024  # bytes; the longest honest answer has about 8,500
_FILES = files("understudy.reading") / "static"
_STATIC = {"reading.js": "text/javascript", "reading.css": "text/css"}
_WORDS = {404: "not found", 405: "wrong method", 413: "too large", 503: "not possible now"}
# A full or busy disk, a picture that went away: the browser keeps the answer and asks again.
_LATER = (ClientDisconnect, sqlite3.Error, OSError, UnderstudyError)
SECURITY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def only_server(folder: Path, where: str) -> AbstractContextManager[None]:
    """Holds the lock of a study's folder while it is served at the address `where`; raises if another process does."""
    fix = "use that server, or stop it first"
    return held_lock(folder / "server.lock", f"at {where}", "this study is being served already ({holder})", fix)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises `UnderstudyError` for a port in use or reserved, an address of another machine."""
    where, local = address(host, port), "give --host 127.0.0.1"
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place, family=family, backlog=128)  # with SO_REUSEADDR: at once after a crash
    except socket.gaierror as error:
        raise UnderstudyError(f"the address is not known ({error.strerror})", where=where, fix=local) from error
    except OSError as error:
        known = {
            errno.EADDRINUSE: (f"port {port} is in use", "give another --port, or stop what listens there"),
            errno.EACCES: (f"port {port} is reserved for the system", "give one above 1023, e.g. --port 8321"),
            errno.EADDRNOTAVAIL: ("this machine does not have that address", local),
        }
        what, fix = known.get(error.errno or 0, (f"cannot listen ({error.strerror})", "give another --port"))
        raise UnderstudyError(what, where=where, fix=fix) from error


def make_server(folder: ReadingFolder, store: Store, host: str) -> Any:
    """The uvicorn server of a study; `run(sockets=[...])` answers requests until Ctrl-C."""
    # No access log: it would hold the readers' tokens.
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False, "ws": "none"}
    quiet["http"] = Deadline
    return uvicorn.Server(uvicorn.Config(make_app(folder, store, [host]), **quiet))


def make_app(folder: ReadingFolder, store: Store, hosts: Iterable[str] = ()) -> "Guard":
    """The ASGI application of a study; it answers to `hosts` besides localhost, 127.0.0.1 and [::1]."""
    server = ReadingServer(folder, store)
    routes = [
        Route("/", server.home),
        Route("/static/{name}", server.static),
        Route("/r/{token}", server.page),
        Route("/r/{token}/state", server.state),
        Route("/r/{token}/items/{item}/{panel}", server.panel),
        Route("/r/{token}/answers", server.answer, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((HTTPException, Exception, *_LATER), _refused)
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, hosts)  # outside of everything: what Starlette itself answers to a failure passes it too


class ReadingServer:
    """Endpoints of one study."""

    def __init__(self, folder: ReadingFolder, store: Store) -> None:
        self.folder, self.store = folder, store

    def _reader(self, request: Request) -> str:
        reader = self.store.reader_of(request.path_params["token"])
        if reader is None:
            raise HTTPException(404)
        return reader

    def home(self, request: Request) -> Response:
        """For those who forgot their link."""
        return Response("Open the link that you were given.\n", media_type="text/plain")

    def static(self, request: Request) -> Response:
        """Script and style."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404)
        return Response((_FILES / name).read_bytes(), media_type=_STATIC[name])

    def page(self, request: Request) -> Response:
        """The page of a reader."""
        self._reader(request)
        return Response((_FILES / "reading.html").read_bytes(), media_type="text/html")

    def state(self, request: Request) -> Response:
        """What the page needs to begin or go on: texts, and the items in this reader's order with their answers."""
        reader = self._reader(request)
        given, items = self.store.last(reader), []
        for name in self.folder.order(reader):
            value, comment = given.get(name, (None, ""))
            labels = [panel.label for panel in self.folder.items[name].panels]
            items.append({"id": name, "labels": labels, "value": value, "comment": comment})
        return JSONResponse({
            **self.folder.text.model_dump(exclude={"format", "seed"}),
            "study": self.folder.name, "reader": reader, "total": len(items), "items": items,
            "done": len(given.keys() & self.folder.items.keys()),
            "current": next((item["id"] for item in items if item["value"] is None), None),
        })  # fmt: skip

    def panel(self, request: Request) -> Response:
        """A picture."""
        self._reader(request)
        number = request.path_params["panel"]
        picture = self.folder.panel(request.path_params["item"], int(number) if number in set("012345678") else -1)
        if picture is None:
            raise HTTPException(404)
        return Response(picture, media_type="image/png")

    async def answer(self, request: Request) -> Response:
        """Stores an answer; 200 only when it is on the disk."""
        reader = await run_in_threadpool(self._reader, request)
        body = bytearray()
        async for part in request.stream():  # a chunked body has no length to look at before
            body += part
            if len(body) > LARGEST_BODY:
                raise HTTPException(413)
        try:
            answer = parse_answer(bytes(body), self.folder.text)
            if answer.item not in self.folder.items:
                raise ValueError("no such item")
        except ValueError:
            return _problem(422, "not an answer to this study")
        if await run_in_threadpool(self.store.add, reader, answer) == "conflict":
            return _problem(409, "this answer's number was used before")
        return JSONResponse({"stored": answer.nonce})


def _problem(status: int, words: str) -> JSONResponse:
    """An error that says what happened and nothing of the inside."""
    return JSONResponse({"error": words}, status_code=status)


def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 503 if isinstance(error, _LATER) else 500
    return _problem(status, _WORDS.get(status, "not possible"))


class Guard:
    """ASGI middleware against DNS rebinding (Host), posts from other sites (Origin) and huge bodies."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app, self.hosts = app, {"localhost", "127.0.0.1", "::1", *map(str.lower, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY)
            await send(message)

        refusal = self._refuse(scope["method"], Headers(scope=scope))
        await (refusal or self.app)(scope, receive, secured)

    def _refuse(self, method: str, headers: Headers) -> JSONResponse | None:
        hosts = headers.getlist("host")
        parts = _split(f"//{hosts[0]}") if len(hosts) == 1 else None
        if parts is None or parts.username is not None or parts.path or parts.hostname not in self.hosts:
            return _problem(400, "wrong host")
        if "origin" in headers:
            origin = _split(headers["origin"])
            if origin is None or origin.geturl().lower() not in (
                f"{s}://{hosts[0].lower()}" for s in ("http", "https")
            ):
                return _problem(403, "wrong origin")
        followed = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"  # a link, from anywhere
        if headers.get("sec-fetch-site") == "cross-site" and not followed:
            return _problem(403, "wrong origin")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return _problem(400, "wrong length")
        if len(length) > 9 or int(length) > LARGEST_BODY:
            return _problem(413, "too large")
        return None


def _split(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  raises for a port that is no number
        return parts
    except ValueError:
        return None
