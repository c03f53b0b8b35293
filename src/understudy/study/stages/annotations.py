"""The stage `annotations`: each generator's annotations beside those of training and held-out patients."""

import json
import shutil
from typing import Any

from understudy.io.files import sha256_file, write_text
from understudy.quality.config import AnnotationConfig
from understudy.slices import SliceSet
from understudy.study.engine.jobs import Context, Job, job_of
from understudy.study.stages.data import held_out_slices
from understudy.volumes import VolumeSet

RESULT = "annotations.json"


def annotations_job(config: AnnotationConfig, sampled: Job, prepare: str) -> Job:
    """The job that looks at a generator's annotations."""
    spec = {"name": str(sampled.spec["name"]), "config": config.model_dump(mode="json")}
    return job_of("annotations", f"annotations {spec['name']}", spec, [("prepare", prepare), ("sample", sampled.id)])


def annotations(context: Context) -> dict[str, Any]:
    """Writes `annotations.json`."""
    from understudy.quality.annotation import compare_annotations

    prepared, held_out = context.input("prepare"), context.folder / "heldout"
    real, made = SliceSet.open(prepared / "slices"), SliceSet.open(context.input("sample") / "slices")
    others = held_out_slices(VolumeSet.open(prepared / "volumes"), held_out)
    config = AnnotationConfig.model_validate(context.spec["config"])
    found = compare_annotations(made, real, others, config, context.progress)
    text = json.dumps(found.as_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(context.folder / RESULT, text)
    shutil.rmtree(held_out, ignore_errors=True)
    return {
        "outside": sum(d.outside for d in found.distances),
        "distances": len(found.distances),
        "annotations_sha256": sha256_file(context.folder / RESULT),
    }
