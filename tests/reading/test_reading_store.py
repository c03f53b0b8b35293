"""The answers' store: append-only, idempotent, and every answer it confirmed survives the process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.reading.folder import StudyText
from understudy.reading.store import Answer, Store, parse_answer

ITEMS = [f"{i:016x}" for i in range(5)]
TEXT = StudyText(format="understudy-reading-1", kind="real_or_synthetic", title="t", seed=1)


def answer(item: int, nonce: int, confidence: int = 3, comment: str = "") -> Answer:
    value = {"call": "real", "confidence": confidence}
    given_ = {"item": ITEMS[item], "value": value, "seconds": 1.5, "comment": comment, "nonce": f"{nonce:032x}"}
    return parse_answer(json.dumps(given_).encode(), TEXT)


def rows(folder: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "answers.sqlite") as base:
        return base.execute("SELECT * FROM answers ORDER BY id").fetchall()


def test_only_the_hash_of_a_token_is_kept(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        first, other = store.new_token("alice"), store.new_token("bob")
        assert (store.reader_of(first), store.reader_of(other)) == ("alice", "bob")
        assert store.reader_of(first[:-1]) is None
        assert store.reader_of(hashlib.sha256(first.encode()).hexdigest()) is None
        second = store.new_token("alice")
        assert (store.reader_of(first), store.reader_of(second)) == (None, "alice")
    raw = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert second.encode() not in raw
    assert hashlib.sha256(second.encode()).hexdigest().encode() in raw


@pytest.mark.parametrize("name", ["", "a b", "../x", "a\0", "ä", "x" * 41, "a\n"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with Store(tmp_path) as store, pytest.raises(UnderstudyError, match="reader's name"):
        store.new_token(name)


def test_answers_cannot_be_changed_or_deleted(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add("alice", answer(0, 1))
    before = rows(tmp_path)
    with sqlite3.connect(tmp_path / "answers.sqlite") as base:
        for words in ("UPDATE answers SET reader = 'bob'", "DELETE FROM answers"):
            with pytest.raises(sqlite3.IntegrityError, match="answers are never"):
                base.execute(words)
    assert rows(tmp_path) == before


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 4), st.integers(1, 5), st.integers(0, 9))))
def test_the_store_is_a_list_without_replays(
    tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[str, int, int, int]]
) -> None:
    folder, kept = tmp_path_factory.mktemp("store"), {}
    with Store(folder) as store:
        for who, item, confidence, nonce in sent:
            new = (who, item, confidence)
            expected = "new" if nonce not in kept else "known" if kept[nonce] == new else "conflict"
            assert store.add(who, answer(item, nonce, confidence)) == expected
            kept.setdefault(nonce, new)
        for who in "ab":
            last = {ITEMS[item]: confidence for reader, item, confidence in kept.values() if reader == who}
            assert {i: value["confidence"] for i, (value, _) in store.last(who).items()} == last
    assert len(rows(folder)) == len(kept)


def test_threads_and_a_second_process_write_side_by_side(tmp_path: Path) -> None:
    with Store(tmp_path) as one, Store(tmp_path) as two, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: (one, two)[n % 2].add("a", answer(n % 5, n)), range(40)))
    assert len(rows(tmp_path)) == 40


def test_what_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    program = (
        "import os, sys; from test_reading_store import *\n"
        "store = Store(sys.argv[1])\n"
        "for n in range(10**6): store.add('a', answer(n % 5, n)); os.write(1, b'%d\\n' % n)\n"
    )
    place = f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": place}
    )
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(30)]
    child.send_signal(signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().splitlines()]
    child.wait()
    assert len(rows(tmp_path)) - len(told) in (0, 1)  # one may have been stored and not yet told
    assert [row[7] for row in rows(tmp_path)][: len(told)] == [f"{n:032x}" for n in told]


def test_progress(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.new_token("alice")
        assert store.progress()[0]["last"] is None
        for nonce, item in enumerate((0, 1, 0)):
            store.add("alice", answer(item, nonce))
        found = store.progress()[0]
    assert (found["done"], found["changed"], found["seconds"]) == (2, 1, 1.5)


def test_another_file_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_text("no database at all, but long enough to be looked at" * 40)
    with pytest.raises(UnderstudyError, match="opened"):
        Store(tmp_path)
