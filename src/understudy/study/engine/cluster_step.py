"""The processes of a study on a cluster.

    python -m understudy.study.engine.cluster_step OUT JOB ATTEMPT

is what the queue starts for one job. It runs the job, queues it again when it met its time limit, and records what the
job's own process can no longer say, as that was killed. Its exit status is 0 if the job is done, 1 if
it failed, 75 if it was told to stop. The job's process is in a process group of its own: a Ctrl-C reaches it once, from
here.

    python -m understudy.study.engine.cluster_step snakemake PARENT SIGNAL ARGUMENTS...

is Snakemake in a process that gets SIGNAL when the process PARENT is gone: on SIGINT it takes its jobs out of the queue
and leaves; on SIGKILL the jobs that it has started on this machine see that it is gone and leave by themselves.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.study.engine import slurm
from understudy.study.engine.execute import on_stop_signals
from understudy.study.engine.failures import STUCK, lost_process, next_attempt, oom_kills, record_failure
from understudy.study.engine.jobs import read_done, read_failed, saved_jobs
from understudy.study.engine.machine import THREADS, leased

TO_BE_CONTINUED = 75  # EX_TEMPFAIL


@dataclass
class Step:
    """One job in the queue."""

    out: Path  # folder of the study's results
    name: str  # of the job's folder below `out/jobs`
    plan: dict[str, Any]  # content of `out/cluster/jobs.json`
    attempt: int = 1  # of Snakemake
    tries: int = 1  # which try at the job this is, whoever started the others
    stuck: bool = False  # its process was killed, as it hung past its limit

    def __post_init__(self) -> None:
        self.folder = self.out / "jobs" / self.name
        self.asked: dict[str, Any] = self.plan["stages"][self.plan["jobs"][self.name]["stage"]]  # its resources

    def command(self) -> list[str]:
        """That runs the job, in a container if the study file names one."""
        inside, gpus = self.plan["container"], self.asked["gpus"]
        words = [*inside, "understudy"] if inside else [sys.executable, "-m", "understudy.cli"]
        words += ["job", self.name, "--out", str(self.out), "--device", self.plan["device"]]
        words += ["--minutes", f"{self.asked['stop_minutes']:g}"]
        return words + (["--devices", str(gpus)] if gpus > 1 else [])

    def run(self) -> int:
        """Until the job is done, has failed or is told to stop; gives the exit status."""
        if self.attempt > 1 and failed_for_good(self.folder):
            return 1
        limit, number, turns = f"{self.asked['stop_minutes']:g} minutes", os.environ.get("SLURM_JOB_ID", ""), 0
        while read_done(self.folder) is None:
            kills, self.tries = oom_kills(), next_attempt(self.folder)
            status, told = self._once()
            if read_done(self.folder) is not None:
                break
            if status == TO_BE_CONTINUED or told:
                if told and told != signal.SIGUSR1:
                    return TO_BE_CONTINUED
                allowed = self.plan["requeues"]
                if (slurm.restarts(number) if number else turns) >= allowed:
                    self._late(f"the job met its limit of {limit} {allowed + 1} times and is not done")
                    return 1
                if number:
                    refused = f"the cluster does not queue job {number} again; Snakemake may send another"
                    _say(f"{self.name}: {f'queued again as job {number}' if slurm.requeue(number) else refused}")
                    return TO_BE_CONTINUED
                turns += 1
                continue
            if self.stuck:
                self._late(f"the job hung past its limit of {limit} and was killed")
            elif status < 0 or not read_failed(self.folder):
                self._record(lost_process(status, oom_kills() > kills))
            return 1
        return 0

    def _once(self) -> tuple[int, int]:
        """Runs the command; gives its status and the signal that told us to stop, 0 if none did."""
        told: list[int] = []
        threads = dict.fromkeys(THREADS, str(self.asked["threads"]))
        with contextlib.ExitStack() as stack:
            gpus = [stack.enter_context(leased(self.plan["gpus"])) for _ in range(self.asked["gpus"])]
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(g for g in gpus if g)} if any(gpus) else {}
            stack.enter_context(on_stop_signals(lambda number, frame: told.append(number)))
            parent, environment = os.getppid(), {**os.environ, **threads, **visible}
            end = time.monotonic() + 60 * self.asked["stop_minutes"] + STUCK
            child = subprocess.Popen(self.command(), env=environment, process_group=0)
            passed = False
            while True:
                if os.getppid() != parent and not told:  # Snakemake was killed
                    told.append(signal.SIGTERM)
                if told and not passed:
                    child.send_signal(signal.SIGTERM)
                    passed = True
                if time.monotonic() > end:  # its own limit did not reach it
                    self.stuck = True
                    os.killpg(child.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(0.5), (told[0] if told else 0)

    def _late(self, what: str) -> None:
        fix = "run the same command again, it continues; or raise cluster.stages.*.minutes or cluster.requeues"
        error = UnderstudyError(what, self.folder, fix)
        error.__cause__ = TimeoutError()  # which says its class
        self._record(error)

    def _record(self, error: Exception) -> None:
        (job,) = (job for job in saved_jobs(self.out) if job.folder_name == self.name)
        record_failure(self.folder, job, error, self.tries)
        _say(f"{job.name}: {error}")


def failed_for_good(folder: Path) -> bool:
    """Whether trying again would fail in the same way: all but lost processes and lack of memory."""
    failed = read_failed(folder)
    lost = failed.get("type") in ("LostWorker", "Killed") or failed.get("class") == "out_of_memory"
    return bool(failed) and not lost


def memory_for(out: Path, megabytes: int) -> Callable[..., int]:
    """What Snakemake asks of the queue: so much, and half as much again each time that it was not enough."""

    def memory(wildcards: Any, attempt: int) -> int:
        short = read_failed(out / "jobs" / str(wildcards.job)).get("class") == "out_of_memory"
        return round(megabytes * 1.5 ** (attempt - 1)) if short else megabytes

    return memory


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def snakemake(parent: int, number: int, words: list[str]) -> None:
    """Snakemake, until it is done or the process `parent` is gone."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which nohup and scripts' `&` had ignored

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()
    from snakemake.cli import main as run  # seconds, in which the other process may go

    run(words)


def main() -> None:
    """The command lines above."""
    first, *others = sys.argv[1:]
    if first == "snakemake":
        snakemake(int(others[0]), int(others[1]), others[2:])
        return
    try:
        sys.exit(Step(Path(first), others[0], read_json(Path(first) / "cluster" / "jobs.json"), int(others[1])).run())
    except UnderstudyError as error:
        _say(f"error: {error.message}")
        sys.exit(1)


if __name__ == "__main__":
    main()
