"""What `understudy doctor` says of machines that are as they should be, and of others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from understudy.cli import app
from understudy.generators.networks.unet import Conv
from understudy.study import doctor
from understudy.study.config.schema import Study
from understudy.study.doctor import Finding

CPU = torch.device("cpu")


def by_topic(findings: list[Finding]) -> dict[str, Finding]:
    return {one.topic: one for one in findings}


def test_the_command_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "KINDS", ("stylegan1",))
    result = CliRunner().invoke(app, ["doctor", "--json", "--device", "cpu", "--out", str(tmp_path / "new")])
    found = {row["topic"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0, found
    assert found["PyTorch"]["found"].startswith(torch.__version__)
    assert found["StyleGAN 1"]["state"] == found["U-Net"]["state"] == found["Swin"]["state"] == "good"
    assert found["results"]["found"].endswith(str(tmp_path))  # the first folder above that is there
    assert "s for 1000 images of 32 pixels" in found["speed of StyleGAN 1"]["found"]


def test_the_generators_of_a_study_are_timed_in_their_own_sizes() -> None:
    model = {"kind": "stylegan2", "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2}
    study = Study.model_validate({
        "name": "s", "phantom": {"patients": 4}, "slices": {"resolution": 64},
        "generators": {"mine": {"model": model, "training": {"batch": 4}}},
    })  # fmt: skip
    found = by_topic(list(doctor.speeds(CPU, study)))
    assert list(found) == ["`plan` assumes", "speed of mine"]
    assert "1000 images of 64 pixels, batch size 4 (`plan`: " in found["speed of mine"].found


@pytest.mark.parametrize(
    ("dtype", "losses", "state"),
    [
        (torch.float32, [1.0, 2.0], "good"),
        (torch.float32, [1.0, 2.05], "bad"),  # 2.5 %
        (torch.bfloat16, [1.0, 2.05], "good"),
        (torch.bfloat16, [1.3, 2.0], "bad"),
        (torch.bfloat16, [1.0, float("nan")], "bad"),
    ],
)
def test_losses_far_from_those_of_the_cpu_are_bad(dtype: torch.dtype, losses: list[float], state: str) -> None:
    meta = torch.device("meta")
    found = doctor._compared("x", dtype, lambda where, _: [1.0, 2.0] if where == CPU else losses, meta, CPU)
    assert found.state == state


def test_a_convolution_that_computes_noise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the denoiser, whose last convolution begins at zero and would hide it."""
    case = next(case for case in doctor._cases(None) if case.name == "diffusion")
    whole = doctor._losses(case, CPU, "fp32")
    forward = Conv.forward

    def noise(self: Conv, *given: object, **named: object) -> torch.Tensor:
        found = forward(self, *given, **named)  # type: ignore[arg-type]
        return found if self.out_channels == case.model.channels else torch.randn_like(found) * found.std()

    monkeypatch.setattr(Conv, "forward", noise)
    broken = doctor._losses(case, CPU, "fp32")
    for dtype in doctor.TOLERANCE:
        answers = iter((whole, broken))
        assert doctor._compared("x", dtype, lambda *_, a=answers: next(a), CPU, CPU).state == "bad"


def test_a_network_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_losses", lambda case, device, precision: [float(torch.ones(1, device="meta"))])
    (first, *_) = doctor.networks(CPU)
    assert (first.topic, first.state) == ("Progressive GAN", "bad")


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "4000000000"}, 1.5, 4e9),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        (
            {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000",
             "memory/memory.limit_in_bytes": "5000000000"}, 2.0, 5e9,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_limits_of_a_control_group(
    files: dict[str, str], cores: float | None, memory: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    assert doctor._cgroup("cpu.max", "cpu/cpu.cfs_quota_us") == cores
    assert doctor._cgroup("memory.max", "memory/memory.limit_in_bytes") == memory


def test_more_threads_than_cores_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000")
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    found = by_topic(list(doctor.limits()))["cores"]
    assert (found.state, found.advice.split(":")[0]) == ("note", "set OMP_NUM_THREADS=1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_bad(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert by_topic(list(doctor.surroundings(tmp_path)))["results"].state == "bad"


def test_a_folder_that_takes_no_file_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = by_topic(list(doctor.surroundings(tmp_path)))["results"]
    assert found.state == "bad"
    assert str(tmp_path) in found.found
