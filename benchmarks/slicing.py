"""Slicing: ours against a plain nibabel `get_fdata` loop that writes the same slices.

    python benchmarks/slicing.py --patients 4

Draws phantoms of 240 x 240 x 155 voxels into a temporary folder, twice: in float32 as the phantom writes them, and in
int16 as BraTS does. The plain loop is what a user would write after the paper's script: `get_fdata`, divide by the
maximum, pad each slice, apply the rule, write - one PNG per channel and slice as the authors did, or one .npy per
slice, the least work a loop can do: neither compressed nor hashed. It runs on one thread. Ours writes a SliceSet,
compressed, with index and hashes, on as many threads as asked for. Every round runs all of them one after the other;
the table gives the median over the rounds. The slices are compared afterwards, pixel by pixel.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from understudy.cohort.config import Cohort, CohortConfig
from understudy.cohort.layouts import find_patients
from understudy.cohort.phantom.write import PhantomConfig, write_phantoms
from understudy.cohort.prepare import prepare
from understudy.cohort.slicing import SliceConfig
from understudy.slices import SliceSet

Write = Callable[[Path, np.ndarray, np.ndarray], None]


def write_png(stem: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """One PNG per channel, and one for the annotation."""
    for c, image in enumerate([*images, labels]):
        Image.fromarray(image).save(f"{stem}_{c}.png")


def write_npy(stem: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """All channels and the annotation in one uncompressed array."""
    np.save(f"{stem}.npy", np.concatenate([images, labels[None]]))


def plain_loop(cohort: Cohort, out: Path, write: Write) -> None:
    """The paper's slicing at 256 x 256 as a user would write it."""
    out.mkdir(parents=True)
    for patient in cohort.patients:
        volumes = []
        for channel in cohort.channels:
            volume = nib.load(patient.images[channel]).get_fdata()
            volumes.append(volume / volume.max() * 255)
        labels = nib.load(patient.labels).get_fdata()
        for z in range(labels.shape[2]):
            padded = np.zeros((len(volumes), 256, 256))
            for c, volume in enumerate(volumes):
                padded[c, 8:-8, 8:-8] = volume[:, :, z].T
            if (padded[0] > 50).sum() / (256 * 256) > 0.15:
                mask = np.zeros((256, 256), np.uint8)
                mask[8:-8, 8:-8] = labels[:, :, z].T
                write(out / f"{patient.id}_{z:03d}", np.floor(padded + 0.5).astype(np.uint8), mask)


def same_slices(slices: SliceSet, folder: Path) -> bool:
    """Whether the SliceSet holds exactly the .npy files of the plain loop."""
    files = sorted(folder.glob("*.npy"))
    if [file.stem for file in files] != slices.index.id.tolist():
        return False
    source = np.array([entry.source for entry in slices.classes], np.uint8)
    for row, file in enumerate(files):
        images, labels = slices.read([row])
        if not np.array_equal(np.load(file), np.concatenate([images[0], source[labels]])):
            return False
    return True


def as_int16(source: Path, target: Path) -> None:
    """Copies a cohort with its images rounded to int16."""
    for path in source.glob("*/*.nii.gz"):
        image = nib.load(path)
        voxels = np.rint(np.asarray(image.dataobj)).astype(np.int16)
        (target / path.parent.name).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, image.affine), target / path.parent.name / path.name)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor time of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(name: str, folder: Path, scratch: Path, rounds: int, workers: int) -> list[str]:
    """Rows of the table for one cohort."""
    cohort = find_patients(CohortConfig(path=folder))
    split = {patient.id: "train" for patient in cohort.patients}
    config = SliceConfig(resolution=256, workers=workers)
    ours = f"understudy: SliceSet (zstd, index, hashes), {workers} reading threads"
    times: dict[str, list[tuple[float, float]]] = {}
    for r in range(rounds):
        here = scratch / name / str(r)
        runs = {
            "get_fdata loop, PNG per channel, 1 thread": lambda here=here: plain_loop(cohort, here / "png", write_png),
            "get_fdata loop, uncompressed npy per slice, 1 thread": lambda here=here: plain_loop(
                cohort, here / "npy", write_npy
            ),
            ours: lambda here=here: prepare(cohort, split, config, here / "ours", progress=False),
        }
        for way, run in runs.items():
            times.setdefault(way, []).append(seconds(run))
        slices = SliceSet.open(here / "ours" / "slices")
        if not same_slices(slices, here / "npy"):
            raise SystemExit(f"{name}: the slices differ")
    patients = len(cohort.patients)
    medians = {way: [statistics.median(t) / patients for t in zip(*spent, strict=True)] for way, spent in times.items()}
    own = medians[ours]
    return [
        f"| {name} | {way} | {wall:.2f} | {cpu:.2f} | {wall / own[0]:.1f}x | {cpu / own[1]:.1f}x |"
        for way, (wall, cpu) in medians.items()
    ] + [f"| {name} | equal slices: {len(slices)} | | | | |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cohort", type=Path, help="slice this cohort instead of phantoms")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        cohorts = {"given": arguments.cohort}
        if arguments.cohort is None:
            cohorts = {"float32": scratch / "float32", "int16": scratch / "int16"}
            write_phantoms(PhantomConfig(patients=arguments.patients), cohorts["float32"])
            as_int16(cohorts["float32"], cohorts["int16"])
        rows = []
        for name, folder in cohorts.items():
            rows += compare(name, folder, scratch / "out", arguments.rounds, arguments.workers)
    print(f"{arguments.workers} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| volumes | way | seconds a patient | processor seconds | seconds to ours | processor seconds to ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
