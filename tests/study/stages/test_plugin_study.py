"""A plug-in in a study file: checked before anything runs, planned under its version, trained, audited and tested."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from plugged import declare_plugin
from understudy.errors import UnderstudyError
from understudy.generators.registry import plugin_type
from understudy.io.files import read_json
from understudy.study.config.schema import Study, load_study
from understudy.study.engine.estimate import estimated
from understudy.study.engine.jobs import job_folder
from understudy.study.engine.plan import make_plan
from understudy.study.engine.preview import warnings
from understudy.study.engine.run import run_study

STUDY = """
name: plugged
phantom: {{patients: 12, shape: [32, 32, 20], sites: 1}}
slices: {{resolution: 32, scaling: robust, rule_intensity: 20}}
split: {{test_patients: 3, validation_fraction: 0.25}}
generators:
  mine:
    {mine}
segmenters:
  unet:
    model: {{width: 4}}
    training: {{samples: 160, batch: 8, validations: 1}}
trainings: [synthetic]
annotations: null
"""
MINE = "plugin: principal\n    config: {components: 8}\n    samples: 130"


def written(tmp_path: Path, mine: str = MINE) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(mine=mine))
    return path


def ids(study: Study) -> dict[str, str]:
    return {job.name: job.id for job in make_plan(study).jobs}


def test_it_is_planned_run_audited_and_tested(tmp_path: Path, example_plugin: Path) -> None:
    study = load_study(written(tmp_path))
    plan = estimated(make_plan(study), "cpu")
    result = run_study(plan, tmp_path / "out", "cpu", progress=False)
    assert result.complete, result.failed
    assert any("plug-in mine takes is not known" in said for said in warnings(plan, tmp_path, 0.0))
    done = {job.stage: job_folder(tmp_path / "out", job) for job in plan.jobs}
    assert set(done) == {"phantom", "prepare", "generator", "sample", "audit", "segmenter", "evaluate",
                         "report"}  # fmt: skip
    record = read_json(done["generator"] / "done.json")["results"]
    assert record["plugin"] == {"name": "principal", "distribution": "understudy-principal", "version": "1"}
    assert read_json(done["sample"] / "done.json")["results"]["slices"] == 130
    assert read_json(done["audit"] / "audit.json")["sets"]["synthetic"]["slices"] == 130
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert set(scores["generator"]) == {"mine"}
    assert result.page is not None
    assert "mine" in result.page.read_text()


def test_ids_follow_version_and_settings_and_nothing_else(
    tmp_path: Path, example_plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ids(load_study(written(tmp_path)))
    told = ids(load_study(written(tmp_path, "plugin: principal\n    config: {components: 8}\n    samples: 131")))
    assert first["generator mine"] == told["generator mine"]
    other = ids(load_study(written(tmp_path, "plugin: principal\n    samples: 130")))
    default = ids(load_study(written(tmp_path, MINE.replace("8", "32"))))
    assert other == default  # a default that is written out is the same setting
    assert other["generator mine"] != first["generator mine"]
    monkeypatch.setattr(plugin_type("principal").implementation, "version", "2")
    newer = ids(load_study(written(tmp_path)))
    assert newer["prepare"] == first["prepare"]
    assert newer["generator mine"] != first["generator mine"]


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        ("plugin: principle", r"line 8: `generators.mine.plugin`: there is no plug-in generator 'principle' "
         r"\(installed plug-ins: principal\); did you mean principal\?"),
        ("plugin: principal\n    config: {component: 8}", r"line 9: `generators.mine.config.component`: is no"
         r" setting of the plug-in principal \(its settings: components\)"),
        ("plugin: principal\n    config: {components: 0}", r"line 9: .*\(a setting of the plug-in principal\)"),
        ("plugin: principal\n    sample: 5", r"`generators.mine.sample` is not a known field; did you mean"),
        ("model: {kind: principal}", r"(?s)should be progan.*a plug-in is named by `plugin: NAME` in place of `model`"
         r" \(installed plug-ins: principal\)"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_line_and_plugin(mine: str, said: str, tmp_path: Path, example_plugin: Path) -> None:
    with pytest.raises(UnderstudyError, match=said):
        load_study(written(tmp_path, mine))


def test_no_plugin_is_imported_unless_a_study_names_it(tmp_path: Path, example_plugin: Path) -> None:
    load_study(written(tmp_path, "{recipe: quick, model: {kind: stylegan2}}"))
    load_study("quickstart")
    assert "principal" not in sys.modules
    load_study(written(tmp_path))
    assert "principal" in sys.modules


def test_the_content_of_a_report_is_read_again(tmp_path: Path, example_plugin: Path) -> None:
    study: Any = load_study(written(tmp_path))
    assert Study.model_validate(study.as_data()).hash == study.hash


KEEPS_STATES = """
import numpy as np
from pydantic import BaseModel
class C:
    version = "1"
    recipes = {"quick": {"width": 2}}
    class Config(BaseModel):
        width: int = 4
        depth: int = 1
    @staticmethod
    def train(slices, config, folder, seed, device, snapshots=None): ...
    def sample(self, count, seed): ...
"""


def test_recipe_ensemble_and_snapshots_are_planned_as_for_built_in_generators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example_plugin: Path
) -> None:
    (tmp_path / "kept_plugin.py").write_text(KEEPS_STATES)
    declare_plugin(tmp_path, "kept", "kept_plugin:C", "1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kept_plugin", raising=False)
    two = load_study(written(tmp_path, "{plugin: kept, recipe: quick, config: {depth: 3}, ensemble: 2}"))
    assert two.generators["mine"].config == {"width": 2, "depth": 3}  # type: ignore[union-attr]
    trained = [job for job in make_plan(two).jobs if job.stage == "generator"]
    assert [job.name for job in trained] == ["generator mine, member 1", "generator mine, member 2"]
    assert trained[0].spec["seed"] != trained[1].spec["seed"]

    kept = load_study(written(tmp_path, "{plugin: kept, snapshots: [5, 2.5], samples: 9}"))
    jobs = [job for job in make_plan(kept).jobs if job.stage in ("generator", "sample")]
    assert [job.name for job in jobs] == ["generator mine", "sample mine", "sample mine-2_5kimg", "sample mine-5kimg"]
    assert jobs[0].spec["keep_weights_kimg"] == [2.5, 5]
    assert jobs[2].spec["snapshot_kimg"] == 2.5
    assert Study.model_validate(kept.as_data()).hash == kept.hash
    for wrong in ("{plugin: principal, snapshots: [5]}", "{plugin: kept, recipe: slow}"):
        with pytest.raises(UnderstudyError, match=r"generators\.mine"):
            load_study(written(tmp_path, wrong))
