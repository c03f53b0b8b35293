"""Starts the server: the port is taken, and the folder locked, before anybody is told a link."""

import errno
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import held_lock
from understudy.reading.folder import ReadingFolder
from understudy.reading.store import Store


def address(host: str, port: int) -> str:
    """http://host:port of a server, with an IPv6 host in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
    import uvicorn

    from understudy.reading.app import make_app

    app = make_app(folder, store, [host])
    # No access log: it would hold the readers' tokens.
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, ws="none")
    return uvicorn.Server(config)
