"""Ports in use, folders that cannot be written, a full disk, two servers: each is said, and no answer is lost."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn  # noqa: F401  (loaded here: the other user of a test below may not read the environment)
from served_study import made_study
from starlette.testclient import TestClient
from typer.testing import CliRunner

from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.reading.app import listen, make_app, only_server
from understudy.reading.folder import open_folder
from understudy.reading.store import Store, checked_answers

NOBODY = 65534


def serve(folder: Path, *words: str) -> None:
    CliRunner().invoke(app, ["reading", "serve", str(folder), "--readers", "ann", *words], catch_exceptions=False)


def test_a_port_in_use_is_said_before_any_link_is_made(tmp_path: Path) -> None:
    folder = made_study(tmp_path / "study")
    with listen("127.0.0.1", 0) as taken, pytest.raises(UnderstudyError, match="is in use") as error:
        serve(folder, "--port", str(taken.getsockname()[1]))
    assert "give another --port" in str(error.value)
    with Store(folder) as store:
        assert store.readers() == []


def test_addresses_that_are_not_ours(tmp_path: Path) -> None:
    for host, message in (("192.0.2.1", "does not have that address"), ("no.such.host.invalid", "is not known")):
        with pytest.raises(UnderstudyError, match=message):
            listen(host, 8321)


def test_a_second_server_is_told_where_the_first_is(tmp_path: Path) -> None:
    folder = made_study(tmp_path / "study")
    with only_server(folder, "http://127.0.0.1:8321"):
        with pytest.raises(UnderstudyError, match=f"process {os.getpid()} at http"):
            serve(folder, "--port", "8399")
        with Store(folder) as store:  # `reading token` and `reading status` work meanwhile
            store.new_token("bo")
    with only_server(folder, "again"):
        pass


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    words = (
        "import sys, time; from pathlib import Path; from understudy.reading.app import only_server\n"
        "with only_server(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", words, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(UnderstudyError, match="served already"), only_server(tmp_path, "y"):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
    with only_server(tmp_path, "y"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user for a moment, which only root can")
def test_a_folder_that_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = made_study(Path(place) / "study")
        for path in (Path(place), folder):
            path.chmod(0o555)
        os.seteuid(NOBODY)
        try:
            with pytest.raises(UnderstudyError, match="permission"):
                serve(folder, "--port", "8398")
            with pytest.raises(UnderstudyError, match="opened"):
                Store(folder)
        finally:
            os.seteuid(0)
        assert sorted(file.name for file in folder.iterdir()) == ["images", "items.json", "study.json"]


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond `size` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_no_answer_is_said_to_be_stored_that_is_not(tmp_path: Path) -> None:
    folder = made_study(tmp_path / "study")
    item = next(iter(open_folder(folder).items))
    with Store(folder) as store:
        token = store.new_token("ann")
        client = TestClient(
            make_app(open_folder(folder), store), base_url="http://127.0.0.1", raise_server_exceptions=False
        )

        def post(nonce: int) -> int:
            body = {"item": item, "value": {"call": "real", "confidence": 2}, "seconds": 1, "comment": "c" * 900}
            return client.post(f"/r/{token}/answers", json={**body, "nonce": f"{nonce:032x}"}).status_code

        told = []
        with no_file_beyond((folder / "answers.sqlite-wal").stat().st_size + 40_000):
            for nonce in range(40):
                told.append(post(nonce))
            assert client.get(f"/r/{token}/state").status_code == 200  # reading goes on
        stored = {int(row["nonce"], 16) for row in checked_answers(folder)[0]}
        assert 0 < len(stored) < 40
        assert set(told) == {200, 503}
        assert stored == {nonce for nonce, status in enumerate(told) if status == 200}
        assert [post(nonce) for nonce in range(40)] == [200] * 40  # there is room again, and the browser asks again
    assert len(checked_answers(folder)[0]) == 40  # each once, in one chain


def test_ipv6_and_names() -> None:
    with listen("localhost", 0) as one:
        assert one.getsockname()[1] > 0
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text():
        with listen("::1", 0) as six:
            assert six.family == socket.AF_INET6
