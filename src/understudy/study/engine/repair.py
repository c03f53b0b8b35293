"""Artefacts that are no longer as a job left them: found before a run goes on, and done again on demand."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from understudy.io.seals import DONE, check_sealed, damage
from understudy.study.engine.jobs import Job, job_folder, locked

log = logging.getLogger(__name__)


def refuse_damaged(jobs: Sequence[Job], out: Path) -> None:
    """Raises `Damaged` for a file of a finished job that is missing, has another size or is not the job's.

    Contents are compared where they are used, see `check_sealed`: to read a whole study takes minutes.
    """
    for job in jobs:
        check_sealed(job_folder(out, job), contents=False)


def repair(jobs: Sequence[Job], out: Path) -> list[Job]:
    """Throws away the results of damaged jobs and of all that depend on them, so that they are done again.

    `jobs` stand after their inputs, and nothing else works in `out`. Returns those jobs, and logs each with why.
    """
    redone: dict[str, Job] = {}
    for job in jobs:
        folder = job_folder(out, job)
        wrong = damage(folder) if os.path.lexists(folder / DONE) else ""
        needs = next((redone[before].name for _, before in job.inputs if before in redone), "")
        if wrong or (needs and folder.exists()):
            redone[job.id] = job
            log.warning("%s (%s) is done again: %s", job.name, folder.name, wrong or f"it depends on {needs}")
    for job in reversed(redone.values()):  # what depends on others first: a kill in between loses no reason to redo it
        folder = job_folder(out, job)
        with locked(folder):
            aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")  # at once: half a folder would be continued
            os.replace(folder, aside)
            shutil.rmtree(aside, ignore_errors=True)
    return list(redone.values())
