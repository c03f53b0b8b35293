"""Several jobs at once: which is next, what to do when one fails, and how it is shown."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.errors import Interrupted, UnderstudyError
from understudy.runtime.checkpoints import StopRequest
from understudy.study.engine.display import Display, Line, Overall, remaining
from understudy.study.engine.failures import AGAIN, LOST_RETRIES, RETRIES
from understudy.study.engine.jobs import Job, StageFunction, job_folder, read_done
from understudy.study.engine.leases import free_devices, gpus
from understudy.study.engine.schedule import longest_after, width
from understudy.study.engine.status import heartbeat
from understudy.study.engine.workers import Outcome, Task, Worker, next_outcomes

if TYPE_CHECKING:
    from understudy.study.engine.run import Clock, RunResult

WORTH = 30.0  # seconds of work left below which starting processes costs more than it saves
MEMORY = 3 << 30  # bytes that a worker on a CPU may need


def worker_count(asked: int | None, jobs: Sequence[Job], device: str, devices: int) -> tuple[int, list[str]]:
    """How many workers, and the GPUs that they lease; 1 is the run's own process.

    Args:
        asked: by the user; None: one a GPU, or one a core where there is work for it.
        jobs: that are left.
        device: "auto", "cpu", "cuda", ...
        devices: that one training is spread over; more than 1 leaves nothing to share.

    Raises:
        UnderstudyError: more workers than free GPUs.
    """
    if devices > 1 or asked == 1 or not jobs:
        return 1, []
    all_gpus = gpus() if device in ("auto", "cuda") else []
    if all_gpus:
        free = free_devices(all_gpus)
        if not free or (asked or 0) > len(free):
            raise UnderstudyError(
                f"{len(free)} of {len(all_gpus)} GPUs are free; other runs of Understudy have leased the rest",
                where="this machine",
                fix="wait for the other run, use --workers with a smaller number, or --device cpu",
            )
        return (asked or len(free)), free
    if asked is not None:
        return asked, []
    if sum(job.seconds for job in jobs) < WORTH or device not in ("auto", "cpu"):
        return 1, []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(1, min(cores(), width(jobs), memory // MEMORY)), []


def likely_workers(jobs: Sequence[Job], device: str) -> int:
    """How many workers a run that is not told would take, were all GPUs free."""
    all_gpus = gpus() if device in ("auto", "cuda") else []
    return len(all_gpus) or worker_count(None, jobs, "cpu" if device == "auto" else device, 1)[0]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Runs jobs by several workers; `result` is filled in.

    Args:
        jobs: in an order in which each stands after its inputs.
        count: of workers.
        minutes: that a job may take; None for no limit.
        devices: that a generator's training is spread over.
    """

    def __init__(
        self, jobs: Sequence[Job], by_id: Mapping[str, Job], stages: Mapping[str, StageFunction],
        result: RunResult, clock: Clock, device: str, count: int, gpus: Sequence[str],
        minutes: float | None = None, devices: int = 1,
    ) -> None:  # fmt: skip
        self.result, self.clock, self.count = result, clock, count
        self.number = {job.id: n for n, job in enumerate(jobs, start=1)}
        threads = max(1, cores() // count) if count > 1 else None  # alone: as in the run's own process
        self.task = Task(dict(by_id), result.out, dict(stages), device, threads, tuple(gpus), minutes, devices)
        self.priority = longest_after(jobs)
        self.done = {job.id for job in jobs if read_done(job_folder(result.out, job)) is not None}
        result.reused += [job for job in jobs if job.id in self.done]
        self.waiting = [job for job in jobs if job.id not in self.done]
        self.tries: dict[str, int] = {}
        self.alone: set[str] = set()  # ids of jobs that ran out of memory beside others
        self.workers: list[Worker] = []
        self.full = False  # the disk

    def run(self) -> None:
        """Until nothing is left that can be done.

        Raises:
            Interrupted: SIGTERM or SIGINT; the workers have written their checkpoints.
        """
        with StopRequest() as stop, Display(self.clock.console) as display:
            try:
                while not stop.requested:
                    self._give_out()
                    if not self._busy:
                        break
                    for worker, outcome in next_outcomes(self.workers, 0.5):
                        self._take(worker, outcome)
                    for worker in self._busy:
                        worker.end_if_stuck()
                    if display.due:
                        self._show(display)
                if stop.requested:
                    self._stop_all()
                    raise Interrupted("stopped; the workers have saved their state")
            finally:
                self._stop_all()
        self.result.blocked += self.waiting

    def _show(self, display: Display) -> None:
        now, lines = time.monotonic(), []
        for worker in sorted(self._busy, key=lambda w: w.number):
            if worker.job is not None:
                told = heartbeat(job_folder(self.result.out, worker.job)).get("progress") or {}
                lines.append(Line(worker.number, worker.job.name, now - worker.since, told))
        left = remaining(self.clock.left(), lines, min(self.count, max(1, len(lines))))
        done = len(self.result.done) + len(self.result.reused)
        display.show(lines, Overall(done, self.clock.total, len(self.result.failed), left))

    @property
    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _ready(self) -> list[Job]:
        """Jobs whose inputs are done, the one with the longest chain behind it first."""
        ready = [job for job in self.waiting if all(i in self.done for _, i in job.inputs)]
        return sorted(ready, key=lambda job: (-self.priority[job.id], self.number[job.id]))

    def _give_out(self) -> None:
        if self.full:
            return
        for job in self._ready():
            running = [worker.job.id for worker in self._busy if worker.job]
            if len(running) >= self.count or (running and self.alone & {job.id, *running}):
                return
            worker = self._idle()
            self.waiting.remove(job)
            self.tries[job.id] = self.tries.get(job.id, 0) + 1
            self.clock.announce(self.number[job.id], job, self.count)
            worker.start(job)

    def _idle(self) -> Worker:
        self.workers = [w for w in self.workers if w.job is not None or w.alive]
        free = [worker for worker in self.workers if worker.job is None]
        if free:
            return free[0]
        number = min(set(range(1, self.count + 1)) - {w.number for w in self.workers})
        self.workers.append(Worker(self.task, number, self.clock.tell))
        return self.workers[-1]

    def _take(self, worker: Worker, outcome: Outcome) -> None:
        job = outcome.job
        if outcome.done is not None:
            self.done.add(job.id)
            self.result.done.append(job)
            self.clock.finished(job, outcome.done)
            return
        if outcome.interrupted:  # by somebody else's signal
            self.waiting.append(job)
            if self.tries[job.id] <= LOST_RETRIES:
                return
            self.waiting.remove(job)
            outcome = Outcome(job, None, "error", "the job was stopped by a signal twice")
        allowed = LOST_RETRIES if outcome.failure == "lost" else RETRIES.get(outcome.failure, 0)
        if self.tries[job.id] <= allowed:
            then = AGAIN.get(outcome.failure, "it is tried again")
            self.clock.say(f"{job.name}: {outcome.message.splitlines()[0]}; {then}")
            if outcome.failure == "out_of_memory":
                self.alone.add(job.id)
            self.waiting.append(job)
            return
        self.clock.failed(job, outcome.failure, outcome.message)
        self.result.failed.append((job, outcome.message))
        if outcome.failure == "disk":
            self.full = True
            for other in self._busy:
                other.stop()

    def _stop_all(self) -> None:
        """Checkpoints of all that are busy, and the end of all."""
        for worker in self.workers:
            worker.stop()
        for worker in self.workers:
            if worker.job is not None:
                outcome = worker.outcome()
                if outcome.done is not None:  # it finished before the signal
                    self.result.done.append(outcome.job)
            worker.connection.close()
            worker.process.join()
        self.workers = []


PartialReport = Callable[[Path], tuple[Path, str]]
