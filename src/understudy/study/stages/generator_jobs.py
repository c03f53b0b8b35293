"""The jobs of a generator: its trainings, its samples, and the audit of these."""

from __future__ import annotations

from typing import Any

from understudy.exchange.fingerprint import folder_mark
from understudy.exchange.read import layout_of
from understudy.memorization.config import AuditConfig
from understudy.study.config.generators import FolderGenerator, GeneratorSpec, PluginSpec
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Job, job_of, training_spec
from understudy.study.stages.plugin import plugin_content


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
        training, local = training_spec(generator.training, study.derived_seed("generator", *own))
        if not training["keep_weights_kimg"]:
            del training["keep_weights_kimg"]  # which came later: the ids of trainings without it stay
        spec = {
            "name": name,
            "model": {**model, "resolution": study.slices.resolution},
            "training": training,
            **({"subset": subset} if subset else {}),
        }
        title = f"generator {name}{of}" + (f", member {member + 1}" if generator.ensemble > 1 else "")
        trained.append(job_of("generator", title, spec, [("prepare", prepare)], training=local))
    wanted = _sampling(study, name, generator, samples)
    sampled = job_of("sample", f"sample {name}{of}", wanted, [("generator", job.id) for job in trained])
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
    trained = job_of("generator", f"generator {name}{of}", spec, [("prepare", prepare)])
    wanted = {"name": name, "count": samples or generator.samples, "seed": study.derived_seed("sample", name),
              "psi": 1.0, "sampler": None}  # fmt: skip
    jobs += [trained, job_of("sample", f"sample {name}{of}", wanted, [("generator", trained.id)])]
    return jobs[-1].id


def _sampling(study: Study, name: str, generator: GeneratorSpec, samples: int | None = None) -> dict[str, Any]:
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
    jobs.append(job_of("sample", f"sample {name}", wanted, [("generator", trained.id)]))
    return jobs[-1].id


def _folder_job(name: str, generator: FolderGenerator, prepare: str, jobs: list[Job]) -> str:
    """Adds the reading of a folder of images; its id follows from what is in the folder."""
    spec = generator.model_dump(mode="json", exclude={"folder", "samples"})
    _, files = layout_of(generator.folder, generator)
    wanted = {"name": name, "folder": spec, "count": generator.samples, "content": folder_mark(generator.folder, files)}
    local = {"path": str(generator.folder), "files": len(files)}
    job = job_of("sample", f"read {name}", wanted, [("prepare", prepare)], **local)
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
    return job_of("audit", f"audit {sampled.spec['name']}{of}", spec, inputs, config=local)
