"""Which job runs next and is tried again (`Schedule`), and processes that each do many of them (`Pool`).

A worker is in a process group of its own, so that Ctrl-C in a terminal reaches only the run, which then asks for
checkpoints. It watches the run: when that is killed, the worker writes its checkpoint, leaves and frees its locks.
(`concurrent.futures` and joblib give up the whole pool when one process dies, and cannot end one that hangs.)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from understudy.errors import Interrupted, UnderstudyError
from understudy.runtime.checkpoints import StopRequest
from understudy.study.engine import failures
from understudy.study.engine.display import Display, Line, RunLog, RunResult, remaining
from understudy.study.engine.jobs import Job, job_folder, not_done, read_failed, read_quietly
from understudy.study.engine.machine import THREADS, cores, gpus, leased
from understudy.study.engine.plan import longest_after, width

# How often a job is tried again in one run, and what is said then. Other classes would fail in the same way again.
RETRIES = {"out_of_memory": 2, "time_limit": 1, "lost": 1}
RETRY_WORDS = {"out_of_memory": "it is tried again with half as much at once", "lost": "it is tried again"}
RETRY_WORDS |= {"time_limit": "it continues from its checkpoint"}
ENDING = ("disk", "damaged")  # classes that end the run
START = 600.0  # seconds after which a process that has not begun its job is killed, where jobs have a limit


def worker_count(asked: int | None, jobs: Sequence[Job], device: str, devices: int) -> tuple[int, list[str]]:
    """How many workers (`asked`, or one a GPU, or one a core where there is work), and the GPUs that they lease."""
    if devices > 1 or asked == 1 or not jobs:  # a training that is spread over all devices leaves nothing to share
        return 1, []
    if all_gpus := gpus() if device in ("auto", "cuda") else []:
        free = []
        for gpu in all_gpus:
            with leased([gpu]) as found:
                free += [found] if found else []
        if not free or (asked or 0) > len(free):
            what = f"{len(free)} of {len(all_gpus)} GPUs are free; other runs of Understudy have leased the rest"
            fix = "wait for the other run, use --workers with a smaller number, or --device cpu"
            raise UnderstudyError(what, where="this machine", fix=fix)
        return (asked or len(free)), free
    if asked is not None:
        return asked, []
    # starting processes for less work than this costs more seconds than it saves
    if sum(job.seconds for job in jobs) < 30 or device not in ("auto", "cpu"):
        return 1, []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(1, min(cores(), width(jobs), memory // (3 << 30))), []  # 3 GiB are what a worker on a CPU may need


def without_diverged(jobs: Sequence[Job], result: RunResult) -> list[Job]:
    """The jobs without those whose training diverged, which are listed as failed, and without what needs them."""
    lost: set[str] = set()
    for job in not_done(jobs, result.out):
        failed = read_failed(job_folder(result.out, job))
        if any(before in lost for _, before in job.inputs):
            result.blocked.append(job)
        elif failed.get("class") == "nan":
            again = f"understudy job {job.id[:12]} trains it again as it is; better change its settings or seed"
            result.failed.append((job, f"{failed.get('message', '')}\n  {again}"))
        else:
            continue
        lost.add(job.id)
    return [job for job in jobs if job.id not in lost]


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its `done.json`, or the class and text of its failure."""

    job: Job
    done: dict[str, Any] | None = None
    failure: str = ""
    message: str = ""
    interrupted: bool = False

    @classmethod
    def of_error(cls, job: Job, error: Exception, out: Path) -> Outcome:
        """Of what `run_job` raised and recorded."""
        if isinstance(error, Interrupted):
            return cls(job, interrupted=True)
        message = failures.failure_message(error, job_folder(out, job))
        return cls(job, None, failures.failure_class(error, job.stage), message)


class Schedule:
    """Which of the jobs, each of which stands after its inputs, runs next and again; fills in `result`."""

    def __init__(self, jobs: Sequence[Job], result: RunResult, log: RunLog) -> None:
        self.result, self.log = result, log
        self.workers = 1
        self.waiting = not_done(jobs, result.out)
        self.done = {job.id for job in jobs} - {job.id for job in self.waiting}
        result.reused += [job for job in jobs if job.id in self.done]
        self._number = {job.id: n for n, job in enumerate(jobs, start=1)}
        self._after = longest_after(jobs)
        self._tries = Counter[str]()
        self.alone: set[str] = set()  # ids of jobs that ran out of memory beside others
        self.stopped = False  # the disk is full, or a result is damaged: no other job would fare better

    def ready(self) -> list[Job]:
        """Jobs whose inputs are done; for several workers the one with the longest chain behind it first."""
        found = [job for job in self.waiting if all(before in self.done for _, before in job.inputs)]
        found.sort(key=lambda job: (-self._after[job.id] if self.workers > 1 else 0.0, self._number[job.id]))
        return [] if self.stopped else found

    def begin(self, job: Job) -> None:
        """The job is about to be run."""
        self.waiting.remove(job)
        self._tries[job.id] += 1
        self.log.announce(self._number[job.id], job, self.workers)

    def end(self, outcome: Outcome) -> None:
        """Records what became of a job, which waits again if another try may help."""
        job, kind, message = outcome.job, outcome.failure, outcome.message
        if outcome.done is not None:
            self.done.add(job.id)
            self.result.done.append(job)
            self.log.finished(job, outcome.done)
            return
        # interrupted: by somebody else's signal to the worker
        if self._tries[job.id] <= RETRIES.get("lost" if outcome.interrupted else kind, 0):
            if not outcome.interrupted:
                self.log.warn(f"{job.name}: {message.splitlines()[0]}; {RETRY_WORDS[kind]}")
            if kind == "out_of_memory":
                self.alone.add(job.id)
            self.waiting.append(job)
            return
        if outcome.interrupted:
            kind, message = "error", "the job was stopped by a signal twice"
        self.log.failed(job, kind, message)
        self.result.failed.append((job, message))
        self.stopped |= kind in ENDING


Run = Callable[[Job], dict[str, Any]]  # `run_job` with all but the job given; another process can import what it holds


class Worker:
    """A process that does one job at a time; the log passes on each line that it writes."""

    def __init__(self, pool: Pool, number: int) -> None:
        self.pool, self.number, self.out = pool, number, pool.schedule.result.out
        self.job: Job | None = None
        self.since = 0.0  # when its job began
        self._begun = False  # its job, rather than starting
        self._kills, self._attempt = 0, 1  # of the system before its job, and at its job
        self._asked = False  # to leave
        self._stuck = False  # killed, as its job hung past its limit
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        output, written = context.Pipe(duplex=False)
        given = (pool.run, self.out, pool.gpus, pool.threads, theirs, written)
        self.process = context.Process(target=_work, args=given, daemon=False)
        # the libraries of the new process choose their number of threads by the environment
        before = {name: os.environ.pop(name) for name in THREADS if name in os.environ}
        os.environ.update(before if pool.threads is None else dict.fromkeys(THREADS, str(pool.threads)))
        try:
            self.process.start()
        finally:
            for name in THREADS:
                os.environ.pop(name, None)
            os.environ.update(before)
        theirs.close()
        written.close()

        def read() -> None:  # whole lines, so that several workers and a display do not write into each other
            with output, open(output.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines:
                for line in lines:
                    pool.schedule.log.pass_on(f"worker {number}: {line.rstrip()}")

        threading.Thread(target=read, daemon=True).start()

    def start(self, job: Job) -> None:
        """Gives it a job; a process that is gone is found out by `listen`."""
        self.job, self.since, self._kills, self._begun = job, time.monotonic(), failures.oom_kills(), False
        self._attempt = failures.next_attempt(job_folder(self.out, job))
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(job)

    def listen(self) -> Outcome | None:
        """What it reports, or that it is lost; None if it only says that it has begun."""
        assert self.job is not None
        outcome: Outcome | None
        try:
            outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            outcome = self._lost(self.job)
        if outcome is None:
            self._begun, self.since = True, time.monotonic()
        else:
            self.job = None
        return outcome

    def end_if_stuck(self) -> None:
        """Kills the process of a job that is past its time limit and did not leave when it was asked to."""
        minutes = self.pool.minutes
        if self.job is None or minutes is None or self._stuck:
            return
        if time.monotonic() - self.since > (60 * minutes + failures.STUCK if self._begun else START):
            self._stuck = True
            assert self.process.pid is not None
            try:
                os.killpg(self.process.pid, signal.SIGKILL)  # and the processes that it has started
            except ProcessLookupError:  # it has not yet begun, and so is in the run's own group
                self.process.kill()

    def _lost(self, job: Job) -> Outcome:
        """Records on the process's behalf that it ended in the middle of a job."""
        status = self.process.exitcode or 0
        if not self._stuck and self._asked and status == -signal.SIGTERM:  # it was asked to leave before it had begun
            return Outcome(job, interrupted=True)
        killed = failures.lost_process(status, failures.oom_kills() > self._kills)
        error = failures.TimeLimit(self.pool.minutes or 0) if self._stuck else killed
        failures.record_failure(job_folder(self.out, job), job, error, self._attempt)
        kind = "lost" if type(error) is failures.LostWorker else failures.failure_class(error, job.stage)
        return Outcome(job, failure=kind, message=str(error))

    def stop(self) -> None:
        """Asks for a checkpoint and the end; the second time it ends at once."""
        if self.job is None:
            self.connection.close()
        elif self.process.pid is not None and self.process.is_alive():
            self._asked = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)


def _work(
    run: Run, out: Path, gpus: Sequence[str], threads: int | None, connection: Connection, written: Connection
) -> None:
    """What a worker's process does: jobs until the pipe is closed."""
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(written.fileno(), stream)
    written.close()

    def leave_with_the_run() -> None:  # SIGTERM is a checkpoint and the end
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    with leased(gpus) as gpu:
        if gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        elif gpus:
            return  # another run was faster; without a lease it would compute on that run's GPU
        threading.Thread(target=leave_with_the_run, daemon=True).start()
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while True:
                job = connection.recv()
                connection.send(None)  # it has begun
                try:
                    outcome = Outcome(job, run(job))
                except Exception as error:  # told to the run, and recorded in failed.json
                    outcome = Outcome.of_error(job, error, out)
                connection.send(outcome)
                if outcome.interrupted:
                    return


class Pool:
    """Runs a schedule's jobs by its number of workers.

    Args:
        run: of a job, in a worker.
        gpus: of which each worker leases one; () on a CPU.
        minutes: that a job may take, as `run` knows too.
    """

    def __init__(self, schedule: Schedule, run: Run, gpus: Sequence[str], minutes: float | None) -> None:
        self.schedule, self.run, self.gpus, self.minutes = schedule, run, gpus, minutes
        # that a worker computes with; one alone: as the environment or PyTorch says, like the run's own process
        self.threads = max(1, cores() // schedule.workers) if schedule.workers > 1 else None
        self.workers: list[Worker] = []

    def run_all(self) -> None:
        """Until nothing is left that can be done, or a signal: then `Interrupted`, once checkpoints are written."""
        with StopRequest() as stop, Display(self.schedule.log.console) as display:
            try:
                while not stop.requested:
                    self._give_out()
                    if not self._busy:
                        break
                    busy = {worker.connection: worker for worker in self._busy}
                    for connection in wait(list(busy), 0.5):
                        if (outcome := busy[connection].listen()) is not None:  # type: ignore[index]  # as given
                            self.schedule.end(outcome)
                            for other in self._busy if outcome.failure in ENDING else []:
                                other.stop()
                    for worker in self._busy:
                        worker.end_if_stuck()
                    if display.due:
                        self._show(display)
                if stop.requested:
                    self._stop_all()
                    raise Interrupted("stopped; the workers have saved their state")
            finally:
                self._stop_all()

    @property
    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.job is not None]

    def _give_out(self) -> None:
        """Starts jobs that are ready; one that ran out of memory has the machine to itself."""
        schedule = self.schedule
        for job in schedule.ready():
            running = [worker.job.id for worker in self._busy if worker.job]
            if len(running) >= schedule.workers or (running and schedule.alone & {job.id, *running}):
                return
            self.workers = [w for w in self.workers if w.job is not None or w.process.is_alive()]
            worker = next((w for w in self.workers if w.job is None), None)
            if worker is None:
                number = min(set(range(1, schedule.workers + 1)) - {w.number for w in self.workers})
                worker = Worker(self, number)
                self.workers.append(worker)
            schedule.begin(job)
            worker.start(job)

    def _show(self, display: Display) -> None:
        now, lines, result, log = time.monotonic(), [], self.schedule.result, self.schedule.log
        for worker in sorted(self._busy, key=lambda w: w.number):
            if worker.job is not None:
                beat = read_quietly(job_folder(result.out, worker.job) / "heartbeat.json")
                lines.append(Line(worker.number, worker.job.name, now - worker.since, beat.get("progress") or {}))
        left = remaining(log.left(), lines, min(self.schedule.workers, max(1, len(lines))))
        display.show(lines, len(result.done) + len(result.reused), log.total, len(result.failed), left)

    def _stop_all(self) -> None:
        """Checkpoints of all that are busy, and the end of all."""
        for worker in self.workers:
            worker.stop()
        for worker in self.workers:
            if worker.job is not None:
                while (outcome := worker.listen()) is None:
                    pass
                if outcome.done is not None:  # it finished before the signal
                    self.schedule.result.done.append(outcome.job)
            worker.connection.close()
            worker.process.join()
        self.workers = []
