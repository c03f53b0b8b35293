"""Small cohorts on disk: smooth heads with a lesion, in the names of any release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

NAMES = {
    "brats2018": {"T1w": "_t1", "T1wGd": "_t1ce", "T2w": "_t2", "FLAIR": "_flair", "labels": "_seg"},
    "brats2023": {"T1w": "-t1n", "T1wGd": "-t1c", "T2w": "-t2w", "FLAIR": "-t2f", "labels": "-seg"},
}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volumes(seed: int, naming: str = "brats2018", shape: tuple[int, int, int] = (24, 20, 9)) -> dict[str, np.ndarray]:
    """Images int16 and an annotation uint8 whose slices differ in how much of them is bright."""
    generator = np.random.default_rng([seed, 7])
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    head = x**2 + y**2 + z**2 < 0.9
    found = {}
    for name in ("T1w", "T1wGd", "T2w", "FLAIR"):
        found[name] = np.where(head, generator.integers(100, 2000, shape), 0).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    radius = (x - 0.2) ** 2 + (y + 0.1) ** 2 + z**2
    for value, limit in ((2, 0.3), (4 if naming == "brats2018" else 3, 0.15), (1, 0.05)):
        labels[radius < limit] = value
    return {**found, "labels": labels}


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = LPS) -> Path:
    """Writes one NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


@pytest.fixture
def write_patient() -> Callable[..., dict[str, Path]]:
    """write_patient(folder, id, seed=.., naming=.., shape=.., affine=.., leave_out=(..)) -> file of each sequence."""

    def write(
        folder: Path,
        patient: str,
        seed: int = 0,
        naming: str = "brats2018",
        shape: tuple[int, int, int] = (24, 20, 9),
        affine: np.ndarray = LPS,
        leave_out: tuple[str, ...] = (),
        suffix: str = ".nii.gz",
    ) -> dict[str, Path]:
        return {
            name: save(folder / patient / f"{patient}{NAMES[naming][name]}{suffix}", voxels, affine)
            for name, voxels in volumes(seed, naming, shape).items()
            if name not in leave_out
        }

    return write
