"""The stage `annotations`: each generator's annotations beside those of training and held-out patients."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from understudy.io.files import sha256_file, write_text
from understudy.quality.groups import AnnotationConfig
from understudy.slices import SliceSet
from understudy.study.engine.jobs import Context, Job
from understudy.study.stages.quality import held_out_slices
from understudy.volumes import VolumeSet

__all__ = ["AnnotationConfig", "annotation_parts", "compare"]

RESULT = "annotations.json"


def annotation_parts(
    config: AnnotationConfig, sampled: Job, prepare: str
) -> tuple[str, dict[str, Any], list[tuple[str, str]]]:
    """Name, spec and inputs of the job that looks at a generator's annotations."""
    name = str(sampled.spec["name"])
    inputs = [("prepare", prepare), ("sample", sampled.id)]
    return f"annotations {name}", {"name": name, "config": config.model_dump(mode="json")}, inputs


def compare(context: Context) -> dict[str, Any]:
    """Writes `annotations.json`."""
    from understudy.quality.annotation import compare_annotations

    prepared = context.input("prepare")
    real, made = SliceSet.open(prepared / "slices"), SliceSet.open(context.input("sample") / "slices")
    held: Path = context.folder / "heldout"
    heldout = held_out_slices(VolumeSet.open(prepared / "volumes"), held)
    config = AnnotationConfig.model_validate(context.spec["config"])
    found = compare_annotations(real, made, heldout, config, context.progress)
    text = json.dumps(found.as_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(context.folder / RESULT, text)
    shutil.rmtree(held, ignore_errors=True)
    return {
        "outside": sum(d.outside for d in found.distances),
        "distances": len(found.distances),
        "annotations_sha256": sha256_file(context.folder / RESULT),
    }
