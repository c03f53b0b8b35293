"""Whether what is analysed is what was prepared and answered: study, items, pictures, key and answers.

The key holds the hashes of all that readers are shown, and study.json the hash of the key (with a salt in it): one
hash, told to somebody before reading, fixes everything. Answers are a chain of hashes (`store.link`). Nobody without
the old files can tell if key *and* study.json *and* the whole chain were made anew, or if the last answers were cut
off: note `key_sha256` before reading and `head` (`understudy reading status`) after it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_file, sha256_json
from understudy.reading.store import COLUMNS, FILE, START, link

KEY_FORMAT = "understudy-reading-key-2"
READ = ("study.json", "items.json")  # what the server reads, besides pictures


def seal(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What goes into the key about a folder whose items and pictures are written.

    Args:
        about: study.json, but for the hash of the key.
    """
    return {
        "study_sha256": sha256_json(about),
        "items_sha256": sha256_file(folder / "items.json"),
        "pictures_sha256": pictures_hash(folder),
    }


def pictures_hash(folder: Path) -> str:
    """One hash of the names and bytes of all pictures."""
    return sha256_json({file.name: sha256_file(file) for file in sorted((folder / "images").iterdir())})


def read_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that the server reads, for `Store.begin`."""
    return {name: sha256_file(folder / name) for name in READ}


def checked_study(folder: Path, key: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """study.json and the key, if they and what lies beside them are as prepared.

    Raises:
        UnderstudyError: a file is absent or another one, and which.
    """
    about, truth = read_json(folder / "study.json"), read_json(key)
    if not isinstance(about, dict) or sha256_file(key) != about.get("key_sha256"):
        raise UnderstudyError(
            "the answer key is not the one that was fixed before reading", where=key,
            fix="find the key whose SHA-256 is in study.json; one that was changed cannot be used",
        )  # fmt: skip
    if truth.get("format") != KEY_FORMAT:
        raise UnderstudyError(
            "the study was prepared by another version", where=key, fix="analyse it with the version that prepared it"
        )
    told = {name: value for name, value in about.items() if name != "key_sha256"}
    found = {"study_sha256": ("study.json (margin, design, texts)", sha256_json(told)),
             "items_sha256": ("items.json", sha256_file(folder / "items.json")),
             "pictures_sha256": ("a picture", pictures_hash(folder))}  # fmt: skip
    for name, (what, value) in found.items():
        if truth["sealed"][name] != value:
            raise UnderstudyError(
                f"{what} is not as it was prepared", where=folder,
                fix="analyse the folder that was read, as it was; what changed on the way cannot be used",
            )  # fmt: skip
    return about, truth


def checked_answers(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """All answers in the order in which they came, and the head of their chain.

    Raises:
        UnderstudyError: no answers, not a database, an answer that was changed, taken out or put in, another study.
    """
    database = folder / FILE
    if not database.is_file():
        raise UnderstudyError(
            "nobody has answered yet", where=database, fix="let readers answer: understudy reading serve"
        )
    try:
        base = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        try:
            rows = base.execute(f"SELECT {', '.join(COLUMNS)}, chain FROM answers ORDER BY id").fetchall()
            begun = dict(base.execute("SELECT file, sha256 FROM begun").fetchall())
        finally:
            base.close()
    except sqlite3.Error as error:
        raise UnderstudyError(
            f"the answers cannot be read ({error})", where=database,
            fix="give the folder as `understudy reading serve` left it, with answers.sqlite-wal if there is one",
        ) from error  # fmt: skip
    if not rows:
        raise UnderstudyError("nobody has answered yet", where=database, fix="let readers answer first")
    for name, value in begun.items():
        if sha256_file(folder / name) != value:
            raise UnderstudyError(
                f"these answers were given to another {name}", where=database, fix="analyse the folder that was read"
            )
    head = START
    for number, (*row, chain) in enumerate(rows, 1):
        head = link(head, row)
        if head != chain:
            raise UnderstudyError(
                f"answer {number} of {len(rows)}, or one before it, was changed, taken out or put in",
                where=database, fix="restore answers.sqlite from a copy; answers that were changed cannot be used",
            )  # fmt: skip
    return [dict(zip(COLUMNS, row, strict=False)) for row in rows], head
