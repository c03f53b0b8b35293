"""What a job's id is made of: the version of its stage's code, and what of its settings a result depends on."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import understudy
from understudy.study.engine.jobs import Job

# Raise the number of a stage whenever the same spec would give another result. A number, not a hash of the source:
# a corrected comment must not throw away three days of training. The pages take seconds, so it is the other way round:
# their versions follow from their sources, and a finished study gets its new page from the next run.
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
    "report": 0,  # see `version_of`
    "overview": 0,
}
_PAGE_SOURCES = ("report", "metrics", "study/stages/report.py")  # below the package

# How often something is written: not part of what is computed, so that changing it redoes nothing.
_INTERVALS = {"checkpoint_seconds", "checkpoints_kept", "snapshot_kimg", "tensorboard"}


def job_of(stage: str, name: str, spec: dict[str, Any], inputs: list[tuple[str, str]], **local: Any) -> Job:
    """A job of the stage's present version; the arguments are fields of `Job`."""
    return Job(stage, name, spec, tuple(inputs), version_of(stage), local)


def version_of(stage: str) -> int:
    """The version of a stage's code: its number, or for a page one that follows from the sources it is made by."""
    return STAGE_VERSIONS[stage] or pages_version()


@functools.cache
def pages_version() -> int:
    """A number that changes with any file that pages are made by: code, templates, the paper's tables."""
    root = Path(understudy.__file__).parent
    places = [root / name for name in _PAGE_SOURCES]
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else [place])]
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return int(digest.hexdigest()[:8], 16)


def training_spec(training: BaseModel, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training with its seed, and apart from it the intervals that do not change its result."""
    spec = {**training.model_dump(mode="json"), "seed": seed}
    return spec, {name: spec.pop(name) for name in sorted(_INTERVALS & spec.keys())}
