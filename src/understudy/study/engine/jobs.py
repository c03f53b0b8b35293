"""What a job is, its id, and what the files in its folder say about it.

A job's folder is `OUT/jobs/<stage>-<first 12 digits of its id>/`. It holds `spec.json`, whatever the stage writes,
`heartbeat.json` while it runs, `failed.json` if it failed, and last of all `done.json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

import understudy
from understudy.errors import UnderstudyError
from understudy.io.files import read_json, sha256_json, writing
from understudy.io.locks import held_lock
from understudy.study.registry import STAGES

_PAGE_SOURCES = ("report", "metrics", "study/stages/report.py")  # below the package

# How often something is written: changing these redoes nothing.
_INTERVALS = {"checkpoint_seconds", "checkpoints_kept", "snapshot_kimg", "tensorboard"}

State = Literal["done", "running", "failed", "waiting"]


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
        inputs = [list(entry) for entry in self.inputs]
        return sha256_json({"stage": self.stage, "version": self.version, "spec": self.spec, "inputs": inputs})

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


StageFunction = Callable[[Context], dict[str, Any]]
"""Does the work in `context.folder` and returns plain JSON results: the job's summary, free of paths and hosts."""


def job_of(stage: str, name: str, spec: dict[str, Any], inputs: list[tuple[str, str]], **local: Any) -> Job:
    """A job of the stage's present version."""
    return Job(stage, name, spec, tuple(inputs), STAGES[stage].version or pages_version(), local)


@functools.cache
def pages_version() -> int:
    """A number that changes with any file that pages are made by: code, templates, the paper's tables."""
    root = Path(understudy.__file__).parent
    places = [root / name for name in _PAGE_SOURCES]
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place])]
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return int(digest.hexdigest()[:8], 16)


def training_spec(training: BaseModel, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training with its seed, and apart from it the intervals that do not change its result."""
    spec = {**training.model_dump(mode="json"), "seed": seed}
    return spec, {name: spec.pop(name) for name in sorted(_INTERVALS & spec.keys())}


def plain_name(name: str) -> str:
    """A job's name without that of its cohort: "generator stylegan2" of "brats2020: generator stylegan2"."""
    return name.split(": ", 1)[-1]


def folder_name(stage: str, job_id: str) -> str:
    """Name of a job's folder below `OUT/jobs`."""
    return f"{stage}-{job_id[:12]}"


def job_folder(out: str | Path, job: Job) -> Path:
    """The folder of a job."""
    return Path(out) / "jobs" / job.folder_name


def find_job(jobs: Sequence[Job], prefix: str, where: str) -> Job:
    """The job whose id starts with `prefix`, or whose folder has this name.

    Raises:
        UnderstudyError: none, or more than one.
    """
    found = [job for job in jobs if job.id.startswith(prefix) or job.folder_name == prefix]
    if len(found) != 1 or not prefix:
        known = ", ".join(f"{job.id[:12]} ({job.name})" for job in (found or jobs)[:20])
        count = "no job" if not found else "more than one job"
        raise UnderstudyError(f"{count} has an id that starts with {prefix!r}", where=where, fix=f"use one of {known}")
    return found[0]


def saved_jobs(out: str | Path) -> list[Job]:
    """The jobs as they were planned when the study was last run.

    Raises:
        UnderstudyError: the folder holds no plan.
    """
    jobs = []
    for entry in read_json(Path(out) / "plan.json", dict)["jobs"]:
        fields = {name: value for name, value in entry.items() if name != "id"}
        jobs.append(Job(**{**fields, "inputs": tuple(tuple(pair) for pair in fields["inputs"])}))
    return jobs


def read_done(folder: Path) -> dict[str, Any] | None:
    """The content of `done.json`; None if the job is not done."""
    path = folder / "done.json"
    return read_json(path) if path.is_file() else None


def read_quietly(path: Path) -> dict[str, Any]:
    """A JSON file of a job that may be starting or being killed; {} if it is not there or not whole."""
    try:
        return dict(read_json(path))
    except UnderstudyError:
        return {}


def read_failed(folder: Path) -> dict[str, Any]:
    """The content of `failed.json`; {} if the job has not failed, or the file is not whole."""
    return read_quietly(folder / "failed.json")


def state_of(folder: Path) -> State:
    """What the files of a job say about it; "waiting" also for one that was interrupted."""
    if (folder / "done.json").is_file():
        return "done"
    if is_locked(folder):
        return "running"
    return "failed" if (folder / "failed.json").is_file() else "waiting"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder; the kernel frees it when the process ends, however it ends.

    Raises:
        UnderstudyError: another process holds it; no permission, disk full.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    problem, fix = "another process is working here ({holder})", "wait for it; `understudy status` shows its progress"
    with held_lock(folder / "lock", f"on {platform.node()}", problem, fix):
        yield


def is_locked(folder: Path) -> bool:
    """Whether a live process holds the lock of a folder."""
    try:
        with open(folder / "lock", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
