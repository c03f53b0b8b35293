"""What a study will cost: seconds and bytes for each job, from counted operations and a short calibration.

A training's floating-point operations are counted on its real network (`costs`) and divided by the speed of a
convolution on this machine (`calibration`). How much of that speed each kind of work reaches was measured once on CPUs;
expect a factor of two either way, and more for a GPU whose speed is stated. An estimate refuses no study.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.joint import annotation_channels
from understudy.generators.registry import KINDS, network_type, plugin_type
from understudy.generators.registry import model_config as generator_config
from understudy.memorization.config import TRANSFORMS, AuditConfig
from understudy.quality.config import QualityConfig
from understudy.segmenters.config import SegmenterTrainingConfig, model_config
from understudy.study.engine.calibration import Calibration, calibrated
from understudy.study.engine.costs import generator_cost, sampling_work, segmenter_cost, training_work
from understudy.study.engine.jobs import Job
from understudy.study.engine.plan import Plan
from understudy.study.facts import Facts

# Share of the calibration's speed that large steps of a stage reach: 32 x 32 pixels, one thread of a CPU with AMX,
# in processor time (StyleGAN 2 0.95, U-Net 1.25 without and about 0.9 with augmentation, its prediction 1.3).
REACHED = {"generator": 0.95, "sample": 0.5, "segmenter": 0.9, "evaluate": 1.0}
# Operations of a step that reaches half of that: small steps wait between operations, and longer the more of these a
# network has. From the processor time of quickstart's jobs (32 x 32 pixels, one thread of a server CPU): so many
# seconds a step more than its operations take, 0.03 for StyleGAN 2 and the U-Net, 0.09 for the others.
HALF_SATURATION = {name: network_type(name).half_saturation for name in KINDS} | {"unet": 5.7e9, "swin": 1.5e10}
GPU_STEP_SECONDS = 0.01  # the same for a GPU, as time: what a step of many small operations takes at least; assumed
VOXELS_A_SECOND = {"phantom": 2e6, "prepare": 1.2e7}  # voxels of a patient's grid
FILES_A_SECOND = 1000  # PNG files of 256 x 256 pixels that are read
SEARCHED = 0.5  # products of the nearest-neighbour search, as a share of the calibration's speed
COMPRESSED = 0.5  # bytes on disk per byte of slices


def reached(machine: Calibration, stage: str, kind: str, flops_a_step: float) -> float:
    """Operations a second of a stage with a kind of network whose steps are of this size."""
    half = GPU_STEP_SECONDS * machine.speed if machine.gpu else HALF_SATURATION[kind]
    return machine.speed * REACHED[stage] * flops_a_step / (flops_a_step + half)


def estimated(plan: Plan, device: str = "auto", calibration: Calibration | None = None) -> Plan:
    """The plan with estimates of seconds and bytes for this machine, or for one of another calibration."""
    calibration = calibration or calibrated(device)
    views = {name: replace(plan, study=part) for name, part in plan.study.parts().items()}
    first = next(iter(views))
    jobs = []
    for job in plan.jobs:
        name = plan.cohort_of.get(job.id, first)
        seconds, disk = ESTIMATES[job.stage](_Work(job, views[name], plan.facts[name], calibration))
        jobs.append(replace(job, seconds=round(seconds, 1), disk_bytes=round(disk)))
    return replace(plan, jobs=tuple(jobs))


@dataclass(frozen=True)
class _Work:
    job: Job
    plan: Plan  # of its cohort
    facts: Facts
    machine: Calibration

    @property
    def pixels(self) -> int:
        """Of a slice in all channels and the annotation."""
        return int(self.resolution**2 * (self.facts.channels + 1))

    @property
    def resolution(self) -> int:
        return self.plan.study.slices.resolution

    @property
    def slices(self) -> float:
        """About how many real ones there are."""
        return self.facts.patients * self.facts.slices_each

    def input(self, role: str) -> Job:
        return self.plan.by_id[dict(self.job.inputs)[role]]

    def samples(self, job: Job) -> int:
        """Slices of a sample job; of a folder as many as it would have with a file for each channel."""
        return int(job.spec["count"] or max(1, job.local["files"] // (self.facts.channels + 1)))

    def counts(self) -> tuple[float, float, float]:
        """About how many training, held-out and synthetic slices there are for a job that compares them."""
        training = self.facts.counts["train"] * self.facts.slices_each
        return training, self.slices - training, self.samples(self.input("sample"))

    def generator(self, spec: dict[str, Any]) -> Any:
        channels = self.facts.channels + annotation_channels(self.facts.classes, spec["training"]["annotation"])
        return generator_config({**spec["model"], "channels": channels})

    def plugin_cost(self, spec: dict[str, Any]) -> dict[str, float]:
        """Operations of a plug-in's training and of a sample, and its weights; 0 where it does not tell."""
        facts = self.facts
        channels = facts.channels + annotation_channels(facts.classes, spec["annotation"])
        shape, slices = (channels, self.resolution, self.resolution), round(facts.counts["train"] * facts.slices_each)
        cost = plugin_type(spec["plugin"]["name"]).cost(spec["config"], shape, slices)
        return cost or {"training": 0.0, "sample": 0.0, "weights": 0.0}

    def segmenter(self, job: Job) -> tuple[int, int]:
        config = model_config(job.spec["model"])
        return segmenter_cost(config, self.facts.channels, len(self.facts.classes), self.resolution)


def _phantom(work: _Work) -> tuple[float, float]:
    patients, voxels = work.facts.patients, work.facts.voxels
    return patients * (0.05 + voxels / VOXELS_A_SECOND["phantom"]), patients * voxels * 6.0


def _prepare(work: _Work) -> tuple[float, float]:
    facts, pixels = work.facts, work.pixels
    volumes = facts.counts["test"] * (facts.voxels * 0.05 + facts.shape[2] * pixels * COMPRESSED)
    seconds = facts.patients * (0.03 + facts.voxels / VOXELS_A_SECOND["prepare"])
    return seconds, work.slices * pixels * COMPRESSED + volumes


def _generator(work: _Work) -> tuple[float, float]:
    spec = work.job.spec
    if "plugin" in spec:
        cost = work.plugin_cost(spec)
        return cost["training"] / (work.machine.speed * REACHED["generator"]), cost["weights"] * 4
    training = network_type(spec["model"]["kind"]).training.model_validate(spec["training"])
    config = work.generator(spec)
    operations = training_work(config, training)
    per_step = operations / (training.kimg * 1000) * training.batch
    seconds = operations / reached(work.machine, "generator", config.kind, per_step)
    if training.max_minutes:
        seconds = min(seconds, training.max_minutes * 60)
    # the EMA generator, and two checkpoints with both networks and their optimisers while it trains
    return seconds, generator_cost(config).weights * 4 * 2.5


def _sample(work: _Work) -> tuple[float, float]:
    job = work.job
    disk = work.samples(job) * work.pixels * COMPRESSED
    if "folder" in job.spec:
        return job.local["files"] / FILES_A_SECOND, disk
    trained = work.plan.by_id[job.inputs[0][1]].spec
    if "plugin" in trained:
        sampling = job.spec["count"] * work.plugin_cost(trained)["sample"]
        return sampling / (work.machine.speed * REACHED["sample"]), disk
    config, sampler = work.generator(trained), job.spec["sampler"]
    operations = sampling_work(config, None if sampler is None else SamplerConfig.model_validate(sampler))
    per_step = 48 * generator_cost(config).forward  # of which a sampler makes many
    return job.spec["count"] * operations / reached(work.machine, "sample", config.kind, per_step), disk


def _audit(work: _Work) -> tuple[float, float]:
    config = AuditConfig.model_validate(work.job.spec["config"])
    training, heldout, made = work.counts()
    queries = made + heldout + 15 * config.copies
    transforms, channels = len(TRANSFORMS[config.transforms]), work.facts.channels
    # every view is a product of its own; the prefilter, which saves most of it at 256 pixels, is left out
    views = (2 + 1 + 1 + channels / 2) if config.more_views else 2
    products = 2.0 * training * queries * transforms * work.resolution**2 * channels * views
    return 6 + products / (work.machine.speed * SEARCHED), made * 60.0 + 2e6


def _segmenter(work: _Work) -> tuple[float, float]:
    spec, facts = work.job.spec, work.facts
    training = SegmenterTrainingConfig.model_validate(spec["training"])
    mixture = training.mixture
    patients = mixture.patient_count or facts.counts["train"] * mixture.patient_fraction
    real = round(patients * facts.slices_each)
    if mixture.total is not None:
        slices = real if mixture.total == "real" else mixture.total
    else:
        made = sum(work.samples(work.plan.by_id[job_id]) for role, job_id in work.job.inputs if role == "sample")
        slices = made + (real if spec["cell"]["training"] != "synthetic" else 0)
    flops, weights = work.segmenter(work.job)
    validated = facts.shape[2] * training.validations * facts.counts["val"]
    passes = training.planned_steps(slices) * training.batch * 3 + validated  # backward counts as two forward
    kind = spec["model"]["kind"]
    seconds = passes * flops / reached(work.machine, "segmenter", kind, 3 * flops * training.batch)
    if training.max_minutes:
        seconds = min(seconds, training.max_minutes * 60)
    return seconds, weights * 4.0


def _evaluate(work: _Work) -> tuple[float, float]:
    trained, facts = work.input("segmenter"), work.facts
    flops, _ = work.segmenter(trained)
    speed = reached(work.machine, "evaluate", trained.spec["model"]["kind"], 3 * 32 * flops)
    predicting = facts.counts["test"] * facts.shape[2] * flops / speed
    scoring = facts.counts["test"] * (0.06 + facts.voxels * 3e-8)  # 0.25 s for 240 x 240 x 155 voxels
    return predicting + scoring, facts.counts["test"] * facts.voxels * 0.01


def _quality(work: _Work) -> tuple[float, float]:
    spec = work.job.spec
    training, _, made = work.counts()
    slices = work.slices + made
    channels = len(spec["channels"] or ()) or work.facts.channels
    files = sum(bool(extractor["file"]) for extractor in spec["extractors"])
    # Inception and its kin: 11 GFLOP a slice, features of 2048 dimensions and a few seconds a distance
    large = slices * channels * 1.2e10 * files / work.machine.speed + 40 * channels * files
    # an extractor that needs no file, on one channel: from quickstart's jobs with 84 and 260 draws
    config = QualityConfig.model_validate(spec["config"])
    draws = config.kernel_subsets + config.kernel_floor_subsets * (1 + config.matched + config.divisions)
    small = 6e-4 * slices + 1.2e-8 * draws * min(config.kernel_size, training, made) ** 2
    seconds = 1 + large + (len(spec["extractors"]) - files) * channels * small
    return seconds, slices * channels * (files * 8192 + 1024.0)


def _annotations(work: _Work) -> tuple[float, float]:
    slices = work.slices + work.samples(work.input("sample"))
    return 1 + slices * work.resolution**2 / 4e6 + slices * 1e-3, 3e5  # 1 s for 1,000 slices of 64 x 64, and the draws


ESTIMATES: dict[str, Callable[[_Work], tuple[float, float]]] = {  # stage -> seconds and bytes
    "phantom": _phantom, "prepare": _prepare, "generator": _generator, "sample": _sample, "audit": _audit,
    "segmenter": _segmenter, "evaluate": _evaluate, "quality": _quality, "annotations": _annotations,
    "report": lambda work: (8.0 + math.sqrt(len(work.plan.jobs)), 5e6), "overview": lambda work: (1.0, 1e6),
}  # fmt: skip
