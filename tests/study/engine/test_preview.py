"""What a plan says: the paper in numbers, who is in which part, what a change redoes, warnings, speeds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from brats_like import brats_like
from typer.testing import CliRunner

from understudy import cli
from understudy.errors import UnderstudyError
from understudy.generators.registry import model_config, network_type
from understudy.io.files import write_json
from understudy.study.config.schema import Study, load_study
from understudy.study.engine import estimate, machine
from understudy.study.engine import preview as preview_module
from understudy.study.engine.estimate import estimated, generator_cost, reached, training_operations
from understudy.study.engine.jobs import Context, job_folder, saved_jobs
from understudy.study.engine.machine import Calibration, calibrated, stated
from understudy.study.engine.plan import Plan, make_plan
from understudy.study.engine.preview import changed_fields, estimated_here, preview, preview_study
from understudy.study.engine.run import claimed, run_study

SPEED = Calibration(1e11, "a device", "", False)
BASE: dict[str, Any] = {
    "name": "test", "phantom": {"patients": 12}, "slices": {"resolution": 32}, "repeats": 2,
    "generators": {"g": {"samples": 10}, "h": {"samples": 10}},
}  # fmt: skip


def plan_of(**changes: Any) -> Plan:
    return make_plan(Study.model_validate({**BASE, **changes}))


def seen(plan: Plan, out: Path) -> dict[str, Any]:
    return preview(estimated(plan, calibration=SPEED), out, SPEED)


def done(plan: Plan, out: Path) -> None:
    """As if all jobs of a plan had been run."""
    with claimed(out, plan):
        for job in plan.jobs:
            write_json(job_folder(out, job) / "done.json", {"id": job.id})


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """A study file as a user writes it, with two small folders that look like BraTS."""
    brats_like(tmp_path / "b20", 72, sites=4)
    brats_like(tmp_path / "b21", 80)
    path = tmp_path / "mine.yaml"
    path.write_text("preset: paper\ncohorts: {brats2020: {path: b20}, brats2021: {path: b21}}\n")
    return path


def test_the_paper_is_88_settings_and_880_trainings_of_segmenters(paper: Path, tmp_path: Path) -> None:
    found = seen(make_plan(load_study(paper)), tmp_path / "out")
    assert (found["settings"], found["repeats"]) == (88, 10)
    assert len(set(found["setting_ids"])) == 88
    counts = dict.fromkeys(("generator", "sample", "audit", "quality", "annotations"), 10)
    counts |= {"prepare": 2, "segmenter": 880, "evaluate": 880, "report": 2, "overview": 1}
    assert found["jobs"] == counts
    assert found["gpu_hours"] > 0
    first = found["cohorts"]["brats2020"]
    assert (first["train"], first["val"], first["test"]) == (13, 3, 56)
    assert sum(n["test"] for n in first["sites"].values()) == 56


def test_the_paper_with_one_cohort_is_half_of_it(paper: Path, tmp_path: Path) -> None:
    path = paper.with_name("one.yaml")
    for text in ("cohort: {path: b20}", "cohorts: {brats2020: {path: b20}, brats2021: null}"):
        path.write_text(f"preset: paper\n{text}\n")
        found = seen(make_plan(load_study(path)), tmp_path / "out")
        assert (found["settings"], found["jobs"]["segmenter"], found["jobs"]["generator"]) == (44, 440, 5)


def test_networks_of_the_paper_are_counted_in_the_package(
    paper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, value: dict[str, Any]) -> None:
        raise AssertionError("a network is not in costs.json: run python -m understudy.study.engine.estimate")

    estimate._known.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(estimate, "write_cached", write)
    seen(make_plan(load_study(paper)), tmp_path / "out")


def test_counts_in_the_package_are_those_of_the_networks() -> None:
    config = model_config({"kind": "progan", "resolution": 256, "channels": 5})
    cost = generator_cost(config)
    assert cost == network_type("progan").count(config)


def test_a_changed_line_names_its_field_and_what_is_redone(tmp_path: Path) -> None:
    before = plan_of()
    assert seen(before, tmp_path)["diff"] is None
    done(before, tmp_path)
    same = seen(before, tmp_path)["diff"]
    assert (same["changed"], same["redo"], same["kept"], same["new"]) == ([], 0, len(before.jobs), 0)
    after = plan_of(generators={"g": {"samples": 11}, "h": {"samples": 10}})
    diff = seen(after, tmp_path)["diff"]
    assert diff["changed"] == [{"field": "generators.g.samples", "before": 10, "after": 11}]
    # its samples, their audit and annotations, 2 settings x 2 repeats trained and evaluated, the report
    assert diff["redo"] == 1 + 2 + 8 + 1
    assert diff["kept"] == len(before.jobs) - diff["redo"]
    assert (diff["new"], diff["dropped"]) == (0, 0)
    more = seen(plan_of(repeats=3, generators={"g": {"samples": 10}}), tmp_path)["diff"]
    assert (more["redo"], more["new"]) == (1, 6)
    assert more["dropped"] == 2 + 2 + 8  # generator h, its samples, their checks, its trainings


def test_the_difference_is_printed(tmp_path: Path) -> None:
    file, out = tmp_path / "study.yaml", tmp_path / "out"
    text = "name: test\nphantom: {patients: 12}\ntrainings: [real]\nrepeats: REPEATS\n"
    file.write_text(text.replace("REPEATS", "2"))
    done(make_plan(load_study(file)), out)
    file.write_text(text.replace("REPEATS", "3"))
    shown = CliRunner().invoke(cli.app, ["plan", str(file), "--out", str(out), "--speed", "1e12"])
    assert shown.exit_code == 0, shown.output
    assert "changed: repeats: 2 -> 3" in shown.output
    assert "of 7 jobs that were done, 1 will be done again and 6 kept, 2 new" in shown.output
    assert "8 train, 2 validate, 2 test" in shown.output
    assert "1e+12" in shown.output


def test_fields_that_come_go_or_change() -> None:
    assert changed_fields({"a": 1, "b": [1]}, {"b": [2], "c": None}) == [
        {"field": "a", "before": 1, "after": None},
        {"field": "b", "before": [1], "after": [2]},
    ]


def test_warnings_and_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = " ".join(seen(plan_of(split={"test_patients": 2, "validation_fraction": 0}), tmp_path)["warnings"])
    assert "no patient validates" in said
    assert "only 2 patients" in said
    grid: dict[str, Any] = {"phantom": {"patients": 12, "shape": [64, 64, 20]}, "trainings": ["real"]}
    grid["generators"] = {"g": {"samples": 10_000}}
    # 8 training patients x 20 slices, of which about half pass the rule
    assert "want 100 real slices; about 80" in " ".join(
        seen(plan_of(**grid, ratios={"shares": [0.5], "total": 200}), tmp_path)["warnings"]
    )
    with pytest.raises(UnderstudyError, match=r"500 .* 8 .* 160"):
        plan_of(**grid, ratios={"shares": [0.5], "total": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=30_000_000))
    huge = seen(plan_of(generators={"g": {"samples": 10**9}}), tmp_path)
    assert any("TB are needed and 30.0 MB are free" in warning for warning in huge["warnings"])
    (long,) = [warning for warning in huge["warnings"] if "the longest job" in warning]
    assert "training: {max_minutes: 60}" in long
    assert "only 2 patients for testing" in said
    few = seen(plan_of(phantom={"patients": 10}, split={"test_patients": 5, "validation_fraction": 0.3}), tmp_path)
    assert any("patients for training: networks learn little" in warning for warning in few["warnings"])


def nothing(context: Context) -> dict[str, Any]:
    return {}


def test_a_run_is_estimated_as_it_was_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def speed(device: str, again: bool = False, threads: int | None = None) -> Calibration:
        return replace(SPEED, speed=1e11 / (threads or 2))

    monkeypatch.setattr(preview_module, "calibrated", speed)
    monkeypatch.setattr(preview_module, "cores", lambda: 2)
    study = Study.model_validate(BASE)
    planned = preview_study(study, tmp_path / "out", "cpu", workers=2)["list"]
    plan, _, _, workers = estimated_here(make_plan(study), tmp_path / "out", "cpu", 2)
    assert workers == 2
    assert [job.seconds for job in plan.jobs] == [job["seconds"] for job in planned]
    run_study(study, tmp_path / "out", "cpu", progress=False, workers=2, until="phantom", stages={"phantom": nothing})
    assert [job.seconds for job in saved_jobs(tmp_path / "out")] == [job["seconds"] for job in planned]


def test_a_split_without_anybody_to_test_is_refused_by_the_plan() -> None:
    with pytest.raises(UnderstudyError, match="none of 12 patients"):
        plan_of(split={"test_patients": 0})


def test_an_estimate_refuses_no_valid_study(tmp_path: Path) -> None:
    training = {"epochs": 1, "batch": 8, "warmup_samples": 100_000}  # 5 patients of 10 slices are fewer by far
    swin = {"model": {"kind": "swin", "size": "mini"}, "training": training}
    phantom = {"patients": 5, "shape": [16, 16, 10]}
    plan = plan_of(phantom=phantom, trainings=["real"], generators={}, segmenters={"s": swin})
    assert seen(plan, tmp_path)["seconds"] > 0


def test_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    speeds = iter([1e9, 2e9])
    monkeypatch.setattr(machine, "calibrate", lambda device: next(speeds))
    first = calibrated("cpu")
    assert first.speed == calibrated("cpu").speed == 1e9
    assert calibrated("cpu", again=True).speed == calibrated("cpu").speed == 2e9
    assert first.measured[:10] in first.words
    (tmp_path / "understudy" / machine.SPEEDS).write_text("{cut off")
    monkeypatch.setattr(machine, "calibrate", lambda device: 3e9)
    assert calibrated("cpu").speed == 3e9


def test_a_stated_speed_is_a_number_or_a_device() -> None:
    assert stated("2.5e14").speed == 2.5e14
    assert stated("RTX-4090").speed < machine.RATED["rtx4090"]
    for wrong in ("fast", "-1", "nan", "1"):
        with pytest.raises(UnderstudyError, match="is no speed"):
            stated(wrong)


def test_a_named_device_agrees_with_what_its_maker_published() -> None:
    # stylegan3/docs/configs.md: StyleGAN 2, 256 x 256, channel_base 16384, batch 16 on one A100: 12.5 s/kimg
    config = model_config({"kind": "stylegan2", "resolution": 256, "channels": 5, "channel_base": 16384})
    training = network_type("stylegan2").training.model_validate({"kimg": 1, "batch": 16})
    work = training_operations(config, training)
    seconds = work / reached(stated("a100"), "generator", "stylegan2", work / 1000 * 16)
    assert seconds == pytest.approx(12.5, rel=0.3)


def test_the_workstation_is_a_day_of_one_gpu(tmp_path: Path) -> None:
    brats_like(tmp_path / "b20", 369)
    (tmp_path / "mine.yaml").write_text("preset: workstation\ncohort: {path: b20}\n")
    plan = estimated(make_plan(load_study(tmp_path / "mine.yaml")), calibration=stated("rtx4090"))
    assert sum(job.stage == "generator" for job in plan.jobs) == 5
    assert 16 < sum(job.seconds for job in plan.jobs) / 3600 < 26


def test_a_plan_imports_no_network_library() -> None:
    code = (
        "import sys; from understudy.study.engine.plan import make_plan;"
        " from understudy.study.engine.estimate import estimated;"
        "print([m for m in ('monai', 'transformers', 'torchvision', 'matplotlib', 'tensorboard', 'scipy.io', 'pandas',"
        " 'zarr')"
        " if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_json_of_the_command(paper: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(
        cli.app, ["plan", str(paper), "--out", str(tmp_path / "out"), "--speed", "h100", "--json"]
    )
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert {"jobs", "settings", "repeats", "gpu_hours", "disk_bytes", "diff", "cohorts", "warnings"} <= set(found)
    assert found["calibration"]["measured"] is None
