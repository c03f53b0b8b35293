"""Processes that do jobs: each lives for many, so that PyTorch is imported once, and ends with the run.

A worker does what `run_job` does in the run's own process. It is in a process group of its own, so that Ctrl-C in a
terminal reaches only the run, which then asks for checkpoints; and it watches the run, so that it also writes its
checkpoint, leaves and frees its locks when the run was killed without a chance to say so.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from understudy.errors import Interrupted
from understudy.study.engine.failures import STUCK, Killed, LostWorker, TimeLimit, failure_class, oom_kills
from understudy.study.engine.jobs import Job, StageFunction, job_folder, next_attempt, record_failure, run_job, told
from understudy.study.engine.leases import leased

START = 600.0  # seconds after which a process that has not begun its job is killed, where jobs have a limit
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """What a worker needs to know once.

    Attributes:
        jobs: of the plan, by id.
        out: folder of the study's results.
        stages: stage name -> function; functions of modules, which another process can import.
        device: "auto", "cpu", "cuda", ...
        threads: that a worker computes with; None: as the environment or PyTorch says.
        gpus: of which each worker leases one; () on a CPU.
        minutes: that a job may take; None for no limit.
        devices: that a generator's training is spread over.
    """

    jobs: Mapping[str, Job]
    out: Path
    stages: Mapping[str, StageFunction]
    device: str = "auto"
    threads: int | None = 1
    gpus: Sequence[str] = ()
    minutes: float | None = None
    devices: int = 1


@dataclass(frozen=True)
class Outcome:
    """What became of a job in a worker: its `done.json`, or the class and text of its failure."""

    job: Job
    done: dict[str, Any] | None = None
    failure: str = ""
    message: str = ""
    interrupted: bool = False


class Worker:
    """A process that does one job at a time.

    Args:
        tell: is given each line that it writes to its standard error: a warning, or the last words of a library.
    """

    def __init__(self, task: Task, number: int, tell: Callable[[str], None]) -> None:
        self.task, self.number = task, number
        self.job: Job | None = None
        self.since = 0.0
        self._begun = False  # its job, rather than starting
        self._kills = oom_kills()
        self._attempt = 1  # at its job
        self._asked = False  # to leave
        self._stuck: float | None = None  # minutes that its last job was allowed
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        words, said = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(target=_work, args=(task, theirs, said), daemon=False)
        with _few_threads(task.threads):
            self.process.start()
        theirs.close()
        said.close()
        threading.Thread(target=_pass_on, args=(words, f"worker {number}", tell), daemon=True).start()

    def start(self, job: Job) -> None:
        """Gives it a job; a process that is gone is found out by `outcome`."""
        self.job, self.since, self._kills, self._begun = job, time.monotonic(), oom_kills(), False
        self._attempt = next_attempt(job_folder(self.task.out, job))
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(job.id)

    def outcome(self) -> Outcome:
        """Waits for what it reports, or gives that it is lost."""
        while (told := self.listen()) is None:
            pass
        return told

    def listen(self) -> Outcome | None:
        """What it reports, or that it is lost; None if it only says that it has begun."""
        job = self.job
        assert job is not None
        try:
            told: Outcome | None = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            told = self._lost(job)
        if told is None:
            self._begun, self.since = True, time.monotonic()
        else:
            self.job = None
        return told

    def end_if_stuck(self) -> None:
        """Kills the process of a job that is past its time limit and did not leave when it was asked to."""
        minutes = self.task.minutes
        if self.job is None or minutes is None or self._stuck is not None:
            return
        if time.monotonic() - self.since > (60 * minutes + STUCK if self._begun else START):
            self._stuck = minutes
            self._kill()

    def _kill(self) -> None:
        """Ends the process and those that it has started for several devices."""
        assert self.process.pid is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not yet begun, and so is in the run's own group
            self.process.kill()

    def _lost(self, job: Job) -> Outcome:
        """Records that the process ended in the middle of a job."""
        if self._stuck is not None:
            return self._failed(job, TimeLimit(self._stuck))
        memory = oom_kills() > self._kills
        status = self.process.exitcode or 0
        if self._asked and status == -signal.SIGTERM:  # it had not begun when it was asked to leave
            return Outcome(job, interrupted=True)
        ended = signal.Signals(-status).name if status < 0 else f"status {status}"
        text = f"the process that ran the job ended without a word ({ended})" + (
            ": the system was out of memory" if memory else ""
        )
        return self._failed(job, (Killed if memory else LostWorker)(text))

    def _failed(self, job: Job, error: Exception) -> Outcome:
        """Records on the process's behalf what ended it."""
        folder = job_folder(self.task.out, job)
        record_failure(folder, job, error, self._attempt)
        kind = "lost" if type(error) is LostWorker else failure_class(error, job.stage)
        return Outcome(job, failure=kind, message=str(error))

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self.process.is_alive()

    def stop(self) -> None:
        """Asks for a checkpoint and the end; the second time it ends at once."""
        if self.job is None:
            self.connection.close()
        elif self.process.pid is not None and self.process.is_alive():
            self._asked = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)


def next_outcomes(workers: Sequence[Worker], seconds: float) -> list[tuple[Worker, Outcome]]:
    """What busy workers have reported, or lost ones have not; waits for at most so long."""
    busy = {worker.connection: worker for worker in workers if worker.job is not None}
    ready = wait(list(busy), seconds)
    told = [(busy[c], busy[c].listen()) for c in ready if isinstance(c, Connection)]
    return [(worker, outcome) for worker, outcome in told if outcome is not None]


@contextlib.contextmanager
def _few_threads(count: int | None) -> Iterator[None]:
    """Inside the block the environment limits the threads of processes that start; None: as it is."""
    if count is None:
        yield
        return
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _pass_on(words: Connection, who: str, tell: Callable[[str], None]) -> None:
    """Tells whole lines as they come, so that several workers and a display do not write into each other."""
    with words, open(words.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines:
        for line in lines:
            tell(f"{who}: {line.rstrip()}")


def _work(task: Task, connection: Connection, said: Connection) -> None:
    """The life of a worker: jobs until the pipe is closed."""
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(said.fileno(), stream)
    said.close()
    with leased(task.gpus) as gpu:
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        elif task.gpus:
            return  # another run was faster; without a lease it would compute on that run's GPU
        threading.Thread(target=_leave_with_the_run, daemon=True).start()
        if task.threads is not None:
            import torch

            torch.set_num_threads(task.threads)
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while True:
                job = task.jobs[connection.recv()]
                connection.send(None)  # it has begun
                outcome = _do(task, job)
                connection.send(outcome)
                if outcome.interrupted:
                    return


def _do(task: Task, job: Job) -> Outcome:
    try:
        return Outcome(job, _run(task, job))
    except Interrupted:
        return Outcome(job, interrupted=True)
    except Exception as error:  # told to the run, and recorded in failed.json
        kind = failure_class(error, job.stage)
        return Outcome(job, None, kind, told(error, job_folder(task.out, job)))


def _run(task: Task, job: Job) -> dict[str, Any]:
    return run_job(job, task.jobs, task.out, task.stages, task.device, False, task.devices, minutes=task.minutes)


def _leave_with_the_run() -> None:
    """Sends this process SIGTERM, which is a checkpoint and the end, once the run is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
