"""Estimates: operations as torch counts them, and figures that follow the size of the work."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from understudy.segmenters.swin import SwinConfig
from understudy.segmenters.unet import UNetConfig
from understudy.study.config.schema import Study, load_study
from understudy.study.engine import estimate
from understudy.study.engine.estimate import estimated, reached, segmenter_cost
from understudy.study.engine.machine import Calibration, calibrate
from understudy.study.engine.plan import make_plan
from understudy.study.registry import STAGES


def test_the_papers_networks_cost_what_others_measured() -> None:
    # facts/segmenters 2.1: 29.7 GFLOP a slice (nnU-Net's plan); our count is twice the multiply-adds of convolutions
    operations, weights = segmenter_cost(UNetConfig(), 4, 4, 256)
    assert operations / 1e9 == pytest.approx(29.7, rel=0.02)
    assert round(weights / 1e6, 2) == 33.47
    operations, weights = segmenter_cost(SwinConfig(), 4, 4, 256)
    assert operations / 1e9 == pytest.approx(156.5, rel=0.01)
    assert round(weights / 1e6, 1) == 121.2


@pytest.mark.usefixtures("fixed_speed")
def test_a_budget_in_epochs_follows_the_slices_and_a_time_limit_ends_it() -> None:
    def seconds(**training: Any) -> float:
        segmenter = {"model": {"kind": "unet"}, "training": {"batch": 2, **training}}
        return costs(trainings=["real"], generators={}, segmenters={"u": segmenter})["segmenter"][0]

    assert seconds(epochs=20) == pytest.approx(2 * seconds(epochs=10), rel=0.2)  # validations apart
    assert seconds(epochs=20, max_minutes=0.001) == pytest.approx(0.06, abs=0.05)


@pytest.mark.usefixtures("fixed_speed")
def test_a_set_of_the_size_of_the_real_one_costs_what_the_real_one_costs() -> None:
    segmenter = {"model": {"kind": "unet"}, "training": {"batch": 2, "epochs": 3}}
    fields = {"name": "x", "phantom": {"patients": 10}, "slices": {"resolution": 32}, "generators": {"g": {}}}
    study = {**fields, "trainings": ["real"], "ratios": [0.5], "segmenters": {"u": segmenter}}
    plan = estimated(make_plan(Study.model_validate(study)))
    real, mixed = (job.seconds for job in plan.jobs if job.stage == "segmenter")
    assert real == mixed > 0


@pytest.fixture
def fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "calibrated", lambda device: Calibration(1e11, "a device", "", False))


def costs(**changes: Any) -> dict[str, tuple[float, float]]:
    base = {"name": "x", "phantom": {"patients": 10}, "slices": {"resolution": 32}, "generators": {"g": {}},
            "quality": {}}  # fmt: skip
    plan = estimated(make_plan(Study.model_validate({**base, **changes})))
    return {job.stage: (job.seconds, job.disk_bytes) for job in plan.jobs}


@pytest.mark.usefixtures("fixed_speed")
def test_every_stage_has_an_estimate_that_follows_its_work() -> None:
    once, twice = costs(), costs(generators={"g": {"samples": 200_000, "training": {"kimg": 50_000}}})
    assert set(once) == set(STAGES) - {"overview"}  # which several cohorts have
    assert all(seconds > 0 and disk > 0 for seconds, disk in once.values())
    for stage in ("generator", "sample"):
        assert twice[stage][0] == pytest.approx(2 * once[stage][0], rel=0.01)
    assert twice["sample"][1] == pytest.approx(2 * once["sample"][1])
    assert twice["prepare"] == once["prepare"]


@pytest.mark.usefixtures("fixed_speed")
def test_slices_that_the_rule_drops_are_predicted_only_where_the_study_says_so() -> None:
    swin = {"quality": None, "segmenters": {"swin": {"training": {"epochs": None, "samples": 16, "warmup_samples": 0}}}}
    kept, every = (
        costs(**swin, evaluation={"dropped_slices": how})["evaluate"][0] for how in ("background", "predict")
    )
    patients, scoring = 2, 0.06 + 128 * 128 * 80 * 3e-8
    assert every - patients * scoring == pytest.approx(2 * (kept - patients * scoring), abs=0.2)  # to 0.1 s


@pytest.mark.usefixtures("fixed_speed")
def test_a_time_limit_limits_the_estimate() -> None:
    assert costs(generators={"g": {"training": {"max_minutes": 2}}})["generator"][0] == 120


@pytest.mark.usefixtures("fixed_speed")
def test_a_cohort_whose_first_file_cannot_be_read_is_estimated_all_the_same(tmp_path: Path) -> None:
    for patient, name in product("ABC", ("t1", "t1ce", "t2", "flair", "seg")):
        path = tmp_path / patient / f"{patient}_{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"nothing")
    assert costs(phantom=None, cohort={"path": str(tmp_path)})["prepare"][0] > 0


QUICKSTART = {  # processor seconds of its jobs by a thread of a server CPU whose convolutions reach 1.93e11 a second
    "generator progan": 52.2, "generator stylegan2": 40.2, "generator diffusion": 87.8,
    "sample diffusion": 41.1,  # at 219 passes of the network a second, in blocks of 32
    "segmenter real.unet.aug, repeat 1": 23.0, "segmenter synthetic-stylegan2.unet.aug, repeat 1": 23.2,
    "segmenter real.swin.aug, repeat 1": 45.6, "quality stylegan2": 11.8, "audit stylegan2": 18.3, "phantom": 5.5,
}  # fmt: skip


def test_the_estimates_of_quickstart_five_are_what_its_jobs_took() -> None:
    plan = estimated(make_plan(load_study("quickstart-five")), calibration=Calibration(1.93e11, "it", "", False))
    planned = {job.name: job.seconds for job in plan.jobs}
    for name, seconds in QUICKSTART.items():
        assert planned[name] == pytest.approx(seconds, rel=0.25), name


def test_what_a_step_waits_between_operations_is_no_shorter_where_convolutions_are_faster() -> None:
    slow, fast = (Calibration(speed, "it", "", False) for speed in (1.93e11, 3.86e11))
    few, many = (lambda machine, n=n: n / reached(machine, "generator", "stylegan2", n) for n in (1e6, 1e14))
    assert few(fast) == pytest.approx(few(slow), rel=0.01) == 8.5e9 / 1.93e11 / 0.95
    assert many(fast) == pytest.approx(many(slow) / 2, rel=0.01)


def test_the_calibration_is_a_speed() -> None:
    assert calibrate("cpu", seconds=0.01) > 1e8
