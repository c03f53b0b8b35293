"""The stages `quality` and `annotations`: a generator's slices and annotations beside those of held-out patients."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file, write_text
from understudy.quality.config import AnnotationConfig, QualityConfig
from understudy.slices import SliceSet
from understudy.study.config.schema import QualitySpec
from understudy.study.engine.jobs import Context, Job, job_of
from understudy.study.stages.data import held_out_slices
from understudy.volumes import VolumeSet


def quality_job(spec: QualitySpec, sampled: Job, prepare: str, jobs: Iterable[Job], baseline: str) -> Job:
    """The job that measures a generator's samples; files of weights enter by their content.

    Raises:
        UnderstudyError: a file is absent; the U-Net is asked for and none is trained on real slices.
    """
    inputs = [("prepare", prepare), ("sample", sampled.id)]
    if any(e.name == "unet" for e in spec.extractors):
        # the first training of a U-Net on all real slices, the baseline's if it is one
        trained = [job for job in jobs if job.stage == "segmenter" and job.spec["cell"]["training"] == "real"]
        found = [job for job in trained if job.spec["model"].get("kind") == "unet"]
        if not found:
            what, fix = "no U-Net of this study is trained on real slices", "leave unet out, or add real to `trainings`"
            raise UnderstudyError(what, where="quality.extractors", fix=fix)
        network = next((job for job in found if job.spec["cell"]["setting"] == baseline), found[0])
        inputs.append(("segmenter", network.id))
    extractors = []
    for e in spec.extractors:
        if e.weights is not None and not e.weights.is_file():
            where = f"quality.extractors: {e.weights}"
            raise UnderstudyError("a file that the study names does not exist", where=where, fix="correct the path")
        file = sha256_file(e.weights) if e.weights else None
        extractors.append({"name": e.name, "resize": e.resize, "sha256": e.sha256, "file": file})
    config = spec.model_dump(mode="json", exclude={"extractors", "channels"})
    content = {"name": str(sampled.spec["name"]), "extractors": extractors, "channels": spec.channels, "config": config}
    weights = [str(e.weights) if e.weights else None for e in spec.extractors]
    return job_of("quality", f"quality {content['name']}", content, inputs, weights=weights)


def quality(context: Context) -> dict[str, Any]:
    """Writes `quality.json` and `quality.parquet`; features are kept beside all jobs, in `features/`."""
    from understudy.quality.extractors import Extractor
    from understudy.quality.features import FeatureCache
    from understudy.quality.measure import compare, make_parts, write_results
    from understudy.study.stages.quality_extractors import make_extractor  # and torch

    prepared = context.input("prepare")
    real = SliceSet.open(prepared / "slices")
    made = SliceSet.open(context.input("sample") / "slices")
    heldout = held_out_slices(VolumeSet.open(prepared / "volumes"), context.folder / "heldout")
    parts = make_parts(made, real, heldout, context.spec["channels"])
    config = QualityConfig.model_validate(context.spec["config"])
    cache = FeatureCache(context.folder.parent.parent / "features")
    segmenter = context.input("segmenter") / "model" if "segmenter" in context.inputs else None

    def extractors() -> Iterator[Extractor]:  # one after the other: each may be large
        for spec, file in zip(context.spec["extractors"], context.local["weights"], strict=True):
            weights, sha256 = Path(file) if file else None, spec["sha256"]
            yield make_extractor(spec["name"], weights, sha256, segmenter, spec["resize"], context.device)

    rows = compare(parts, extractors(), cache, config, context.progress)
    write_results(context.folder, rows, parts, config)
    shutil.rmtree(context.folder / "heldout", ignore_errors=True)
    return {"numbers": len(rows), "quality_sha256": sha256_file(context.folder / "quality.json")}


def annotations_job(config: AnnotationConfig, sampled: Job, prepare: str) -> Job:
    """The job that looks at a generator's annotations."""
    spec = {"name": str(sampled.spec["name"]), "config": config.model_dump(mode="json")}
    return job_of("annotations", f"annotations {spec['name']}", spec, [("prepare", prepare), ("sample", sampled.id)])


def annotations(context: Context) -> dict[str, Any]:
    """Writes `annotations.json`."""
    from understudy.quality.annotation import compare_annotations

    prepared, held_out = context.input("prepare"), context.folder / "heldout"
    result = context.folder / "annotations.json"
    real, made = SliceSet.open(prepared / "slices"), SliceSet.open(context.input("sample") / "slices")
    others = held_out_slices(VolumeSet.open(prepared / "volumes"), held_out)
    config = AnnotationConfig.model_validate(context.spec["config"])
    found = compare_annotations(made, real, others, config, context.progress)
    write_text(result, json.dumps(found.as_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    shutil.rmtree(held_out, ignore_errors=True)
    outside = sum(distance.outside for distance in found.distances)
    return {"outside": outside, "distances": len(found.distances), "annotations_sha256": sha256_file(result)}
