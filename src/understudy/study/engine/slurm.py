"""The few questions that are asked of SLURM beside Snakemake: what is left in the queue, and to queue a job again."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_json

NO_SLURM = "start the study where jobs are sent to SLURM from (a login node), or use --cluster local"


class Queued(NamedTuple):
    """A job in the queue."""

    number: str  # SLURM's
    state: str  # e.g. "PENDING", "RUNNING"
    folder: str  # name of our job's folder; "" if its comment does not say


def name_of(study: str, out: Path) -> str:
    """What the names of a study's jobs in the queue begin with: the same in every run into the same folder."""
    return f"understudy-{study[:20]}-{sha256_json(str(out.absolute()))[:8]}"


def queued(prefix: str) -> list[Queued]:
    """My jobs whose names begin with `prefix` and that are still waiting or running."""
    found = []
    for line in _ask("squeue", "--me", "--noheader", "--format=%i|%T|%j|%k").splitlines():
        number, state, name, comment = line.split("|", 3)
        if name.startswith(prefix):
            folder = re.search(r"[a-z]+-[0-9a-f]{12}", comment)  # which Snakemake gives
            found.append(Queued(number, state, folder[0] if folder else ""))
    return found


def cancel(jobs: list[Queued]) -> None:
    """Takes jobs out of the queue; running ones get SIGTERM, on which they save their state."""
    if jobs:
        _ask("scancel", *(job.number for job in jobs))


def restarts(number: str) -> int:
    """How often a job has been queued again."""
    found = re.search(r"\bRestarts=(\d+)", _ask("scontrol", "show", "job", "--oneliner", number))
    return int(found[1]) if found else 0


def requeue(number: str) -> bool:
    """Ends a running job and queues it again; False if the cluster does not allow it."""
    return subprocess.run(["scontrol", "requeue", number], check=False).returncode == 0


def keeps_accounts() -> bool:
    """Whether `sacct` knows what became of jobs; else only `squeue` does, for some minutes after their end."""
    try:
        _ask("sacct", "--allocations", "--noheader", "--starttime", "now-1hours")
    except UnderstudyError:
        return False
    return True


def _ask(*words: str) -> str:
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout
    except FileNotFoundError as error:
        raise UnderstudyError(f"there is no command {words[0]} on this machine", fix=NO_SLURM) from error
    except subprocess.SubprocessError as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else "no answer in two minutes"
        raise UnderstudyError(
            f"SLURM refuses {words[0]}: {said}", where=" ".join(words[:2]), fix="try again later"
        ) from error
