"""A limit on how long a request may take to arrive: uvicorn itself waits for ever for the rest of one."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 20.0  # from the connection, or a request's first byte, to the last byte of its body


class Deadline(H11Protocol):
    """Closes a connection whose request is not whole in time, however slowly its bytes drip in."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(SECONDS, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):  # headers and body are there
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
