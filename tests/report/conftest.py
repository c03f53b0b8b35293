"""A made-up study: blobs for brains, spots for tumours, predictions wrong on purpose, and their scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from understudy.metrics.scores import score_volume
from understudy.report.page import ReportData
from understudy.slices import SliceWriter, evenly_coded
from understudy.volumes import SliceGeometry, TestVolume, VolumeWriter

CHANNELS = ("T1w", "FLAIR")
CLASSES = evenly_coded({1: "core", 2: "edema"})
SETTINGS = (("real.unet.aug", "real", ""), ("both.unet.aug", "both", "gan"), ("synthetic.unet.aug", "synthetic", "gan"))
SHIFT = {"real": 1, "both": 1, "synthetic": 3}  # pixels by which predictions are off


def head(rng: np.random.Generator, size: int, tumour: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [2, size, size] and labels uint8 [size, size] of one slice."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    brain = (x / 0.34) ** 2 + (y / 0.42) ** 2 < 1
    images = np.stack([brain * 120.0, brain * 90.0])
    labels = np.zeros((size, size), np.uint8)
    if tumour:
        cy, cx = rng.uniform(-0.15, 0.15, 2)
        far = np.hypot(y - cy, x - cx)
        labels[(far < 0.16) & brain] = 2
        labels[(far < 0.08) & brain] = 1
        images[1] += 90 * (labels > 0)
    return np.clip(images + rng.normal(0, 6, images.shape) * brain, 0, 255).astype(np.uint8), labels


def write_slices(path: Path, count: int, seed: int, synthetic: bool, size: int = 16) -> Path:
    """A slice set of `count` slices, every second with a tumour."""
    rng = np.random.default_rng(seed)
    writer = SliceWriter(path, CHANNELS, CLASSES, size, (1.0, 1.0, 1.0), ("P", "L"))
    made = [head(rng, size, i % 2 == 0) for i in range(count)]
    rows: list[dict[str, Any]] = []
    for i in range(count):
        if synthetic:
            rows.append({"id": f"s{i}", "generator": "gan", "seed": 1, "sample": i, "code_distance": rng.uniform(0, 9)})
        else:
            split = "train" if i % 3 else "val"
            rows.append({"id": f"r{i}", "subject": f"P{i % 6}", "site": "A", "z": i, "split": split})
    writer.append(np.stack([m[0] for m in made]), np.stack([m[1] for m in made]), rows)
    return writer.close().path


def write_volumes(path: Path, subjects: list[str], size: int = 24, depth: int = 4) -> Path:
    """Test volumes; the truth of each lies on a grid of `size` x `size`."""
    geometry = SliceGeometry.fit(size, size, 16)
    writer = VolumeWriter(path, CHANNELS, CLASSES, ("P", "L"))
    for n, subject in enumerate(subjects):
        rng = np.random.default_rng([7, n])
        made = [head(rng, size, z > 0) for z in range(depth)]
        truth = np.stack([m[1] for m in made])
        images = np.stack([geometry.shrink_images(geometry.pad(m[0])) for m in made])
        writer.write(
            TestVolume(
                subject, "AB"[n % 2], "test", images, np.ones(depth, bool), truth, geometry, (2.0, 1.0, 1.0), np.eye(4)
            )
        )
    return writer.close().path


def write_history(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_study(root: Path, patients: int = 6, repeats: int = 2) -> ReportData:
    """A whole study of `patients` test patients named T0, T1, ..."""
    from understudy.volumes import VolumeSet

    subjects = [f"T{i}" for i in range(patients)]
    volumes = VolumeSet.open(write_volumes(root / "volumes", subjects))
    rows, predictions, histories = [], {}, {}
    for setting, training, generator in SETTINGS:
        for repeat in range(repeats):
            folder = root / f"{setting}-{repeat}"
            folder.mkdir()
            predictions[setting, repeat] = folder
            histories[setting, repeat] = write_history(
                folder / "history.jsonl",
                [{"samples": 100 * k, "seconds": k, "loss": 1 / k, "val_dice": 1 - 1 / k} for k in range(1, 6)],
            )
            for n, subject in enumerate(subjects):
                volume = volumes.read(subject)
                prediction = np.roll(volume.truth, SHIFT[training] + (n + repeat) % 2, axis=2)
                if training == "synthetic" and n == 0:
                    prediction = np.zeros_like(prediction)
                np.savez_compressed(folder / f"{subject}.npz", prediction=prediction)
                for row in score_volume(prediction, volume.truth, ["core", "edema"], volume.spacing, volume.kept):
                    rows.append(
                        {"setting": setting, "training": training, "generator": generator, "segmenter": "unet",
                         "augmentation": True, "repeat": repeat, "subject": subject, "site": volume.site, **row}
                    )  # fmt: skip
    curve = [
        {"kimg": k, "seconds": k, "loss_g": 1.0, "loss_d": 0.5, "ada_p": k / 100, "images_per_second": 40}
        for k in range(9)
    ]
    return ReportData(
        title="Blobs",
        study={"name": "blobs", "seed": 0},
        scores=pd.DataFrame(rows),
        slices=write_slices(root / "slices", 30, 1, synthetic=False),
        volumes=volumes.path,
        synthetic={"gan": write_slices(root / "synthetic", 40, 2, synthetic=True)},
        generator_histories={"gan": write_history(root / "gan.jsonl", curve)},
        segmenter_histories=histories,
        predictions=predictions,
        baseline="real.unet.aug",
        jobs=pd.DataFrame(
            [
                {
                    "stage": "generator",
                    "id": "a" * 64,
                    "name": "generator gan",
                    "seconds": 61.2,
                    "peak_rss_mb": 900,
                    "state": "done",
                }
            ]
        ),
        provenance={"command": "understudy run blobs.yaml", "versions": {"torch": "2.13"}},
    )


@pytest.fixture(scope="session")
def study_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ReportData]:
    """Makes studies in folders of their own."""

    def make(**options: int) -> ReportData:
        return make_study(tmp_path_factory.mktemp("study"), **options)

    return make


@pytest.fixture(scope="session")
def study(study_factory: Callable[..., ReportData]) -> ReportData:
    """Six test patients, two trainings a setting; not to be changed, `dataclasses.replace` makes another."""
    return study_factory()


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots cost half of a page's time; tests of other parts do without drawing them."""
    monkeypatch.setattr("understudy.report.plots.style._rendered", lambda figure: (b"<svg/>", b"PNG"))
