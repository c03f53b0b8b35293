"""A study whose jobs take a second each, for what happens when runs are killed, queued, or out of disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from understudy.io.files import read_json, write_json
from understudy.io.seals import files_of, sealed

_GENERATOR = """
    model: {{kind: stylegan2, z_dim: 16, w_dim: 16, mapping_layers: 2, channel_base: 128, channel_max: 8}}
    training: {{kimg: {kimg}, batch: 8, tick_kimg: {tick}, checkpoint_seconds: {seconds}}}
    samples: 130
"""
_STUDY = """
name: {name}
phantom: {{patients: 8, shape: [32, 32, 20], sites: 1}}
slices: {{resolution: 32, scaling: robust, rule_intensity: 20}}
split: {{test_patients: 4, validation_fraction: 0.25}}
generators:
  {generators}
segmenters:
  unet:
    model: {{width: 4}}
    training: {{samples: {samples}, batch: 8, validations: 1, checkpoint_seconds: {seconds}}}
trainings: [synthetic]
audit: null
annotations: null
"""


def tiny_study(
    name: str, kimg: float, tick: float, samples: int, seconds: float, generators: tuple[str, ...] = ("one",)
) -> str:
    """The study file.

    Args:
        kimg, tick: thousand images of a generator's training, and between two entries of its history.
        samples: slices of the segmenter's training.
        seconds: between checkpoints.
        generators: names; all are the same.
    """
    each = _GENERATOR.format(kimg=kimg, tick=tick, seconds=seconds)
    listed = "".join(f"{generator}:{each}  " for generator in generators).strip()
    return _STUDY.format(name=name, generators=listed, samples=samples, seconds=seconds)


def results(out: Path) -> dict[str, Any]:
    """Job's folder -> what its `done.json` says of the results."""
    return {path.parent.name: read_json(path)["results"] for path in out.glob("jobs/*/done.json")}


def seal_again(job: Path) -> None:
    """Makes a job of what was changed in its folder since it was done."""
    done = dict(read_json(job / "done.json"))
    write_json(job / "done.json", sealed({**done, "files": files_of(job)}))
