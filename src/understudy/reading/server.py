"""The web application of a reading study. It knows items by random ids and has never seen the answer key.

Everything a reader sees lies below `/r/<token>`, so that two readers can use one browser and no cookie exists
that another site could ride on. Texts, script and style come from this package; nothing comes from outside.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from understudy.errors import UnderstudyError
from understudy.reading.answers import parse_answer
from understudy.reading.folder import ReadingFolder
from understudy.reading.guard import LARGEST_BODY, Guard, problem
from understudy.reading.store import Store

STATIC = {"reading.js": "text/javascript", "reading.css": "text/css"}
ABSENT = "not found"
WORDS = {404: ABSENT, 405: "wrong method", 413: "too large"}


class ReadingServer:
    """Endpoints of one study.

    Args:
        folder: the study.
        store: its answers.
    """

    def __init__(self, folder: ReadingFolder, store: Store) -> None:
        self.folder, self.store = folder, store
        inside = files("understudy.reading") / "static"
        self.page_text = (inside / "reading.html").read_bytes()
        self.static_files = {name: (inside / name).read_bytes() for name in STATIC}

    def _reader(self, request: Request) -> str:
        reader = self.store.reader_of(request.path_params["token"])
        if reader is None:
            raise HTTPException(404)
        return reader

    def home(self, request: Request) -> Response:
        return Response("Open the link that you were given.\n", media_type="text/plain")

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.static_files:
            raise HTTPException(404)
        return Response(self.static_files[name], media_type=STATIC[name])

    def page(self, request: Request) -> Response:
        self._reader(request)
        return Response(self.page_text, media_type="text/html")

    def state(self, request: Request) -> Response:
        """What the page needs to begin or go on: texts, and the items in this reader's order with their answers."""
        reader = self._reader(request)
        text, given = self.folder.text, self.store.last(reader)
        items = [self._item(name, given.get(name)) for name in self.folder.order(reader)]
        return JSONResponse({
            "study": self.folder.name, "reader": reader, "title": text.title, "kind": text.kind,
            "instructions": text.instructions, "composition": text.composition, "scale": text.scale,
            "legend": text.legend, "total": len(items), "items": items,
            "done": len(given.keys() & self.folder.items.keys()),
            "current": next((item["id"] for item in items if item["value"] is None), None),
        })  # fmt: skip

    def _item(self, name: str, given: tuple[dict[str, Any], str] | None) -> dict[str, Any]:
        value, comment = given if given is not None else (None, "")
        labels = [panel.label for panel in self.folder.items[name].panels]
        return {"id": name, "labels": labels, "value": value, "comment": comment}

    def panel(self, request: Request) -> Response:
        self._reader(request)
        number = request.path_params["panel"]
        picture = None
        if len(number) == 1 and number in "012345678":
            picture = self.folder.panel(request.path_params["item"], int(number))
        if picture is None:
            raise HTTPException(404)
        return Response(picture, media_type="image/png")

    async def answer(self, request: Request) -> Response:
        """Stores an answer; 200 only when it is on the disk."""
        reader = await run_in_threadpool(self._reader, request)
        body = await _limited(request)
        try:
            answer = parse_answer(body, self.folder.text)
        except ValueError:
            return problem(422, "not an answer to this study")
        if answer.item not in self.folder.items:
            return problem(422, "not an answer to this study")
        stored = await run_in_threadpool(self.store.add, reader, answer)
        if stored == "conflict":
            return problem(409, "this answer's number was used before")
        return JSONResponse({"stored": answer.nonce})


async def _limited(request: Request) -> bytes:
    """The body, read no further than the limit (a chunked one has no length to look at before)."""
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > LARGEST_BODY:
            raise HTTPException(413)
    return bytes(found)


def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(status, WORDS.get(status, "not possible"))


def _failed(request: Request, error: Exception) -> Response:
    """A full or busy disk, a picture that went away: the browser keeps the answer and asks again."""
    return problem(503, "not possible now")


def make_app(folder: ReadingFolder, store: Store, hosts: Iterable[str] = ()) -> Guard:
    """The ASGI application of a study.

    Args:
        folder: the study.
        store: its answers; closing it is the caller's.
        hosts: names that it answers to besides localhost, 127.0.0.1 and [::1].
    """
    server = ReadingServer(folder, store)
    routes = [
        Route("/", server.home),
        Route("/static/{name}", server.static),
        Route("/r/{token}", server.page),
        Route("/r/{token}/state", server.state),
        Route("/r/{token}/items/{item}/{panel}", server.panel),
        Route("/r/{token}/answers", server.answer, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _refused, Exception: _refused, ClientDisconnect: _failed,
        sqlite3.Error: _failed, OSError: _failed, UnderstudyError: _failed,
    }  # fmt: skip
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, hosts)  # outside of everything: what Starlette itself answers to a failure passes it too
