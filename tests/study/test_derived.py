"""Sweeps over nested groups of training patients: their jobs, and who is in a group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError
from tiny_study import tiny_study

from understudy.errors import UnderstudyError
from understudy.exchange.description import FORMAT
from understudy.exchange.export import export_images
from understudy.io.files import read_json, write_json
from understudy.memorization.pictures import save_sweep
from understudy.slices import SliceSet, SliceWriter, evenly_coded
from understudy.study import derived
from understudy.study.config.schema import Study, load_study
from understudy.study.derived import canary_plan, canary_words, resolution_in, run_canary, study_of_cohort, sweep_plan
from understudy.study.engine.plan import make_plan
from understudy.study.stages.data import training_rows

BASE: dict[str, Any] = {
    "name": "s", "phantom": {"patients": 9}, "slices": {"resolution": 32}, "generators": {"g": {"samples": 9}},
}  # fmt: skip


def test_the_jobs_of_a_sweep() -> None:
    study = Study.model_validate(BASE)
    plan = sweep_plan(study, "g", [4, 2], samples=300)
    names = [job.name for job in plan.jobs]
    assert names[2:] == [f"{stage} g of {n} patients" for n in (2, 4) for stage in ("generator", "sample", "audit")]
    assert plan.study.name == "s-sweep"
    assert {job.spec["count"] for job in plan.jobs if job.stage == "sample"} == {300}
    whole = {job.id for job in make_plan(study).jobs}
    assert {job.stage for job in plan.jobs if job.id in whole} == {"phantom", "prepare"}
    more = {job.id for job in sweep_plan(study, "g", [2, 3, 4], samples=300).jobs}
    assert {job.id for job in plan.jobs} < more  # another size redoes nothing


def test_a_packages_slices_keep_their_size_unless_another_is_asked_for(tmp_path: Path) -> None:
    images, labels = np.zeros((2, 1, 64, 64), np.uint8), np.zeros((2, 64, 64), np.uint8)
    made = SliceSet.from_arrays(images, labels, channels=["T1w"]).save(tmp_path / "set")
    export_images(made, tmp_path / "png", progress=False)
    write_json(tmp_path / "package" / "release.json", {"format": FORMAT, "data": {"resolution": 128}})
    folders = {"set": 64, "png": 64, "package": 128, "nothing": None}
    assert {name: resolution_in(tmp_path / name) for name in folders} == folders
    base = load_study("quickstart")
    assert study_of_cohort(tmp_path, base, 64).slices.resolution == 64
    assert study_of_cohort(tmp_path, base, None).slices.resolution == 32
    with pytest.raises(ValidationError, match="power of two"):  # one line of the command
        study_of_cohort(tmp_path, base, 30)


def test_wrong_sweeps_are_refused() -> None:
    study = Study.model_validate(BASE)
    with pytest.raises(UnderstudyError, match="no generator 'h'"):
        sweep_plan(study, "h", [2])
    for sizes in ([], [0], [2, 2]):
        with pytest.raises(UnderstudyError, match="different numbers"):
            sweep_plan(study, "g", sizes)


def test_every_generator_is_audited_unless_the_study_says_no() -> None:
    jobs = make_plan(Study.model_validate(BASE)).jobs
    (audit,) = [job for job in jobs if job.stage == "audit"]
    assert [role for role, _ in audit.inputs] == ["prepare", "sample", "generator"]
    assert ("audit", audit.id) in jobs[-1].inputs
    without = make_plan(Study.model_validate({**BASE, "audit": None})).jobs
    assert not [job for job in without if job.stage == "audit"]
    assert {job.id for job in jobs} - {job.id for job in without} == {audit.id, jobs[-1].id}


@pytest.fixture
def slices(tmp_path: Path) -> SliceSet:
    writer = SliceWriter(tmp_path / "s", ("T1w",), evenly_coded({1: "l"}), 8)
    for i in range(8):
        rows = [{"id": f"{i}{z}", "subject": f"P{i}", "split": "train" if i < 6 else "test"} for z in range(3)]
        writer.append(np.zeros((3, 1, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8), rows)
    return writer.close()


def test_groups_are_nested_whole_training_patients(slices: SliceSet) -> None:
    groups = [set(training_rows(slices, {"patients": n, "seed": 3})) for n in (1, 2, 4, 6)]
    assert [len(group) for group in groups] == [3, 6, 12, 18]
    assert groups[0] < groups[1] < groups[2] < groups[3]
    assert groups[3] == set(training_rows(slices))
    assert set(training_rows(slices, {"patients": 2, "seed": 4})) != groups[1]
    with pytest.raises(UnderstudyError, match="there are 6"):
        training_rows(slices, {"patients": 7, "seed": 3})


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    table = pd.DataFrame({"patients": [2, 10], "rate": [0.9, 0.0], "low": [0.8, 0.0], "high": [0.95, 0.02]})
    save_sweep(table, tmp_path / "sweep.png", 0.01)
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_rows_of_one_patient_are_repeated_and_all_others_are_there_once(slices: SliceSet) -> None:
    rows = [training_rows(slices, {"times": times, "seed": 3}).tolist() for times in (1, 2, 4)]
    assert rows[0] == training_rows(slices).tolist()
    often = rows[1][18:]  # six training patients of three slices
    assert len({slices.index["subject"][row] for row in often}) == 1
    assert len(often) == 3
    assert rows[1] == rows[0] + often
    assert rows[2] == rows[0] + 3 * often
    assert (
        slices.index["subject"][often[0]] != slices.index["subject"][training_rows(slices, {"times": 2, "seed": 5})[-1]]
    )


def test_the_jobs_of_a_canary_test() -> None:
    plan = canary_plan(Study.model_validate(BASE), "g", samples=300)
    names = [job.name for job in plan.jobs]
    each = [f"{stage} g with a patient {n} times" for n in (1, 2, 4, 8) for stage in ("generator", "sample", "audit")]
    assert names[2:] == each
    assert len({job.spec["subset"]["seed"] for job in plan.jobs if job.stage == "generator"}) == 1
    with pytest.raises(UnderstudyError, match="no generator 'h'"):
        canary_plan(Study.model_validate(BASE), "h")


def test_from_how_many_repetitions_on_a_patient_is_seen() -> None:
    def words(*exposed: bool | None, seen: int | None = None) -> str:
        return canary_words({"rows": [{"exposed": x} for x in exposed], "seen_from": seen})

    assert "at least 4 times" in words(False, False, True, True, seen=4)
    assert "does not see" in words(True, False, True, False)
    assert "already" in words(True, True, seen=1)
    assert "cannot be told" in words(None, None)


def test_a_canary_test_runs_and_reads_the_patient_that_was_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "TIMES", (1, 3))
    fields = yaml.safe_load(tiny_study("c", kimg=0.016, tick=1, samples=8, seconds=100))
    fields["phantom"]["patients"], fields["split"]["test_patients"] = 14, 7
    fields["audit"] = {"copies": 10, "splits": 10, "resamples": 200, "membership": False, "within": 0}
    found = run_canary(Study.model_validate(fields), "one", tmp_path, device="cpu", progress=False, samples=20)
    assert read_json(tmp_path / "canary.json") == found
    assert [row["times"] for row in found["rows"]] == [1, 3]
    (split,) = tmp_path.glob("jobs/prepare-*/split.json")
    training = [name for name, part in read_json(split).items() if part == "train"]
    for folder, row in zip(sorted(tmp_path.glob("jobs/audit-*")), found["rows"], strict=True):
        table = pd.read_parquet(folder / "private" / "exposure.parquet")
        assert sorted(table["patient"]) == sorted(training)
        assert row["slices"] <= 20
        assert row["beside"] in table["flagged"].tolist()
    assert not any(name in (tmp_path / "canary.json").read_text() for name in training)
