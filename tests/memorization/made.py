"""Small heads of made-up patients (alike within a patient, different between patients), and findings of an audit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from understudy.memorization.concentration import Concentration
from understudy.memorization.config import AuditConfig
from understudy.memorization.controls import Controls, Detection, FalseAlarms
from understudy.memorization.verdict import Findings, Flags
from understudy.slices import SliceSet, SliceWriter, evenly_coded

CHANNELS = ("T1w", "FLAIR")
CLASSES = evenly_coded({1: "lesion"})
EDGE = 16
FAST = AuditConfig(copies=10, splits=10, resamples=200, within=80)


def heads(patient: int, count: int, seed: int = 0, edge: int = EDGE) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [count, 2, edge, edge] and labels of neighbouring slices of one patient."""
    rng = np.random.default_rng([seed, patient])
    y, x = np.mgrid[:edge, :edge] / edge - 0.47
    head = ((x / 0.4) ** 2 + (y / 0.45) ** 2 < 1).astype(float)
    own = gaussian_filter(rng.normal(0, 1, (2, edge, edge)), (0, 1, 1))
    images = []
    for _ in range(count):
        drift = gaussian_filter(rng.normal(0, 1, (2, edge, edge)), (0, 1, 1))
        images.append((110 + 120 * own + 60 * drift) * head)
    labels = np.zeros((count, edge, edge), np.uint8)
    labels[::2, edge // 2 : edge // 2 + 3, edge // 2 : edge // 2 + 3] = 1
    return np.clip(np.stack(images), 0, 255).astype(np.uint8), labels


def real_set(path: Path, patients: dict[str, str], count: int = 12, seed: int = 0, *geometry: Any) -> SliceSet:
    """A prepared set: patient -> split; `geometry`: spacing and axes."""
    writer = SliceWriter(path, CHANNELS, CLASSES, EDGE, *geometry)
    for number, (name, split) in enumerate(patients.items()):
        images, labels = heads(number, count, seed)
        rows = [{"id": f"{name}-{z}", "subject": name, "site": "A", "z": z, "split": split} for z in range(count)]
        writer.append(images, labels, rows)
    return writer.close()


def synthetic_set(path: Path, images: np.ndarray, labels: np.ndarray, *geometry: Any) -> SliceSet:
    """A set as generators make them; `geometry`: spacing and axes."""
    writer = SliceWriter(path, CHANNELS, CLASSES, images.shape[-1], *geometry)
    writer.append(
        images, labels, [{"id": f"g{i}", "generator": "g", "seed": 1, "sample": i} for i in range(len(images))]
    )
    return writer.close()


def split_of(train: int, held: int) -> dict[str, str]:
    """Patients T0, T1, ... for training and H0, H1, ... held out."""
    return {f"T{i}": "train" for i in range(train)} | {f"H{i}": ("val", "test")[i % 2] for i in range(held)}


def new_slices(count: int, seed: int = 99) -> tuple[np.ndarray, np.ndarray]:
    """Slices of as many patients whom nobody has seen."""
    made = [heads(1000 + i, 1, seed) for i in range(count)]
    return np.concatenate([m[0] for m in made]), np.concatenate([m[1] for m in made])


NAN = float("nan")
ALARMS = FalseAlarms(0.011, 0.0, 0.03, 0.01, 0.0, 0.04, 100, 0.01)
FOUND = Detection("exact", True, 100, 1.0, 0.9, 1.0, {}, {})
MISSED = Detection("shift 1 pixel", False, 100, 0.2, 0.1, 0.3, {}, {})
CONCENTRATED = Concentration(22, 1, 22, 8, 1, 4e-6, 3e-7, 0.3)
FLAGS = Flags(
    1000, 10, 0.01, 0.001, 0.02, 0.006, 0.018, 0.01, 0.0, -0.009, 0.01, 0.0, -0.01, 0.01, 0.017,
    {"stacked": 0.01, "centred": 0.01}, 0, 0.05, 0, 0,
)  # fmt: skip


def findings(flags: dict[str, Any], **changes: Any) -> Findings:
    """Of an audit without a sign of copies, but for these changes."""
    hits = {"patient 1": 6, "patient 2": 3, "patient 3": 1}
    plain = Findings(replace(FLAGS, **flags), hits, 20, Controls((FOUND, MISSED), ALARMS), 12, 400, 99, 0.99)
    return replace(plain, **changes)
