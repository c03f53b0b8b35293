"""Files of a finished study, damaged one at a time: each command then notices, or gives what it gave before.

    python benchmarks/corruption.py --count 500 [--only 17] [--keep FOLDER]

Every case is made from its number alone: a file, one of four kinds of damage (cut off, deleted, one byte flipped, the
content of another file of this kind) and a command: `run` as it is; `run` after a job that reads the damaged one was
thrown away; `report`, `status --verify`, `run --repair`, and where the file has to do with it `audit`, `release` and
`segment`. A case is *noticed* if the command ends with an error of ours (of `run --repair`: if all is as before),
*unaffected* if all results are those of the undamaged study, else it is *wrong*; a traceback counts as *crash*. Prints
a table, and exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

STUDY = """
name: corruption
phantom: {patients: 10, shape: [32, 32, 20], sites: 2}
slices: {resolution: 32, scaling: robust, rule_intensity: 20}
split: {test_patients: 4, validation_fraction: 0.25}
generators:
  g:
    model: {kind: stylegan2, z_dim: 16, w_dim: 16, mapping_layers: 2, channel_base: 128, channel_max: 8}
    training: {kimg: 0.1, batch: 8, tick_kimg: 0.05}
    samples: 120
segmenters:
  unet:
    model: {width: 4}
    training: {samples: 96, batch: 8, validations: 1}
trainings: [real, synthetic]
quality: {}
"""
TEXT = ("title", "version", "description", "publisher", "contact", "licence", "approval", "purpose", "forbidden_uses")
ABOUT = dict.fromkeys((*TEXT, "known_defects", "maintenance"), "drawn heads, a trial") | {
    "short_name": "heads",
    "creators": ["A. Person"],
    "sources": ["phantoms"],
    "source_terms_allow_release": True,
}
KINDS = ("cut off", "deleted", "flipped", "swapped")
SECONDS = 300.0  # more is a hang
HEAVY = (
    "understudy.study.engine.run", "understudy.study.engine.estimate", "understudy.study.stages.segmenter",
    "understudy.study.stages.report", "understudy.generators.sample", "understudy.generators.training.loop",
    "understudy.memorization.perform", "understudy.quality.measure", "understudy.report.page", "understudy.cli.study",
    "understudy.release.package", "understudy.study.segment", "understudy.segmenters.train",
)  # fmt: skip


def start(words: list[str], log: Path) -> BaseProcess:
    """A command in a process that has imported everything already."""
    process = multiprocessing.get_context("fork").Process(target=_command, args=(words, log))
    process.start()
    return process


def command(words: list[str], log: Path) -> int | None:
    """The exit status of a command; None if it hung."""
    process = start(words, log)
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _command(words: list[str], log: Path) -> None:
    from understudy import cli

    with open(log, "w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    sys.argv = ["understudy", *words]
    cli.main()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The values of a JSON file by where they stand."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in pairs for k, v in leaves(inner, f"{name}/{key}").items()}
    return {name: value}


def found(places: list[Path], root: Path) -> dict[str, Any]:
    """What lies below these places: hashes of files, values of JSON files."""
    contents: dict[str, Any] = {}
    for path in sorted(p for place in places for p in ([place] if place.is_file() else place.rglob("*"))):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or path.name in ("lock", "published.json", "plan.json", "error.log", "failed.json"):
            continue
        if path.suffix == ".json":
            held = json.loads(path.read_text())
            if path.name == "done.json":
                held.pop("files", None)  # which are compared themselves; some hold times, of more or fewer digits
            contents |= leaves(held, name)
        else:
            contents[name] = sha256(path)
    return contents


class Attack:
    """A finished study that is damaged and used."""

    def __init__(self, work: Path) -> None:
        self.work, self.whole, self.out, self.log = work, work / "whole", work / "out", work / "log"
        (work / "study.yaml").write_text(STUDY)
        self.run = ["run", str(work / "study.yaml"), "--out", str(self.out), "--workers", "1", "-q", "--device", "cpu"]
        if not self.whole.is_dir():
            assert command(self.run, self.log) == 0, self.log.read_text()
            shutil.copytree(self.out, self.whole)
        self.fresh()
        self.jobs = {p.parent.name: json.loads(p.read_text()) for p in self.out.glob("jobs/*/spec.json")}
        self.files = sorted(p.relative_to(self.out) for p in self.out.rglob("*") if p.is_file() and p.name != "lock")
        patient = next((self.whole / "jobs").glob("phantom-*/phantoms/*/")).name
        self.patient = shutil.copytree(
            next((self.whole / "jobs").glob(f"phantom-*/phantoms/{patient}")), work / patient, dirs_exist_ok=True
        )
        self.forms()
        self.known: dict[str, dict[str, Any]] = {}

    def forms(self) -> None:
        """About and decision of a release."""
        today = time.strftime("%Y-%m-%d")
        limits = {"quantile": 0.99, "before_looking": True, "most_flagged": 1.0, "most_auc": 1.0, "set_on": today}
        decision = {"by": {"name": "B. Other", "role": "steward"}, "thresholds": limits, "date": today}
        decision |= {"decision": "approve_with_removal"}
        (self.work / "about.yaml").write_text(json.dumps(ABOUT))
        (self.work / "decision.yaml").write_text(json.dumps(decision))

    def folder(self, stage: str) -> Path:
        return next((self.out / "jobs").glob(f"{stage}-*"))

    def readers(self, job: str) -> list[str]:
        """Folders of jobs that read a job's results."""
        mine = self.jobs[job]["id"]
        return [name for name, spec in self.jobs.items() if mine in dict(map(reversed, spec["inputs"]))]

    def commands(self, file: Path) -> list[tuple[str, str]]:
        """Commands that may read a file, each with the job that is thrown away before."""
        job = file.parts[1] if file.parts[0] == "jobs" else ""
        named = [("run", ""), ("report", ""), ("status", ""), ("repair", "")]
        named += [("redo", reader) for reader in self.readers(job)] if job else []
        if file.parts[0] == "features":
            named += [("redo", self.folder("quality").name)] * 3
        stage = job.split("-")[0]
        named += [("audit", "")] * 2 if stage in ("prepare", "sample") else []
        named += [("release", "")] * 2 if stage in ("audit", "prepare", "sample") else []
        return named + ([("segment", "")] * 3 if stage == "segmenter" else [])

    def do(self, name: str, thrown: str, job: str) -> tuple[int | None, list[Path]]:
        """Runs a command; gives its exit status and where its results lie."""
        jobs, made = self.out / "jobs", self.work / "made"
        shutil.rmtree(made, ignore_errors=True)
        made.with_name("made.ids.csv").unlink(missing_ok=True)  # the map of a release
        published = [self.out / "scores.parquet", self.out / "report.json", self.out / "tables"]
        if name == "redo":
            shutil.rmtree(jobs / thrown)
        if name in ("run", "redo"):
            return command(self.run, self.log), [*published, *([jobs / thrown] if thrown else [])]
        if name == "repair":
            status = command([*self.run, "--repair"], self.log)
            return status, [p for p in sorted(jobs.iterdir()) if not p.name.startswith(("report", "."))]
        if name == "report":
            return command(["report", str(self.out)], self.log), published
        if name == "status":
            return command(["status", str(self.out), "--verify"], self.log), []
        real, fake = self.folder("prepare") / "slices", self.folder("sample") / "slices"
        if name == "audit":
            words = ["audit", "--training", str(real), "--synthetic", str(fake), "-o", str(made), "-q"]
            status = command([*words, "--device", "cpu"], self.log)
            return (0 if status == 1 and not self.refused() else status), [made]  # 1: copies, or nothing can be said
        if name == "release":
            words = ["release", "slices", "--study", str(self.out), "--generator", "g", "-o", str(made), "-q"]
            words += ["--about", str(self.work / "about.yaml"), "--decision", str(self.work / "decision.yaml")]
            return command([*words, "--override", "a trial of it all", "--device", "cpu"], self.log), [made]
        words = ["segment", "--model", str(jobs / job), "--patient", str(self.patient), "--device", "cpu"]
        return command([*words, "-o", str(made / "labels.nii.gz")], self.log), [made]

    def refused(self) -> bool:
        return "error: " in self.log.read_text()

    def fresh(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.whole, self.out)

    def expected(self, name: str, thrown: str, job: str) -> dict[str, Any]:
        """What is the same whenever the undamaged study is used so."""
        key = f"{name} {thrown} {job if name == 'segment' else ''}"
        if key not in self.known:
            twice = []
            for _ in range(2):
                self.fresh()
                if name == "repair":  # of everything: times change
                    next(self.out.glob("jobs/phantom-*/phantoms/README.md")).unlink()
                status, places = self.do(name, thrown, job)
                assert status == 0, f"{key}: {status}: {self.log.read_text()}"
                twice.append(found(places, self.work))
            self.known[key] = {k: v for k, v in twice[0].items() if twice[1].get(k, "") == v}
        return self.known[key]

    def damage(self, file: Path, kind: str, rng: random.Random) -> None:
        path = self.out / file
        content = path.read_bytes()
        if kind == "deleted":
            path.unlink()
        elif kind == "cut off":
            path.write_bytes(content[: rng.randrange(len(content))] if content else b"")
        elif kind == "flipped":
            changed = bytearray(content or b"\0")
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
        else:
            others = [f for f in self.files if f.suffix == file.suffix and f != file]
            same = [f for f in others if f.name == file.name] or others or [f for f in self.files if f != file]
            path.write_bytes((self.whole / rng.choice(same)).read_bytes())

    def case(self, number: int) -> tuple[str, str, str, str]:
        """(command, kind, what became of it, words)."""
        rng = random.Random(number)
        groups: dict[tuple[str, str], list[Path]] = {}  # each kind of file is as likely as another
        for f in self.files:
            stage = f.parts[1].split("-")[0] if f.parts[0] == "jobs" else f.parts[0]
            what = "shard" if f.name.isdigit() else f.name if f.suffix == ".json" else f.suffix
            groups.setdefault((stage, what), []).append(f)
        file = rng.choice(groups[rng.choice(sorted(groups))])
        kind, (name, thrown) = rng.choice(KINDS), rng.choice(self.commands(file))
        job = file.parts[1] if file.parts[0] == "jobs" else ""
        expected = self.expected(name, thrown, job)
        self.fresh()
        before = (self.out / file).read_bytes()
        self.damage(file, kind, rng)
        same = (self.out / file).is_file() and (self.out / file).read_bytes() == before
        status, places = self.do(name, thrown, job)
        text, words = self.log.read_text(), f"{number}: {name} {thrown}: {file} {kind}"
        if status is None:
            return name, kind, "hang", words
        if "Traceback" in text or "unexpected" in text or status < 0:
            return name, kind, "crash", f"{words}: {text[-800:]}"
        if status != 0:
            noticed = self.refused() or (name == "status" and ("damaged" in text))
            return name, kind, "noticed" if noticed and not same else "crash", f"{words}: {text[-300:]}"
        try:
            after = found(places, self.work)
        except ValueError as error:
            return name, kind, "wrong", f"{words}: {error}"
        other = [k for k, v in expected.items() if after.get(k, "") != v]
        if name == "status" and not same and job and file.name != "done.json":
            return name, kind, "wrong", f"{words}: {text[-300:]}"
        return name, kind, "wrong" if other else "unaffected", f"{words}: {other[:4]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--keep", type=Path, help="work here, and leave it")
    asked = parser.parse_args()
    for module in HEAVY:
        __import__(module)
    work = asked.keep or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    attack, counts, bad = Attack(work), Counter[tuple[str, str]](), 0
    print(f"{len(attack.files)} files of {len(attack.jobs)} jobs")
    for number in [asked.only] if asked.only is not None else range(asked.first, asked.first + asked.count):
        name, kind, what, words = attack.case(number)
        counts[name, what] += 1
        counts[kind, what] += 1
        bad += what in ("wrong", "crash", "hang")
        if what not in ("noticed", "unaffected") or asked.only is not None:
            print(f"{what}: {words}", flush=True)
    shown = ("noticed", "unaffected", "wrong", "crash", "hang")
    print(f"\n| | {' | '.join(shown)} |\n| --- |{' ---: |' * len(shown)}")
    for row in [*dict.fromkeys(key for key, _ in counts)]:
        print(f"| {row} | {' | '.join(str(counts[row, what]) for what in shown)} |")
    if asked.keep is None:
        shutil.rmtree(work)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
