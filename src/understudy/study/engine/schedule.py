"""Which job goes first when several run side by side, and how long all of them take then."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from understudy.study.engine.jobs import Job


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
    counts = [list(level.values()).count(n) for n in set(level.values())]
    return max(counts, default=1)


def elapsed(jobs: Sequence[Job], workers: int) -> float:
    """Seconds until the last of the jobs has ended, by so many workers that take the longest chain first.

    Args:
        jobs: that are left, each after its inputs; inputs that are not among them are done.
        workers: jobs at once; each takes its estimated seconds, whatever runs beside it.
    """
    priority, left = longest_after(jobs), {job.id for job in jobs}
    waits_for = {job.id: {before for _, before in job.inputs} & left for job in jobs}
    ready = [(-priority[job.id], n) for n, job in enumerate(jobs) if not waits_for[job.id]]
    heapq.heapify(ready)
    needed_by: dict[str, list[int]] = {job.id: [] for job in jobs}
    for n, job in enumerate(jobs):
        for before in waits_for[job.id]:
            needed_by[before].append(n)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, n = heapq.heappop(ready)
            heapq.heappush(running, (now + jobs[n].seconds, n))
        now, ended = heapq.heappop(running)
        for n in needed_by[jobs[ended].id]:
            waits_for[jobs[n].id].discard(jobs[ended].id)
            if not waits_for[jobs[n].id]:
                heapq.heappush(ready, (-priority[jobs[n].id], n))
    return now
