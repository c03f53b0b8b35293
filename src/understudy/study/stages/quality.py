"""The stages `quality` and `annotations`: a generator's slices and annotations beside those of held-out patients."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file, write_text
from understudy.quality.config import AnnotationConfig, QualityConfig
from understudy.slices import SliceSet
from understudy.study.config.schema import QualitySpec
from understudy.study.engine.jobs import Context, Job, job_of
from understudy.study.stages.data import held_out_slices
from understudy.volumes import VolumeSet

if TYPE_CHECKING:
    from understudy.quality.extractors import Extractor, Resize


def quality_job(spec: QualitySpec, sampled: Job, prepare: str, jobs: Iterable[Job], baseline: str) -> Job:
    """The job that measures a generator's samples; files of weights enter by their content."""
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
    from understudy.quality.features import FeatureCache
    from understudy.quality.measure import compare, make_parts, write_results

    config = QualityConfig.model_validate(context.spec["config"])
    cache = FeatureCache(context.folder.parent.parent / "features")
    segmenter = context.input("segmenter") / "model" if "segmenter" in context.inputs else None

    def extractors() -> Iterator["Extractor"]:  # one after the other: each may be large
        for spec, file in zip(context.spec["extractors"], context.local["weights"], strict=True):
            weights, sha256 = Path(file) if file else None, spec["sha256"]
            yield make_extractor(spec["name"], weights, sha256, segmenter, spec["resize"], context.device)

    with _sets(context) as (real, made, held_out):
        parts = make_parts(made, real, held_out, context.spec["channels"])
        rows = compare(parts, extractors(), cache, config, context.progress)
        write_results(context.folder, rows, parts, config)
    return {"numbers": len(rows), "quality_sha256": sha256_file(context.folder / "quality.json")}


def annotations_job(config: AnnotationConfig, sampled: Job, prepare: str) -> Job:
    """The job that looks at a generator's annotations."""
    spec = {"name": str(sampled.spec["name"]), "config": config.model_dump(mode="json")}
    return job_of("annotations", f"annotations {spec['name']}", spec, [("prepare", prepare), ("sample", sampled.id)])


def annotations(context: Context) -> dict[str, Any]:
    """Writes `annotations.json`."""
    from understudy.quality.annotation import compare_annotations

    result, config = context.folder / "annotations.json", AnnotationConfig.model_validate(context.spec["config"])
    with _sets(context) as (real, made, held_out):
        found = compare_annotations(made, real, held_out, config, context.progress)
        write_text(result, json.dumps(found.as_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    outside = sum(distance.outside for distance in found.distances)
    return {"outside": outside, "distances": len(found.distances), "annotations_sha256": sha256_file(result)}


@contextmanager
def _sets(context: Context) -> Iterator[tuple[SliceSet, SliceSet, SliceSet | None]]:
    """The prepared slices, the samples, and the slices of held-out patients, which are removed at the end."""
    prepared, path = context.input("prepare"), context.folder / "heldout"
    held_out = held_out_slices(VolumeSet.open(prepared / "volumes"), path)
    yield SliceSet.open(prepared / "slices"), SliceSet.open(context.input("sample") / "slices"), held_out
    shutil.rmtree(path, ignore_errors=True)


def make_extractor(
    name: str, weights: Path | None = None, sha256: str | None = None, segmenter: Path | None = None,
    resize: "Resize" = "antialiased_bicubic", device: str = "cpu",
) -> "Extractor":  # fmt: skip
    """An extractor by its name; "unet" takes the folder of a `segmenter`, for others see `quality.extractors`."""
    from understudy.quality import extractors
    from understudy.segmenters.encoder import EncoderExtractor

    if name not in ("unet", *extractors.NAMES):
        raise UnderstudyError(f"there is no extractor {name!r}", fix=f"use one of unet, {', '.join(extractors.NAMES)}")
    if name != "unet":
        return extractors.make_extractor(name, weights, sha256, resize, device)
    if segmenter is None:
        fix = "give its folder (`segmenter=`, --segmenter OUT/segmenters/NAME)"
        raise UnderstudyError("the extractor unet needs a segmenter that was trained on real slices", fix=fix)
    return EncoderExtractor(segmenter, device)
