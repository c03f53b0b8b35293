"""What a cluster's queue starts for one job: it runs the job, and answers a time limit by queueing it once more.

    python -m understudy.study.engine.cluster_step OUT JOB ATTEMPT

It ends with 0 if the job is done, 1 if it failed, 75 if it was told to stop; it says itself what the job's own process
can no longer say, as that was killed. The job's process is in a process group of its own: a Ctrl-C reaches it once,
from here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.runtime.checkpoints import STOPPING
from understudy.study.engine import slurm
from understudy.study.engine.failures import STUCK, Killed, LostWorker, oom_kills
from understudy.study.engine.jobs import next_attempt, read_done, read_failed, record_failure
from understudy.study.engine.leases import leased

TO_BE_CONTINUED = 75  # EX_TEMPFAIL
LOOK = 0.5  # seconds between looks at the signals that came and at the parent
_LOST = ("LostWorker", "Killed")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Step:
    """One job in the queue.

    Attributes:
        out: folder of the study's results.
        name: of the job's folder below `out/jobs`.
        plan: content of `out/cluster/jobs.json`.
        attempt: of Snakemake, from 1.
        tries: which try at the job this is, whoever started the others.
        stuck: whether its process was killed, as it hung past its limit.
    """

    out: Path
    name: str
    plan: dict[str, Any]
    attempt: int = 1
    tries: int = 1
    stuck: bool = False

    @property
    def folder(self) -> Path:
        """Of the job."""
        return self.out / "jobs" / self.name

    @property
    def asked(self) -> dict[str, Any]:
        """What jobs of this stage ask for."""
        return dict(self.plan["stages"][self.plan["jobs"][self.name]["stage"]])

    def command(self) -> list[str]:
        """That runs the job, in a container if the study file names one."""
        inside = self.plan["container"]
        words = [*inside, "understudy"] if inside else [sys.executable, "-m", "understudy.cli"]
        words += ["job", self.name, "--out", str(self.out), "--device", self.plan["device"]]
        words += ["--minutes", f"{self.asked['stop_minutes']:g}"]
        if self.asked["gpus"] > 1:
            words += ["--devices", str(self.asked["gpus"])]
        return words

    def run(self) -> int:
        """Until the job is done, has failed or is told to stop; gives the exit status."""
        if self.attempt > 1 and failed_for_good(self.folder):
            return 1
        turns = 0
        while read_done(self.folder) is None:
            kills, self.tries = oom_kills(), next_attempt(self.folder)
            status, told = self._once()
            if read_done(self.folder) is not None:
                break
            if status == TO_BE_CONTINUED or told:
                if told and told != signal.SIGUSR1:
                    return TO_BE_CONTINUED
                if not self._may_go_on(turns):
                    return 1
                if slurm.own_number():
                    return self._queue_again()
                turns += 1
                continue
            if self.stuck:
                self._record_stuck()
            elif status < 0 or not read_failed(self.folder):
                self._record_lost(status, oom_kills() > kills)
            return 1
        return 0

    def _once(self) -> tuple[int, int]:
        """Runs the command; gives its status and the signal that told us to stop, 0 if none did."""
        told: list[int] = []
        threads = dict.fromkeys(_THREADS, str(self.asked["threads"]))
        with contextlib.ExitStack() as stack:
            gpus = [stack.enter_context(leased(self.plan["gpus"])) for _ in range(self.asked["gpus"])]
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(g for g in gpus if g)} if any(gpus) else {}
            stack.enter_context(_noting(told))
            parent, environment = os.getppid(), {**os.environ, **threads, **visible}
            end = time.monotonic() + 60 * self.asked["stop_minutes"] + STUCK
            child = subprocess.Popen(self.command(), env=environment, process_group=0)
            passed = False
            while True:
                if os.getppid() != parent and not told:  # Snakemake was killed; nobody waits for this job
                    told.append(signal.SIGTERM)
                if told and not passed:
                    child.send_signal(signal.SIGTERM)
                    passed = True
                if time.monotonic() > end:  # its own limit did not reach it
                    self.stuck = True
                    os.killpg(child.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(LOOK), (told[0] if told else 0)

    def _may_go_on(self, turns: int) -> bool:
        """Whether a job that met its limit may have another turn; else its failure is recorded."""
        number, allowed = slurm.own_number(), self.plan["requeues"]
        if (slurm.restarts(number) if number else turns) < allowed:
            return True
        limit = f"{self.asked['stop_minutes']:g} minutes"
        self._record(
            UnderstudyError(
                f"the job met its limit of {limit} {allowed + 1} times and is not done",
                where=self.folder,
                fix="run the same command again, it continues; or raise cluster.stages.*.minutes or cluster.requeues",
            ),
            TimeoutError(),
        )
        return False

    def _queue_again(self) -> int:
        number = slurm.own_number()
        if slurm.requeue(number):
            _say(f"{self.name}: queued again as job {number}")
        else:
            _say(f"{self.name}: the cluster does not queue job {number} again; Snakemake may send another")
        return TO_BE_CONTINUED

    def _record_stuck(self) -> None:
        self._record(
            UnderstudyError(
                f"the job hung past its limit of {self.asked['stop_minutes']:g} minutes and was killed",
                where=self.folder,
                fix="run the same command again: it continues from its checkpoint; or raise cluster.stages.*.minutes",
            ),
            TimeoutError(),
        )

    def _record_lost(self, status: int, memory: bool) -> None:
        """Says that the process ended without saying why."""
        ended = signal.Signals(-status).name if status < 0 else f"status {status}"
        text = f"the process that ran the job ended without a word ({ended})"
        self._record(Killed(f"{text}: the system was out of memory") if memory else LostWorker(text))

    def _record(self, error: Exception, cause: Exception | None = None) -> None:
        from understudy.study.engine.status import jobs_of  # pandas, for which a job that is well need not wait

        error.__cause__ = cause
        (job,) = (job for job in jobs_of(self.out) if job.folder_name == self.name)
        record_failure(self.folder, job, error, self.tries)
        _say(f"{job.name}: {error}")


def failed_for_good(folder: Path) -> bool:
    """Whether trying again would fail in the same way: all but lost processes and want of memory."""
    failed = read_failed(folder)
    return bool(failed) and failed.get("type") not in _LOST and failed.get("class") != "out_of_memory"


def memory_for(out: Path, megabytes: int) -> Callable[..., int]:
    """What Snakemake asks of the queue: so much, and half as much again each time that it was not enough."""

    def memory(wildcards: Any, attempt: int) -> int:
        short = read_failed(out / "jobs" / str(wildcards.job)).get("class") == "out_of_memory"
        return round(megabytes * 1.5 ** (attempt - 1)) if short else megabytes

    return memory


@contextlib.contextmanager
def _noting(told: list[int]) -> Iterator[None]:
    """Inside the block signals that ask to stop are noted in `told`."""

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    """The command line above."""
    out, name, attempt = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    plan = read_json(out / "cluster" / "jobs.json")
    try:
        sys.exit(Step(out, name, plan, attempt).run())
    except UnderstudyError as error:
        _say(f"error: {error.message}")
        sys.exit(1)


def shell_words(out: Path) -> str:
    """The beginning of the command line above, for a shell."""
    return shlex.join([sys.executable, "-m", "understudy.study.engine.cluster_step", str(out)])


if __name__ == "__main__":
    main()
