"""Snapshots are audited like finished generators: their slices, and their own weights, which release takes."""

from __future__ import annotations

from pathlib import Path

import yaml
from tiny_study import tiny_study

from understudy.generators.folder import DISCRIMINATOR, WEIGHTS, snapshot_folder
from understudy.io.files import read_json, sha256_file, write_json
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import job_folder
from understudy.study.engine.plan import make_plan
from understudy.study.engine.publish import seal_published
from understudy.study.engine.run import run_study
from understudy.study.released import model_of, proposed, release_inputs


def test_the_weights_of_a_snapshot_are_audited_and_released(tmp_path: Path) -> None:
    fields = yaml.safe_load(tiny_study("s", kimg=0.064, tick=1, samples=8, seconds=100))
    fields["generators"]["one"] |= {"snapshots": [0.032], "samples": 20}
    fields["audit"] = {"copies": 20, "splits": 10, "resamples": 200, "membership_slices": 20}
    plan = make_plan(Study.model_validate(fields)).until("audit")
    assert run_study(plan, tmp_path, "cpu", progress=False).complete
    jobs = {job.name: job_folder(tmp_path, job) for job in plan.jobs}
    whole = jobs["generator one"] / "model"
    for name, model in (("one", whole), ("one-0_032kimg", snapshot_folder(whole, 0.032))):
        numbers = read_json(jobs[f"audit {name}"] / "audit.json")
        assert numbers["membership"]["weights"] == {n: sha256_file(model / n) for n in (WEIGHTS, DISCRIMINATOR)}
        found = release_inputs(tmp_path, name)
        assert found.models == (model,)
        assert model_of(found, name) == model
        assert found.audit.resolve() == jobs[f"audit {name}"]
    assert sha256_file(whole / WEIGHTS) != sha256_file(model / WEIGHTS)


def test_a_release_without_a_name_proposes_what_the_report_recommends(tmp_path: Path) -> None:
    assert proposed(tmp_path, "slices") == "add --generator NAME"  # no report yet
    write_json(tmp_path / "report.json", {"recommended": {"slices": "a-60kimg", "weights": None}})
    seal_published(tmp_path)
    assert proposed(tmp_path, "slices").startswith("add --generator a-60kimg (the report recommends it")
    assert proposed(tmp_path, "weights") == "add --generator NAME"
