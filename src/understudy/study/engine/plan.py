"""From a study to its jobs: what depends on what, under ids that change only where a result would.

phantom (if asked for) -> prepare -> generator -> sample -> segmenter (each setting and repeat) -> evaluate
-> report; and sample -> audit -> report. With several cohorts all this for each, and an overview of the reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from understudy.errors import UnderstudyError
from understudy.study.config.finetune import refuse_too_many
from understudy.study.config.generators import FolderGenerator
from understudy.study.config.grid import baseline, settings
from understudy.study.config.schema import Study
from understudy.study.engine.identity import STAGE_VERSIONS, job_of
from understudy.study.engine.jobs import Job
from understudy.study.facts import Facts, facts_of, find_cohort
from understudy.study.stages.annotations import annotation_parts
from understudy.study.stages.data_jobs import prepare_jobs
from understudy.study.stages.generator_jobs import audit_job, generator_jobs
from understudy.study.stages.quality import quality_parts
from understudy.study.stages.report_jobs import overview_job, report_job
from understudy.study.stages.segmenter_jobs import segmenter_jobs

ACCELERATED = ("generator", "sample", "audit", "segmenter", "evaluate", "quality")
"""Stages whose jobs compute on a device; the hours of the others are not GPU hours."""

SIDE_STAGES = {"audit", "quality", "annotations"}
"""Stages on whose results only the report depends."""


@dataclass(frozen=True)
class Plan:
    """A study and its jobs, each after the ones that it needs.

    Attributes:
        facts: cohort's name ("" where it has none) -> what is known of it; {} for plans that are not a whole study's.
        cohort_of: job id -> name of its cohort, in a study with several; the overview is of none.
    """

    study: Study
    jobs: tuple[Job, ...]
    facts: Mapping[str, Facts] = field(default_factory=dict)
    cohort_of: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Job]:
        """Job id -> job."""
        return {job.id: job for job in self.jobs}

    def find(self, prefix: str) -> Job:
        """The job whose id starts with `prefix`.

        Raises:
            UnderstudyError: none, or more than one.
        """
        return find_job(self.jobs, prefix, f"study {self.study.name}")

    def until(self, stage: str) -> Plan:
        """The plan up to `stage`, without side branches (audit, quality, annotations) unless the stage is one of them.

        `report` is all, an overview of several cohorts too.

        Raises:
            UnderstudyError: no such stage.
        """
        stages = list(STAGE_VERSIONS)
        if stage not in stages:
            raise UnderstudyError(f"there is no stage {stage!r}", fix=f"use one of {', '.join(stages)}")
        if stage in ("report", "overview"):
            return self
        kept = {stage} if stage in SIDE_STAGES else set(stages[: stages.index(stage) + 1]) - SIDE_STAGES
        needed: set[str] = set()
        for job in reversed(self.jobs):  # each stands after the ones that it needs
            if job.stage in kept or job.id in needed:
                needed |= {job.id, *(job_id for _, job_id in job.inputs)}
        return replace(self, jobs=tuple(job for job in self.jobs if job.id in needed))


def find_job(jobs: Sequence[Job], prefix: str, where: str) -> Job:
    """The job whose id starts with `prefix`, or whose folder is called so; `where` is for the message.

    Raises:
        UnderstudyError: none, or more than one.
    """
    found = [job for job in jobs if job.id.startswith(prefix) or job.folder_name == prefix]
    if len(found) != 1 or not prefix:
        known = ", ".join(f"{job.id[:12]} ({job.name})" for job in (found or jobs)[:20])
        raise UnderstudyError(
            f"{'no job' if not found else 'more than one job'} has an id that starts with {prefix!r}",
            where=where,
            fix=f"use one of {known}",
        )
    return found[0]


def make_plan(study: Study) -> Plan:
    """The jobs of a study.

    Raises:
        UnderstudyError: a cohort or a file that the study names is not there, a split that cannot be, two cohorts that
            are the same.
    """
    jobs: dict[str, Job] = {}
    facts: dict[str, Facts] = {}
    cohort_of: dict[str, str] = {}
    reports: list[tuple[str, str]] = []
    for name, part in study.parts().items():
        own, facts[name] = _jobs_of(part, name, study)
        _refuse_twins(name, own, cohort_of)
        for job in own:
            named = replace(job, name=f"{name}: {job.name}") if name else job
            jobs.setdefault(job.id, named)  # phantoms of one seed are drawn once for all
            if name:
                cohort_of.setdefault(job.id, name)
        reports.append((name, own[-1].id))
    if study.cohorts is not None:
        overview = overview_job(study, reports)
        jobs[overview.id] = overview
    return Plan(study, tuple(jobs.values()), facts, cohort_of)


def _refuse_twins(name: str, own: Sequence[Job], cohort_of: Mapping[str, str]) -> None:
    twin = next((cohort_of[job.id] for job in own if job.stage == "prepare" and job.id in cohort_of), None)
    if twin is not None:
        raise UnderstudyError(
            f"the cohorts {twin} and {name} are the same patients in the same split",
            where=f"cohorts.{name}",
            fix="leave one out, or give it another `path`, `split` or `slices`",
        )


def _jobs_of(study: Study, name: str, whole: Study) -> tuple[list[Job], Facts]:
    """The jobs of a study with one cohort and what is known of this.

    Args:
        name: of the cohort in the `whole` study, "" if that is `study`.
    """
    cohort = find_cohort(study, name)
    jobs: list[Job] = []
    prepare = prepare_jobs(study, jobs, cohort)
    facts = facts_of(study, cohort, study.derived_seed("split"))
    # Folders first: what is wrong in them is said before a network has been trained for days.
    names = sorted(study.generators, key=lambda name: not isinstance(study.generators[name], FolderGenerator))
    samples = {name: generator_jobs(study, name, prepare, jobs) for name in names}
    if study.audit is not None:
        # Snapshots are there to be compared, not to be shared; the finished generator of their training is audited.
        audited = [job for job in jobs if job.stage == "sample" and "snapshot_kimg" not in job.spec]
        jobs += [audit_job(study, job, prepare) for job in audited]
    refuse_too_many(study, facts)
    trained: dict[tuple[str, int], str] = {}
    for setting in settings(study):
        for repeat in range(study.repeats):
            segmenter_jobs(study, setting, repeat, prepare, samples, trained, jobs)
    if study.quality is not None:
        base = baseline(study)
        for sampled in [job for job in jobs if job.stage == "sample"]:
            title, spec, inputs, local = quality_parts(study.quality, sampled, prepare, jobs, base)
            jobs.append(job_of("quality", title, spec, inputs, **local))
    if study.annotations is not None:
        for sampled in [job for job in jobs if job.stage == "sample"]:
            title, spec, inputs = annotation_parts(study.annotations, sampled, prepare)
            jobs.append(job_of("annotations", title, spec, inputs))
    jobs.append(report_job(study, jobs, name, whole))
    return jobs, facts
