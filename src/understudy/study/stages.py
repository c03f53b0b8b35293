"""What each stage of a study does in its job's folder: one call of the room that knows how, and a summary."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from understudy.errors import UnderstudyError
from understudy.files import atomic_path, read_json, sha256_file, write_json
from understudy.study.account import software
from understudy.study.annotation_stage import compare
from understudy.study.audit_stage import audit
from understudy.study.jobs import (
    Context,
    Job,
    StageFunction,
    job_folder,
    plain_name,
    read_done,
    read_failed,
    state_of,
)
from understudy.study.plugin_stage import train_plugged
from understudy.study.quality_stage import quality

SCORE_KEYS = ["setting", "training", "generator", "segmenter", "augmentation", "repeat", "subject", "site"]

_Done = dict[str, list[tuple[dict[str, Any], Path]]]
"""stage -> (spec, folder) of the jobs that are done"""

# Torch and the rooms that need it are imported where they are used: `understudy status` must answer at once.


def phantom(context: Context) -> dict[str, Any]:
    """Writes the phantom cohort to `phantoms/`."""
    from understudy.cohort.phantom import PhantomConfig, write_phantoms

    config = PhantomConfig.model_validate(context.spec)
    write_phantoms(config, context.folder / "phantoms", progress=context.progress)
    return {"patients": config.patients}


def prepare(context: Context) -> dict[str, Any]:
    """Checks the cohort, splits it and writes `slices`, `volumes`, `split.json` and `problems.json`."""
    from understudy.cohort.checks import accept, check_cohort
    from understudy.cohort.layouts import CohortConfig, find_patients
    from understudy.cohort.prepare import SliceConfig
    from understudy.cohort.prepare import prepare as write_slices
    from understudy.cohort.splits import SplitConfig, split_patients
    from understudy.slices import SliceSet

    path = context.input("phantom") / "phantoms" if "phantom" in context.inputs else context.local["path"]
    config = CohortConfig.model_validate({**context.spec["cohort"], "path": path})
    workers = int(context.local["workers"])
    cohort = find_patients(config)
    problems = check_cohort(cohort, workers, context.progress)
    listed = [{**asdict(p), "file": _relative(p.file, cohort.path)} for p in problems]
    write_json(context.folder / "problems.json", listed)
    cohort = accept(cohort, problems, config.skip_bad_patients)
    split = split_patients(
        cohort, SplitConfig.model_validate({**context.spec["split"], **context.local["split"]})
    )
    write_json(context.folder / "split.json", split)
    # who is left out of the training (`train_patients`) is not sliced either
    cohort = replace(cohort, patients=tuple(p for p in cohort.patients if p.id in split))
    slicing = SliceConfig.model_validate({**context.spec["slices"], "workers": workers})
    counts = write_slices(cohort, split, slicing, context.folder, context.progress)
    slices = SliceSet.open(context.folder / "slices")
    return {
        "counts": counts,
        "slices": len(slices),
        "content_hash": slices.content_hash,
        "volumes_sha256": sha256_file(context.folder / "volumes" / "volumes.json"),
        "problems": len(listed),
    }


def generator(context: Context) -> dict[str, Any]:
    """Trains a generator on the training slices; the result is the folder `model`."""
    if "plugin" in context.spec:
        return train_plugged(context)
    from understudy.generators.joint import annotation_channels
    from understudy.generators.models import model_config
    from understudy.generators.parallel import train
    from understudy.generators.training import training_config_for
    from understudy.slices import SliceSet
    from understudy.study.subsets import training_rows

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
    from understudy.generators.sample import sample_set
    from understudy.generators.samplers import SamplerConfig
    from understudy.study.foreign import read_samples

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
    from understudy.generators.runs import snapshot_folder

    return snapshot_folder(model, spec["snapshot_kimg"]) if "snapshot_kimg" in spec else model


def segmenter(context: Context) -> dict[str, Any]:
    """Trains a segmenter on real slices, synthetic ones or both; the result is the folder `model`."""
    from understudy.segmenters.models import model_config
    from understudy.segmenters.train import SegmenterTrainingConfig, train_segmenter
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
    from understudy.progress import track
    from understudy.segmenters.predict import load
    from understudy.volumes import VolumeSet

    volumes = VolumeSet.open(context.input("prepare") / "volumes")
    subjects = volumes.subjects("test")
    if not subjects:
        raise UnderstudyError(
            "there is no test patient",
            where=volumes.path,
            fix="raise `split.test_patients` in the study file",
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
    with (
        atomic_path(context.folder / "predictions" / f"{subject}.npz") as temporary,
        open(temporary, "wb") as handle,
    ):
        np.savez_compressed(handle, prediction=prediction)
    names = [entry.name for entry in volumes.classes[1:]]
    regions = context.spec["regions"]
    rows = pd.DataFrame(
        score_volume(volume.truth, prediction, names, volume.spacing, volume.kept, regions=regions)
    )
    rows = rows[rows["scope"].isin(context.spec["scopes"])].reset_index(drop=True)
    cell = {**context.spec["cell"], "subject": subject, "site": volume.site}
    cell["collapsed"] = model.record["outcome"] == "collapsed"
    cell["validated_on"] = model.record.get("validated_on", {"kind": "real"})["kind"]
    for position, key in enumerate([*SCORE_KEYS, *(k for k in cell if k not in SCORE_KEYS)]):
        rows.insert(position, key, cell[key])
    with atomic_path(part) as temporary:
        rows.to_parquet(temporary, index=False)


def report(context: Context) -> dict[str, Any]:
    """Writes `report.html`, `report.json`, `tables/` and all raw rows as `scores.parquet`."""
    folders = [folder for entries in context.inputs.values() for folder in entries]
    page = write_report(context.spec, folders, context.folder)
    return {"page_sha256": sha256_file(page), "answer": answer_of(page.with_name("report.json"))}


def write_report(
    spec: dict[str, Any], folders: list[Path], out: Path, jobs: pd.DataFrame | None = None
) -> Path:
    """Builds the report of what is done.

    Args:
        spec: of the report job.
        folders: of the study's jobs; those that are not done are listed, not read.
        out: folder for the pages and tables.
        jobs: the job table, if it knows more than the folders do.

    Raises:
        UnderstudyError: nothing was evaluated yet.
    """
    from understudy.report.page import ReportData, build_report

    done = _done_by_stage(folders)
    if "evaluate" not in done:
        raise _nothing_evaluated(out)
    scores = pd.concat(
        [pd.read_parquet(f / "scores.parquet") for _, f in done["evaluate"]], ignore_index=True
    )
    with atomic_path(out / "scores.parquet") as temporary:
        scores.to_parquet(temporary, index=False)
    ((prepared_spec, prepared),) = done["prepare"]

    def by_cell(stage: str, below: str) -> dict[tuple[str, int], Path]:
        return {
            (spec["cell"]["setting"], spec["cell"]["repeat"]): folder / below
            for spec, folder in done.get(stage, [])
        }

    reading = out / "reading" if "reading" in spec else None
    if reading is not None:
        reading.mkdir(parents=True, exist_ok=True)
        write_json(reading / "table6.json", spec["reading"])
    trained = {
        plain_name(read_json(folder / "spec.json")["name"]).removeprefix("generator "): folder
        for _, folder in done.get("generator", [])
    }
    data = ReportData(
        title=spec["title"],
        study=spec["study"],
        scores=scores,
        slices=prepared / "slices",
        volumes=prepared / "volumes",
        synthetic={s["name"]: folder / "slices" for s, folder in done.get("sample", [])},
        quality={s["name"]: folder / "quality.json" for s, folder in done.get("quality", [])},
        audits={s["name"]: folder for s, folder in done.get("audit", [])},
        annotations={s["name"]: folder / "annotations.json" for s, folder in done.get("annotations", [])},
        generator_histories={name: f / "model" / "history.jsonl" for name, f in trained.items()},
        generator_health={
            name: results["health"]
            for name, f in trained.items()
            if "health" in (results := (read_done(f) or {})["results"])
        },
        segmenter_histories=by_cell("segmenter", "model/history.jsonl"),
        predictions=by_cell("evaluate", "predictions"),
        baseline=spec["baseline"],
        reading=reading,
        planned=_planned(spec["study"]),
        jobs=_job_table(folders) if jobs is None else jobs,
        provenance=_provenance(spec, prepared_spec, prepared, done),
        problems=read_json(prepared / "problems.json"),
    )
    return build_report(data, out)


def _done_by_stage(folders: list[Path]) -> _Done:
    done: _Done = {}
    for folder in folders:
        if read_done(folder) is not None:
            job = read_json(folder / "spec.json")
            done.setdefault(job["stage"], []).append((job["spec"], folder))
    return done


def overview(context: Context) -> dict[str, Any]:
    """Writes the page, `report.json` and the tables above the reports of several cohorts."""
    from understudy.report.overview import write_overview

    page = write_overview({name: f for name, (f,) in context.inputs.items()}, context.spec, context.folder)
    return {"page_sha256": sha256_file(page), "answer": answer_of(page.with_name("report.json"))}


def report_again(out: str | Path) -> tuple[Path, str]:
    """Makes the report of the study in a folder from what is done so far; returns its path and its answer.

    In a study with several cohorts these are all made anew, but for those of which nothing was evaluated yet.

    Raises:
        UnderstudyError: the folder holds no study, or nothing was evaluated yet.
    """
    from understudy.report.overview import write_overview
    from understudy.study.status import jobs_of, study_status

    out, jobs = Path(out), {job.id: job for job in jobs_of(out)}
    planned, table = [job for job in jobs.values() if job.stage == "report"], study_status(out)
    above = next((job for job in jobs.values() if job.stage == "overview"), None)
    if above is None:
        (only,) = planned
        page = write_report(only.spec, _folders_of(only, jobs, out), out, table)
        return page, answer_of(out / "report.json")
    made = {}
    for job in planned:
        folders = _folders_of(job, jobs, out)
        if "evaluate" in _done_by_stage(folders):
            name = str(job.local["publish"])
            own = table[table["id"].isin([job_id for _, job_id in job.inputs])]
            made[name] = write_report(job.spec, folders, out / name, own).parent
    if not made:
        raise _nothing_evaluated(out)
    return write_overview(made, above.spec, out), answer_of(out / "report.json")


def _folders_of(report: Job, jobs: dict[str, Job], out: Path) -> list[Path]:
    """Folders of the jobs that a report is about."""
    return [job_folder(out, jobs[job_id]) for _, job_id in report.inputs]


def _nothing_evaluated(out: Path) -> UnderstudyError:
    return UnderstudyError(
        "no test patient has been evaluated yet",
        where=out,
        fix="finish at least one evaluation: understudy run",
    )


def answer_of(path: Path) -> str:
    """The one-line answer that a report opens with."""
    return str(read_json(path)["answer"]["headline"])


def _job_table(folders: list[Path]) -> pd.DataFrame:
    rows = []
    for folder in folders:
        job, account = read_json(folder / "spec.json"), read_done(folder) or {}
        rows.append(
            {
                "stage": job["stage"],
                "id": job["id"],
                "name": job["name"],
                "seconds": account.get("seconds"),
                "peak_rss_mb": account.get("peak_rss_mb"),
                "state": state_of(folder),
                "failure": read_failed(folder).get("class", ""),
                "message": read_failed(folder).get("message", ""),
            }
        )
    return pd.DataFrame(rows)


def _planned(study: dict[str, Any]) -> pd.DataFrame:
    """A row for each training that the study asks for, so that the report can say which have no scores."""
    from understudy.study.grid import settings
    from understudy.study.schema import Study

    asked = Study.model_validate(study)
    cells = [s.as_cell | {"repeat": repeat} for s in settings(asked) for repeat in range(asked.repeats)]
    return pd.DataFrame(cells)


def _provenance(
    spec: dict[str, Any],
    prepared_spec: dict[str, Any],
    prepared: Path,
    done: _Done,
) -> dict[str, Any]:
    """What was run on what: versions, seeds, and hashes of inputs and data."""
    accounts = [read_done(folder) or {} for entries in done.values() for _, folder in entries]
    versions = {json.dumps(a["software"], sort_keys=True) for a in accounts}
    results = (read_done(prepared) or {})["results"]
    seeds = {"study": spec["study"]["seed"], "split": prepared_spec["split"]["seed"]}
    for stage, entries in done.items():
        for own, folder in entries:
            seed = own.get("seed", own.get("training", {}).get("seed") if stage != "evaluate" else None)
            if seed is not None:
                seeds[str(read_json(folder / "spec.json")["name"])] = seed
    return {
        "command": spec["command"],
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "software": software(),
        "software_of_jobs": [json.loads(entry) for entry in sorted(versions)],
        "torch_threads": sorted({a["torch_threads"] for a in accounts if a["torch_threads"]}),
        "study_hash": spec["study_hash"],
        "seeds": seeds,
        "input_hashes": {
            "cohort": prepared_spec.get("content", "phantom"),
            "slices": results["content_hash"],
            **{
                f"synthetic {s['name']}": (read_done(f) or {})["results"]["content_hash"]
                for s, f in done.get("sample", [])
            },
        },
    }


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
