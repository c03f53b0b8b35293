"""The first stage of a study says what is doubtful about the cohort, before hours are spent on it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import scipy.io

from understudy.cohort.config import CohortConfig
from understudy.cohort.phantom.write import PhantomConfig, write_phantoms
from understudy.cohort.splits import SplitConfig, split_patients
from understudy.generators.registry import model_config
from understudy.io.files import read_json
from understudy.slices import SliceSet
from understudy.study.config.schema import Study, load_study
from understudy.study.engine.jobs import Job
from understudy.study.engine.plan import make_plan
from understudy.study.engine.run import run_study
from understudy.study.stages.data import prepare_jobs

STUDY = """
cohort: {path: patients}
slices: {resolution: 16, keep: all, background: %s}
split: {test_patients: 1}
trainings: [real]
segmenters: {unet: {}}
"""


@pytest.mark.parametrize(("background", "corner"), [("keep", 127), ("zero", 0)])
def test_a_grey_background_is_said_and_set_to_zero_if_wanted(
    background: str, corner: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = tmp_path / "patients"
    write_phantoms(PhantomConfig(patients=3, shape=(16, 16, 12)), cohort, progress=False)
    path = next(cohort.glob("*01/*_t1.nii.gz"))
    image = nib.load(path)
    voxels = np.asanyarray(image.dataobj)
    nib.save(nib.Nifti1Image(np.where(voxels == 0, voxels.max() // 2, voxels), image.affine), path)
    (tmp_path / "study.yaml").write_text(STUDY % background)
    plan = make_plan(load_study(tmp_path / "study.yaml"))
    with caplog.at_level(logging.WARNING):
        assert not run_study(plan, tmp_path / "out", progress=False, until="prepare").failed
    assert "Phantom_001: T1w is not dark in the corners" in caplog.text
    (prepared,) = (tmp_path / "out" / "jobs").glob("prepare-*")
    assert [p["severity"] for p in read_json(prepared / "problems.json")] == ["warning"]
    slices = SliceSet.open(prepared / "slices")
    images, _ = slices.read(np.arange(len(slices)))
    corners = images[:, slices.channels.index("T1w"), 0, 0].reshape(-1)
    assert corners.max() == corner


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
