"""Mutated files of every format (see `fuzz_formats.py`), study files and folders: no traceback, no hang, no memory.

`check` must agree with `prepare`.

    python benchmarks/fuzz_inputs.py --each 1540 --workers 2     # 20,000 cases over the 13 kinds
    python benchmarks/fuzz_inputs.py --each 0 --sets 500         # of one kind
    python benchmarks/fuzz_inputs.py --each 385 --first 385      # the second quarter

Every case is made from its number alone; `--only nifti:17` repeats one and keeps its folder. Prints failures as they
come, then a table; a run that is stopped (Ctrl-C, SIGTERM) prints the table of what it has done. A short run is part of
the tests (tests/study/test_fuzz.py).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests" / "cohort"))
from faulty_cohorts import write_cohort
from fuzz_formats import FORMATS, mutated_bytes, mutated_study, run_format

SECONDS, GIGABYTES = 20.0, 2.0  # more is a failure
STUDY = """name: s
seed: 1
cohort:
  path: data
  layout: pattern
  channels: {T1w: "{patient}/{patient}_t1.nii.gz", FLAIR: "{patient}/{patient}_flair.nii.gz"}
  labels: "{patient}/{patient}_seg.nii.gz"
  classes: {1: lesion}
slices: {resolution: 16, scaling: robust}
split: {test_patients: 1, validation_fraction: 0.3}
generators:
  stylegan2: {recipe: quick, samples: 100, training: {kimg: 0.1}}
segmenters:
  unet: {training: {samples: 100}}
trainings: [real, synthetic]
repeats: 1
"""
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 255, 256, 32767, -32768, 1e-30, 1e30, -1e30, float("nan"), float("inf"), 0.5, 1e-3)
# offset, type and count of the fields of a NIfTI-1 header
FIELDS = (
    *((0, "<i4", 1), (40, "<i2", 8), (70, "<i2", 1), (72, "<i2", 1), (76, "<f4", 8), (108, "<f4", 1), (112, "<f4", 1)),
    *((116, "<f4", 1), (123, "u1", 1), (252, "<i2", 1), (254, "<i2", 1), (256, "<f4", 6), (280, "<f4", 12)),
    *((344, "u1", 4), (4, "u1", 36)),
)  # fmt: skip


def write_images(root: Path) -> None:
    """A folder of PNG files, a channel each, and one of arrays."""
    from PIL import Image

    for k in range(6):
        for name in ("flair", "seg"):
            (root / "png").mkdir(exist_ok=True)
            pixels = np.zeros((16, 16), np.uint8)
            pixels[4:12, 4:12] = 255 if name == "seg" else 90 + 10 * k
            Image.fromarray(pixels).save(root / "png" / f"p{k % 3}_z{k:03d}_{name}.png")
        (root / "npy").mkdir(exist_ok=True)
        np.save(root / "npy" / f"p{k % 3}_z{k:03d}.npy", np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8))


def mutate_nifti(root: Path, rng: np.random.Generator) -> None:
    """One file: fields of the header, bytes before or after compression, or the other byte order."""
    patient, name = f"p{rng.integers(4)}", str(rng.choice(["t1", "flair", "seg"]))
    path = root / "data" / patient / f"{patient}_{name}.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    way = int(rng.integers(4))
    if way < 2:
        for _ in range(int(rng.integers(1, 4))):
            offset, kind, count = FIELDS[int(rng.integers(len(FIELDS)))]
            dtype, place = np.dtype(kind), int(rng.integers(count))
            value: object = NUMBERS[int(rng.integers(len(NUMBERS)))] if rng.random() < 0.7 else rng.normal() * 10
            with np.errstate(all="ignore"):
                new = np.array(value).astype(dtype).tobytes()
            start = offset + place * dtype.itemsize
            content[start : start + dtype.itemsize] = new
    elif way == 2:
        content = bytearray(mutated_bytes(bytes(content[:352]), rng) + bytes(content[352:]))
    else:
        content = bytearray(bytes(content[:352]) + mutated_bytes(bytes(content[352:]), rng))
    packed = gzip.compress(bytes(content))
    if rng.random() < 0.2:
        packed = mutated_bytes(packed, rng)
    path.write_bytes(packed)


def mutate_study(root: Path, rng: np.random.Generator) -> None:
    (root / "study.yaml").write_bytes(mutated_study(STUDY, rng))


def mutate_folder(root: Path, rng: np.random.Generator, top: str = "data") -> None:
    """Files moved, renamed, removed, linked or added; half of the time the folder is to be recognised by itself."""
    base = root / top

    def put(path: Path, content: bytes) -> None:
        path.unlink(missing_ok=True)  # it may be a pipe by now
        path.write_bytes(content)

    for _ in range(int(rng.integers(1, 5))):
        files = sorted(path for path in base.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            break
        path = files[int(rng.integers(len(files)))]
        other = files[int(rng.integers(len(files)))]
        ways: list[Callable[[], object]] = [
            path.unlink,
            lambda p=path: p.rename(p.with_name(p.name.upper())),
            lambda p=path: p.rename(p.with_name(p.name.replace(".gz", ""))),
            lambda p=path: p.rename(p.with_name("x" + p.name)),
            lambda p=path: (p.unlink(), p.symlink_to("nowhere")),
            lambda p=path: (p.unlink(), p.symlink_to(p.name)),
            lambda p=path: (p.unlink(), os.mkfifo(p)),
            lambda p=path: (p.unlink(), p.mkdir()),
            lambda p=path: (p.parent / f"up{rng.integers(99)}").symlink_to(base),
            lambda p=path: (p.parent / f".{p.name}").write_bytes(b"\0\1"),
            lambda p=path, o=other: shutil.copy(p, o),
            lambda p=path: p.write_bytes(mutated_bytes(p.read_bytes(), rng)),
            lambda p=path: p.write_bytes(b""),
            lambda: shutil.copytree(base, base / "again", symlinks=True, dirs_exist_ok=True),
            lambda: put(
                base / "participants.tsv",
                mutated_bytes(b"participant_id\tsite\np0\tA\np1\tB\np2\tA\np3\tB\n", rng),
            ),
            lambda: put(
                base / "dataset.json",
                mutated_bytes(b'{"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}}', rng),
            ),
            lambda: (base / "dataset_description.json").write_text("{}"),
            lambda p=path: p.rename(p.with_name("p1" + p.name[2:])),
            lambda: os.close(os.open(os.fsencode(base) + b"/\xfc.nii.gz", os.O_CREAT)),
        ]  # fmt: skip
        try:
            ways[int(rng.integers(len(ways)))]()
        except (OSError, shutil.Error, RecursionError):
            continue
    if top == "data":
        text = STUDY if rng.random() < 0.5 else STUDY[: STUDY.index("  layout")] + STUDY[STUDY.index("slices:") :]
        if rng.random() < 0.5:
            text = text.replace("  path: data\n", "  path: data\n  skip_bad_patients: true\n")
        (root / "study.yaml").write_text(text)


def checked_and_prepared(root: Path) -> str:
    """Does both; the outcome in a word, after "disagree" or "unforeseen" a failure."""
    from understudy.errors import UnderstudyError
    from understudy.study.check import check_source
    from understudy.study.config.schema import load_study
    from understudy.study.engine.plan import make_plan
    from understudy.study.engine.run import run_study

    try:
        study = load_study(root / "study.yaml")
    except UnderstudyError:
        study = None
    if study is not None and (study.phantom or study.cohorts):
        return "phantoms"  # nothing to check
    try:
        found = check_source(root / "study.yaml", progress=False)
        stops = any(one.stops for one in found)
        if any(
            p.problem.startswith("unexpected ") and "Error" in p.problem for one in found for p in one.checked.problems
        ):
            return "unforeseen: " + next(
                p.problem for one in found for p in one.checked.problems if "unexpected" in p.problem
            )
    except UnderstudyError:
        stops = True
    if study is None:
        return "refused"
    failed = False
    try:
        result = run_study(make_plan(study), root / "out", progress=False, until="prepare", workers=1)
        failed = bool(result.failed)
        for _, message in result.failed:
            if message.startswith("unexpected"):
                return f"unforeseen: {message}"
    except UnderstudyError:
        failed = True
    if failed != stops:
        return f"disagree: check {'refuses' if stops else 'accepts'}, prepare {'fails' if failed else 'succeeds'}"
    return "refused" if stops else "accepted"


def read_and_opened(root: Path) -> str:
    """Reads a folder of images as `read` does, and as `audit` does."""
    from understudy.errors import UnderstudyError
    from understudy.exchange.read import open_images, read_folder
    from understudy.exchange.spec import FolderSpec

    done = []
    for top in ("png", "npy"):
        try:
            read_folder(root / top, FolderSpec(codes={"lesion": 255}), root / f"read-{top}", progress=False)
            done.append("read")
        except UnderstudyError:
            pass
        try:
            open_images(root / top, root / "opened")
            done.append("opened")
        except UnderstudyError:
            pass
    return "accepted" if done else "refused"


def run_case(kind: str, number: int, root: Path) -> str:
    """Makes one case in an empty folder and runs it."""
    rng = np.random.default_rng([number, ORDER.index(kind)])
    if kind in FORMATS:
        return run_format(kind, root, rng)
    if kind == "images":
        write_images(root)
        mutate_folder(root, rng, str(rng.choice(["png", "npy"])))
        return read_and_opened(root)
    write_cohort(root, study=STUDY)
    KINDS[kind](root, rng)
    return checked_and_prepared(root)


KINDS: dict[str, Callable[[Path, np.random.Generator], None]] = {
    "nifti": mutate_nifti,
    "studies": mutate_study,
    "folders": mutate_folder,
    "images": mutate_folder,
    **dict.fromkeys(FORMATS, mutate_folder),
}
ORDER = ["folders", "images", "nifti", "studies", *FORMATS]  # what the numbers of cases begin with


def _child() -> None:
    """Runs the cases named on standard input, one a line, and answers with a line of JSON each."""
    before = 0.0  # GB that the imports take, after the first case, which is not counted
    for line in sys.stdin:
        kind, number = line.split(":")
        root = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            outcome = run_case(kind, int(number), root)
        except BaseException:
            outcome = "traceback: " + traceback.format_exc()[-1500:]
        shutil.rmtree(root, ignore_errors=True)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        before = before or memory
        sys.__stdout__.write(json.dumps([outcome, memory - before]) + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]


def failed(outcome: str) -> bool:
    return outcome.split(":")[0] not in ("accepted", "refused", "phantoms")


def _worker(cases: Queue[str], results: list[tuple[str, str, float, float]]) -> None:
    """Feeds a child process; kills it where it hangs, and starts another."""
    child: subprocess.Popen[str] | None = None
    while True:
        try:
            case = cases.get_nowait()
        except Empty:
            break
        if child is None:
            child = subprocess.Popen(
                [sys.executable, __file__, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            child.stdin.write("sets:0\nnifti:0\n")  # type: ignore[union-attr]  # imports, which are not counted
            child.stdin.flush()  # type: ignore[union-attr]
            child.stdout.readline(), child.stdout.readline()  # type: ignore[union-attr]
        start = time.perf_counter()
        timer = threading.Timer(3 * SECONDS, child.kill)
        timer.start()
        child.stdin.write(case + "\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        answer = child.stdout.readline()  # type: ignore[union-attr]
        timer.cancel()
        seconds = time.perf_counter() - start
        outcome, memory = json.loads(answer) if answer else ("died or hung", 0.0)
        if not failed(outcome):
            outcome = "slow" if seconds > SECONDS else "memory" if memory > GIGABYTES else outcome
        if not answer or outcome == "memory":
            child.kill()
            child = None
        results.append((case, outcome, seconds, memory))
        if failed(outcome):
            print(f"{case} ({seconds:.1f} s, {memory:.2f} GB): {outcome}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int)
    parser.add_argument("--each", type=int, default=100, help="cases of every kind that is not named")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each kind")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", help="one case, e.g. nifti:17; its folder is kept")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child()
        return
    if given.only:
        kind, number = given.only.split(":")
        root = Path(tempfile.mkdtemp(prefix="fuzz-"))
        print(root)
        print(run_case(kind, int(number), root))
        return
    cases: Queue[str] = Queue()
    share = {kind: given.each if getattr(given, kind) is None else getattr(given, kind) for kind in KINDS}
    # kinds take turns in proportion, so that a run that is stopped (Ctrl-C) has seen something of each
    for _, case in sorted(
        ((n + 0.5) / share[kind], f"{kind}:{given.first + n}") for kind in KINDS for n in range(share[kind])
    ):
        cases.put(case)
    results: list[tuple[str, str, float, float]] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threads = [threading.Thread(target=_worker, args=(cases, results)) for _ in range(given.workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        print("stopped; what was done until then:")
        while not cases.empty():
            cases.get_nowait()
    print("| inputs | cases | accepted | refused | failures | slowest, s | most memory, GB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in KINDS:
        mine = [r for r in results if r[0].startswith(kind)]
        counts = Counter(r[1].split(":")[0] for r in mine)
        fine = counts["accepted"] + counts["refused"] + counts["phantoms"]
        slowest, most = max((r[2] for r in mine), default=0), max((r[3] for r in mine), default=0)
        print(
            f"| {kind} | {len(mine)} | {counts['accepted'] + counts['phantoms']} | {counts['refused']} |"
            f" {len(mine) - fine} | {slowest:.1f} | {most:.2f} |"
        )
    sys.exit(any(failed(outcome) for _, outcome, _, _ in results))


if __name__ == "__main__":
    main()
