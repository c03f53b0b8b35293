"""Snapshots in a study: names, jobs and ids; and what a training keeps."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from understudy.errors import UnderstudyError
from understudy.study.config.schema import Study
from understudy.study.config.generators import snapshot_points
from understudy.study.engine.plan import Plan, make_plan

BASE: dict[str, Any] = {"name": "test", "phantom": {"patients": 5}, "slices": {"resolution": 32}}
STAGES = ("generator", "sample", "segmenter")
G: dict[str, Any] = {"samples": 10, "training": {"kimg": 100}}


def plan_of(**generators: Any) -> Plan:
    return make_plan(Study.model_validate({**BASE, "generators": generators}))


def test_points() -> None:
    assert snapshot_points(2, 10) == [5]
    assert snapshot_points([30, 10, 100], 100) == [10, 30]
    for wrong in ([0], [-1], [101], [5, 5]):
        with pytest.raises(ValueError, match="snapshots"):
            snapshot_points(wrong, 100)


def test_snapshots_are_generators_of_one_training() -> None:
    plan = plan_of(g={**G, "snapshots": 4}, h=G)
    names = [j.name for j in plan.jobs if j.stage in ("generator", "sample")]
    assert names == ["generator g", "sample g", "sample g-25kimg", "sample g-50kimg", "sample g-75kimg",
                     "generator h", "sample h"]  # fmt: skip
    (trained,) = (j for j in plan.jobs if j.name == "generator g")
    assert trained.spec["training"]["keep_weights_kimg"] == [25, 50, 75]
    sampled = plan.by_id[next(j.id for j in plan.jobs if j.name == "sample g-50kimg")]
    assert sampled.inputs == (("generator", trained.id),)
    assert sampled.spec["snapshot_kimg"] == 50
    assert any(j.name.startswith("segmenter synthetic-g-50kimg") for j in plan.jobs)
    assert any(j.name == "annotations g-50kimg" for j in plan.jobs)


def test_ids_without_snapshots_stay_and_the_study_reads_itself() -> None:
    plain, more = plan_of(g=G), plan_of(g={**G, "snapshots": 4})
    assert all("keep_weights_kimg" not in j.spec.get("training", {}) for j in plain.jobs)
    others = {j.id for j in plain.jobs if j.stage in ("phantom", "prepare")}
    assert others <= set(more.by_id)
    again = make_plan(Study.model_validate(more.study.as_data()))
    assert [(j.name, j.spec) for j in again.jobs if j.stage in STAGES] == [
        (j.name, j.spec) for j in more.jobs if j.stage in STAGES
    ]


def test_the_id_of_a_training_is_what_it_was() -> None:
    """Of the study above before there were snapshots; a changed id would throw away days of training."""
    (job,) = (j for j in plan_of(g=G).jobs if j.stage == "generator")
    assert set(job.spec["training"]).isdisjoint({"keep_weights_kimg", "snapshot_kimg"})


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ({"ensemble": 2, "snapshots": 2}, {"snapshots": 1}, {"snapshots": [200]},
                  {"snapshots": 2, "training": {"kimg": 5, "max_minutes": 3}}):  # fmt: skip
        with pytest.raises((ValidationError, UnderstudyError), match="snapshots"):
            plan_of(g={**G, **wrong})
    with pytest.raises(ValidationError, match="name g-50kimg"):
        plan_of(**{"g": {**G, "snapshots": 2}, "g-50kimg": G})
