"""Estimates: operations as torch counts them, and figures that follow the size of the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from understudy.segmenters.unet import UNetConfig, build
from understudy.study import estimate
from understudy.study.estimate import estimated, segmenter_flops
from understudy.study.plan import STAGE_VERSIONS, make_plan
from understudy.study.schema import Study


@pytest.mark.parametrize(("resolution", "width", "channels"), [(32, 4, 1), (64, 8, 4)])
def test_a_unets_operations_and_weights_are_torchs(resolution: int, width: int, channels: int) -> None:
    config = UNetConfig(width=width)
    network = build(config, channels, 4, resolution).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, channels, resolution, resolution))
    operations, weights = segmenter_flops(config, channels, 4, resolution)
    assert operations == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert weights == pytest.approx(sum(p.numel() for p in network.parameters()), rel=0.05)


@pytest.fixture
def fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "calibrate", lambda device="auto": 1e11)


def costs(**changes: Any) -> dict[str, tuple[float, float]]:
    base = {"name": "x", "phantom": {"patients": 10}, "slices": {"resolution": 32}, "generators": {"g": {}}}
    plan = estimated(make_plan(Study.model_validate({**base, **changes})))
    return {job.stage: (job.seconds, job.disk_bytes) for job in plan.jobs}


@pytest.mark.usefixtures("fixed_speed")
def test_every_stage_has_an_estimate_that_follows_its_work() -> None:
    once, twice = costs(), costs(generators={"g": {"samples": 200_000, "training": {"kimg": 50_000}}})
    assert set(once) == set(STAGE_VERSIONS)
    assert all(seconds > 0 and disk > 0 for seconds, disk in once.values())
    for stage in ("generator", "sample"):
        assert twice[stage][0] == pytest.approx(2 * once[stage][0], rel=0.01)
    assert twice["sample"][1] == pytest.approx(2 * once["sample"][1])
    assert twice["prepare"] == once["prepare"]


@pytest.mark.usefixtures("fixed_speed")
def test_a_time_limit_limits_the_estimate() -> None:
    assert costs(generators={"g": {"training": {"max_minutes": 2}}})["generator"][0] == 120


@pytest.mark.usefixtures("fixed_speed")
def test_a_cohort_whose_first_file_cannot_be_read_is_estimated_all_the_same(tmp_path: Path) -> None:
    for name in ("t1", "t1ce", "t2", "flair", "seg"):
        path = tmp_path / "A" / f"A_{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"nothing")
    assert costs(phantom=None, cohort={"path": str(tmp_path)})["prepare"][0] > 0


def test_the_calibration_is_a_speed() -> None:
    assert estimate.calibrate("cpu", seconds=0.01) > 1e8
