"""From how many training patients on does a generator stop copying them? The same generator on 5, 10, 20, ... patients.

The groups of patients are nested and the held-out patients the same throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_text
from understudy.memorization.config import AuditConfig
from understudy.memorization.pictures import save_sweep
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Job, job_folder
from understudy.study.engine.plan import Plan
from understudy.study.engine.run import run_study
from understudy.study.stages.audit import audit_job
from understudy.study.stages.data import prepare_jobs
from understudy.study.stages.generator import generator_jobs


def sweep_plan(study: Study, generator: str, sizes: Sequence[int], samples: int | None = None) -> Plan:
    """The jobs of a sweep of a study's generator.

    Args:
        sizes: training patients of each training, e.g. (5, 10, 20, 40).
        samples: synthetic slices of each; None: the study's number.

    Raises:
        UnderstudyError: no such generator, no sizes or sizes below 1.
    """
    if generator not in study.generators:
        fix = f"use one of {', '.join(study.generators) or '(there are none)'}"
        raise UnderstudyError(f"the study has no generator {generator!r}", where=f"study {study.name}", fix=fix)
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise UnderstudyError("the sizes of a sweep must be different numbers of patients", fix="e.g. 5,10,20,40")
    study = study.with_one_cohort("a sweep").model_copy(update={"name": f"{study.name}-sweep"})
    jobs: list[Job] = []  # those of a study, so that a sweep resumes like one
    prepare = prepare_jobs(study, jobs)
    for size in sorted(sizes):
        subset = {"patients": size, "seed": study.derived_seed("sweep")}
        generator_jobs(study, generator, prepare, jobs, subset=subset, samples=samples)
        jobs.append(audit_job(study, jobs[-1], prepare, subset))
    return Plan(study, tuple(jobs))


def run_sweep(
    study: Study, generator: str, sizes: Sequence[int], out: str | Path, config: AuditConfig | None = None,
    samples: int | None = None, device: str = "auto", progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Runs a sweep, or continues it, and writes `sweep.csv` and `sweep.png` to its folder.

    Returns:
        One row a size: patients, slices (judged), rate of flags with low and high, hit (training patients), certain
        (slices too near for chance), auc (of the weights, None without), verdict.

    Raises:
        UnderstudyError: see `sweep_plan`, or a job failed.
    """
    if config is not None:
        study = study.model_copy(update={"audit": config})
    plan = sweep_plan(study, generator, sizes, samples)
    result = run_study(plan, out, device, progress)
    if result.failed:
        job, message = result.failed[0]
        fix = "run the same command again: what is done is kept"
        raise UnderstudyError(f"{job.name} failed: {message}", where=result.out, fix=fix)
    rows = []
    for job in (job for job in plan.jobs if job.stage == "audit"):
        numbers = read_json(job_folder(out, job) / "audit.json")
        flags, member, hit = (numbers.get(part) or {} for part in ("flags", "membership", "patients"))
        rates = {name: flags.get(name, float("nan")) for name in ("rate", "low", "high")}
        row = {"patients": job.spec["subset"]["patients"], "slices": flags.get("judged"), **rates}
        row |= {"certain": flags.get("certain"), "hit": hit.get("hit"), "auc": member.get("auc")}
        row |= {"auc_low": member.get("low"), "auc_high": member.get("high"), "verdict": numbers["verdict"]["kind"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    write_text(Path(out) / "sweep.csv", table.to_csv(index=False))
    save_sweep(table, Path(out) / "sweep.png", round(1 - (study.audit or AuditConfig()).quantile, 12))
    return table
