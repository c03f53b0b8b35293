"""What a job is, its id, and what the files in its folder say about it.

A job's folder is `OUT/jobs/<stage>-<first 12 digits of its id>/`. It holds `spec.json`, whatever the stage writes,
`heartbeat.json` while it runs, `failed.json` if it failed, and last of all `done.json`, which seals it (`io.seals`).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

import understudy
from understudy.errors import UnderstudyError
from understudy.generators.folder import UNTRACED
from understudy.io.files import held_lock, read_json, sha256_json, writing
from understudy.io.seals import DONE, Damaged, check_seal, damage, read_done
from understudy.runtime.lazy import pandas as pd
from understudy.study.registry import STAGES

State = Literal["done", "running", "stopped", "failed", "waiting", "damaged"]


_ORPHAN = re.compile(r"\..+\.\d+\.tmp")  # name, number of the process


@dataclass(frozen=True)
class Job:
    """A unit of work whose identity is what it does to what."""

    stage: str  # key of the stage's function, e.g. "generator"
    name: str  # for people, e.g. "segmenter real.unet.aug, repeat 2"
    spec: dict[str, Any]  # plain JSON values that the result depends on
    inputs: tuple[tuple[str, str], ...] = ()  # (role, job id) of the jobs whose results it reads
    version: int = 1  # of the stage's code
    local: dict[str, Any] = field(default_factory=dict)  # what the result does not depend on (paths, workers)
    seconds: float = 0.0  # estimated
    disk_bytes: float = 0.0  # estimated

    @functools.cached_property
    def id(self) -> str:
        """SHA-256 (hex) of stage, code version, spec and inputs."""
        parts = {"stage": self.stage, "version": self.version, "spec": self.spec}
        return sha256_json(parts | {"inputs": [list(entry) for entry in self.inputs]})

    @property
    def folder_name(self) -> str:
        """Name of its folder below `OUT/jobs`."""
        return folder_name(self.stage, self.id)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `Job(**value)` without "id" gives the job back."""
        return {"id": self.id, **asdict(self)}


@dataclass(frozen=True)
class Context:
    """What a stage's function is given."""

    folder: Path  # of the job; everything it writes goes here
    spec: dict[str, Any]  # as in `Job`
    local: dict[str, Any]
    inputs: dict[str, list[Path]]  # role -> folders of the finished jobs in that role
    device: str = "auto"
    progress: bool = True  # show progress bars
    devices: int = 1  # on each of so many `nodes`, for stages that are data parallel
    nodes: int = 1

    def input(self, role: str) -> Path:
        """The folder of the one job in a role."""
        (folder,) = self.inputs[role]
        return folder


# Does the work in `context.folder` and returns plain JSON results: the job's summary, free of paths and hosts.
StageFunction = Callable[[Context], dict[str, Any]]


def job_of(stage: str, name: str, spec: dict[str, Any], inputs: list[tuple[str, str]], **local: Any) -> Job:
    """A job of a stage's present version."""
    return Job(stage, name, spec, tuple(inputs), STAGES[stage].version or pages_version(), local)


@functools.cache
def pages_version() -> int:
    """A number that changes with any file that pages are made by: code, templates, the paper's tables."""
    root = Path(understudy.__file__).parent
    files = [root / "study/stages/report.py", *(root / "report").rglob("*"), *(root / "metrics").rglob("*")]
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return int(digest.hexdigest()[:8], 16)


def training_spec(training: BaseModel, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training with its seed, and apart from it how often something is written, which does not change its result."""
    spec = {**training.model_dump(mode="json"), "seed": seed}
    apart = UNTRACED - {"keep_weights_kimg"}  # other jobs sample the weights that are kept
    return spec, {name: spec.pop(name) for name in sorted(apart & spec.keys())}


def plain_name(name: str) -> str:
    """A job's name without that of its cohort: "generator stylegan2" of "brats2020: generator stylegan2"."""
    return name.split(": ", 1)[-1]


def folder_name(stage: str, job_id: str) -> str:
    """Name of a job's folder below `OUT/jobs`."""
    return f"{stage}-{job_id[:12]}"


def job_folder(out: str | Path, job: Job) -> Path:
    """A job's folder."""
    return Path(out) / "jobs" / job.folder_name


def find_job(jobs: Sequence[Job], prefix: str, where: str) -> Job:
    """The job whose id starts with `prefix`, or whose folder has this name; an error if there is not exactly one."""
    found = [job for job in jobs if job.id.startswith(prefix) or job.folder_name == prefix]
    if len(found) != 1 or not prefix:
        known = ", ".join(f"{job.id[:12]} ({job.name})" for job in (found or jobs)[:20])
        count = "no job" if not found else "more than one job"
        raise UnderstudyError(f"{count} has an id that starts with {prefix!r}", where=where, fix=f"use one of {known}")
    return found[0]


def saved_jobs(out: str | Path) -> list[Job]:
    """The jobs as they were planned when the study was last run; an error if the folder holds no plan."""
    jobs, path = [], Path(out) / "plan.json"
    again = "run the study again, which writes it anew: understudy run STUDY"
    planned = read_json(path, dict)
    check_seal(planned, path, again)
    stamp = read_quietly(path.with_name("study.json"))
    if stamp and stamp.get("hash") != planned["study"]:
        raise Damaged("the plan is that of another study, or of this one before it was changed", path, again)
    for fields in planned["jobs"]:
        del fields["id"]
        jobs.append(Job(**{**fields, "inputs": tuple(tuple(pair) for pair in fields["inputs"])}))
    return jobs


def not_done(jobs: Iterable[Job], out: str | Path) -> list[Job]:
    """Those of the jobs that are left to do."""
    return [job for job in jobs if read_done(job_folder(out, job)) is None]


def read_quietly(path: Path) -> dict[str, Any]:
    """A JSON file of a job that may be starting or being killed; {} if it is not there or not whole."""
    try:
        return dict(read_json(path, dict))
    except UnderstudyError:
        return {}


def read_failed(folder: Path) -> dict[str, Any]:
    """The content of `failed.json`, without fields of another type; {} if there is none, or it is not whole."""
    kinds: dict[str, type] = {"attempts": int, "class": str, "message": str}
    found = read_quietly(folder / "failed.json")
    return {name: value for name, value in found.items() if isinstance(value, kinds.get(name, object))}


def state_of(folder: Path) -> State:
    """What the files of a job say about it."""
    if os.path.lexists(folder / DONE):
        return "done"
    if is_locked(folder):
        return "running"
    if (folder / "failed.json").is_file():
        return "failed"
    if (folder / "heartbeat.json").is_file():
        return "stopped"
    return "damaged" if (folder / "spec.json").is_file() else "waiting"  # done.json was deleted


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder; the kernel frees it when the process ends. An error if another process holds it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    problem, fix = "another process is working here ({holder})", "wait for it; `understudy status` shows its progress"
    with held_lock(folder / "lock", f"on {platform.node()}", problem, fix):
        yield


def sweep(folder: Path) -> None:
    """Deletes what killed processes left of `atomic_path` and of a repair; hold the folder's lock.

    What lies in jobs below it is left to those, which have locks of their own.
    """
    for path, folders, names in os.walk(folder):
        for name in filter(_ORPHAN.fullmatch, names):
            Path(path, name).unlink(missing_ok=True)
        for name in filter(_ORPHAN.fullmatch, folders):
            shutil.rmtree(Path(path, name), ignore_errors=True)
        if Path(path) == folder / "jobs":
            folders.clear()


def is_locked(folder: Path) -> bool:
    """Whether a live process holds the lock of a folder."""
    try:
        with open(folder / "lock", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


def study_status(out: str | Path, verify: bool = False) -> pd.DataFrame:
    """The jobs of the study in a folder, in their order, from its files; `verify`: every file of finished jobs is read.

    `seconds` so far, restarts included; `estimate` in seconds; `detail` is a training's last figures or an error's
    first line; `failure` and `message` are class and text of a failed job's error; `memory` is what was computed in
    smaller parts because memory ran out. An error if the folder holds no study.
    """
    out = Path(out)
    if not (out / "plan.json").is_file():
        fix = "give the folder that `understudy run` made"
        raise UnderstudyError("no study was run in this folder", where=out.absolute(), fix=fix)
    rows = []
    for job in saved_jobs(out):
        folder = job_folder(out, job)
        state, wrong, done = state_of(folder), "", None
        try:
            done = read_done(folder)
            wrong = "done.json is missing" if state == "damaged" else damage(folder) if verify else ""
        except Damaged as error:
            wrong = error.what
        failed = read_failed(folder) if state == "failed" else {}
        account = done or read_quietly(folder / "heartbeat.json")
        state, detail = "damaged" if wrong else state, wrong or str(failed.get("message", "")).split("\n")[0]
        if state == "running":
            detail = _training_figures(folder, account.get("progress"))
        elif state == "stopped":
            share, figures = _share(account.get("progress") or {}), _training_figures(folder, None)
            detail = ", ".join(words for words in (share and f"at{share}", figures) if words)
        rows.append({
            "stage": job.stage, "id": job.id, "name": job.name, "state": state, "seconds": account.get("seconds"),
            "estimate": job.seconds, "peak_rss_mb": account.get("peak_rss_mb"), "restarts": account.get("restarts"),
            "detail": detail, "failure": failed.get("class", "error") if failed else "",
            "message": failed.get("message", ""), "memory": memory_words(account),
        })  # fmt: skip
    return pd.DataFrame(rows)


def memory_words(done: dict[str, Any]) -> str:
    """What a job computed in smaller parts because memory ran out, from its `done.json`; "" for nothing."""
    return "; ".join(f"{what}: {how}" for what, how in done.get("memory", {}).items())


def _share(progress: dict[str, Any]) -> str:
    """Of a heartbeat's progress: " 45 %", or ""."""
    return f" {100 * progress['done'] / progress['total']:.0f} %" if progress.get("total") else ""


def _training_figures(folder: Path, progress: dict[str, Any] | None) -> str:
    """Of a heartbeat, e.g. "training generator 45 %, 109 images/s, loss_d 0.5"; else the last line of its history."""
    if progress:
        share = _share(progress)
        rate = f"{progress['rate']:.3g} {progress['unit']}/s"
        return ", ".join(words for words in (f"{progress['what']}{share}", rate, progress.get("figures", "")) if words)
    for history in sorted(folder.rglob("history.jsonl"))[:1]:
        with open(history, "rb") as handle:
            handle.seek(max(0, handle.seek(0, 2) - 4096))
            lines = handle.read().split(b"\n")[:-1]  # the whole ones
        with contextlib.suppress(
            ValueError, AttributeError
        ):  # a damaged line: written anew from the checkpoint by the next run
            shown = list(json.loads(lines[-1] if lines else b"{}").items())[:4]
            return ", ".join(f"{name} {value:.4g}" for name, value in shown if isinstance(value, int | float))
    return ""
