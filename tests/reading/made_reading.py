"""Slice sets, and answers as the server stores them."""

import json
import sqlite3

import numpy as np
import pandas as pd

from understudy.slices import SliceWriter, evenly_coded

CLASSES = evenly_coded({1: "lesion"})
TABLE = (
    "create table if not exists answers (id integer primary key, reader text, item text, value text, seconds real,"
    " comment text, at text, nonce text unique)"
)


def made_set(path, subjects=(), count=0, channels=("T1w", "FLAIR"), size=32, seed=0):
    """A set of noise: of (subject, split, slices), or `count` synthetic slices."""
    rng = np.random.default_rng(seed)
    if subjects:
        rows = [
            {"subject": s, "site": "", "z": z, "split": part} for s, part, n in subjects for z in range(n)
        ]
    else:
        rows = [{"generator": "g", "seed": i} for i in range(count)]
    writer = SliceWriter(path, channels=channels, classes=CLASSES, resolution=size)
    images = rng.integers(0, 255, (len(rows), len(channels), size, size), dtype=np.uint8)
    writer.append(images, np.zeros((len(rows), size, size), np.uint8), pd.DataFrame(rows))
    return writer.close()


def answer_all(study, key, says, readers=("ann", "bo")):
    """Stores `says(reader, entry)` for every item of the key; returns the items."""
    items = json.loads(key.read_text())["items"]
    with sqlite3.connect(study / "answers.sqlite") as database:
        database.execute(TABLE)
        for reader in readers:
            for item, entry in items.items():
                value = json.dumps(says(reader, entry))
                database.execute(
                    "insert into answers (reader, item, value, seconds, comment, at, nonce) values (?,?,?,?,?,?,?)",
                    (reader, item, value, 2.0, "", "", f"{reader} {item} {value}"),
                )
    return items
