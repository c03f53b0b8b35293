"""`check` and `run --until prepare` agree, and whatever is kept has its label on its image."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.slices import SliceSet
from understudy.study.check import check_source
from understudy.study.config.schema import load_study
from understudy.study.engine.plan import make_plan
from understudy.study.engine.run import run_study

sys.path.append(str(Path(__file__).parents[1] / "cohort"))
from faulty_cohorts import FAULTS, HARMLESS, WHOLE, break_file, break_patient, write_cohort

PATIENTS = st.sampled_from(["p0", "p1", "p2", "p3"])
FILES = st.tuples(PATIENTS, st.sampled_from(["t1", "flair", "seg"]), st.sampled_from(sorted(FAULTS)))


def prepared(root: Path) -> SliceSet | None:
    """The slices of the study, None where `run` refuses to make them."""
    try:
        result = run_study(
            make_plan(load_study(root / "study.yaml")), root / "out", progress=False, until="prepare", workers=1
        )
    except UnderstudyError:
        return None
    if result.failed:
        (message,) = [message for _, message in result.failed]
        assert not re.search(r"unexpected \w*(Error|Exception)", message), message
        return None
    (slices,) = (root / "out" / "jobs").glob("prepare-*/slices")
    return SliceSet.open(slices)


def agree(root: Path) -> SliceSet | None:
    """Checks the study, prepares it, and compares."""
    try:
        stops = any(one.stops for one in check_source(root / "study.yaml", progress=False))
    except UnderstudyError:
        stops = True
    slices = prepared(root)
    assert stops == (slices is None)
    if slices is not None:
        labels_lie_on_images(slices)
    return slices


def labels_lie_on_images(slices: SliceSet) -> int:
    """Lesions are the brightest part of every image (1000 where a head has 400); how many images could be judged."""
    images, labels = slices.read(slice(None))
    judged = 0
    for channels, label in zip(images.astype(float), labels, strict=True):
        for image in channels:
            inside, around = label == 1, (label == 0) & (image > 0)
            if 3 < inside.sum() < label.size / 4 and around.any():
                assert image[inside].mean() > 1.5 * image[around].mean(), image[inside].mean()
                judged += 1
    return judged


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(FILES, max_size=3),
    st.lists(st.tuples(PATIENTS, st.sampled_from(sorted(WHOLE))), max_size=2),
    st.booleans(),
)
def test_check_finds_no_problem_exactly_where_prepare_succeeds(tmp_path_factory, faults, whole, skip):
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(root, skip=skip)
    for patient, fault in whole:
        break_patient(root, patient, fault)
    for patient, name, fault in faults:
        break_file(root, patient, name, fault)
    agree(root)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_patient_with_a_bad_image_is_left_out_if_that_is_wanted(tmp_path, fault):
    write_cohort(tmp_path, skip=True)
    break_file(tmp_path, "p2", "flair", fault)
    slices = agree(tmp_path)
    assert slices is not None
    assert slices.index["subject"].nunique() == (4 if fault in HARMLESS["flair"] else 3)
    assert labels_lie_on_images(slices) >= 3 * 2 * 4  # three clean patients, two channels, four slices or more


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_every_fault_of_an_annotation(tmp_path, fault):
    write_cohort(tmp_path)
    break_file(tmp_path, "p1", "seg", fault)
    assert (agree(tmp_path) is not None) == (fault in HARMLESS["seg"])


@pytest.mark.parametrize("fault", sorted(WHOLE))
def test_every_fault_of_a_whole_patient(tmp_path, fault):
    write_cohort(tmp_path)
    break_patient(tmp_path, "p2", fault)
    slices = agree(tmp_path)
    assert (slices is None) == (fault in ("oblong", "10 times"))
    if slices is not None:
        assert slices.index["subject"].nunique() == 4


@pytest.mark.parametrize(
    "lines",
    [
        "evaluation: {regions: {WT: [NCR, ED]}}\n",  # classes that the cohort does not have
        "split: {method: list, test: [p9]}\n",
        "slices: {resolution: 64}\n",
        "slices: {rule_channel: T2w}\n",
    ],
)
def test_what_a_plan_refuses_is_refused_by_check(tmp_path, lines):
    write_cohort(tmp_path)
    study = tmp_path / "study.yaml"
    kept = [line for line in study.read_text().splitlines(keepends=True) if not line.startswith(lines.split(":")[0])]
    study.write_text("".join(kept) + lines)
    assert agree(tmp_path) is None
