"""A configuration that is dumped and read again means the same: what nobody wrote does not become a wish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from understudy.cohort.config import CohortConfig
from understudy.cohort.splits import SplitConfig, split_patients
from understudy.generators.registry import model_config
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Job
from understudy.study.engine.plan import make_plan
from understudy.study.stages.data import prepare_jobs

STUDIES: list[dict[str, Any]] = [
    {"phantom": {}},
    {"phantom": {"seed": 3}, "split": {"seed": 4, "test_patients": 3}},
    # networks that do not exist at the default resolution of 256
    {"phantom": {}, "generators": {"stylegan2": {"model": {"channel_base": 64}}}},
    {"phantom": {}, "generators": {"progan": {"model": {"fmap_base": 64}}}},
    {"phantom": {}, "generators": {"diffusion": {"model": {"channel_mult": [1, 2, 2]}}}},
    {"phantom": {}, "segmenters": {"unet": {"training": {"mixture": {"real_share": 0.3}}}}},
    {"phantom": {}, "ratios": [0.2, 0.8]},
    {"cohorts": {"a": {"phantom": {"patients": 9}, "split": {"test_patients": 2}}, "b": {"phantom": {}}}},
]


@pytest.mark.parametrize("fields", STUDIES)
def test_a_study_that_is_read_again_has_the_same_jobs(fields: dict[str, Any]) -> None:
    base = {"name": "s", "slices": {"resolution": 32}, "generators": {"g": {"samples": 10}}}
    study = Study.model_validate({**base, **fields})
    again = Study.model_validate(study.model_dump(mode="json"))
    assert again.hash == study.hash
    assert [job.id for job in make_plan(again).jobs] == [job.id for job in make_plan(study).jobs]


@pytest.mark.parametrize("kind", ["progan", "stylegan1", "stylegan2", "stylegan3", "diffusion"])
def test_a_network_of_a_study_file_is_checked_when_its_size_is_known(kind: str) -> None:
    config = model_config({"kind": kind})
    assert type(config).model_validate(config.model_dump(mode="json")) == config


def test_the_papers_test_patients_are_those_of_the_plan(tmp_path: Path) -> None:
    """The prepare job reads the split from its spec, where every field is given."""
    order = np.random.default_rng(0).permutation(369) + 1.0
    scipy.io.savemat(tmp_path / "p.mat", {"permutation": order})
    fields = {"method": "permutation", "permutation": str(tmp_path / "p.mat")}
    study = Study.model_validate({"phantom": {"patients": 369}, "split": fields, "trainings": ["real"]})
    jobs: list[Job] = []
    prepare_jobs(study, jobs)
    spec = {**jobs[-1].spec["split"], **jobs[-1].local["split"]}
    people = {f"p{n:03d}": "" for n in range(369)}
    for config in (
        study.split,
        SplitConfig.model_validate(spec),
        SplitConfig.model_validate(study.split.model_dump(mode="json")),
        SplitConfig.model_validate({**study.split.model_dump(mode="json"), "seed": 0}),
    ):
        split = split_patients(people, config)
        assert {p for p, part in split.items() if part == "test"} == {f"p{int(n) - 1:03d}" for n in order[-56:]}


def test_as_many_test_patients_as_asked_for_whatever_the_method(tmp_path: Path) -> None:
    people = {f"p{n}": "" for n in range(10)}
    for given, wanted in ((None, 2), (0.5, 5), (3, 3)):
        config = SplitConfig(test_patients=given)
        for again in (config, SplitConfig.model_validate(config.model_dump())):
            assert sum(part == "test" for part in split_patients(people, again).values()) == wanted


@pytest.mark.parametrize("bids", [False, True])
def test_an_optional_table_is_optional_to_the_prepare_job(tmp_path: Path, bids: bool) -> None:
    from understudy.cohort.layouts import find_patients

    for name in ("t1", "t1ce", "t2", "flair", "seg"):
        (tmp_path / f"A_{name}.nii.gz").touch()
    if bids:
        (tmp_path / "participants.tsv").write_text("participant_id\tage\nA\t50\n")
    study = Study.model_validate({"cohort": {"path": tmp_path}, "trainings": ["real"]})
    jobs: list[Job] = []
    prepare_jobs(study, jobs)
    read = CohortConfig.model_validate({**jobs[-1].spec["cohort"], **jobs[-1].local["cohort"], "path": tmp_path})
    assert find_patients(read).patients[0].site == ""
    # as it was before `auto`: ids of older jobs stay
    assert (jobs[-1].spec["cohort"]["participants"], jobs[-1].spec["cohort"]["site_column"]) == (
        "participants.tsv",
        "site",
    )
