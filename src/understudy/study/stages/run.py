"""What each stage of a study does in its job's folder: one call of the room that knows how, and a summary."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, read_json, sha256_file, write_json
from understudy.study.engine.jobs import Context, StageFunction
from understudy.study.stages.annotations import compare
from understudy.study.stages.audit import audit
from understudy.study.stages.plugin import train_plugged
from understudy.study.stages.quality import quality
from understudy.study.stages.report import overview, report

if TYPE_CHECKING:
    from understudy.cohort.config import Problem

log = logging.getLogger(__name__)

SCORE_KEYS = ["setting", "training", "generator", "segmenter", "augmentation", "repeat", "subject", "site"]

_SHOWN_PROBLEMS = 5  # kinds of problems that are said before training

# Torch and the rooms that need it are imported where they are used: `understudy status` must answer at once.


def phantom(context: Context) -> dict[str, Any]:
    """Writes the phantom cohort to `phantoms/`."""
    from understudy.cohort.phantom.write import PhantomConfig, write_phantoms

    config = PhantomConfig.model_validate(context.spec)
    write_phantoms(config, context.folder / "phantoms", progress=context.progress)
    return {"patients": config.patients}


def prepare(context: Context) -> dict[str, Any]:
    """Checks the cohort, splits it and writes `slices`, `volumes`, `split.json` and `problems.json`."""
    from understudy.cohort.checks import accept, check_cohort
    from understudy.cohort.config import CohortConfig
    from understudy.cohort.layouts import find_patients
    from understudy.cohort.prepare import prepare as write_slices
    from understudy.cohort.slicing import SliceConfig
    from understudy.cohort.splits import SplitConfig, split_patients
    from understudy.slices import SliceSet

    path = context.input("phantom") / "phantoms" if "phantom" in context.inputs else context.local["path"]
    given = context.local.get("cohort", {})  # the same, but for what `auto` is in the spec
    config = CohortConfig.model_validate({**context.spec["cohort"], **given, "path": path})
    workers = int(context.local["workers"])
    cohort = find_patients(config)
    slicing = SliceConfig.model_validate({**context.spec["slices"], "workers": workers})
    checked = check_cohort(cohort, slicing, workers, context.progress)
    problems = checked.problems
    listed = [{**asdict(p), "file": _relative(p.file, cohort.path)} for p in problems]
    write_json(context.folder / "problems.json", listed)
    cohort = accept(cohort, problems, config.skip_bad_patients)
    _warn(problems, context.folder / "problems.json")
    split = split_patients(cohort, SplitConfig.model_validate({**context.spec["split"], **context.local["split"]}))
    write_json(context.folder / "split.json", split)
    # who is left out of the training (`train_patients`) is not sliced either
    cohort = replace(cohort, patients=tuple(p for p in cohort.patients if p.id in split))
    counts = write_slices(cohort, split, slicing, context.folder, context.progress, checked.frame)
    slices = SliceSet.open(context.folder / "slices")
    return {
        "counts": counts,
        "slices": len(slices),
        "content_hash": slices.content_hash,
        "volumes_sha256": sha256_file(context.folder / "volumes" / "volumes.json"),
        "problems": len(listed),
    }


def _warn(problems: Sequence[Problem], listed: Path) -> None:
    """Says what is doubtful about the cohort, and who is left out, before hours are spent; listed: the whole list."""
    shown = {f"{p.severity}: {p.problem}": p for p in problems}  # one of a kind
    for p in list(shown.values())[:_SHOWN_PROBLEMS]:
        whose = f"patient {p.patient}" if p.patient else str(p.file)
        log.warning("%s%s: %s; what to do: %s", "left out: " if p.severity == "error" else "", whose, p.problem, p.fix)
    if len(problems) > _SHOWN_PROBLEMS:
        log.warning("all %d problems are listed in %s", len(problems), listed)


def generator(context: Context) -> dict[str, Any]:
    """Trains a generator on the training slices; the result is the folder `model`."""
    if "plugin" in context.spec:
        return train_plugged(context)
    from understudy.generators.joint import annotation_channels
    from understudy.generators.registry import model_config
    from understudy.generators.training.config import training_config_for
    from understudy.generators.training.distributed import train
    from understudy.slices import SliceSet
    from understudy.study.stages.subsets import training_rows

    slices = SliceSet.open(context.input("prepare") / "slices")
    kind = training_config_for(context.spec["model"]["kind"])
    training = kind.model_validate({**context.spec["training"], **context.local["training"]})
    channels = len(slices.channels) + annotation_channels(slices.classes, training.annotation)
    model = train(
        slices,
        training_rows(slices, context.spec.get("subset")),
        model_config({**context.spec["model"], "channels": channels}),
        training,
        context.folder / "model",
        device=context.device,
        progress=context.progress,
        devices=context.devices,
        nodes=context.nodes,
    )
    return {
        "weights_sha256": sha256_file(model / "generator.safetensors"),
        "health": read_json(model / "config.json")["health"],
    }


def sample(context: Context) -> dict[str, Any]:
    """Makes the synthetic slice set `slices`, or reads it from a folder of images that somebody else made."""
    from understudy.generators.diffusion.samplers import SamplerConfig
    from understudy.generators.sample import sample_set
    from understudy.study.stages.foreign import read_samples

    if "folder" in context.spec:
        return read_samples(context)
    sampler = context.spec["sampler"]
    made = sample_set(
        [_weights(folder / "model", context.spec) for folder in context.inputs["generator"]],
        context.spec["count"],
        context.spec["seed"],
        context.folder / "slices",
        psi=context.spec["psi"],
        device=context.device,
        progress=context.progress,
        sampler=None if sampler is None else SamplerConfig.model_validate(sampler),
    )
    return {"slices": len(made), "content_hash": made.content_hash}


def _weights(model: Path, spec: dict[str, Any]) -> Path:
    """The folder of the finished generator, or of the state that is wanted."""
    from understudy.generators.folder import snapshot_folder

    return snapshot_folder(model, spec["snapshot_kimg"]) if "snapshot_kimg" in spec else model


def segmenter(context: Context) -> dict[str, Any]:
    """Trains a segmenter on real slices, synthetic ones or both; the result is the folder `model`."""
    from understudy.segmenters.config import SegmenterTrainingConfig, model_config
    from understudy.segmenters.train import train_segmenter
    from understudy.slices import SliceSet
    from understudy.study.segment import record_preparation
    from understudy.volumes import VolumeSet

    prepared, training = context.input("prepare"), context.spec["cell"]["training"]
    real = SliceSet.open(prepared / "slices") if training != "synthetic" else None
    synthetic = SliceSet.open(context.input("sample") / "slices") if "sample" in context.inputs else None
    model = train_segmenter(
        real,
        synthetic,
        model_config(context.spec["model"]),
        SegmenterTrainingConfig.model_validate({**context.spec["training"], **context.local["training"]}),
        context.folder / "model",
        validation=VolumeSet.open(prepared / "volumes"),
        device=context.device,
        progress=context.progress,
        initial=context.input("pretrained") / "model" if "pretrained" in context.inputs else None,
    )
    record_preparation(model, prepared, context.local.get("dropped_slices", "background"))
    record = read_json(model / "config.json")
    told = {key: record.get(key) for key in ("outcome", "collapse", "ended", "validated_on")}
    return {"weights_sha256": sha256_file(model / "segmenter.safetensors"), **told}


def evaluate(context: Context) -> dict[str, Any]:
    """Segments and scores every test patient.

    `predictions/<subject>.npz` and then `patients/<subject>.parquet` are written whole, patient by patient; a kill
    loses at most one. `scores.parquet` holds all raw rows.
    """
    from understudy.runtime.progress import track
    from understudy.segmenters.predict import load
    from understudy.volumes import VolumeSet

    volumes = VolumeSet.open(context.input("prepare") / "volumes")
    subjects = volumes.subjects("test")
    if not subjects:
        raise UnderstudyError(
            "there is no test patient", where=volumes.path, fix="raise `split.test_patients` in the study file"
        )
    parts = [context.folder / "patients" / f"{subject}.parquet" for subject in subjects]
    left = [(subject, part) for subject, part in zip(subjects, parts, strict=True) if not part.is_file()]
    model = load(context.input("segmenter") / "model", device=context.device) if left else None
    done = len(subjects) - len(left)
    with track(len(subjects), "test patients", unit="patients", done=done, show=context.progress) as meter:
        for subject, part in left:
            _evaluate_patient(context, model, volumes, subject, part)
            meter.advance()
    scores = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
    with atomic_path(context.folder / "scores.parquet") as temporary:
        scores.to_parquet(temporary, index=False)
    return {"patients": len(subjects), "scores_sha256": sha256_file(context.folder / "scores.parquet")}


def _evaluate_patient(context: Context, model: Any, volumes: Any, subject: str, part: Path) -> None:
    from understudy.metrics.scores import score_volume
    from understudy.segmenters.predict import predict_volume

    volume = volumes.read(subject)
    prediction = predict_volume(
        model,
        volume,
        volumes.channels,
        [entry.name for entry in volumes.classes],
        dropped=context.spec["dropped_slices"],
    )
    with atomic_path(context.folder / "predictions" / f"{subject}.npz") as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, prediction=prediction)
    names = [entry.name for entry in volumes.classes[1:]]
    regions = context.spec["regions"]
    rows = pd.DataFrame(score_volume(
        pred=prediction, target=volume.truth, class_names=names, spacing=volume.spacing, kept=volume.kept, regions=regions
    ))
    rows = rows[rows["scope"].isin(context.spec["scopes"])].reset_index(drop=True)
    cell = {**context.spec["cell"], "subject": subject, "site": volume.site}
    cell["collapsed"] = model.record["outcome"] == "collapsed"
    cell["validated_on"] = model.record.get("validated_on", {"kind": "real"})["kind"]
    for position, key in enumerate([*SCORE_KEYS, *(k for k in cell if k not in SCORE_KEYS)]):
        rows.insert(position, key, cell[key])
    with atomic_path(part) as temporary:
        rows.to_parquet(temporary, index=False)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


STAGES: dict[str, StageFunction] = {
    "phantom": phantom,
    "prepare": prepare,
    "generator": generator,
    "sample": sample,
    "audit": audit,
    "segmenter": segmenter,
    "evaluate": evaluate,
    "quality": quality,
    "annotations": compare,
    "report": report,
    "overview": overview,
}
