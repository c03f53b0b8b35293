"""The stages `phantom` and `prepare`: artificial patients, if there are no others, and how patients become slices."""

import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.cohort.checks import first_headers
from understudy.cohort.config import CohortConfig, as_before_auto
from understudy.cohort.layouts import Cohort
from understudy.cohort.slicing import Frame, SliceConfig
from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file, write_json
from understudy.metrics.overlap import resolve_regions
from understudy.runtime.lazy import pandas as pd
from understudy.slices import SliceSet, SliceWriter
from understudy.study.config.cohorts import SPLIT_FILES
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Context, Job, job_of
from understudy.study.facts import find_cohort, fingerprint, phantom_classes
from understudy.volumes import VolumeSet

log = logging.getLogger(__name__)


def prepare_jobs(study: Study, jobs: list[Job], cohort: Cohort | None = None) -> str:
    """Adds the phantom job, if any, and the prepare job; returns the id of the latter."""
    spec: dict[str, Any] = {"slices": study.slices.model_dump(mode="json", exclude={"workers"})}
    inputs: list[tuple[str, str]] = []
    local: dict[str, Any] = {"workers": study.slices.workers}
    if study.phantom is not None:
        phantom = study.phantom
        if phantom.seed is None:
            phantom = phantom.model_copy(update={"seed": study.derived_seed("phantom")})
        jobs.append(job_of("phantom", "phantom", phantom.model_dump(mode="json"), []))
        inputs.append(("phantom", jobs[-1].id))
        described, classes = CohortConfig(classes=phantom.labels), phantom_classes(phantom)
    else:
        cohort = cohort or find_cohort(study)
        assert study.cohort is not None
        assert cohort is not None
        described, classes = study.cohort, cohort.classes
        spec["content"] = fingerprint(cohort)
        headers = first_headers(cohort, study.slices)
        frame = Frame.of(headers, study.slices) if headers else None
        if frame is not None and frame.changes(headers):  # other cohorts keep the ids of their jobs
            spec["frame"] = asdict(frame)
        local["path"] = str(study.cohort.path)
    try:  # regions of classes that the cohort lacks: before days of training, not after them
        resolve_regions(study.evaluation.regions, [entry.name for entry in classes[1:]])
    except UnderstudyError as error:
        raise UnderstudyError(error.what, where="evaluation.regions of the study", fix=error.fix) from error
    local["cohort"] = described.model_dump(mode="json", exclude={"path"})
    spec["cohort"] = as_before_auto(local["cohort"])
    split = study.split.settled(study.derived_seed("split")).model_dump(mode="json")
    local["split"] = {name: split[name] for name in SPLIT_FILES if isinstance(split[name], str) and split[name]}
    for name, path in local["split"].items():  # files enter by their content
        if not Path(path).is_file():
            where = f"split.{name}: {path}"
            raise UnderstudyError("a file that the study names does not exist", where=where, fix="correct the path")
        split[name] = f"sha256:{sha256_file(path)}"
    jobs.append(job_of("prepare", "prepare", {**spec, "split": split}, inputs, **local))
    return jobs[-1].id


def phantom(context: Context) -> dict[str, Any]:
    """Writes the phantom cohort to `phantoms/`."""
    from understudy.cohort.phantom.write import PhantomConfig, write_phantoms

    config = PhantomConfig.model_validate(context.spec)
    write_phantoms(config, context.folder / "phantoms", progress=context.progress)
    return {"patients": config.patients}


def prepare(context: Context) -> dict[str, Any]:
    """Checks the cohort, splits it and writes `slices`, `volumes`, `split.json` and `problems.json`."""
    from understudy.cohort.checks import accept, check_cohort
    from understudy.cohort.layouts import find_patients
    from understudy.cohort.prepare import prepare as write_slices
    from understudy.cohort.splits import SplitConfig, split_patients

    spec, local = context.spec, context.local
    path = context.input("phantom") / "phantoms" if "phantom" in context.inputs else local["path"]
    # `local` has the same fields as the spec, but for what `auto` is in the latter
    config = CohortConfig.model_validate({**spec["cohort"], **local["cohort"], "path": path})
    cohort = find_patients(config)
    slicing = SliceConfig.model_validate({**spec["slices"], "workers": int(local["workers"])})
    checked = check_cohort(cohort, slicing, slicing.workers, context.progress)
    listed = []
    for problem in checked.problems:
        file, inside = problem.file, problem.file.is_relative_to(cohort.path)
        name = file.relative_to(cohort.path).as_posix() if inside else file.name
        listed.append({**asdict(problem), "file": name})
    write_json(context.folder / "problems.json", listed)
    cohort = accept(cohort, checked.problems, config.skip_bad_patients)
    kinds = {f"{p.severity}: {p.problem}": p for p in checked.problems}  # one of a kind
    for p in list(kinds.values())[:5]:
        whose = f"patient {p.patient}" if p.patient else str(p.file)
        log.warning("%s%s: %s; what to do: %s", "left out: " if p.severity == "error" else "", whose, p.problem, p.fix)
    if len(listed) > 5:
        log.warning("all %d problems are listed in %s", len(listed), context.folder / "problems.json")
    split = split_patients(cohort, SplitConfig.model_validate({**spec["split"], **local["split"]}))
    write_json(context.folder / "split.json", split)
    # who is left out of the training (`train_patients`) is not sliced either
    cohort = replace(cohort, patients=tuple(p for p in cohort.patients if p.id in split))
    counts = write_slices(cohort, split, slicing, context.folder, context.progress, checked.frame)
    slices = SliceSet.open(context.folder / "slices")
    volumes = sha256_file(context.folder / "volumes" / "volumes.json")
    found = {"counts": counts, "slices": len(slices), "content_hash": slices.content_hash}
    return found | {"volumes_sha256": volumes, "problems": len(listed)}


def training_rows(slices: SliceSet, subset: dict[str, Any] | None = None) -> NDArray[np.int64]:
    """Rows of the training patients, or of the first `patients` of them in an order drawn by `seed`.

    `subset`: {"patients": 5, "seed": 0}, None for all; of one seed the 5 patients are among the 10. Or
    {"times": 4, "seed": 0}: all, the rows of the first one 4 times. An error if there are not so many.
    """
    rows = slices.rows(split="train")
    if subset is None:
        return rows
    subjects = slices.index["subject"].to_numpy()[rows].astype(str)
    if "times" in subset:
        canary = rows[subjects == first_patient(subjects, subset)]
        return np.concatenate([rows, np.tile(canary, int(subset["times"]) - 1)])
    names, count = np.unique(subjects), int(subset["patients"])
    if not 0 < count <= len(names):
        what = f"{count} training patients wanted, but there are {len(names)}"
        raise UnderstudyError(what, where=slices.path, fix=f"use 1 to {len(names)}")
    return np.asarray(rows[np.isin(subjects, _in_order(names, subset)[:count])], np.int64)


def first_patient(subjects: NDArray[np.str_], subset: dict[str, Any]) -> str:
    """The training patient whose rows a `subset` repeats."""
    return str(_in_order(np.unique(subjects), subset)[0])


def _in_order(names: NDArray[np.str_], subset: dict[str, Any]) -> NDArray[np.str_]:
    return np.random.default_rng([int(subset["seed"]), 7]).permutation(names)


def of_subset(subset: dict[str, Any] | None) -> str:
    """What a job's name says of it, e.g. " of 5 patients"; "" for all."""
    if subset is None:
        return ""
    return f" with a patient {subset['times']} times" if "times" in subset else f" of {subset['patients']} patients"


def held_out_slices(volumes: VolumeSet, path: Path) -> SliceSet | None:
    """The slices of validation and test patients that pass the slice rule, as a set; None without such patients.

    Segmenters were chosen by the validation patients and nothing by the test patients, and no generator saw either.
    """
    subjects = volumes.subjects()
    if not subjects:
        return None
    resolution = volumes.read(subjects[0]).images.shape[-1]
    shutil.rmtree(path.with_name(path.name + ".partial"), ignore_errors=True)  # of an interrupted run
    writer = SliceWriter(path, volumes.channels, volumes.classes, resolution, replace=True)
    for subject in subjects:
        volume = volumes.read(subject)
        z = np.flatnonzero(volume.kept)
        labels = volume.labels_at_network(len(volumes.classes))
        rows = pd.DataFrame({"subject": subject, "site": volume.site, "z": z, "split": volume.split})
        writer.append(volume.images[z], labels[z], rows)
    return writer.close()
