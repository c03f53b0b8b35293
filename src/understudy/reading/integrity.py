"""Whether what is analysed is what was prepared and answered: study, items, pictures, key and answers.

The key holds the hashes of all that readers are shown, study.json the hash of the key; answers are a chain of hashes
(`store.link`). Note `key_sha256` before reading and `head` after it: only they show that all of it was made anew.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_file, sha256_json
from understudy.reading.store import COLUMNS, FILE, START, link

KEY_FORMAT = "understudy-reading-key-2"


_SEALED = {
    "study_sha256": "study.json (margin, design, texts)",
    "items_sha256": "items.json",
    "pictures_sha256": "a picture",
}


def seal(folder: Path, about: dict[str, Any]) -> dict[str, str]:
    """Hashes of study.json (`about`, without the hash of the key), items and pictures."""
    pictures = {file.name: sha256_file(file) for file in sorted((folder / "images").iterdir())}
    hashes = sha256_json(about), sha256_file(folder / "items.json"), sha256_json(pictures)
    return dict(zip(_SEALED, hashes, strict=True))


def read_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that the server reads besides pictures, for `Store.begin`."""
    return {name: sha256_file(folder / name) for name in ("study.json", "items.json")}


def checked_study(folder: Path, key: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """study.json and the key; raises `UnderstudyError` if one of them, or what lies beside them, is not as prepared."""
    about, truth = read_json(folder / "study.json", dict), read_json(key)
    if sha256_file(key) != about.get("key_sha256"):
        fix = "find the key whose SHA-256 is in study.json; one that was changed cannot be used"
        raise UnderstudyError("the answer key is not the one that was fixed before reading", where=key, fix=fix)
    if truth.get("format") != KEY_FORMAT:
        fix = "analyse it with the version that prepared it"
        raise UnderstudyError("the study was prepared by another version", where=key, fix=fix)
    found = seal(folder, {name: value for name, value in about.items() if name != "key_sha256"})
    for name, what in _SEALED.items():
        if truth["sealed"][name] != found[name]:
            fix = "analyse the folder that was read, as it was; what changed on the way cannot be used"
            raise UnderstudyError(f"{what} is not as it was prepared", where=folder, fix=fix)
    return about, truth


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
            fix = "give the folder as `reading serve` left it, with answers.sqlite-wal if there is one"
            raise UnderstudyError(f"the answers cannot be read ({error})", where=database, fix=fix) from error
    if not rows:
        raise UnderstudyError("nobody has answered yet", where=database, fix="let readers: understudy reading serve")
    for name, value in begun.items():
        if sha256_file(folder / name) != value:
            what = f"these answers were given to another {name}"
            raise UnderstudyError(what, where=database, fix="analyse the folder that was read")
    head = START
    for number, (*row, chain) in enumerate(rows, 1):
        head = link(head, row)
        if head != chain:
            what = f"answer {number} of {len(rows)}, or one before it, was changed, taken out or put in"
            fix = "restore answers.sqlite from a copy; answers that were changed cannot be used"
            raise UnderstudyError(what, where=database, fix=fix)
    return [dict(zip(COLUMNS, row, strict=False)) for row in rows], head
