"""What jobs ask of a queue: stage before study before what is usual, and no result or id depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.study.config.cluster import ClusterConfig
from understudy.study.config.schema import load_study
from understudy.study.engine.plan import make_plan
from understudy.study.registry import STAGES

STUDY = "name: a\npreset: quickstart\n"


def written(folder: Path, text: str) -> Path:
    (folder / "study.yaml").write_text(STUDY + text)
    return folder / "study.yaml"


def test_stage_before_study_before_usual() -> None:
    config = ClusterConfig.model_validate(
        {
            "partition": "gpu", "minutes": 60, "gpus": 0,
            "stages": {"generator": {"minutes": 600, "gpus": 4}, "prepare": {"partition": "cpu"}},
        }
    )  # fmt: skip
    generator, prepare, segmenter = config.of("generator"), config.of("prepare"), config.of("segmenter")
    assert (generator.partition, generator.minutes, generator.gpus, generator.cpus) == ("gpu", 600, 4, 4)
    assert (prepare.partition, prepare.minutes, prepare.gpus) == ("cpu", 60, 0)
    assert (segmenter.minutes, segmenter.gpus, segmenter.memory_mb) == (60, 0, 16_000)


def test_what_is_usual() -> None:
    usual = {stage: ClusterConfig().of(stage) for stage in STAGES}
    assert {stage for stage in STAGES if usual[stage].gpus == 1} == {s for s in STAGES if STAGES[s].on_gpu}
    assert usual["segmenter"].minutes == usual["generator"].minutes == 1440
    assert usual["evaluate"].minutes == 240


@given(st.floats(0.01, 1e5), st.integers(1, 10_000))
def test_a_job_stops_before_its_limit_and_works_at_least_half_of_it(minutes: float, reserve: int) -> None:
    stop = ClusterConfig(minutes=minutes, reserve_seconds=reserve).stop_minutes("generator")
    assert minutes / 2 <= stop < minutes


def test_changing_it_redoes_nothing(tmp_path: Path) -> None:
    plain = load_study(written(tmp_path, ""))
    asked = load_study(written(tmp_path, "cluster: {partition: gpu, minutes: 5, requeues: 1}\n"))
    assert asked.cluster.partition == "gpu"
    assert asked.hash == plain.hash
    assert asked.as_data() == plain.as_data()
    assert asked.model_dump(mode="json") == plain.model_dump(mode="json")  # which study.json holds
    assert [job.as_dict() for job in make_plan(asked).jobs] == [job.as_dict() for job in make_plan(plain).jobs]


def test_an_image_and_a_profile_are_found_from_the_study_file(tmp_path: Path) -> None:
    (tmp_path / "understudy.sif").touch()
    here = load_study(written(tmp_path, "cluster: {container: understudy.sif, profile: mine}\n")).cluster
    assert (here.container, here.profile) == (str(tmp_path / "understudy.sif"), "mine")
    there = load_study(written(tmp_path, "cluster: {container: 'docker://a/b'}\n")).cluster
    assert there.container == "docker://a/b"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"stages": {"training": {"gpus": 1}}}, "there is no stage 'training'"),
        ({"stages": {"segmenter": {"gpus": 2}}}, "2 GPUs for segmenter, which uses one"),
        ({"gpus": 2}, "which uses one"),
        ({"sbatch": ["--partition=a"]}, "--partition is set by `partition`"),
        ({"stages": {"prepare": {"sbatch": ["--job-name=a"]}}}, "--job-name is set by Snakemake"),
        ({"sbatch": ["-p a"]}, "not of the form --option=value"),
        ({"minutes": 0}, "greater than 0"),
        ({"walltime": 3}, "walltime"),
    ],
)
def test_mistakes_are_refused_with_their_line(tmp_path: Path, section: dict[str, Any], said: str) -> None:
    import json

    with pytest.raises(UnderstudyError) as caught:
        load_study(written(tmp_path, f"cluster: {json.dumps(section)}\n"))
    assert said in caught.value.message
    assert "line 3" in caught.value.message
