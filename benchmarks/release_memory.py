"""Packaging streams: the peak memory of releases of 1,000, 3,000 and 10,000 slices, and its slope.

    python benchmarks/release_memory.py
    python benchmarks/release_memory.py --folder /scratch/new
    python benchmarks/release_memory.py --slices 1000 3000 --formats png nnunet
    python benchmarks/release_memory.py --edge 32 --slices 100000 200000 --formats sliceset

Slices of 256 x 256 pixels (or `--edge`) with four channels and an annotation (5 planes) are noise on a head, so that
files are as large as those of real ones. They are audited once a size. Each release and each `understudy verify` then
runs in a process of its own and does all that a release does: audit again, data, documents, scan, hashes. The table
gives the highest resident memory (VmHWM) of each process; libraries alone (torch, zarr, matplotlib) are the row
`imports`. What the search for neighbours holds at once grows up to its limit (0.25 GB, from 1,000 slices of 256 pixels
or 64,000 of 32 on): two sizes beyond that show what the rows of tables take. The
slope is the additional memory of the largest set over the smallest one, per 1,000 slices. Everything is deleted.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from understudy.memorization.config import AuditConfig
from understudy.memorization.perform import audit
from understudy.release.content import LAYOUTS
from understudy.release.forms import About, Decision
from understudy.release.gate import Audited
from understudy.release.package import release_slices
from understudy.release.verify import verify
from understudy.slices import SliceSet, SliceWriter, evenly_coded

CHANNELS = ("T1w", "T2w", "FLAIR", "T1wGd")
CLASSES = evenly_coded({1: "NCR/NET", 2: "ED", 3: "ET"})
BLOCK = 10  # slices that are made at a time
LIKE_REAL = 20  # one block of so many is made like real slices, some of which are flagged; the others like nobody's
QUANTILE = 0.95
CONFIG = AuditConfig(quantile=QUANTILE, copies=20, splits=10, resamples=200, within=0)
ABOUT = About(
    title="Noise", short_name="NOISE", version="1", description="Noise on heads.", creators=["A"], publisher="B",
    contact="a@example.org", licence="CC0", sources=["noise"], source_terms_allow_release=True, approval="none",
    purpose="measuring", forbidden_uses="none", known_defects="noise", maintenance="none",
)  # fmt: skip


def heads(count: int, edge: int, seed: int, own: int, spread: float = 30) -> tuple[np.ndarray, np.ndarray]:
    """Noise on heads, uint8 [n, 4, edge, edge] with labels.

    Args:
        count, edge, seed: slices, their pixels along an edge (a multiple of 8), and what they are drawn by.
        own: the patient, whose slices are alike.
        spread: of the grey values of large spots; with more of it no two slices are alike.
    """
    rng = np.random.default_rng([seed, 1])
    y, x = np.mgrid[:edge, :edge] / edge - 0.5
    inside = (x / 0.36) ** 2 + (y / 0.44) ** 2 < 1
    patient = np.random.default_rng([own, 2]).normal(0, 30, (4, 8, 8))
    images = np.zeros((count, 4, edge, edge), np.uint8)
    for image in images:
        for c in range(4):
            coarse = np.clip(110 + rng.normal(0, spread, (8, 8)) + patient[c], 1, 231).astype(np.uint8)
            smooth = coarse.repeat(edge // 8, axis=0).repeat(edge // 8, axis=1)
            image[c] = (smooth + rng.integers(0, 24, (edge, edge), dtype=np.uint8)) * inside
    labels = np.zeros((count, edge, edge), np.uint8)
    for k, label in enumerate(labels):
        lesion = (abs(y + 0.05) < 0.08 + k % 20 / 500) & (abs(x + 0.05) < 0.06 + k % 10 / 500)
        label[lesion] = k % 4
    return images, labels


def make_real(folder: Path, edge: int) -> SliceSet:
    """12 training and 12 held-out patients, five slices each."""
    writer = SliceWriter(folder, CHANNELS, CLASSES, edge)
    for patient in range(24):
        images, labels = heads(5, edge, 1000 + patient, patient)
        split = "train" if patient % 2 else "test"
        rows = [{"id": f"P{patient:03d}-{z}", "subject": f"P{patient:03d}", "split": split} for z in range(5)]
        writer.append(images, labels, rows)
    return writer.close()


def make_synthetic(folder: Path, count: int, edge: int) -> SliceSet:
    """Slices of nobody."""
    writer = SliceWriter(folder, CHANNELS, CLASSES, edge)
    for start in range(0, count, BLOCK):
        spread = 30 if start // BLOCK % LIKE_REAL == 0 else 90
        images, labels = heads(min(BLOCK, count - start), edge, 10**6 + start, 10**6 + start, spread)
        rows = [{"id": f"n{start + i:06d}", "generator": "noise", "seed": 1} for i in range(len(images))]
        writer.append(images, labels, rows)
    return writer.close()


def release(folder: Path, layout: str) -> None:
    """One release, as the command does it."""
    today = dt.date.today()
    decision = Decision.model_validate(
        {
            "decision": "approve_with_removal",
            "by": {"name": "N", "role": "steward"},
            "date": today,
            "thresholds": {"quantile": QUANTILE, "most_flagged": 1.0, "set_on": today, "before_looking": True},
        }
    )
    real = SliceSet.open(folder / "real", cache_bytes=0)
    made = SliceSet.open(folder / "synthetic", cache_bytes=0)
    reason = "measuring memory, not data"  # opens the gate whatever the audit says of noise
    audited = Audited(made, real, real, folder / "audit")
    done = release_slices(audited, ABOUT, decision, folder / "package", layout, override=reason)
    if (released := done.certificate["audit"]["released"]) < 0.8 * len(made):
        raise SystemExit(f"only {released} of {len(made)} slices were released: this measures too little")


def step(what: str, folder: Path, layout: str) -> None:
    """What a process does; prints its peak memory (MB) and processor seconds."""
    if what == "audit":
        real, made = SliceSet.open(folder / "real", 0), SliceSet.open(folder / "synthetic", 0)
        audit(real, real, made, CONFIG).save(folder / "audit")
    elif what == "release":
        release(folder, layout)
    elif what == "verify":
        found = verify(folder / "package", pictures=folder / "sheet.png")
        if found.problems:
            raise SystemExit(f"not intact: {found.problems[:3]}")
    status = Path("/proc/self/status").read_text()
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"mb": peak, "seconds": used.ru_utime + used.ru_stime}))


def run(what: str, folder: Path, layout: str = "-") -> dict[str, float]:
    """A step in a process of its own."""
    command = [sys.executable, __file__, "--step", what, "--folder", str(folder), "--formats", layout]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} {layout}:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--edge", type=int, default=256, help="pixels along an edge of a slice")
    parser.add_argument("--formats", nargs="+", default=list(LAYOUTS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "release-memory")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step, options.folder, options.formats[0])
        return
    folder, peaks = options.folder, {}
    folder.mkdir(parents=True)
    try:
        make_real(folder / "real", options.edge)
        bare = run("imports", folder)
        print(f"imports: {bare['mb']:,.0f} MB\n", flush=True)
        print("| format | slices | data on disk | release, peak | processor | verify, peak | processor |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for count in options.slices:
            make_synthetic(folder / "synthetic", count, options.edge)
            told = run("audit", folder)
            print(f"| (its audit) | {count:,} | | {told['mb']:,.0f} MB | {told['seconds']:.0f} s | | |", flush=True)
            for layout in options.formats:
                made = run("release", folder, layout)
                size = sum(p.stat().st_size for p in (folder / "package").rglob("*") if p.is_file())
                seen = run("verify", folder, layout)
                peaks[layout, count] = max(made["mb"], seen["mb"])
                print(
                    f"| {layout} | {count:,} | {size / 1e9:.2f} GB | {made['mb']:,.0f} MB | {made['seconds']:.0f} s |"
                    f" {seen['mb']:,.0f} MB | {seen['seconds']:.0f} s |",
                    flush=True,
                )
                shutil.rmtree(folder / "package")
            shutil.rmtree(folder / "synthetic")
            shutil.rmtree(folder / "audit")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    first, last = min(options.slices), max(options.slices)
    print()
    for layout in options.formats if last > first else ():
        slope = 1000 * (peaks[layout, last] - peaks[layout, first]) / (last - first)
        print(f"{layout}: {slope:+.1f} MB for each further 1,000 slices")


if __name__ == "__main__":
    main()
