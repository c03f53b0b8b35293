"""The jobs of a setting: the training of its segmenter and the test of it."""

from __future__ import annotations

from understudy.study.config.finetune import changed_training
from understudy.study.config.grid import Setting, mixture_of
from understudy.study.config.schema import Study
from understudy.study.engine.jobs import Job, job_of, training_spec


def segmenter_jobs(
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
    scored = {
        "cell": cell,
        "scopes": sorted(study.evaluation.scopes),
        "dropped_slices": study.evaluation.dropped_slices,
        "regions": study.evaluation.regions,
    }
    evaluated = job_of("evaluate", f"evaluate {title}", scored, [("segmenter", network.id), ("prepare", prepare)])
    jobs += [network, evaluated]
