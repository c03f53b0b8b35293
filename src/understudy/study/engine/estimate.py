"""What a study will cost: seconds and bytes for each job, from counted operations and a short calibration.

A training's floating-point operations are counted on its real network (on torch's `meta` device, which computes
nothing; counts are kept, `measured`) and divided by the speed of a convolution on this machine (`calibration`). How
much of that speed each kind of work reaches was measured once on CPUs (`REACHED`); expect a factor of two either way,
and more for a GPU whose speed is stated. An estimate refuses nothing: what is wrong with a study the plan says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.joint import annotation_channels
from understudy.generators.registry import model_config as generator_config
from understudy.generators.training.config import training_config_for
from understudy.memorization.config import TRANSFORMS, AuditConfig
from understudy.quality.config import QualityConfig
from understudy.segmenters.mixture_config import MixtureConfig
from understudy.segmenters.models import model_config
from understudy.segmenters.training import SegmenterTrainingConfig
from understudy.study.config.generators import GeneratorSpec
from understudy.study.config.schema import Study
from understudy.study.engine.calibration import Calibration, calibrated
from understudy.study.engine.generator_cost import generator_cost, sampling_work, training_work
from understudy.study.engine.jobs import Job
from understudy.study.engine.plan import Plan
from understudy.study.engine.segmenter_cost import segmenter_cost
from understudy.study.facts import Facts

# Share of the calibration's speed that large steps of a stage reach: 32 x 32 pixels, one thread of a CPU with AMX,
# in processor time (StyleGAN 2 0.95, U-Net 1.25 without and about 0.9 with augmentation, its prediction 1.3).
REACHED = {"generator": 0.95, "sample": 0.5, "segmenter": 0.9, "evaluate": 1.0}
# Operations of a step that reaches half of that: small steps wait between operations, and longer the more of these a
# network has. From the processor time of quickstart's jobs (32 x 32 pixels, one thread of a server CPU, 2026-11-28): so
# many seconds a step more than its operations take, 0.03 for StyleGAN 2 and the U-Net, 0.09 for the others.
HALF_SATURATION = {
    "progan": 1.8e10, "stylegan1": 1.5e10, "stylegan2": 5.7e9, "stylegan3": 1.5e10, "diffusion": 1.6e10,
    "unet": 5.7e9, "swin": 1.5e10,
}  # fmt: skip
GPU_STEP_SECONDS = 0.01  # the same for a GPU, as time: what a step of many small operations takes at least; assumed
VOXELS_A_SECOND = {"phantom": 2e6, "prepare": 1.2e7}  # voxels of a patient's grid
FILES_A_SECOND = 1000  # PNG files of 256 x 256 pixels that are read
SEARCHED = 0.5  # products of the nearest-neighbour search, as a share of the calibration's speed
COMPRESSED = 0.5  # bytes on disk per byte of slices


@dataclass(frozen=True)
class Speed:
    """Operations a second of large convolutions, and whether a GPU makes them."""

    peak: float
    gpu: bool

    def reached(self, stage: str, kind: str, flops_a_step: float) -> float:
        """Operations a second of a stage with a kind of network whose steps are of this size."""
        half = GPU_STEP_SECONDS * self.peak if self.gpu else HALF_SATURATION[kind]
        return self.peak * REACHED[stage] * flops_a_step / (flops_a_step + half)


def estimated(plan: Plan, device: str = "auto", calibration: Calibration | None = None) -> Plan:
    """The plan with estimates of seconds and bytes for this machine, or for one of another speed.

    Args:
        device: that is calibrated, if it was not before.
        calibration: the speed to reckon with.
    """
    found = calibration or calibrated(device)
    speed = Speed(found.speed, found.gpu)
    views = {name: replace(plan, study=part) for name, part in plan.study.parts().items()}
    first = next(iter(views))
    jobs = []
    for job in plan.jobs:
        name = plan.cohort_of.get(job.id, first)
        seconds, disk = _ESTIMATES[job.stage](job, views[name], plan.facts[name], speed)
        jobs.append(replace(job, seconds=round(seconds, 1), disk_bytes=round(disk)))
    return replace(plan, jobs=tuple(jobs))


def network_costs(study: Study, channels: int, classes: int) -> None:
    """Counts every network of a study for so many channels and classes, so that its plan need not."""
    resolution = study.slices.resolution
    for generator in study.generators.values():
        if isinstance(generator, GeneratorSpec):
            fields = {**generator.model.model_dump(), "resolution": resolution, "channels": channels + 1}
            training_work(generator_config(fields), generator.training)
    for segmenter in study.segmenters.values():
        segmenter_cost(segmenter.model, channels, classes, resolution)


def _phantom(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    seconds = facts.patients * (0.05 + facts.voxels / VOXELS_A_SECOND["phantom"])
    return seconds, facts.patients * facts.voxels * 6.0


def _prepare(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    slices = facts.patients * facts.slices_each
    pixels = plan.study.slices.resolution**2 * (facts.channels + 1)
    volumes = facts.counts["test"] * (facts.voxels * 0.05 + facts.shape[2] * pixels * COMPRESSED)
    seconds = facts.patients * (0.03 + facts.voxels / VOXELS_A_SECOND["prepare"])
    return seconds, slices * pixels * COMPRESSED + volumes


def _generator(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    if "plugin" in job.spec:
        return 0.0, 0.0  # nobody knows but the plug-in
    training = training_config_for(job.spec["model"]["kind"]).model_validate(job.spec["training"])
    config = _joint_model(job.spec, facts)
    work = training_work(config, training)
    seconds = work / speed.reached("generator", config.kind, work / (training.kimg * 1000) * training.batch)
    if training.max_minutes:
        seconds = min(seconds, training.max_minutes * 60)
    # the averaged generator, and two checkpoints with both networks and their optimisers while it trains
    return seconds, generator_cost(config).weights * 4 * 2.5


def _sample(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    if "folder" in job.spec:
        pixels = plan.study.slices.resolution**2 * (facts.channels + 1)
        return job.local["files"] / FILES_A_SECOND, _samples(job, facts) * pixels * COMPRESSED
    trained = plan.by_id[job.inputs[0][1]].spec
    if "plugin" in trained:
        return 0.0, job.spec["count"] * plan.study.slices.resolution**2 * (facts.channels + 1) * COMPRESSED
    config = _joint_model(trained, facts)
    sampler = job.spec["sampler"]
    work = sampling_work(config, None if sampler is None else SamplerConfig.model_validate(sampler))
    count, once = job.spec["count"], generator_cost(config).forward  # of which a sampler makes many
    pixels = plan.study.slices.resolution**2 * (facts.channels + 1)
    return count * work / speed.reached("sample", config.kind, 48 * once), count * pixels * COMPRESSED


def _audit(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    config = AuditConfig.model_validate(job.spec["config"])
    training, heldout, made = _slice_counts(job, plan, facts)
    queries = made + heldout + 15 * config.copies
    transforms = len(TRANSFORMS[config.transforms])
    # every view is a product of its own; the prefilter, which saves most of it at 256 pixels, is left out
    views = (2 + 1 + 1 + facts.channels / 2) if config.more_views else 2
    products = 2.0 * training * queries * transforms * plan.study.slices.resolution**2 * facts.channels * views
    return 6 + products / (speed.peak * SEARCHED), made * 60.0 + 2e6


def _slice_counts(job: Job, plan: Plan, facts: Facts) -> tuple[float, float, float]:
    """About how many training, held-out and synthetic slices there are."""
    training = facts.counts["train"] * facts.slices_each
    made = _samples(plan.by_id[dict(job.inputs)["sample"]], facts)
    return training, facts.patients * facts.slices_each - training, made


def _joint_model(spec: dict[str, Any], facts: Facts) -> Any:
    """The configuration of a generator job's network."""
    channels = facts.channels + annotation_channels(facts.classes, spec["training"]["annotation"])
    return generator_config({**spec["model"], "channels": channels})


def _samples(job: Job, facts: Facts) -> int:
    """Slices of a sample job; of a folder as many as it would have with a file for each channel."""
    return int(job.spec["count"] or max(1, job.local["files"] // (facts.channels + 1)))


def _segmenter(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    training = SegmenterTrainingConfig.model_validate(job.spec["training"])
    flops, weights = _network_cost(job, plan, facts)
    slices = _training_slices(job, plan, facts, training.mixture)
    validated = facts.shape[2] * training.validations * facts.counts["val"]
    work = training.planned_steps(slices) * training.batch * 3 + validated
    kind = job.spec["model"]["kind"]
    seconds = work * flops / speed.reached("segmenter", kind, 3 * flops * training.batch)
    if training.max_minutes:
        seconds = min(seconds, training.max_minutes * 60)
    return seconds, weights * 4.0


def _training_slices(job: Job, plan: Plan, facts: Facts, mixture: MixtureConfig) -> int:
    """About how many different slices a segmenter is trained on."""
    patients = mixture.patient_count or facts.counts["train"] * mixture.patient_fraction
    real = round(patients * facts.slices_each)
    if mixture.total is not None:
        return real if mixture.total == "real" else mixture.total
    made = sum(_samples(plan.by_id[job_id], facts) for role, job_id in job.inputs if role == "sample")
    return made + (real if job.spec["cell"]["training"] != "synthetic" else 0)


def _network_cost(job: Job, plan: Plan, facts: Facts) -> tuple[int, int]:
    """`segmenter_cost` of a segmenter's job."""
    config, resolution = model_config(job.spec["model"]), plan.study.slices.resolution
    return segmenter_cost(config, facts.channels, len(facts.classes), resolution)


def _evaluate(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    trained = plan.by_id[dict(job.inputs)["segmenter"]]
    flops, _ = _network_cost(trained, plan, facts)
    reached = speed.reached("evaluate", trained.spec["model"]["kind"], 3 * 32 * flops)
    predicting = facts.counts["test"] * facts.shape[2] * flops / reached
    scoring = facts.counts["test"] * (0.06 + facts.voxels * 3e-8)  # 0.25 s for 240 x 240 x 155 voxels
    return predicting + scoring, facts.counts["test"] * facts.voxels * 0.01


def _quality(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    slices = facts.patients * facts.slices_each + _samples(plan.by_id[dict(job.inputs)["sample"]], facts)
    channels = len(job.spec["channels"] or ()) or facts.channels
    files = [e for e in job.spec["extractors"] if e["file"]]
    # Inception and its kin: 11 GFLOP a slice, features of 2048 dimensions and a few seconds a distance
    work = slices * channels * 1.2e10 * len(files) / speed.peak + 40 * channels * len(files)
    own = (len(job.spec["extractors"]) - len(files)) * channels * _distances(job, plan, facts, slices)
    return 1 + work + own, slices * channels * (len(files) * 8192 + 1024.0)


def _distances(job: Job, plan: Plan, facts: Facts, slices: float) -> float:
    """Seconds of one extractor that needs no file on one channel: from quickstart's jobs with 84 and 260 draws."""
    config = QualityConfig.model_validate(job.spec["config"])
    draws = config.kernel_subsets + config.kernel_floor_subsets * (1 + config.matched + config.divisions)
    training, _, made = _slice_counts(job, plan, facts)
    return 6e-4 * slices + 1.2e-8 * draws * min(config.kernel_size, training, made) ** 2


def _annotations(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    synthetic = _samples(plan.by_id[dict(job.inputs)["sample"]], facts)
    pixels = plan.study.slices.resolution**2
    slices = facts.patients * facts.slices_each + synthetic
    # 1 s for 1,000 slices of 64 x 64 pixels, and the draws
    return 1 + slices * pixels / 4e6 + slices * 1e-3, 3e5


def _report(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    return 8.0 + math.sqrt(len(plan.jobs)), 5e6


def _overview(job: Job, plan: Plan, facts: Facts, speed: Speed) -> tuple[float, float]:
    return 1.0, 1e6


_ESTIMATES = {
    "phantom": _phantom,
    "prepare": _prepare,
    "generator": _generator,
    "sample": _sample,
    "audit": _audit,
    "segmenter": _segmenter,
    "evaluate": _evaluate,
    "quality": _quality,
    "annotations": _annotations,
    "report": _report,
    "overview": _overview,
}
