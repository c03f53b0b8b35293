"""The jobs that make slices of patients: phantoms, if there are no others, and their preparation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understudy.cohort.checks import first_headers
from understudy.cohort.config import as_before_auto
from understudy.cohort.slicing import Frame
from understudy.cohort.config import Cohort, CohortConfig
from understudy.cohort.layouts import brats_classes
from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file
from understudy.metrics.overlap import resolve_regions
from understudy.slices import LabelClass
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Job, job_of
from understudy.study.facts import find_cohort, fingerprint


def prepare_jobs(study: Study, jobs: list[Job], cohort: Cohort | None = None) -> str:
    """Adds the phantom job, if any, and the prepare job; returns the id of the latter.

    Args:
        cohort: of the study, if it has been looked for already.
    """
    spec: dict[str, Any] = {"slices": study.slices.model_dump(mode="json", exclude={"workers"})}
    inputs: list[tuple[str, str]] = []
    local: dict[str, Any] = {"workers": study.slices.workers}
    if study.phantom is not None:
        phantom = study.phantom
        if phantom.seed is None:
            phantom = phantom.model_copy(update={"seed": study.derived_seed("phantom")})
        job = job_of("phantom", "phantom", phantom.model_dump(mode="json"), [])
        jobs.append(job)
        inputs.append(("phantom", job.id))
        described = CohortConfig.model_validate({})
        _check_regions(study, brats_classes("brats2018"))  # the layout in which phantoms are written
    else:
        assert study.cohort is not None
        cohort = cohort or find_cohort(study)
        assert cohort is not None
        described = study.cohort
        spec["content"] = fingerprint(cohort)
        headers = first_headers(cohort, study.slices)
        frame = Frame.of(headers, study.slices) if headers else None
        if frame is not None and frame.changes(headers):  # other cohorts keep the ids of their jobs
            spec["frame"] = frame.as_dict()
        _check_regions(study, cohort.classes)
        local["path"] = str(study.cohort.path)
    local["cohort"] = described.model_dump(mode="json", exclude={"path"})
    spec["cohort"] = as_before_auto(local["cohort"])
    split = study.split.settled(study.derived_seed("split"))
    spec["split"], local["split"] = _split_spec(split.model_dump(mode="json"))
    job = job_of("prepare", "prepare", spec, inputs, **local)
    jobs.append(job)
    return job.id


def _check_regions(study: Study, classes: Sequence[LabelClass]) -> None:
    """Refuses regions of classes that the cohort does not have: before days of training, not after them."""
    try:
        resolve_regions(study.evaluation.regions, [entry.name for entry in classes[1:]])
    except UnderstudyError as error:
        raise UnderstudyError(error.what, where="evaluation.regions of the study", fix=error.fix) from error


def _split_spec(split: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The split with the content of the files it names in place of their paths, and the paths."""
    paths = {
        field: str(split[field])
        for field in ("train", "validation", "test", "permutation")
        if isinstance(split[field], str) and split[field]
    }
    hashes = {}
    for name, path in paths.items():
        if not Path(path).is_file():
            raise UnderstudyError(
                "a file that the study names does not exist", where=f"split.{name}: {path}", fix="correct the path"
            )
        hashes[name] = f"sha256:{sha256_file(path)}"
    return {**split, **hashes}, paths
