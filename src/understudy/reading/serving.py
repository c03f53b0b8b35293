"""Starting the server: the port is taken, and the folder locked, before anybody is told a link."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.locks import held_lock
from understudy.reading.folder import ReadingFolder
from understudy.reading.store import Store

LOCK = "server.lock"


def address(host: str, port: int) -> str:
    """http://host:port of a server, with an IPv6 host in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def only_server(folder: Path, where: str) -> Iterator[None]:
    """Holds the lock of a study's folder while it is served; the system lets go of it if the process is killed.

    Args:
        where: the address, for the message that another server gets.

    Raises:
        UnderstudyError: another process serves this folder; the folder cannot be written.
    """
    with held_lock(
        folder / LOCK,
        f"at {where}",
        "this study is being served already ({holder})",
        "use that server, or stop it first",
    ):
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port in use is known before links are printed.

    Raises:
        UnderstudyError: the port is in use or reserved, the address is not of this machine.
    """
    where = address(host, port)
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # at once after a crash
        try:
            server.bind(place)
            server.listen(128)
        except OSError:
            server.close()
            raise
    except socket.gaierror as error:
        raise UnderstudyError(
            f"the address is not known ({error.strerror})", where=where, fix="give --host 127.0.0.1"
        ) from error
    except OSError as error:
        known = {
            errno.EADDRINUSE: (f"port {port} is in use", "give another --port, or stop what listens there"),
            errno.EACCES: (f"port {port} is reserved for the system", "give one above 1023, e.g. --port 8321"),
            errno.EADDRNOTAVAIL: ("this machine does not have that address", "give --host 127.0.0.1"),
        }  # fmt: skip
        what, fix = known.get(error.errno or 0, (f"cannot listen ({error.strerror})", "give another --port"))
        raise UnderstudyError(what, where=where, fix=fix) from error
    return server


def make_server(folder: ReadingFolder, store: Store, host: str) -> Any:
    """The uvicorn server of a study. No access log: it would hold the readers' tokens."""
    import uvicorn

    from understudy.reading.server import make_app

    config = uvicorn.Config(
        make_app(folder, store, [host]), log_level="warning", access_log=False, server_header=False, ws="none"
    )
    return uvicorn.Server(config)


def run(folder: ReadingFolder, store: Store, server: socket.socket, host: str) -> None:
    """Answers requests until it is stopped (Ctrl-C)."""
    make_server(folder, store, host).run(sockets=[server])
