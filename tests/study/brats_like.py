"""Folders that look like a BraTS release: every file a valid volume of 240 x 240 x 155 voxels, all of them 0."""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

FILES = ("t1", "t1ce", "t2", "flair", "seg")


def brats_like(folder: Path, patients: int, sites: int = 0, name: str = "BraTS20_Training") -> Path:
    """Makes the folder, one volume of some 9 KB linked to from every place; `sites` go to the patients in turn."""
    folder.mkdir(parents=True)
    image = nib.Nifti1Image(np.zeros((240, 240, 155), np.uint8), np.diag([-1, -1, 1, 1]))
    volume = folder / ".volume.nii.gz"
    volume.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
    for number in range(1, patients + 1):
        patient = f"{name}_{number:05d}"
        (folder / patient).mkdir()
        for kind in FILES:
            os.link(volume, folder / patient / f"{patient}_{kind}.nii.gz")
    if sites:
        rows = [f"{name}_{number:05d}\tsite{number % sites + 1}" for number in range(1, patients + 1)]
        (folder / "participants.tsv").write_text("\n".join(["participant_id\tsite", *rows]) + "\n")
    return folder


if __name__ == "__main__":
    brats_like(Path(sys.argv[1]), int(sys.argv[2]))
