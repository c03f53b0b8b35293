"""Fine-tuning in the grid: its settings, what a training goes on from, refusals, and its words in a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from understudy.errors import UnderstudyError
from understudy.report.data import ReportData
from understudy.segmenters.config import SegmenterTrainingConfig
from understudy.study.config.grid import settings
from understudy.study.config.schema import Study, load_study
from understudy.study.engine.calibration import Calibration
from understudy.study.engine.estimate import estimated
from understudy.study.engine.jobs import Job
from understudy.study.engine.plan import Plan, make_plan

BASE: dict[str, Any] = {
    "name": "test", "phantom": {"patients": 12}, "generators": {"g": {"samples": 100}, "h": {"samples": 100}},
    "trainings": ["real", "synthetic"],
}  # fmt: skip


def plan_of(**changes: Any) -> Plan:
    return make_plan(Study.model_validate({**BASE, **changes}))


def trainings(plan: Plan) -> dict[tuple[str, int], Job]:
    cells = [job for job in plan.jobs if job.stage == "segmenter"]
    return {(job.spec["cell"]["setting"], job.spec["cell"]["repeat"]): job for job in cells}


def test_each_generator_network_and_number_of_patients_is_a_setting() -> None:
    study = Study.model_validate(
        {**BASE, "segmenters": {"a": {}, "b": {}}, "augmentation": [True, False], "fine_tune": {"patients": [5, 1]}}
    )
    ids = [cell.id for cell in settings(study)]
    assert [i for i in ids if i.endswith(".a.aug")] == [
        "real.a.aug", "synthetic-g.a.aug", "synthetic-h.a.aug", "real_1patients.a.aug", "finetune1-g.a.aug",
        "finetune1-h.a.aug", "real_5patients.a.aug", "finetune5-g.a.aug", "finetune5-h.a.aug",
    ]  # fmt: skip
    assert len(set(ids)) == len(ids) == 36


def test_a_fine_tuning_goes_on_from_the_same_repeats_network_and_sees_real_patients_only() -> None:
    plan = plan_of(fine_tune={"patients": [2], "training": {"samples": 640, "lr": 0.001}}, repeats=2)
    found = trainings(plan)
    for repeat in (0, 1):
        job, start = found["finetune2-g.unet.aug", repeat], found["synthetic-g.unet.aug", repeat]
        assert [role for role, _ in job.inputs] == ["prepare", "pretrained"]
        assert dict(job.inputs)["pretrained"] == start.id
        assert job.spec["model"] == start.spec["model"]
        assert job.spec["cell"]["real_patients"] == 2
        training = SegmenterTrainingConfig.model_validate(job.spec["training"])
        assert (training.samples, training.lr, training.mixture.patient_count) == (640, 0.001, 2)
        assert training.seed != start.spec["training"]["seed"]
    scratch = found["real_2patients.unet.aug", 0]
    assert [role for role, _ in scratch.inputs] == ["prepare"]
    assert scratch.spec["training"]["samples"] == found["real.unet.aug", 0].spec["training"]["samples"]
    assert scratch.spec["training"]["mixture"] == found["finetune2-h.unet.aug", 1].spec["training"]["mixture"]
    positions = {job.id: n for n, job in enumerate(plan.jobs)}
    assert all(positions[i] < positions[job.id] for job in plan.jobs for _, i in job.inputs)


def test_it_leaves_the_jobs_of_other_settings_alone_and_follows_its_own_lines() -> None:
    without, with_it = plan_of(), plan_of(fine_tune={"patients": [1, 2]})
    assert {job.id for job in without.jobs if job.stage != "report"} < set(with_it.by_id)
    changed = plan_of(fine_tune={"patients": [1, 2], "training": {"lr": 0.5}})
    redone = {job.name for job in changed.jobs if job.id not in with_it.by_id}
    assert redone == {"report"} | {
        f"{stage} finetune{n}-{g}.unet.aug, repeat 1"
        for stage in ("segmenter", "evaluate")
        for n in (1, 2)
        for g in "gh"
    }
    longer = plan_of(fine_tune={"patients": [1, 2]}, segmenters={"unet": {"training": {"samples": 50_000}}})
    assert not {j.id for j in trainings(longer).values()} & {j.id for j in trainings(with_it).values()}


def test_epochs_and_warm_up_of_the_network_are_not_taken_over() -> None:
    swin = {"model": {"kind": "swin", "size": "mini"}}
    fine = {"patients": [1], "scratch": {"samples": 20_000}}
    found = trainings(plan_of(segmenters={"s": swin}, fine_tune=fine))
    for setting, samples in (("finetune1-g.s.aug", 20_000), ("real_1patients.s.aug", 20_000)):
        training = SegmenterTrainingConfig.model_validate(found[setting, 0].spec["training"])
        assert (training.samples, training.epochs) == (samples, None)
        assert training.steps(10) > 0
    lr = found["finetune1-g.s.aug", 0].spec["training"]["lr"]
    assert lr == pytest.approx(0.1 * found["synthetic-g.s.aug", 0].spec["training"]["lr"])


def test_an_ensemble_and_fine_tuning_with_several_cohorts() -> None:
    cohorts = {name: {"phantom": {"patients": 12}} for name in ("a", "b")}
    generators = {"g": {"samples": 100, "ensemble": 3}}
    plan = plan_of(phantom=None, cohorts=cohorts, generators=generators, fine_tune={"patients": [1]})
    names = [job.name for job in plan.jobs if job.stage == "generator"]
    assert names == [f"{c}: generator g, member {m}" for c in "ab" for m in (1, 2, 3)]
    for job in plan.jobs:
        if job.stage == "sample":
            assert [plan.cohort_of[i] for _, i in job.inputs] == [plan.cohort_of[job.id]] * 3
        if "pretrained" in dict(job.inputs):
            assert plan.cohort_of[dict(job.inputs)["pretrained"]] == plan.cohort_of[job.id]
    estimate = estimated(plan, calibration=Calibration(1e11, "", "", False))
    assert all(job.seconds > 0 for job in estimate.jobs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fine_tune: {patients: []}", "line 3: `fine_tune.patients`"),
        ("fine_tune: {patients: [0]}", "1 or more"),
        ("fine_tune: {patients: [2, 2]}", "duplicate"),
        ("trainings: [real]\nfine_tune: {patients: [1]}", "line 4: `fine_tune`: goes on from networks trained on"),
        (
            "fine_tune: {patients: [1]}\nexclude: [{training: synthetic}]",
            "line 4: `exclude`: leaves out synthetic-g.unet.aug, from which finetune1-g.unet.aug goes on",
        ),
        ("fine_tune: {patients: [1]}\nsegmenters: {swin: {}}", "needs `scratch: {samples: ...}`: swin is trained"),
        (
            "fine_tune: {patients: [1], training: {samples: 10, warmup_samples: 99}, scratch: {samples: 20000}}\n"
            "segmenters: {swin: {}}",
            "line 3: `fine_tune.training`: a warm-up of 99 samples",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"phantom: {{patients: 12}}\ngenerators: {{g: {{model: {{kind: stylegan2}}}}}}\n{text}\n")
    with pytest.raises(UnderstudyError) as caught:
        load_study(path)
    assert said in caught.value.message


def test_more_patients_than_there_are_is_said_by_the_plan() -> None:
    with pytest.raises(UnderstudyError, match="wants 20 real patients, but only 8 train"):
        plan_of(fine_tune={"patients": [1, 20]})


def test_a_report_calls_it_what_it_is() -> None:
    rows = pd.DataFrame(
        [
            ("real.unet.aug", "real", "", None), ("synthetic-g.unet.aug", "synthetic", "g", None),
            ("finetune5-g.unet.aug", "finetune", "g", 5), ("finetune1-h.unet.aug", "finetune", "h", 1),
            ("real_5patients.unet.aug", "real", "", 5),
        ],
        columns=["setting", "training", "generator", "real_patients"],
    ).assign(segmenter="unet", augmentation=True, repeat=0)  # fmt: skip
    data = ReportData("t", {}, rows, baseline="real.unet.aug")
    assert {s.id: s.label for s in data.settings} == {
        "real.unet.aug": "Real",
        "real_5patients.unet.aug": "Real (5 patients)",
        "synthetic-g.unet.aug": "Synthetic (g)",
        "finetune1-h.unet.aug": "Synthetic (h), then 1 real patient",
        "finetune5-g.unet.aug": "Synthetic (g), then 5 real patients",
    }
    assert [s.id for s in data.settings if s.plain] == ["real.unet.aug", "synthetic-g.unet.aug"]
    assert {s.original for s in data.settings} == {"✓", "5 patients", "1 patient", ""}
