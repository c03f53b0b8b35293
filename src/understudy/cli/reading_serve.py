"""Commands that let readers in: serve, token, status."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.base import print_table
from understudy.cli.reading import reading_app
from understudy.errors import UnderstudyError

FolderArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", help="Folder that `understudy reading prepare` wrote.")
]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")]
HostOption = Annotated[
    str, typer.Option(help="Address to listen at; anything but this machine is readable on the network.")
]


@reading_app.command()
def serve(
    study: FolderArgument,
    port: PortOption = 8321,
    readers: Annotated[str, typer.Option(help="Names of new readers, with commas: alice,bob.")] = "",
    host: HostOption = "127.0.0.1",
) -> None:
    """The reading page in a browser on this machine; every answer is on the disk at once.

    Each new reader's personal link is printed once; it goes on where the reader stopped, on any day.
    """
    from understudy.reading.folder import open_folder
    from understudy.reading.integrity import read_hashes
    from understudy.reading.serving import address, listen, only_server, run
    from understudy.reading.store import Store

    if host in ("0.0.0.0", "::", ""):
        raise UnderstudyError(
            "the server answers to one name only", where="--host",
            fix="give this machine's own address, or keep 127.0.0.1 and let readers use an SSH tunnel",
        )  # fmt: skip
    _need_server()
    folder = open_folder(study)
    where = address(host, port)
    with only_server(study, where), listen(host, port) as server, Store(study) as store:
        store.begin(read_hashes(study))
        known = set(store.readers())
        for name in dict.fromkeys(part.strip() for part in readers.split(",") if part.strip()):
            if name in known:
                print(f"{name}: has a link (a new one: understudy reading token {study} {name})")
            else:
                print(f"{name}: {where}/r/{store.new_token(name)}")
        if not store.readers():
            raise UnderstudyError("nobody may read yet", where=study, fix="name readers: --readers alice,bob")
        if host not in ("127.0.0.1", "localhost", "::1"):
            print("careful: not encrypted, and anybody on the network who has a link can read")
        print(f"{len(folder.items)} items at {where}/ (stop with Ctrl-C)", flush=True)
        run(folder, store, server, host)


@reading_app.command()
def token(
    study: FolderArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The reader, new or known.")],
    port: PortOption = 8321,
    host: HostOption = "127.0.0.1",
) -> None:
    """A personal link for a reader; one that the reader had before ends, the answers stay."""
    from understudy.reading.folder import open_folder
    from understudy.reading.serving import address
    from understudy.reading.store import Store

    open_folder(study)
    with Store(study) as store:
        print(f"{address(host, port)}/r/{store.new_token(name)}")


@reading_app.command()
def status(study: FolderArgument, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """How far every reader is. Says nothing about what they answered."""
    from understudy.reading.folder import open_folder
    from understudy.reading.store import Store

    total = len(open_folder(study).items)
    with Store(study) as store:
        found, head = store.progress(), store.head()
    if as_json:
        print(json.dumps({"items": total, "readers": [asdict(one) for one in found], "head": head}, indent=1))
        return
    rows = [
        [p.reader, f"{p.done} of {total}", p.changed, "–" if p.seconds is None else f"{p.seconds:.1f} s", p.last or "–"]
        for p in found
    ]
    print_table(["Reader", "Answered", "Changed", "Median time", "Last answer (UTC)"], rows)
    print(f"head of the answers: {head[:16]} (note it when reading has ended: `analyse` names it again)")


def _need_server() -> None:
    try:
        import starlette
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UnderstudyError(
            f"the package {error.name} is not installed", fix="pip install 'understudy-mri[reading]'"
        ) from error
    del starlette
