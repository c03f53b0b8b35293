"""The stages `generator` and `sample`: a training (or an ensemble's) and its slices, or a folder of foreign images."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.exchange.read import folder_mark, layout_of
from understudy.generators.folder import snapshot_folder
from understudy.generators.registry import plugin_type
from understudy.io.files import read_json, sha256_file, write_json
from understudy.memorization.config import AuditConfig
from understudy.roles import Part, UnfitSets
from understudy.slices import SliceSet, SliceWriter
from understudy.study.config.networks import FolderGenerator, GeneratorSpec, PluginSpec
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Context, Job, job_of, training_spec
from understudy.study.stages.data import of_subset, training_rows


def generator_jobs(
    study: Study, name: str, prepare: str, jobs: list[Job], subset: dict[str, Any] | None = None,
    samples: int | None = None,
) -> str:  # fmt: skip
    """Adds a generator's trainings (one, or an ensemble's) and its sampling; returns the id of the latter.

    `subset`: of the training patients, see `training_rows`; `samples`: in place of the study's number.
    """
    generator = study.generators[name]
    if isinstance(generator, FolderGenerator):  # its id follows from what is in the folder
        _, files = layout_of(generator.folder, generator)
        content = folder_mark(generator.folder, files)
        spec, audit = generator.model_dump(mode="json", exclude={"folder", "samples"}), study.audit or AuditConfig()
        read = {"name": name, "folder": spec, "count": generator.samples, "content": content}
        # copies of validation and test patients are looked for whether or not there is an audit
        read["leaks"] = {"quantile": audit.quantile, "transforms": audit.transforms}
        local: dict[str, Any] = {"path": str(generator.folder), "files": len(files)}
        jobs.append(job_of("sample", f"read {name}", read, [("prepare", prepare)], **local))
        return jobs[-1].id
    seed, sampler = study.derived_seed("sample", name), getattr(generator, "sampler", None)
    wanted: dict[str, Any] = {"name": name, "count": samples or generator.samples, "seed": seed}
    wanted |= {"psi": getattr(generator, "psi", 1.0), "sampler": sampler and sampler.model_dump(mode="json")}
    of = of_subset(subset)
    if generator.snapshot is not None:  # weights that another generator's training keeps on its way
        trained = [j for j in jobs if j.stage == "generator" and j.spec["name"] == generator.snapshot.of]
        wanted["snapshot_kimg"] = generator.snapshot.kimg
    else:
        trained = []
        for member in range(generator.ensemble):
            own = (name,) if member == 0 else (name, member)  # the first is the same whatever the ensemble's size
            spec, local = _training(study, generator, study.derived_seed("generator", *own))
            spec |= {"name": name, **({"subset": subset} if subset else {})}
            title = f"generator {name}{of}" + (f", member {member + 1}" if generator.ensemble > 1 else "")
            trained.append(job_of("generator", title, spec, [("prepare", prepare)], **local))
        jobs += trained
    jobs.append(job_of("sample", f"sample {name}{of}", wanted, [("generator", job.id) for job in trained]))
    return jobs[-1].id


def _training(study: Study, generator: GeneratorSpec | PluginSpec, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the result of a training depends on, and what it does not."""
    resolution = study.slices.resolution
    if isinstance(generator, PluginSpec):
        spec: dict[str, Any] = {"plugin": plugin_type(generator.plugin).identity, "config": generator.config}
        spec |= {"annotation": generator.annotation, "resolution": resolution, "seed": seed}
        if generator.keep_weights_kimg:
            spec["keep_weights_kimg"] = generator.keep_weights_kimg
        return spec, {}
    training, local = training_spec(generator.training, seed)
    if not training["keep_weights_kimg"]:
        del training["keep_weights_kimg"]  # which came later: the ids of trainings without it stay
    model = generator.model.model_dump(mode="json", exclude={"channels"}) | {"resolution": resolution}
    return {"model": model, "training": training}, {"training": local}


def generator(context: Context) -> dict[str, Any]:
    """Trains a generator on the training slices; the result is the folder `model`."""
    slices = SliceSet.open(context.input("prepare") / "slices")
    rows = training_rows(slices, context.spec.get("subset"))
    if "plugin" in context.spec:
        return _train_plugin(context, slices, rows)
    from understudy.generators.joint import annotation_channels
    from understudy.generators.registry import model_config, network_type
    from understudy.generators.training.loop import train

    kind = network_type(context.spec["model"]["kind"])
    training = kind.training.model_validate({**context.spec["training"], **context.local["training"]})
    channels = len(slices.channels) + annotation_channels(slices.classes, training.annotation)
    judge = _judge(context, slices, rows) if training.until else None
    model = train(
        slices, rows, model_config({**context.spec["model"], "channels": channels}), training, context.folder / "model",
        device=context.device, progress=context.progress, devices=context.devices, nodes=context.nodes, judge=judge,
    )  # fmt: skip
    weights, record = sha256_file(model / "generator.safetensors"), read_json(model / "config.json")
    stopping = {"stopping": record["stopping"]} if "stopping" in record else {}
    return {"weights_sha256": weights, "health": record["health"], **stopping}


def _judge(context: Context, slices: SliceSet, rows: Any) -> Any:
    """Who looks at the samples of a training: by validation patients, since test patients must not steer it."""
    from understudy.memorization.looks import Looks
    from understudy.runtime.devices import resolve_device

    validation = slices.rows(split=["val", "validation"])
    parts = Part("training", slices, rows), Part("validation", slices, validation)
    return Looks(*parts, device=str(resolve_device(context.device)))


def _train_plugin(context: Context, slices: SliceSet, rows: Any) -> dict[str, Any]:
    spec, planned = context.spec, context.spec["plugin"]
    name, plugin = planned["name"], plugin_type(planned["name"])
    if plugin.identity != planned:
        what = f"the plug-in {name} is not the one that was planned (version {planned['version']})"
        raise UnderstudyError(what, where=context.folder, fix="run the study again: it is planned anew")
    if context.nodes > 1:
        raise UnderstudyError(f"the plug-in {name} is trained by one process", fix="leave --nodes out")
    model = plugin.train(
        slices, rows, spec["config"], context.folder / "model", spec["annotation"], spec["seed"], context.device,
        spec.get("keep_weights_kimg", ()),
    )  # fmt: skip
    return {"weights_sha256": read_json(model / "config.json")["content"], "plugin": planned}


def sample(context: Context) -> dict[str, Any]:
    """Makes the synthetic slice set `slices`, or reads it from a folder of images that somebody else made."""
    from understudy.generators.diffusion.samplers import SamplerConfig
    from understudy.generators.sample import sample_set

    spec = context.spec
    if "folder" in spec:
        return _read_samples(context)
    models = models_of(context.inputs["generator"], spec)
    sampler = None if spec["sampler"] is None else SamplerConfig.model_validate(spec["sampler"])
    made = sample_set(
        models, spec["count"], spec["seed"], context.folder / "slices",
        psi=spec["psi"], device=context.device, progress=context.progress, sampler=sampler,
    )  # fmt: skip
    return {"slices": len(made), "content_hash": made.content_hash}


def models_of(trained: Iterable[Path], spec: dict[str, Any]) -> list[Path]:
    """Of the folders of trainings the models that a job samples or audits: the finished ones, or a state on the way."""
    models = [folder / "model" for folder in trained]
    return [snapshot_folder(model, spec["snapshot_kimg"]) for model in models] if "snapshot_kimg" in spec else models


def _read_samples(context: Context) -> dict[str, Any]:
    from understudy.exchange.pixels import Target
    from understudy.exchange.read import read_folder
    from understudy.exchange.spec import FolderSpec

    real, spec, root = SliceSet.open(context.input("prepare") / "slices"), context.spec, Path(context.local["path"])
    folder, out = FolderSpec.model_validate(spec["folder"]), context.folder / "read"
    made = read_folder(root, folder, out, Target.of(real), spec["name"], context.progress, spec["count"])
    refuse_held_out(made, real, root)
    leaks = _leaks_in(context, made, real)
    named = made.index["id"].astype(str)
    write_json(context.folder / "leaks.json", {**leaks, "slices": len(made), "ids": list(named.iloc[leaks["rows"]])})
    made = _without(made, leaks["rows"], context.folder / "slices")
    shutil.rmtree(out, ignore_errors=True)
    found = {"slices": len(made), "content_hash": made.content_hash, "leaked": leaks["counts"]}
    return found | {name: made.attrs[name] for name in ("annotation", "notes")}


def _leaks_in(context: Context, made: SliceSet, real: SliceSet) -> dict[str, Any]:
    """Copies of validation and test patients among slices that somebody made elsewhere."""
    from understudy.memorization.comparison import sides
    from understudy.memorization.leaks import Leaks, find_leaks
    from understudy.memorization.search import searching
    from understudy.runtime.devices import resolve_device

    config, device = AuditConfig.model_validate(context.spec["leaks"]), str(resolve_device(context.device))
    try:
        leaks = find_leaks(sides(real, real, made), config, searching(config, device, context.progress), device)
    except UnfitSets as error:
        leaks = Leaks("cannot_tell", error.what, 0, 0, {})
    return {**leaks.as_dict(), "rows": leaks.rows.tolist()}


def _without(made: SliceSet, rows: list[int], out: Path) -> SliceSet:
    """The set at `out`, but for some rows: segmenters are not trained on copies of those they are tested on."""
    if not rows:
        shutil.rmtree(out, ignore_errors=True)  # of a process that was killed here
        os.replace(made.folder, out)
        return SliceSet.open(out)
    from understudy.memorization.screen import Screened

    kept = np.setdiff1d(np.arange(len(made)), rows)
    if not len(kept):
        what, fix = "every slice is a copy of a validation or test patient's", "make slices without these patients"
        raise UnderstudyError(what, where=made.path, fix=fix)
    m, identity = made, {"source": made.content_hash, "kept": kept.tolist()}
    writer = SliceWriter(out, m.channels, m.classes, m.resolution, m.spacing, m.axes, identity, replace=True)
    for block, images, labels in made.blocks(kept[writer.done :]):
        writer.append(images, labels, made.index.iloc[block])
    screened = Screened(len(made), len(kept), flagged=0, alike=0, leaked=len(rows))
    attrs = {name: value for name, value in made.attrs.items() if name != "software_version"}
    return writer.close(**attrs, screened={**asdict(screened), "content_hash_before": made.content_hash})


def refuse_held_out(made: SliceSet, real: SliceSet, root: Path) -> None:
    """Raises an error if the folder holds slices of patients that segmenters are selected on or tested on."""
    if "subject" not in made.index or "subject" not in real.index:
        return
    held_out = set(real.index["subject"][real.index["split"] != "train"])
    if leaked := sorted(set(made.index["subject"]) & held_out):
        what = f"the folder holds slices of {len(leaked)} patients of validation or test, e.g. {leaked[0]}"
        raise UnderstudyError(what, root, fix="leave them out: a segmenter that was trained on them says nothing")
