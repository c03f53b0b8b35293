"""The stage `quality`: how near each generator's slices are to real ones, beside the floor of held-out patients."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file
from understudy.quality.config import QualityConfig
from understudy.slices import SliceSet
from understudy.study.config.sections import UNET, QualitySpec
from understudy.study.engine.jobs import Context, Job, job_of
from understudy.study.stages.data import held_out_slices
from understudy.volumes import VolumeSet


def quality_job(spec: QualitySpec, sampled: Job, prepare: str, jobs: Iterable[Job], baseline: str) -> Job:
    """The job that measures a generator's samples; files of weights enter by their content.

    Raises:
        UnderstudyError: a file is absent; the U-Net is asked for and none is trained on real slices.
    """
    inputs = [("prepare", prepare), ("sample", sampled.id)]
    if any(e.name == UNET for e in spec.extractors):
        inputs.append(("segmenter", _trained_on_real(jobs, baseline).id))
    extractors = []
    for e in spec.extractors:
        if e.weights is not None and not e.weights.is_file():
            where = f"quality.extractors: {e.weights}"
            raise UnderstudyError("a file that the study names does not exist", where=where, fix="correct the path")
        file = sha256_file(e.weights) if e.weights else None
        extractors.append({"name": e.name, "resize": e.resize, "sha256": e.sha256, "file": file})
    content = {
        "name": str(sampled.spec["name"]),
        "extractors": extractors,
        "channels": spec.channels,
        "config": spec.config.model_dump(mode="json"),
    }
    weights = [str(e.weights) if e.weights else None for e in spec.extractors]
    return job_of("quality", f"quality {content['name']}", content, inputs, weights=weights)


def _trained_on_real(jobs: Iterable[Job], baseline: str) -> Job:
    """The first training of a U-Net on all real slices, the baseline's if it is one."""
    trained = [job for job in jobs if job.stage == "segmenter" and job.spec["cell"]["training"] == "real"]
    found = [job for job in trained if job.spec["model"].get("kind") == "unet"]
    if not found:
        what, fix = "no U-Net of this study is trained on real slices", "leave unet out, or add real to `trainings`"
        raise UnderstudyError(what, where="quality.extractors", fix=fix)
    return next((job for job in found if job.spec["cell"]["setting"] == baseline), found[0])


def quality(context: Context) -> dict[str, Any]:
    """Writes `quality.json` and `quality.parquet`; features are kept beside all jobs, in `features/`."""
    from understudy.quality.features import FeatureCache
    from understudy.quality.measure import Row, make_parts, measure, suited, unmeasured, write_results
    from understudy.study.stages.quality_extractors import make_extractor  # and torch

    prepared = context.input("prepare")
    real = SliceSet.open(prepared / "slices")
    made = SliceSet.open(context.input("sample") / "slices")
    heldout = held_out_slices(VolumeSet.open(prepared / "volumes"), context.folder / "heldout")
    parts = make_parts(made, real, heldout, context.spec["channels"])
    config = QualityConfig.model_validate(context.spec["config"])
    cache = FeatureCache(context.folder.parent.parent / "features")
    segmenter = context.input("segmenter") / "model" if "segmenter" in context.inputs else None
    rows: list[Row] = []
    for spec, weights in zip(context.spec["extractors"], context.local["weights"], strict=True):
        extractor = make_extractor(
            spec["name"], Path(weights) if weights else None, spec["sha256"], segmenter, spec["resize"], context.device
        )
        extractor, own = suited(extractor, parts)
        if own is None:
            rows.append(unmeasured(parts, extractor, "not computed: no slice of a set has a tumour"))
        else:
            rows += measure(own, extractor, cache, config, context.progress)
    write_results(context.folder, rows, parts, config)
    shutil.rmtree(context.folder / "heldout", ignore_errors=True)
    return {"numbers": len(rows), "quality_sha256": sha256_file(context.folder / "quality.json")}
