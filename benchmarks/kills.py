"""Studies killed in the middle of trainings, with checkpoints on disk: run again, they end bit for bit as unbroken.

    python benchmarks/kills.py --runs 30

Every run is made from its number alone: one worker or two (even and odd numbers), 1 to 5 kills, each of the run's own
process, of a worker, or of both at once, a moment after a training has written a checkpoint of its own; every other run
also finds its newest checkpoint damaged once, and has to fall back. Weights, slices and scores are compared with an
unbroken run, byte by byte. Prints a line a run and the counts; exits with 1 if one differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from corruption import HEAVY, sha256, start

STUDY = """
name: kills
phantom: {patients: 10, shape: [32, 32, 20], sites: 2}
slices: {resolution: 32, scaling: robust, rule_intensity: 20}
split: {test_patients: 4, validation_fraction: 0.25}
generators:
  g: &small
    model: {kind: stylegan2, z_dim: 16, w_dim: 16, mapping_layers: 2, channel_base: 128, channel_max: 8}
    training: {kimg: 0.6, batch: 8, tick_kimg: 0.08, checkpoint_seconds: 0.1}
    samples: 300
  h: *small
segmenters:
  unet:
    model: {width: 4}
    training: {samples: 480, batch: 8, validations: 2, checkpoint_seconds: 0.1}
trainings: [synthetic]
audit: null
annotations: null
"""
MADE = ("jobs/*/model/*.safetensors", "jobs/*/slices/*/c/**/0", "jobs/*/slices/index.parquet")
MADE += ("jobs/*/predictions/*.npz", "jobs/evaluate-*/scores.parquet")


class Kills:
    """The unbroken study, and those that are killed."""

    def __init__(self, work: Path) -> None:
        self.work, self.log = work, work / "log"
        (work / "study.yaml").write_text(STUDY)
        self.whole = {workers: self.unbroken(workers) for workers in (1, 2)}

    def begin(self, out: Path, workers: int) -> BaseProcess:
        words = ["run", str(self.work / "study.yaml"), "--out", str(out), "--workers", str(workers), "-q"]
        return start([*words, "--until", "evaluate", "--device", "cpu"], self.log)

    def unbroken(self, workers: int) -> dict[str, str]:
        out = self.work / f"whole{workers}"
        process = self.begin(out, workers)
        process.join()
        assert process.exitcode == 0, self.log.read_text()
        return self.made(out)

    def made(self, out: Path) -> dict[str, str]:
        """Hashes of results; the results of `done.json` as text."""
        found = {p.relative_to(out).as_posix(): sha256(p) for pattern in MADE for p in out.glob(pattern) if p.is_file()}
        for path in out.glob("jobs/*/done.json"):
            results = json.loads(path.read_text())["results"]
            results.pop("health", None)  # may hold speeds
            found[path.parent.name] = json.dumps(results, sort_keys=True)
        return found

    def kill(self, out: Path, process: BaseProcess, rng: random.Random) -> bool:
        """Kills a run a moment after it has written a checkpoint; False if it came to its end."""
        before = set(out.glob("jobs/*/model/checkpoint-*.pt"))
        while process.is_alive() and not set(out.glob("jobs/*/model/checkpoint-*.pt")) - before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 1.5))
        assert process.pid is not None
        victims, which = children(process.pid), rng.choice(("run", "worker", "both"))
        hit = [process.pid] * (which != "worker" or not victims) + victims * (which != "run")
        for pid in hit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if process.pid in hit:
            process.join()
            while any(alive(pid) for pid in victims):  # workers see that it is gone, write a checkpoint and leave
                time.sleep(0.02)
        return process.exitcode != 0

    def run(self, number: int) -> tuple[int, int, list[str]]:
        """(kills, damaged checkpoints, what differs)."""
        rng, out, workers = random.Random(number), self.work / f"run{number}", 1 + number % 2
        wanted, kills, damaged = rng.randint(1, 5), 0, 0
        process = self.begin(out, workers)
        while kills < wanted and self.kill(out, process, rng):
            kills += 1
            if number % 4 > 1 and not damaged:
                damaged += flip_newest(out, rng)
            if not process.is_alive():
                process = self.begin(out, workers)
        process.join()
        for _ in range(3):  # a job whose worker was killed twice is a failure, for this run only
            if process.exitcode != 0:
                process = self.begin(out, workers)
                process.join()
        made = self.made(out)
        shutil.rmtree(out)
        return kills, damaged, sorted(k for k, v in self.whole[workers].items() if made.get(k) != v)


def flip_newest(out: Path, rng: random.Random) -> int:
    """Flips a bit of the newest checkpoint of a training that has two; the number of checkpoints that were damaged."""
    for folder in {path.parent for path in out.glob("jobs/*/model/checkpoint-*.pt")}:
        paths = sorted(folder.glob("checkpoint-*.pt"))
        if len(paths) > 1:
            content = bytearray(paths[-1].read_bytes())
            content[rng.randrange(len(content) // 4, len(content) // 2)] ^= 1 << rng.randrange(8)
            paths[-1].write_bytes(content)
            return 1
    return 0


def children(pid: int) -> list[int]:
    """Worker processes of a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                words = (path.parent / "cmdline").read_bytes()
                found += [int(path.parent.name)] if b"spawn_main" in words else []
    return found


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    multiprocessing.set_start_method("fork")
    for module in HEAVY:
        __import__(module)
    work, totals = Path(tempfile.mkdtemp()), dict[str, Any]()
    kills, same = Kills(work), 0
    for number in range(asked.first, asked.first + asked.runs):
        count, damaged, other = kills.run(number)
        same += not other
        totals["kills"] = totals.get("kills", 0) + count
        totals["damaged checkpoints"] = totals.get("damaged checkpoints", 0) + damaged
        words = f"differs: {other[:3]}" if other else "the same"
        print(f"run {number}: {1 + number % 2} workers, {count} kills, {damaged} damaged: {words}", flush=True)
    print(f"{same} of {asked.runs} runs end bit for bit as an unbroken one; {totals}")
    shutil.rmtree(work)
    sys.exit(same != asked.runs)


if __name__ == "__main__":
    main()
