"""The grid of trainings: cells, ids that stay, rules, and errors that name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.report.data import ReportData
from understudy.segmenters.config import SegmenterTrainingConfig
from understudy.study.config.grid import settings
from understudy.study.config.schema import Study, load_study
from understudy.study.engine.estimate import estimated
from understudy.study.engine.jobs import Job
from understudy.study.engine.machine import Calibration
from understudy.study.engine.plan import Plan, make_plan

BASE: dict[str, Any] = {
    "name": "test",
    "phantom": {"patients": 5},
    "generators": {"g": {"samples": 100}, "h": {"samples": 100}},
}


def study_of(**changes: Any) -> Study:
    return Study.model_validate({**BASE, **changes})


def ids(**changes: Any) -> list[str]:
    return [setting.id for setting in settings(study_of(**changes))]


def mixtures(**changes: Any) -> dict[tuple[str, int], dict[str, Any]]:
    """(setting, repeat) -> the mixture of its training."""
    jobs = [job for job in make_plan(study_of(**changes)).jobs if job.stage == "segmenter"]
    return {(j.spec["cell"]["setting"], j.spec["cell"]["repeat"]): j.spec["training"]["mixture"] for j in jobs}


def test_a_ratio_study_shares_the_real_end() -> None:
    found = ids(trainings=["real", "both"], ratios=[0, 0.05, 0.025, 1], exclude=[{"training": "both"}])
    assert found == [
        "real.unet.aug", "ratio0-g.unet.aug", "ratio0-h.unet.aug", "ratio2p5-g.unet.aug", "ratio2p5-h.unet.aug",
        "ratio5-g.unet.aug", "ratio5-h.unet.aug",
    ]  # fmt: skip
    assert ids(trainings=["real"], ratios={"shares": [1], "total": 50}) == ["real.unet.aug", "ratio100.unet.aug"]
    chosen = mixtures(trainings=["real"], ratios={"shares": [0.5, 1], "total": 80, "choose": "slices"})
    half = chosen["ratio50-g.unet.aug", 0]
    assert (half["real_share"], half["total"], half["choose"]) == (0.5, 80, "slices")
    assert "total" not in chosen["real.unet.aug", 0]
    plan = make_plan(study_of(trainings=["real"], ratios={"shares": [0, 1], "total": 80}))
    roles = {j.spec["cell"]["setting"]: [r for r, _ in j.inputs] for j in plan.jobs if j.stage == "segmenter"}
    assert roles["ratio0-g.unet.aug"] == ["prepare", "sample"]
    assert roles["ratio100.unet.aug"] == ["prepare"]


def test_a_folder_of_images_has_a_number_only_when_it_is_read(tmp_path: Path) -> None:
    folder = {"folder": str(tmp_path), "channels": {"T1w": "t1"}}
    study = Study.model_validate(
        {"phantom": {"patients": 5}, "generators": {"theirs": folder}, "ratios": {"shares": [0, 0.5], "total": 200}}
    )
    assert [s.id for s in settings(study)][-1] == "ratio50-theirs.unet.aug"


def test_fractions_and_shares() -> None:
    found = ids(generators={"g": {}}, real_fractions=[0.2, 1], real_shares=[0.5, 0.8])
    assert found == [
        "real.unet.aug", "real_patients20.unet.aug", "synthetic-g.unet.aug", "both-g.unet.aug",
        "both_share80-g.unet.aug", "both_patients20-g.unet.aug", "both_share80_patients20-g.unet.aug",
    ]  # fmt: skip


def test_new_cells_leave_the_jobs_of_others_alone() -> None:
    before = make_plan(study_of())
    after = make_plan(study_of(ratios=[0, 0.5, 1], real_fractions=[0.2, 1], real_shares=[0.5, 0.8]))
    assert {job.id for job in before.jobs if job.stage != "report"} < {job.id for job in after.jobs}


def test_the_same_patients_in_every_setting_and_repeat_unless_asked_otherwise() -> None:
    grid: dict[str, Any] = {"ratios": [0, 0.5], "real_fractions": [0.2, 1], "repeats": 3}
    same = {k: m["subset_seed"] for k, m in mixtures(**grid).items() if "patients20" in k[0] or "ratio" in k[0]}
    assert len(set(same.values())) == 1
    other = mixtures(**grid, real_subsets="each_repeat")
    for repeat in range(3):
        assert len({other[k]["subset_seed"] for k in same if k[1] == repeat}) == 1
    assert len({other[k]["subset_seed"] for k in same}) == 3
    assert all(m["subset_seed"] == 0 for k, m in mixtures(**grid).items() if k not in same)


def test_every_repeat_has_its_own_seed() -> None:
    jobs = [j for j in make_plan(study_of(repeats=10, ratios=[0, 0.5])).jobs if j.stage == "segmenter"]
    assert len({job.spec["training"]["seed"] for job in jobs}) == len(jobs)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 10_000), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 10_000), min_size=1, max_size=3, unique=True),
    st.lists(st.integers(1, 9_999), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(["g", "g-patients20", "share5", "both"]), min_size=1, unique=True),
)
def test_ids_are_unique(shares: list[int], fractions: list[int], of_both: list[int], names: list[str]) -> None:
    cells = settings(
        study_of(
            generators={name: {"model": {"kind": "stylegan2"}} for name in names},
            ratios=[share / 10_000 for share in shares],
            real_fractions=[share / 10_000 for share in fractions],
            real_shares=[share / 10_000 for share in of_both],
            augmentation=[True, False],
        )
    )
    assert len({cell.id for cell in cells}) == len(cells)


def test_rules() -> None:
    grid: dict[str, Any] = {"segmenters": {"a": {}, "b": {}}, "augmentation": [True, False]}
    everything = ids(**grid)
    without = ids(**grid, exclude=[{"segmenter": "b", "training": "synthetic"}, {"generator": ["h"]}])
    assert without == [i for i in everything if not (".b." in i and "synthetic" in i) and "-h" not in i]
    only = ids(**grid, include=[{"training": "real"}, {"generator": "g", "augmentation": False}])
    assert only == [i for i in everything if i.startswith("real") or ("-g" in i and "noaug" in i)]
    shares = ids(ratios=[0, 0.5], exclude=[{"training": ["synthetic", "both"]}, {"real_share": [0.0]}])
    assert shares == ["real.unet.aug", "ratio50-g.unet.aug", "ratio50-h.unet.aug"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exclude:\n- {segmenter: unet}\n- {segmenter: swim}", "line 5: `exclude.1.segmenter`: there is no segmenter"),
        ("exclude:\n- {training: ratio}", "line 4: `exclude.0`: fits no setting"),
        ("exclude:\n- {trainin: ratio}", "line 4: `exclude.0.trainin` is not a known field; did you mean `training`"),
        ("exclude:\n- {augmentation: true}", "line 3: `exclude`: leaves no setting over"),
        ("include:\n- {generator: q}", "line 4: `include.0.generator`: there is no generator 'q' (there are: g)"),
        ("ratios: [0, 1.5]", "line 3: `ratios.shares`: 1.5 is not a share"),
        ("ratios: [0.5, 0.5]", "line 3: `ratios.shares`: duplicate"),
        ("ratios: [0.00001]", "finer than a hundredth"),
        ("ratios: {shares: [0], total: 101}", "line 3: `ratios.total`: needs 101 synthetic slices"),
        ("real_fractions: [0, 1]", "line 3: `real_fractions`: 0 leaves one of the two out"),
        ("real_shares: [1]", "line 3: `real_shares`: 1 leaves one of the two out"),
        ("trainings: [real]\nreal_shares: [0.2]", "line 4: `real_shares`: is the proportion in `both`"),
        (
            "ratios: [0.5]\nsegmenters:\n  unet:\n    training: {mixture: {real_share: 0.3}}",
            "line 6: `segmenters.unet.training.mixture.real_share`: cannot be set here: it follows from",
        ),
    ],
)
def test_what_cannot_be_meant_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"phantom: {{patients: 5}}\ngenerators: {{g: {{samples: 100, model: {{kind: stylegan2}}}}}}\n{text}\n"
    )
    with pytest.raises(UnderstudyError) as caught:
        load_study(path)
    assert said in caught.value.message


def test_a_study_as_data_can_be_read_again() -> None:
    """`understudy evaluate` makes a study from another one, with every field filled in."""
    asked = study_of(ratios=[0, 0.5], fine_tune={"patients": [1, 2]}, real_fractions=[0.5, 1.0])
    again = Study.model_validate(asked.as_data())
    assert settings(again) == settings(asked)
    assert again.hash == asked.hash


FEW_PATIENTS: dict[str, Any] = {
    "name": "test", "phantom": {"patients": 12}, "generators": {"g": {"samples": 100}, "h": {"samples": 100}},
    "trainings": ["real", "synthetic"],
}  # fmt: skip


def plan_of(**changes: Any) -> Plan:
    return make_plan(Study.model_validate({**FEW_PATIENTS, **changes}))


def trainings(plan: Plan) -> dict[tuple[str, int], Job]:
    cells = [job for job in plan.jobs if job.stage == "segmenter"]
    return {(job.spec["cell"]["setting"], job.spec["cell"]["repeat"]): job for job in cells}


def test_each_generator_network_and_number_of_patients_is_a_setting() -> None:
    study = Study.model_validate(
        {
            **FEW_PATIENTS,
            "segmenters": {"a": {}, "b": {}},
            "augmentation": [True, False],
            "fine_tune": {"patients": [5, 1]},
        }
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
        ("fine_tune: {patients: [1]}\nsegmenters: {swin: {}}", "needs `scratch: {samples: ...}`: 25 epochs of swin"),
        (
            "fine_tune: {patients: [1], training: {samples: 10, warmup_samples: 99}, scratch: {samples: 20000}}\n"
            "segmenters: {swin: {}}",
            "line 3: `fine_tune.training`: a warm-up of 99 samples",
        ),
    ],
)  # fmt: skip
def test_fine_tunings_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
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
