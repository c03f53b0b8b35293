"""The order of jobs side by side, and how long they take: closed forms and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.study.engine.jobs import Job
from understudy.study.engine.plan import elapsed, longest_after, width


def job(n: int, seconds: float, *before: Job) -> Job:
    return Job("x", str(n), {"n": n}, tuple(("x", b.id) for b in before), seconds=seconds)


def test_the_longest_chain_goes_first() -> None:
    a, b = job(1, 1), job(2, 5)
    c = job(3, 10, a)
    assert longest_after([a, b, c]) == {a.id: 11, b.id: 5, c.id: 10}
    assert width([a, b, c]) == 2
    assert elapsed([a, b, c], 2) == 11  # b beside a and c
    assert elapsed([a, b, c], 1) == 16
    assert elapsed([c], 2) == 10  # a was done before


def test_the_end_of_a_job_frees_a_worker_for_the_longest_chain_that_is_ready() -> None:
    # by hand: 4 | 3, then (at 3) 3 | and (at 4) 2: ends at 6
    assert elapsed([job(1, 4), job(2, 3), job(3, 3), job(4, 2)], 2) == 6


@st.composite
def graphs(draw: st.DrawFn) -> list[Job]:
    jobs: list[Job] = []
    for n in range(draw(st.integers(0, 12))):
        before = draw(st.lists(st.sampled_from(jobs), max_size=3, unique_by=lambda j: j.id)) if jobs else []
        jobs.append(job(n, draw(st.integers(0, 50)), *before))
    return jobs


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(1, 5))
def test_between_what_no_schedule_can_beat_and_what_none_exceeds(jobs: list[Job], workers: int) -> None:
    """Graham 1966: a list schedule takes at most work / m + (1 - 1/m) times the longest chain."""
    work = sum(j.seconds for j in jobs)
    chain = max(longest_after(jobs).values(), default=0)
    found = elapsed(jobs, workers)
    assert found >= max(chain, work / workers) - 1e-9
    assert found <= work / workers + (1 - 1 / workers) * chain + 1e-9
    assert elapsed(jobs, 1) == pytest.approx(work)
    assert elapsed(jobs, len(jobs) + 1) == pytest.approx(chain)
