"""What a job's id is made of: the version of its stage's code, and what of its settings a result depends on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from understudy.study.jobs import Job

# Raise the number of a stage whenever the same spec would give another result. A number, not a hash of the source:
# a corrected comment must not throw away three days of training.
STAGE_VERSIONS = {
    "phantom": 1,
    "prepare": 1,
    "generator": 2,
    "sample": 1,
    "audit": 3,  # 2: slices of little contrast; 3: concentration on few patients
    "segmenter": 3,  # 2: noise from a pool; 3: the augmentation rounds in another order
    "evaluate": 2,  # 2: hd95_surfel, regions
    "quality": 1,
    "annotations": 1,
    "report": 1,
    "overview": 1,
}

# How often something is written: not part of what is computed, so that changing it redoes nothing.
_INTERVALS = {"checkpoint_seconds", "checkpoints_kept", "snapshot_kimg", "tensorboard"}


def job_of(stage: str, name: str, spec: dict[str, Any], inputs: list[tuple[str, str]], **local: Any) -> Job:
    """A job of the stage's present version; the arguments are fields of `Job`."""
    return Job(stage, name, spec, tuple(inputs), STAGE_VERSIONS[stage], local)


def training_spec(training: BaseModel, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training with its seed, and apart from it the intervals that do not change its result."""
    spec = {**training.model_dump(mode="json"), "seed": seed}
    return spec, {name: spec.pop(name) for name in sorted(_INTERVALS & spec.keys())}
