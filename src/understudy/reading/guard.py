"""What every request passes before the application sees it: host, origin, size; and every response's headers."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 16 * 1024  # bytes; the longest honest answer has about 8,500
LOCAL = ("localhost", "127.0.0.1", "::1")

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


def problem(status: int, words: str) -> JSONResponse:
    """An error that says what happened and nothing of the inside."""
    return JSONResponse({"error": words}, status_code=status)


class Guard:
    """ASGI middleware against DNS rebinding (Host), posts from other sites (Origin) and huge bodies.

    Args:
        hosts: names that the server answers to, besides those of the machine itself.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = {*LOCAL, *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers[name] = value
            await send(message)

        refusal = self._refuse(Headers(scope=scope))
        await (refusal or self.app)(scope, receive, secured)

    def _refuse(self, headers: Headers) -> JSONResponse | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(f"//{hosts[0]}") not in self.hosts:
            return problem(400, "wrong host")
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != hosts[0].lower():
            return problem(403, "wrong origin")
        if headers.get("sec-fetch-site", "none") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return problem(403, "wrong origin")
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            return problem(400, "wrong length")
        if length is not None and (len(length) > 9 or int(length) > LARGEST_BODY):
            return problem(413, "too large")
        return None


def _name(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  raises for a port that is no number
        return parts.hostname if parts.username is None and not parts.path else None
    except ValueError:
        return None


def _netloc(address: str) -> str | None:
    """Host and port of an address in lower case, None if it is not one."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return None
