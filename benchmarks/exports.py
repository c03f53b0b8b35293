"""Time and size of a release and of every export of its slices: noise on heads, four channels and three classes.

    python benchmarks/exports.py --slices 10000 --edge 64
    python benchmarks/exports.py --slices 10000 --edge 64 --folder KEPT --steps release dicom

The slices, their audit and the package stay in `--folder` (default: a temporary one): further steps go on there.
"""

from __future__ import annotations

import argparse
import datetime as dt
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from release_memory import ABOUT, CHANNELS, CLASSES, CONFIG, QUANTILE, heads

from understudy.exchange.export import export_images, export_nnunet
from understudy.memorization.perform import audit
from understudy.release.dicom import export_dicom
from understudy.release.forms import Decision
from understudy.release.gate import Audited
from understudy.release.hub import export_huggingface
from understudy.release.package import release_slices
from understudy.release.verify import verify
from understudy.slices import SliceSet, SliceWriter

BLOCK = 50


def make_set(folder: Path, count: int, edge: int, real: bool) -> SliceSet:
    """Slices with a geometry; of real ones each patient has five, and every second patient trains."""
    writer = SliceWriter(folder, CHANNELS, CLASSES, edge, (1.0, 1.0, 1.0), ("P", "L"))
    size = 5 if real else BLOCK
    for start in range(0, count, size):
        n, seed = min(size, count - start), start + (0 if real else 10**6)
        patient = {"subject": f"P{start:06d}", "split": "train" if start // size % 2 else "test"}
        row = patient if real else {"generator": "noise", "seed": 1}
        images, labels = heads(n, edge, seed, seed, 30 if real else 90)
        writer.append(images, labels, [{"id": f"{'r' if real else 'n'}{start + i:06d}", **row} for i in range(n)])
    return writer.close()


def release(folder: Path) -> None:
    today = dt.date.today()
    limits = {"quantile": QUANTILE, "most_flagged": 1.0, "set_on": today, "before_looking": True}
    signed = {"decision": "approve_with_removal", "by": {"name": "N", "role": "steward"}, "date": today}
    decision = Decision.model_validate({**signed, "thresholds": limits})
    real, made = (SliceSet.open(folder / name, cache_bytes=0) for name in ("real", "synthetic"))
    audited = Audited(made, real, real, folder / "audit")
    reason = "measuring time, not data"  # opens the gate whatever the audit says of noise
    release_slices(audited, ABOUT, decision, folder / "package", "png", override=reason, progress=False)


def check(folder: Path) -> None:
    if found := verify(folder / "package").problems:
        raise SystemExit(f"not intact: {found[:3]}")


def steps(folder: Path) -> dict[str, tuple[str, Callable[[], object]]]:
    """Name of a step -> folder that it writes, and what it does."""
    real, made = (SliceSet.open(folder / name, cache_bytes=0) for name in ("real", "synthetic"))
    package = folder / "package"
    return {
        "audit": ("audit", lambda: audit(real, real, made, CONFIG).save(folder / "audit")),
        "release": ("package", lambda: release(folder)),
        "verify": ("", lambda: check(folder)),
        "images": ("images", lambda: export_images(made, folder / "images", progress=False)),
        "nnunet": ("nnunet", lambda: export_nnunet(real, folder / "nnunet", synthetic=made, progress=False)),
        "dicom": ("dicom", lambda: export_dicom(package, folder / "dicom", progress=False)),
        "huggingface": ("huggingface", lambda: export_huggingface(package, folder / "huggingface", progress=False)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=10000)
    parser.add_argument("--edge", type=int, default=64, help="pixels, a multiple of 8")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", nargs="+", help="default: all, in their order")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary) / "exports"
        if not (folder / "real").exists():
            make_set(folder / "real", 120, given.edge, real=True)
            make_set(folder / "synthetic", given.slices, given.edge, real=False)
        known = steps(folder)
        print(f"{given.slices:,} slices of {given.edge} x {given.edge}\n")
        print("| step | seconds | processor seconds | files | size |\n| --- | ---: | ---: | ---: | ---: |", flush=True)
        for name in given.steps or known:
            out, do = known[name]
            shutil.rmtree(folder / out, ignore_errors=True) if out else None
            begin, used = time.monotonic(), time.process_time()
            do()
            seconds, cpu = time.monotonic() - begin, time.process_time() - used
            files = [p for p in (folder / out).rglob("*") if p.is_file()] if out else []
            size = f"{sum(p.stat().st_size for p in files) / 1e6:,.0f} MB" if out else ""
            print(f"| {name} | {seconds:.0f} | {cpu:.0f} | {len(files):,} | {size} |", flush=True)
            if out not in ("audit", "package", ""):
                shutil.rmtree(folder / out)


if __name__ == "__main__":
    main()
