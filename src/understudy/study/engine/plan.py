"""From a study to its jobs: what depends on what, and what runs first.

phantom (if asked for) -> prepare -> generator -> sample -> segmenter (each setting and repeat) -> evaluate
-> report; and sample -> audit -> report. With several cohorts all this for each, and an overview of the reports.
"""

from __future__ import annotations

import graphlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from understudy.errors import UnderstudyError
from understudy.study.config.grid import baseline, settings
from understudy.study.config.networks import FolderGenerator
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Job
from understudy.study.facts import Facts, facts_of, find_cohort, refuse_too_many
from understudy.study.registry import STAGES
from understudy.study.stages.audit import audit_job
from understudy.study.stages.data import prepare_jobs
from understudy.study.stages.generator import generator_jobs
from understudy.study.stages.quality import annotations_job, quality_job
from understudy.study.stages.report import overview_job, report_job
from understudy.study.stages.segmenter import segmenter_jobs


@dataclass(frozen=True)
class Plan:
    """A study and its jobs, each after the ones that it needs."""

    study: Study
    jobs: tuple[Job, ...]
    facts: Mapping[str, Facts] = field(default_factory=dict)  # by the cohort's name, "" where it has none
    cohort_of: Mapping[str, str] = field(default_factory=dict)  # job id -> its cohort, in a study with several

    @cached_property
    def by_id(self) -> dict[str, Job]:
        """The jobs by id."""
        return {job.id: job for job in self.jobs}

    def until(self, stage: str) -> Plan:
        """The plan up to `stage`, without side branches (audit, quality, annotations) unless the stage is one of them.

        `report` is all, an overview of several cohorts too. An error if there is no such stage.
        """
        stages = list(STAGES)
        if stage not in stages:
            raise UnderstudyError(f"there is no stage {stage!r}", fix=f"use one of {', '.join(stages)}")
        if stage in ("report", "overview"):
            return self
        before = {name for name in stages[: stages.index(stage) + 1] if not STAGES[name].side}
        kept = {stage} if STAGES[stage].side else before
        needed: set[str] = set()
        for job in reversed(self.jobs):  # each stands after the ones that it needs
            if job.stage in kept or job.id in needed:
                needed |= {job.id, *(job_id for _, job_id in job.inputs)}
        return replace(self, jobs=tuple(job for job in self.jobs if job.id in needed))


def make_plan(study: Study) -> Plan:
    """The jobs of a study; an error if a file of it is missing, for an impossible split or two cohorts that are the
    same."""
    jobs: dict[str, Job] = {}
    facts: dict[str, Facts] = {}
    cohort_of: dict[str, str] = {}
    reports: list[tuple[str, str]] = []
    for name, part in study.parts().items():
        own, facts[name] = _jobs_of(part, name, study)
        twin = next((cohort_of[job.id] for job in own if job.stage == "prepare" and job.id in cohort_of), None)
        if twin is not None:
            what = f"the cohorts {twin} and {name} are the same patients in the same split"
            fix = "leave one out, or give it another `path`, `split` or `slices`"
            raise UnderstudyError(what, where=f"cohorts.{name}", fix=fix)
        for job in own:
            # phantoms of one seed are drawn once for all
            jobs.setdefault(job.id, replace(job, name=f"{name}: {job.name}") if name else job)
            if name:
                cohort_of.setdefault(job.id, name)
        reports.append((name, own[-1].id))
    if study.cohorts is not None:
        overview = overview_job(study, reports)
        jobs[overview.id] = overview
    return Plan(study, tuple(jobs.values()), facts, cohort_of)


def _jobs_of(study: Study, name: str, whole: Study) -> tuple[list[Job], Facts]:
    """Of a study with one cohort, called `name` in the `whole` study."""
    cohort = find_cohort(study, name)
    jobs: list[Job] = []
    prepare = prepare_jobs(study, jobs, cohort)
    facts = facts_of(study, cohort, study.derived_seed("split"))
    # Folders first: what is wrong in them is said before a network has been trained for days.
    names = sorted(study.generators, key=lambda name: not isinstance(study.generators[name], FolderGenerator))
    samples = {name: generator_jobs(study, name, prepare, jobs) for name in names}
    sampled = [job for job in jobs if job.stage == "sample"]
    if study.audit is not None:
        jobs += [audit_job(study, job, prepare) for job in sampled]
    refuse_too_many(study, facts)
    trained: dict[tuple[str, int], str] = {}
    for setting in settings(study):
        for repeat in range(study.repeats):
            segmenter_jobs(study, setting, repeat, prepare, samples, trained, jobs)
    if study.quality is not None:
        jobs += [quality_job(study.quality, job, prepare, jobs, baseline(study)) for job in sampled]
    if study.annotations is not None:
        jobs += [annotations_job(study.annotations, job, prepare) for job in sampled]
    jobs.append(report_job(study, jobs, name, whole))
    return jobs, facts


def longest_after(jobs: Sequence[Job]) -> dict[str, float]:
    """Job id -> estimated seconds of the longest chain of jobs that begins with it; jobs stand after their inputs."""
    after: dict[str, float] = {}
    for job in reversed(jobs):
        after[job.id] = job.seconds + after.get(job.id, 0.0)
        for _, before in job.inputs:
            after[before] = max(after.get(before, 0.0), after[job.id])
    return after


def width(jobs: Sequence[Job]) -> int:
    """The most jobs that may run side by side, if all took equally long."""
    level: dict[str, int] = {}
    for job in jobs:
        level[job.id] = 1 + max((level.get(before, 0) for _, before in job.inputs), default=0)
    return max(Counter(level.values()).values(), default=1)


def elapsed(jobs: Sequence[Job], workers: int) -> float:
    """Seconds until the last of the jobs has ended, by so many workers that take the longest chain first.

    `jobs` stand after their inputs; inputs that are not among them are done.
    """
    priority, place = longest_after(jobs), {job.id: n for n, job in enumerate(jobs)}
    order = graphlib.TopologicalSorter({j.id: [before for _, before in j.inputs if before in place] for j in jobs})
    order.prepare()
    ready: list[tuple[float, int]] = []  # the longest chain first, then in the jobs' order
    running: list[tuple[float, int]] = []  # when each ends
    now = 0.0
    while order.is_active():
        for job_id in order.get_ready():
            heapq.heappush(ready, (-priority[job_id], place[job_id]))
        while ready and len(running) < workers:
            _, n = heapq.heappop(ready)
            heapq.heappush(running, (now + jobs[n].seconds, n))
        now, n = heapq.heappop(running)
        order.done(jobs[n].id)
    return now
