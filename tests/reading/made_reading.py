"""Slice sets, and answers as the server stores them."""

import json
from itertools import product

import numpy as np
import pandas as pd

from understudy.reading.store import Answer, Call, Preference, Store
from understudy.slices import SliceWriter, evenly_coded

CLASSES = evenly_coded({1: "lesion"})


def made_set(path, subjects=(), count=0, channels=("T1w", "FLAIR"), size=32, seed=0):
    """A set of noise: of (subject, split, slices), or `count` synthetic slices."""
    rng = np.random.default_rng(seed)
    if subjects:
        rows = [{"subject": s, "site": "", "z": z, "split": part} for s, part, n in subjects for z in range(n)]
    else:
        rows = [{"generator": "g", "seed": i} for i in range(count)]
    writer = SliceWriter(path, channels=channels, classes=CLASSES, resolution=size)
    images = rng.integers(0, 255, (len(rows), len(channels), size, size), dtype=np.uint8)
    writer.append(images, np.zeros((len(rows), size, size), np.uint8), pd.DataFrame(rows))
    return writer.close()


def answer_all(study, key, says, readers=("ann", "bo"), begin=1):
    """Stores `says(reader, entry)` for every item of the key as the server does; returns the items."""
    items = json.loads(key.read_text())["items"]
    with Store(study) as store:
        for number, (reader, item) in enumerate(product(readers, items), begin):
            value = says(reader, items[item])
            kind = Preference if "prefer" in value else Call
            answer = Answer(item=item, value=kind(**value), seconds=2.0, nonce=f"{number:032x}")
            store.add(reader, answer)
    return items
