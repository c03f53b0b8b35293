"""The first stage of a study says what is doubtful about the cohort, before hours are spent on it."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from understudy.cohort.phantom.write import PhantomConfig, write_phantoms
from understudy.io.files import read_json
from understudy.slices import SliceSet
from understudy.study.config.schema import load_study
from understudy.study.engine.plan import make_plan
from understudy.study.engine.run import run_study

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
