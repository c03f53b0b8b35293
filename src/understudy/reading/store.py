"""Answers of a study: what a browser may post, and their append-only file, flushed before an answer is confirmed.

Answers are a chain of hashes (`link`); note its `head` after reading, as only that shows that all of it was made anew.
"""

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file, sha256_json
from understudy.reading.folder import Identifier, StudyText

FILE = "answers.sqlite"
START = "0" * 64  # stands before the first answer's chain
COLUMNS = ("reader", "item", "value", "seconds", "comment", "at", "nonce")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")  # 16 random bytes in URL-safe base 64
_DISK = "see that the folder is as `reading serve` made it, and writable, and the disk not full"
_LAST = "SELECT chain FROM answers ORDER BY id DESC LIMIT 1"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS readers(name TEXT PRIMARY KEY, token_sha256 TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers(
  id INTEGER PRIMARY KEY, reader TEXT NOT NULL, item TEXT NOT NULL, value TEXT NOT NULL,
  seconds REAL NOT NULL, comment TEXT NOT NULL, at TEXT NOT NULL, nonce TEXT NOT NULL UNIQUE, chain TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS begun(file TEXT PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS answers_by_reader ON answers(reader, item, id);
CREATE TRIGGER IF NOT EXISTS answers_stay BEFORE UPDATE ON answers
  BEGIN SELECT RAISE(ABORT, 'answers are never changed'); END;
CREATE TRIGGER IF NOT EXISTS answers_remain BEFORE DELETE ON answers
  BEGIN SELECT RAISE(ABORT, 'answers are never deleted'); END;
"""

Rating = Annotated[int, Field(ge=1, le=5)]
Stored = Literal["new", "known", "conflict"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Call(_Strict):
    """Real or synthetic, with a confidence from 1 (a guess) to 5 (certain) where the study's scale has one."""

    call: Literal["real", "synthetic"]
    confidence: Rating | None = None


class Preference(_Strict):
    """Which of two segmentations the reader would rather correct, and how good each is."""

    prefer: Literal["A", "B", "same"]
    rating_a: Rating
    rating_b: Rating


class Answer(_Strict):
    """One answer; a second arrival of its nonce, which the browser draws, changes nothing."""

    item: Identifier
    value: Call | Preference
    seconds: Annotated[float, Field(ge=0, le=86_400)]  # that the item was visible before the answer
    comment: Annotated[str, Field(max_length=2000, pattern=r"^[^\x00-\x08\x0b-\x1f]*$")] = ""  # no control characters
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def parse_answer(body: bytes, study: StudyText) -> Answer:
    """Reads a posted answer for this study; raises ValueError (pydantic's is one) for anything else."""
    answer = Answer.model_validate_json(body)
    if isinstance(answer.value, Call) != (study.kind == "real_or_synthetic"):
        raise ValueError("an answer of another kind of study")
    if isinstance(answer.value, Call) and (answer.value.confidence is None) != (study.scale == "binary"):
        raise ValueError("the scale of another study")
    return answer


def link(before: str, row: Sequence[Any]) -> str:
    """SHA-256 of an answer (`COLUMNS`) and the link before: a row changed, removed or added breaks all later links."""
    return sha256_json([before, *row])


class Store:
    """The file `answers.sqlite` of a study's folder. Safe to use from several threads and processes."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE
        self._lock = threading.Lock()
        try:
            self._base = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=FULL")  # every commit is flushed to the disk before it returns
            self._base.executescript(_SCHEMA)
            found = {row[1] for row in self._base.execute("PRAGMA table_info(answers)")}
        except sqlite3.Error as error:
            raise UnderstudyError(f"the answers cannot be opened ({error})", where=self.path, fix=_DISK) from error
        if not found.issuperset({*COLUMNS, "chain"}):
            self.close()
            raise UnderstudyError("an older version began the answers", where=self.path, fix="go on with that one")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._base.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        try:
            with self._lock:
                self._base.execute("BEGIN IMMEDIATE")
                try:
                    yield self._base
                    self._base.execute("COMMIT")
                finally:
                    if self._base.in_transaction:  # not if a full disk ended it; an open one would refuse later ones
                        self._base.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise UnderstudyError(f"the answers cannot be written ({error})", where=self.path, fix=_DISK) from error

    def _rows(self, question: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._base.execute(question, values).fetchall()

    def readers(self) -> list[str]:
        """Names, sorted."""
        return [row[0] for row in self._rows("SELECT name FROM readers ORDER BY name")]

    def new_token(self, name: str) -> str:
        """Makes a reader, or gives one a new link (the old one ends); only the token's hash is kept."""
        if re.fullmatch(r"[A-Za-z0-9._-]{1,40}", name) is None:
            raise UnderstudyError(f"{name[:60]!r} cannot be a reader's name", fix="use 1 to 40 of A-Z a-z 0-9 . _ -")
        token = secrets.token_urlsafe(16)
        insert = "INSERT INTO readers VALUES(?1, ?2, ?3) ON CONFLICT(name) DO UPDATE SET token_sha256 = ?2"
        with self._writing() as base:
            base.execute(insert, (name, _hash(token), _now()))
        return token

    def begin(self) -> None:
        """Keeps the hashes of the files that are read; raises if they changed since reading began."""
        folder = self.path.parent
        hashes = {name: sha256_file(folder / name) for name in ("study.json", "items.json")}
        known = dict(self._rows("SELECT file, sha256 FROM begun"))
        if changed := [name for name, found in hashes.items() if known.get(name, found) != found]:
            raise UnderstudyError(f"{changed} changed since reading began", where=folder, fix="restore them")
        with self._writing() as base:
            base.executemany("INSERT OR IGNORE INTO begun VALUES(?, ?)", hashes.items())

    def reader_of(self, token: str) -> str | None:
        """The reader whose link has this token; every stored hash is compared, each in constant time."""
        if _TOKEN.fullmatch(token) is None:
            return None
        asked, rows = _hash(token), self._rows("SELECT name, token_sha256 FROM readers")
        return next(iter([name for name, known in rows if hmac.compare_digest(asked, known)]), None)

    def add(self, reader: str, answer: Answer) -> Stored:
        """Appends an answer ("new"), on the disk when this returns; "known": it was there, "conflict": another was."""
        value = json.dumps(answer.value.model_dump(), sort_keys=True)
        row = (reader, answer.item, value, answer.seconds, answer.comment)
        with self._writing() as base:
            same = "SELECT reader, item, value, seconds, comment FROM answers WHERE nonce = ?"
            known = base.execute(same, (answer.nonce,)).fetchone()
            if known is not None:
                return "known" if known == row else "conflict"
            last, whole = base.execute(_LAST).fetchone() or (START,), (*row, _now(), answer.nonce)
            insert = f"INSERT INTO answers({', '.join(COLUMNS)}, chain) VALUES(?,?,?,?,?,?,?,?)"
            base.execute(insert, (*whole, link(last[0], whole)))
        return "new"

    def head(self) -> str:
        """The chain of the last answer, which stands for all of them; START before the first."""
        return str(next(iter(self._rows(_LAST)), (START,))[0])

    def last(self, reader: str) -> dict[str, tuple[dict[str, Any], str]]:
        """The answers that count, item -> (value, comment): the last row of every item of this reader."""
        rows = self._rows("SELECT item, value, comment FROM answers WHERE reader = ? ORDER BY id", reader)
        return {item: (json.loads(value), comment) for item, value, comment in rows}

    def progress(self) -> list[dict[str, Any]]:
        """How far each reader is: done, changed (replaced an earlier answer), median seconds an item, last answer."""
        rows = self._rows("SELECT reader, item, seconds, at FROM answers ORDER BY id")
        found = []
        for name in self.readers():
            own = [row[1:] for row in rows if row[0] == name]
            last = {item: seconds for item, seconds, _ in own}
            times = {"seconds": median(last.values()) if last else None, "last": own[-1][2] if own else None}
            found.append({"reader": name, "done": len(last), "changed": len(own) - len(last), **times})
        return found


def checked_answers(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """All answers in the order in which they came, and the head of their chain; raises if any was changed."""
    database = folder / FILE
    rows, begun = [], {}
    if database.is_file():
        try:
            with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as base:
                rows = base.execute(f"SELECT {', '.join(COLUMNS)}, chain FROM answers ORDER BY id").fetchall()
                begun = dict(base.execute("SELECT file, sha256 FROM begun").fetchall())
        except sqlite3.Error as error:
            raise UnderstudyError(f"the answers cannot be read ({error})", where=database, fix=_DISK) from error
    if not rows:
        raise UnderstudyError("nobody has answered yet", where=database, fix="let readers: understudy reading serve")
    for name, value in begun.items():
        if sha256_file(folder / name) != value:
            raise UnderstudyError(f"these answers are to another {name}", where=database, fix="restore what was read")
    head = START
    for number, (*row, chain) in enumerate(rows, 1):
        head = link(head, row)
        if head != chain:
            what = f"answer {number} of {len(rows)}, or one before it, was changed, taken out or put in"
            fix = "restore answers.sqlite from a copy; answers that were changed cannot be used"
            raise UnderstudyError(what, where=database, fix=fix)
    return [dict(zip(COLUMNS, row, strict=False)) for row in rows], head


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
