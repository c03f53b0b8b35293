"""A reading study's folder by the contract, with random pictures; the key lies beside it, never inside."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

LABELS = ("T1w", "T1wGd", "T2w", "FLAIR")


def made_study(folder: Path, items: int = 6, kind: str = "real_or_synthetic", size: int = 24, **fields: Any) -> Path:
    """Every second item's pictures are noise, the others smooth: their files differ in size by much."""
    draw, noise = random.Random(5), np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    labels = ("A", "B") if kind == "segmentations" else LABELS
    rows = []
    for index in range(items):
        panels = []
        for label in labels:
            name = f"images/{draw.getrandbits(64):016x}.png"
            y, x = np.mgrid[:size, :size] / size - 0.5
            pixels = 220 * np.exp(-9 * (x**2 + y**2)) + 30 * (index % 2) * noise.random((size, size))
            info = PngInfo()
            info.add_text("Source", "SECRET-GENERATOR")
            picture = Image.fromarray(pixels.astype(np.uint8))
            if kind == "segmentations":
                picture = picture.convert("RGB")
            picture.save(folder / name, pnginfo=info)
            panels.append({"file": name, "label": label})
        rows.append({"id": f"{draw.getrandbits(64):016x}", "panels": panels})
    rows.sort(key=lambda row: str(row["id"]))
    study = {
        "format": "understudy-reading-1", "kind": kind, "title": "Which slices are real?", "scale": "confidence",
        "instructions": "Call every item real or synthetic.", "composition": "", "margin": 0.1, "seed": 3,
        "key_sha256": "feedfacecafebeef" * 4, "software": "understudy SECRET-VERSION", "created": "2026-01-01",
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps({**study, **fields}))
    (folder / "items.json").write_text(json.dumps(rows))
    (folder.parent / f"{folder.name}-key.json").write_text('{"SECRET-KEY": "SECRET-GENERATOR"}')
    return folder
