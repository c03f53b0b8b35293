"""Segmenters in a study file: kinds by name, the paper's settings beneath, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from understudy.segmenters.config import paper_training
from understudy.study.config.schema import Study, preset
from understudy.study.engine.plan import make_plan


def study(**segmenters: Any) -> Study:
    return Study.model_validate({"phantom": {}, "trainings": ["real"], "segmenters": segmenters})


def test_a_segmenter_named_or_of_kind_swin_has_the_papers_training() -> None:
    found = study(swin={}, other={"model": {"kind": "swin", "size": "mini"}}, unet={}, plain=None).segmenters
    assert [found[n].model.kind for n in found] == ["swin", "swin", "unet"]
    assert found["swin"].training == found["other"].training == paper_training("swin")
    assert found["unet"].training == paper_training("unet")
    assert study(swin={"model": {"kind": "unet"}}).segmenters["swin"].training == paper_training("unet")


def test_given_fields_stand_above_the_papers() -> None:
    training = study(swin={"training": {"samples": 900, "warmup_samples": 0, "lr": 1e-3}}).segmenters["swin"].training
    assert (training.samples, training.epochs, training.lr, training.optimiser) == (900, None, 1e-3, "adamw")


def test_a_study_is_read_again_as_it_was_written() -> None:
    like_unet = {"optimiser": "sgd", "schedule": "poly", "loss": "ce_dice", "samples": 9, "warmup_samples": 0}
    like_unet["augment"] = {"set": "unet"}
    one = study(swin={"training": like_unet}, unet={})
    again = Study.model_validate(one.model_dump(mode="json"))
    assert again == one
    assert again.segmenters["swin"].training.optimiser == "sgd"
    assert again.segmenters["swin"].training.augment.set == "unet"


def test_the_papers_preset_has_both_segmenters_as_the_paper_sets_them() -> None:
    found = Study.model_validate(preset("paper")).segmenters
    assert list(found) == ["unet", "swin"]
    assert found["swin"].training == paper_training("swin")
    assert found["swin"].model.shape(256) == study(swin={}).segmenters["swin"].model.shape(256)  # type: ignore[union-attr]
    assert found["unet"].training.max_minutes == 3 * 24 * 60


@pytest.mark.parametrize(
    ("segmenter", "said"),
    [
        ({"model": {"kind": "swim"}}, "swim"),
        ({"model": {"kind": "swin", "width": 4}}, "width"),
        ({"model": {"kind": "swin"}, "training": {"batch": 1}}, "normalises over the batch"),
        ({"training": {"epochs": 2, "samples": 10}}, "either `samples` or `epochs`"),
        ({"training": {"seed": 3}}, "`seed` cannot be set here"),
    ],
)
def test_what_is_refused(segmenter: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        study(s=segmenter)


def test_a_swin_job_says_all_that_its_result_depends_on() -> None:
    plan = make_plan(study(swin={"training": {"samples": 900, "warmup_samples": 0}}))
    (job,) = [job for job in plan.jobs if job.stage == "segmenter"]
    assert job.spec["model"]["kind"] == "swin"
    assert job.spec["training"]["optimiser"] == "adamw"
    assert (job.spec["training"]["samples"], job.spec["training"]["batch"]) == (900, 8)
