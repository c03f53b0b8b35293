"""From a study to its jobs: what depends on what, under ids that change only where a result would.

phantom (if asked for) -> prepare -> generator -> sample -> segmenter (each setting and repeat) -> evaluate
-> report; and sample -> audit -> report. With several cohorts all this for each, and an overview of the reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from understudy.audit.config import AuditConfig
from understudy.cohort.layouts import Cohort, CohortConfig, brats_classes
from understudy.errors import UnderstudyError
from understudy.exchange.fingerprint import folder_mark
from understudy.exchange.read import layout_of
from understudy.files import read_json, sha256_file
from understudy.metrics.regions import resolve_regions
from understudy.slices import LabelClass
from understudy.study.annotation_stage import annotation_parts
from understudy.study.facts import Facts, facts_of, find_cohort, fingerprint
from understudy.study.finetune import changed_training, refuse_too_many
from understudy.study.generator_spec import FolderGenerator, GeneratorSpec, PluginSpec
from understudy.study.grid import Setting, baseline, mixture_of, settings
from understudy.study.jobs import Job
from understudy.study.plugin_stage import plugin_content
from understudy.study.quality_stage import quality_parts
from understudy.study.schema import Study, preset, presets

__all__ = [
    "ACCELERATED",
    "STAGE_VERSIONS",
    "Plan",
    "Setting",
    "baseline",
    "fingerprint",
    "make_plan",
    "settings",
]

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

ACCELERATED = ("generator", "sample", "audit", "segmenter", "evaluate", "quality")
"""Stages whose jobs compute on a device; the hours of the others are not GPU hours."""

SIDE_STAGES = {"audit", "quality", "annotations"}
"""Stages on whose results only the report depends."""


@dataclass(frozen=True)
class Plan:
    """A study and its jobs, each after the ones that it needs.

    Attributes:
        facts: cohort's name ("" where it has none) -> what is known of it; {} for plans that are not a whole study's.
        cohort_of: job id -> name of its cohort, in a study with several; the overview is of none.
    """

    study: Study
    jobs: tuple[Job, ...]
    facts: Mapping[str, Facts] = field(default_factory=dict)
    cohort_of: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Job]:
        """Job id -> job."""
        return {job.id: job for job in self.jobs}

    def find(self, prefix: str) -> Job:
        """The job whose id starts with `prefix`.

        Raises:
            UnderstudyError: none, or more than one.
        """
        return find_job(self.jobs, prefix, f"study {self.study.name}")

    def until(self, stage: str) -> Plan:
        """The plan up to `stage`, without side branches (audit, quality, annotations) unless the stage is one of them.

        `report` is all, an overview of several cohorts too.

        Raises:
            UnderstudyError: no such stage.
        """
        stages = list(STAGE_VERSIONS)
        if stage not in stages:
            raise UnderstudyError(f"there is no stage {stage!r}", fix=f"use one of {', '.join(stages)}")
        if stage in ("report", "overview"):
            return self
        kept = {stage} if stage in SIDE_STAGES else set(stages[: stages.index(stage) + 1]) - SIDE_STAGES
        needed: set[str] = set()
        for job in reversed(self.jobs):  # each stands after the ones that it needs
            if job.stage in kept or job.id in needed:
                needed |= {job.id, *(job_id for _, job_id in job.inputs)}
        return replace(self, jobs=tuple(job for job in self.jobs if job.id in needed))


def find_job(jobs: Sequence[Job], prefix: str, where: str) -> Job:
    """The job whose id starts with `prefix`, or whose folder is called so; `where` is for the message.

    Raises:
        UnderstudyError: none, or more than one.
    """
    found = [job for job in jobs if job.id.startswith(prefix) or job.folder_name == prefix]
    if len(found) != 1 or not prefix:
        known = ", ".join(f"{job.id[:12]} ({job.name})" for job in (found or jobs)[:20])
        raise UnderstudyError(
            f"{'no job' if not found else 'more than one job'} has an id that starts with {prefix!r}",
            where=where,
            fix=f"use one of {known}",
        )
    return found[0]


def make_plan(study: Study) -> Plan:
    """The jobs of a study.

    Raises:
        UnderstudyError: a cohort or a file that the study names is not there, a split that cannot be, two cohorts that
            are the same.
    """
    jobs: dict[str, Job] = {}
    facts: dict[str, Facts] = {}
    cohort_of: dict[str, str] = {}
    reports: list[tuple[str, str]] = []
    for name, part in study.parts().items():
        own, facts[name] = _jobs_of(part, name, study)
        _refuse_twins(name, own, cohort_of)
        for job in own:
            named = replace(job, name=f"{name}: {job.name}") if name else job
            jobs.setdefault(job.id, named)  # phantoms of one seed are drawn once for all
            if name:
                cohort_of.setdefault(job.id, name)
        reports.append((name, own[-1].id))
    if study.cohorts is not None:
        overview = _overview_job(study, reports)
        jobs[overview.id] = overview
    return Plan(study, tuple(jobs.values()), facts, cohort_of)


def _refuse_twins(name: str, own: Sequence[Job], cohort_of: Mapping[str, str]) -> None:
    twin = next((cohort_of[job.id] for job in own if job.stage == "prepare" and job.id in cohort_of), None)
    if twin is not None:
        raise UnderstudyError(
            f"the cohorts {twin} and {name} are the same patients in the same split",
            where=f"cohorts.{name}",
            fix="leave one out, or give it another `path`, `split` or `slices`",
        )


def _jobs_of(study: Study, name: str, whole: Study) -> tuple[list[Job], Facts]:
    """The jobs of a study with one cohort and what is known of this.

    Args:
        name: of the cohort in the `whole` study, "" if that is `study`.
    """
    cohort = find_cohort(study, name)
    jobs: list[Job] = []
    prepare = prepare_jobs(study, jobs, cohort)
    facts = facts_of(study, cohort, study.derived_seed("split"))
    # Folders first: what is wrong in them is said before a network has been trained for days.
    names = sorted(study.generators, key=lambda name: not isinstance(study.generators[name], FolderGenerator))
    samples = {name: generator_jobs(study, name, prepare, jobs) for name in names}
    if study.audit is not None:
        # Snapshots are there to be compared, not to be shared; the finished generator of their training is audited.
        audited = [job for job in jobs if job.stage == "sample" and "snapshot_kimg" not in job.spec]
        jobs += [audit_job(study, job, prepare) for job in audited]
    refuse_too_many(study, facts)
    trained: dict[tuple[str, int], str] = {}
    for setting in settings(study):
        for repeat in range(study.repeats):
            _segmenter_jobs(study, setting, repeat, prepare, samples, trained, jobs)
    if study.quality is not None:
        base = baseline(study)
        for sampled in [job for job in jobs if job.stage == "sample"]:
            title, spec, inputs, local = quality_parts(study.quality, sampled, prepare, jobs, base)
            jobs.append(_job("quality", title, spec, inputs, **local))
    if study.annotations is not None:
        for sampled in [job for job in jobs if job.stage == "sample"]:
            title, spec, inputs = annotation_parts(study.annotations, sampled, prepare)
            jobs.append(_job("annotations", title, spec, inputs))
    jobs.append(_report_job(study, jobs, name, whole))
    return jobs, facts


# How often something is written: not part of what is computed, so that changing it redoes nothing.
_INTERVALS = {"checkpoint_seconds", "checkpoints_kept", "snapshot_kimg", "tensorboard"}


def _job(stage: str, name: str, spec: dict[str, Any], inputs: list[tuple[str, str]], **local: Any) -> Job:
    return Job(stage, name, spec, tuple(inputs), STAGE_VERSIONS[stage], local)


def prepare_jobs(study: Study, jobs: list[Job], cohort: Cohort | None = None) -> str:
    """Adds the phantom job, if any, and the prepare job; returns the id of the latter.

    Args:
        cohort: of the study, if it has been looked for already.
    """
    spec: dict[str, Any] = {"slices": study.slices.model_dump(mode="json", exclude={"workers"})}
    inputs: list[tuple[str, str]] = []
    local: dict[str, Any] = {"workers": study.slices.workers}
    if study.phantom is not None:
        phantom = study.phantom
        if "seed" not in phantom.model_fields_set:
            phantom = phantom.model_copy(update={"seed": study.derived_seed("phantom")})
        job = _job("phantom", "phantom", phantom.model_dump(mode="json"), [])
        jobs.append(job)
        inputs.append(("phantom", job.id))
        spec["cohort"] = CohortConfig.model_validate({}).model_dump(mode="json", exclude={"path"})
        _check_regions(study, brats_classes("brats2018"))  # the layout in which phantoms are written
    else:
        assert study.cohort is not None
        cohort = cohort or find_cohort(study)
        assert cohort is not None
        spec["cohort"] = study.cohort.model_dump(mode="json", exclude={"path"})
        spec["content"] = fingerprint(cohort)
        _check_regions(study, cohort.classes)
        local["path"] = str(study.cohort.path)
    split = study.split
    if "seed" not in split.model_fields_set:
        split = split.model_copy(update={"seed": study.derived_seed("split")})
    spec["split"], local["split"] = _split_spec(split.model_dump(mode="json"))
    job = _job("prepare", "prepare", spec, inputs, **local)
    jobs.append(job)
    return job.id


def _check_regions(study: Study, classes: Sequence[LabelClass]) -> None:
    """Refuses regions of classes that the cohort does not have: before days of training, not after them."""
    try:
        resolve_regions(study.evaluation.regions, [entry.name for entry in classes[1:]])
    except UnderstudyError as error:
        raise UnderstudyError(error.what, where="evaluation.regions of the study", fix=error.fix) from error


def _split_spec(split: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The split with the content of the files it names in place of their paths, and the paths."""
    paths = {
        field: str(split[field])
        for field in ("train", "validation", "test", "permutation")
        if isinstance(split[field], str) and split[field]
    }
    hashes = {}
    for name, path in paths.items():
        if not Path(path).is_file():
            raise UnderstudyError(
                "a file that the study names does not exist",
                where=f"split.{name}: {path}",
                fix="correct the path",
            )
        hashes[name] = f"sha256:{sha256_file(path)}"
    return {**split, **hashes}, paths


def _training_spec(training: BaseModel, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A training with its seed, and apart from it the intervals that do not change its result."""
    spec = {**training.model_dump(mode="json"), "seed": seed}
    return spec, {name: spec.pop(name) for name in sorted(_INTERVALS & spec.keys())}


def generator_jobs(
    study: Study,
    name: str,
    prepare: str,
    jobs: list[Job],
    subset: dict[str, Any] | None = None,
    samples: int | None = None,
) -> str:
    """Adds a generator's trainings (one, or an ensemble's) and its sampling; returns the id of the latter.

    Args:
        subset: train on some of the training patients only, see `subsets.training_rows`.
        samples: slices to make, in place of the study's number.
    """
    generator = study.generators[name]
    if isinstance(generator, FolderGenerator):
        return _folder_job(name, generator, prepare, jobs)
    if isinstance(generator, GeneratorSpec) and generator.snapshot is not None:
        return _snapshot_job(study, name, generator, jobs)
    if isinstance(generator, PluginSpec):
        return _plugin_jobs(study, name, generator, prepare, jobs, subset, samples)
    model = generator.model.model_dump(mode="json", exclude={"channels"})
    of = f" of {subset['patients']} patients" if subset else ""
    trained = []
    for member in range(generator.ensemble):
        own = (name,) if member == 0 else (name, member)  # the first is the same whatever the ensemble's size
        training, local = _training_spec(generator.training, study.derived_seed("generator", *own))
        if not training["keep_weights_kimg"]:
            del training["keep_weights_kimg"]  # which came later: the ids of trainings without it stay
        spec = {
            "name": name,
            "model": {**model, "resolution": study.slices.resolution},
            "training": training,
            **({"subset": subset} if subset else {}),
        }
        title = f"generator {name}{of}" + (f", member {member + 1}" if generator.ensemble > 1 else "")
        trained.append(_job("generator", title, spec, [("prepare", prepare)], training=local))
    wanted = _sampling(study, name, generator, samples)
    sampled = _job("sample", f"sample {name}{of}", wanted, [("generator", job.id) for job in trained])
    jobs += [*trained, sampled]
    return sampled.id


def _plugin_jobs(
    study: Study, name: str, generator: PluginSpec, prepare: str, jobs: list[Job],
    subset: dict[str, Any] | None, samples: int | None,
) -> str:  # fmt: skip
    """Adds the training of a plug-in and its sampling; the ids follow from the plug-in's version and settings."""
    of = f" of {subset['patients']} patients" if subset else ""
    spec = {"name": name, **plugin_content(generator), "resolution": study.slices.resolution,
            "seed": study.derived_seed("generator", name), **({"subset": subset} if subset else {})}  # fmt: skip
    trained = _job("generator", f"generator {name}{of}", spec, [("prepare", prepare)])
    wanted = {"name": name, "count": samples or generator.samples, "seed": study.derived_seed("sample", name),
              "psi": 1.0, "sampler": None}  # fmt: skip
    jobs += [trained, _job("sample", f"sample {name}{of}", wanted, [("generator", trained.id)])]
    return jobs[-1].id


def _sampling(
    study: Study, name: str, generator: GeneratorSpec, samples: int | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "count": samples or generator.samples,
        "seed": study.derived_seed("sample", name),
        "psi": generator.psi,
        "sampler": generator.sampler.model_dump(mode="json") if generator.sampler else None,
    }


def _snapshot_job(study: Study, name: str, generator: GeneratorSpec, jobs: list[Job]) -> str:
    """Adds the sampling of weights that another generator's training keeps on its way."""
    assert generator.snapshot is not None
    (trained,) = (j for j in jobs if j.stage == "generator" and j.spec["name"] == generator.snapshot.of)
    wanted = _sampling(study, name, generator) | {"snapshot_kimg": generator.snapshot.kimg}
    jobs.append(_job("sample", f"sample {name}", wanted, [("generator", trained.id)]))
    return jobs[-1].id


def _folder_job(name: str, generator: FolderGenerator, prepare: str, jobs: list[Job]) -> str:
    """Adds the reading of a folder of images; its id follows from what is in the folder."""
    spec = generator.model_dump(mode="json", exclude={"folder", "samples"})
    _, files = layout_of(generator.folder, generator)
    wanted = {
        "name": name,
        "folder": spec,
        "count": generator.samples,
        "content": folder_mark(generator.folder, files),
    }
    local = {"path": str(generator.folder), "files": len(files)}
    job = _job("sample", f"read {name}", wanted, [("prepare", prepare)], **local)
    jobs.append(job)
    return job.id


def audit_job(study: Study, sampled: Job, prepare: str, subset: dict[str, Any] | None = None) -> Job:
    """The audit of a generator's samples; `subset` as in `generator_jobs`."""
    config = (study.audit or AuditConfig()).model_dump(mode="json")
    local = {name: config.pop(name) for name in ("memory_bytes",)}
    spec = {"name": sampled.spec["name"], "config": config, **({"subset": subset} if subset else {})}
    models = [entry for entry in sampled.inputs if entry[0] == "generator"]
    of = f" of {subset['patients']} patients" if subset else ""
    inputs = [("prepare", prepare), ("sample", sampled.id), *models]
    return _job("audit", f"audit {sampled.spec['name']}{of}", spec, inputs, config=local)


def _segmenter_jobs(
    study: Study,
    setting: Setting,
    repeat: int,
    prepare: str,
    samples: dict[str, str],
    trained: dict[tuple[str, int], str],
    jobs: list[Job],
) -> None:
    """Adds the training of a segmenter, also to those `trained` by (setting, repeat), and its evaluation."""
    segmenter = study.segmenters[setting.segmenter]
    training, local = _training_spec(segmenter.training, study.derived_seed("segmenter", setting.id, repeat))
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
    network = _job("segmenter", f"segmenter {title}", spec, inputs, training=local, dropped_slices=dropped)
    trained[setting.id, repeat] = network.id
    scored = {
        "cell": cell,
        "scopes": sorted(study.evaluation.scopes),
        "dropped_slices": study.evaluation.dropped_slices,
        "regions": study.evaluation.regions,
    }
    evaluated = _job(
        "evaluate", f"evaluate {title}", scored, [("segmenter", network.id), ("prepare", prepare)]
    )
    jobs += [network, evaluated]


def _report_job(study: Study, jobs: list[Job], name: str, whole: Study) -> Job:
    """The report on one cohort; `name` is that of its folder below the study's, "" for the study's own."""
    spec = {
        "title": study.report.title or f"Understudy: {study.name}",
        "study": study.as_data(),
        "study_hash": study.hash,
        "baseline": baseline(study),
        "command": _command(whole),
    }
    if study.report.reading is not None:
        spec["reading"] = _read_reading(study.report.reading)
    local = {"publish": name} if name else {}
    return _job("report", "report", spec, [(job.stage, job.id) for job in jobs], **local)


def _read_reading(path: Path) -> dict[str, Any]:
    """The readers' answers that the report shows: small, so the report's specification holds them.

    Raises:
        UnderstudyError: no such file, or not one of `understudy reading analyse`.
    """
    content: dict[str, Any] = read_json(path)
    known = {"source", "n", "called_real", "called_synthetic"}
    if not isinstance(content, dict) or not all(known <= row.keys() for row in content.get("rows") or [{}]):
        raise UnderstudyError(
            "not the result of a reading study",
            where=path,
            fix="give the table6.json of `understudy reading analyse`",
        )
    return content


def _overview_job(study: Study, reports: list[tuple[str, str]]) -> Job:
    """The page above the reports of several cohorts."""
    spec = {
        "title": study.report.title or f"Understudy: {study.name}",
        "study": study.as_data(),
        "study_hash": study.hash,
        "command": _command(study),
    }
    return _job("overview", "overview", spec, reports)


def _command(study: Study) -> str:
    """What runs the study again: by the preset's name if it is one unchanged, else by a file with its content."""
    if study.name in presets() and Study.model_validate(preset(study.name)).hash == study.hash:
        return f"understudy run {study.name}"
    return f"understudy run {study.name}.yaml"
