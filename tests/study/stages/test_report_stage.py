"""The readers' answers of a reading study in a study's report: only the report depends on them."""

import json

import pytest

from understudy.errors import UnderstudyError
from understudy.study.config.schema import load_study
from understudy.study.engine.plan import make_plan

STUDY = """
name: s
phantom: {patients: 10, shape: [32, 32, 32]}
slices: {resolution: 32}
segmenters: {unet: {training: {samples: 100}}}
trainings: [real]
"""
ROWS = [
    {"source": "real", "n": 10, "called_real": 4, "called_synthetic": 6},
    {"source": "gan", "n": 10, "called_real": 5, "called_synthetic": 5},
]


def plan_of(folder, text):
    (folder / "s.yaml").write_text(text)
    return make_plan(load_study(folder / "s.yaml"))


def test_only_the_report_depends_on_it(tmp_path):
    (tmp_path / "table6.json").write_text(json.dumps({"rows": ROWS, "readers": 1, "design": "paper"}))
    without = plan_of(tmp_path, STUDY)
    with_it = plan_of(tmp_path, STUDY + "report: {reading: table6.json}\n")
    assert [j.id for j in without.jobs[:-1]] == [j.id for j in with_it.jobs[:-1]]
    assert without.jobs[-1].id != with_it.jobs[-1].id
    assert with_it.jobs[-1].spec["reading"]["rows"] == ROWS
    assert str(tmp_path) not in json.dumps(with_it.jobs[-1].spec)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "table6.json").write_text('{"rows": [{"n": 1}]}')
    with pytest.raises(UnderstudyError, match="not the result of a reading study"):
        plan_of(tmp_path, STUDY + "report: {reading: table6.json}\n")
    with pytest.raises(UnderstudyError):
        plan_of(tmp_path, STUDY + "report: {reading: nowhere.json}\n")
