"""The stages `segmenter` and `evaluate`: the training of a setting's segmenter, and its test on real patients."""

from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.io.files import atomic_path, read_json, sha256_file
from understudy.metrics.scores import read_scores
from understudy.runtime.lazy import pandas as pd
from understudy.slices import SliceSet
from understudy.study.config.grid import Setting, changed_training, mixture_of
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Context, Job, job_of, training_spec
from understudy.volumes import VolumeSet

SCORE_KEYS = ["setting", "training", "generator", "segmenter", "augmentation", "repeat", "subject", "site"]


def segmenter_jobs(
    study: Study, setting: Setting, repeat: int, prepare: str, samples: dict[str, str],
    trained: dict[tuple[str, int], str], jobs: list[Job],
) -> None:  # fmt: skip
    """Adds the training of a segmenter, also to those `trained` by (setting, repeat), and its evaluation."""
    segmenter = study.segmenters[setting.segmenter]
    training, local = training_spec(segmenter.training, study.derived_seed("segmenter", setting.id, repeat))
    if setting.real_patients is not None:
        training = changed_training(study, setting.training, training)
    training["augment"]["enabled"] = setting.augmentation
    training["mixture"] |= mixture_of(study, setting, repeat)
    cell = {**setting.as_cell, "repeat": repeat}
    spec = {"cell": cell, "model": segmenter.model.model_dump(mode="json"), "training": training}
    inputs = [("prepare", prepare)]
    if setting.start is not None:
        inputs.append(("pretrained", trained[setting.start.id, repeat]))
    elif setting.generator:
        inputs.append(("sample", samples[setting.generator]))
    title = f"{setting.id}, repeat {repeat + 1}"
    dropped = study.evaluation.dropped_slices  # recorded with the model, for patients that it labels later
    network = job_of("segmenter", f"segmenter {title}", spec, inputs, training=local, dropped_slices=dropped)
    trained[setting.id, repeat] = network.id
    scored: dict[str, Any] = {"cell": cell, "dropped_slices": dropped, "regions": study.evaluation.regions}
    scored["scopes"] = sorted(study.evaluation.scopes)
    jobs += [
        network,
        job_of("evaluate", f"evaluate {title}", scored, [("segmenter", network.id), ("prepare", prepare)]),
    ]


def segmenter(context: Context) -> dict[str, Any]:
    """Trains a segmenter on real slices, synthetic ones or both; the result is the folder `model`."""
    from understudy.segmenters.config import SegmenterTrainingConfig, model_config
    from understudy.segmenters.train import train_segmenter
    from understudy.study.segment import record_preparation

    prepared, training = context.input("prepare"), context.spec["cell"]["training"]
    real = SliceSet.open(prepared / "slices") if training != "synthetic" else None
    synthetic = SliceSet.open(context.input("sample") / "slices") if "sample" in context.inputs else None
    config = SegmenterTrainingConfig.model_validate({**context.spec["training"], **context.local["training"]})
    model = train_segmenter(
        real, synthetic, model_config(context.spec["model"]), config, context.folder / "model",
        validation=VolumeSet.open(prepared / "volumes"), device=context.device, progress=context.progress,
        initial=context.input("pretrained") / "model" if "pretrained" in context.inputs else None,
    )  # fmt: skip
    record_preparation(model, prepared, context.local.get("dropped_slices", "background"))
    record = read_json(model / "config.json")
    kept = {key: record.get(key) for key in ("outcome", "collapse", "ended", "validated_on")}
    return {"weights_sha256": sha256_file(model / "segmenter.safetensors"), **kept}


def evaluate(context: Context) -> dict[str, Any]:
    """Segments and scores every test patient: `predictions/ID.npz`, `patients/ID.parquet`; `scores.parquet` of all."""
    from understudy.runtime.progress import track
    from understudy.segmenters.predict import load

    volumes = VolumeSet.open(context.input("prepare") / "volumes")
    subjects = volumes.subjects("test")
    if not subjects:
        fix = "raise `split.test_patients` in the study file"
        raise UnderstudyError("there is no test patient", where=volumes.path, fix=fix)
    # files are written whole, patient by patient: a kill loses at most one
    parts = [context.folder / "patients" / f"{subject}.parquet" for subject in subjects]
    left = [(subject, part) for subject, part in zip(subjects, parts, strict=True) if not part.is_file()]
    model = load(context.input("segmenter") / "model", device=context.device) if left else None
    done = len(subjects) - len(left)
    with track(len(subjects), "test patients", unit="patients", done=done, show=context.progress) as meter:
        for subject, part in left:
            _evaluate_patient(context, model, volumes, subject, part)
            meter.advance()
    scores = pd.concat([read_scores(part) for part in parts], ignore_index=True)
    with atomic_path(context.folder / "scores.parquet") as temporary:
        scores.to_parquet(temporary, index=False)
    return {"patients": len(subjects), "scores_sha256": sha256_file(context.folder / "scores.parquet")}


def _evaluate_patient(context: Context, model: Any, volumes: VolumeSet, subject: str, part: Path) -> None:
    from understudy.metrics.scores import score_volume
    from understudy.segmenters.predict import predict_volume

    spec, volume, names = context.spec, volumes.read(subject), [entry.name for entry in volumes.classes]
    pred = predict_volume(model, volume, volumes.channels, names, dropped=spec["dropped_slices"])
    with atomic_path(context.folder / "predictions" / f"{subject}.npz") as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, prediction=pred)
    cell = {**spec["cell"], "subject": subject, "site": volume.site}
    cell["collapsed"] = model.record["outcome"] == "collapsed"
    cell["validated_on"] = model.record.get("validated_on", {"kind": "real"})["kind"]
    cell = {key: cell[key] for key in SCORE_KEYS} | cell  # these columns first
    scored = score_volume(pred, volume.truth, names[1:], volume.spacing, volume.kept, spec["regions"])
    rows = pd.DataFrame([{**cell, **row} for row in scored if row["scope"] in spec["scopes"]])
    with atomic_path(part) as temporary:
        rows.to_parquet(temporary, index=False)
