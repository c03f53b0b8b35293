"""What a study will cost: seconds and bytes for each job, from counted operations and this machine's speed.

A network's floating-point operations are counted on torch's `meta` device, which computes nothing, and divided by the
speed of a convolution (`machine`). How much of that speed each kind of work reaches was measured once on CPUs; expect a
factor of two either way, and more for a GPU whose speed is stated. An estimate refuses no study.

Counts of the presets' networks are in `costs.json` beside this file, others in this machine's cache. After a change of
a preset or recipe run `python -m understudy.study.engine.estimate`, which writes `costs.json` again.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from understudy.generators.builtin import GeneratorCost, count_operations
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.joint import annotation_channels
from understudy.generators.networks.base import sampling_block
from understudy.generators.registry import KINDS, network_type, plugin_type
from understudy.generators.registry import model_config as generator_config
from understudy.io.files import read_json, sha256_json, write_json
from understudy.memorization.config import COMPARED, AuditConfig
from understudy.quality.config import QualityConfig
from understudy.segmenters.config import ModelConfig, SegmenterTrainingConfig, build_model, model_config
from understudy.study.engine.jobs import Job
from understudy.study.engine.machine import Calibration, calibrated, read_cached, write_cached
from understudy.study.engine.plan import Plan
from understudy.study.facts import Facts

COUNTING = 1  # raise it when a network changes what it computes under the same configuration
COSTS = Path(__file__).with_name("costs.json")
# Share of the calibration's speed that large steps of a stage reach: 32 x 32 pixels, one thread of a CPU with AMX,
# in processor time (StyleGAN 2 0.95, U-Net 1.25 without and about 0.9 with augmentation, its prediction 1.3).
REACHED = {"generator": 0.95, "sample": 1.0, "segmenter": 0.9, "evaluate": 1.0}
# Operations of a step that reaches half of that where convolutions reach MEASURED_AT: small steps wait between
# operations, and longer the more of these a network has: a time, which faster convolutions do not shorten. From the
# processor time of quickstart's jobs (32 x 32 pixels, one thread of a server CPU): so many seconds a step more than its
# operations take, 0.03 for the U-Net, 0.05 for StyleGAN 2, 0.08 to 0.16 for the others.
HALF_SATURATION = {name: network_type(name).half_saturation for name in KINDS} | {"unet": 5.7e9, "swin": 1.5e10}
MEASURED_AT = 1.93e11
GPU_STEP_SECONDS = 0.01  # the same for a GPU, as time: what a step of many small operations takes at least; assumed
VOXELS_A_SECOND = {"phantom": 1.3e6, "prepare": 1.2e7}  # voxels of a patient's grid
FILES_A_SECOND = 1000  # PNG files of 256 x 256 pixels that are read
SEARCHED = 0.5  # of the search for copies, as a share of the calibration's speed
SLICE_SEARCHED, VECTORS_SEARCHED = 3e8, 1.5e4  # its operations: frames and registration of a slice; a pair of slices
COMPRESSED = 0.5  # bytes on disk per byte of slices


@functools.cache
def _known() -> dict[str, list[int]]:
    return {**read_cached(COSTS.name), **read_json(COSTS)}


def counted(kind: str, what: dict[str, Any], count: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """The numbers of a network under these settings; counted, and kept in the cache, if they are not known yet."""
    known, key = _known(), sha256_json({"counting": COUNTING, "kind": kind, **what})[:16]
    if key not in known:
        known[key] = list(count())
        write_cached(COSTS.name, {**read_cached(COSTS.name), key: known[key]})
    return tuple(known[key])


def generator_cost(config: Any) -> GeneratorCost:
    """What the networks of a configuration cost."""
    count = network_type(config.kind).count
    return GeneratorCost(*counted("generator", {"config": config.model_dump(mode="json")}, lambda: count(config)))


@functools.lru_cache(maxsize=64)
def segmenter_cost(config: ModelConfig, channels: int, classes: int, resolution: int) -> tuple[int, int]:
    """Operations for one slice, forward as in prediction, and numbers in the network."""

    def count() -> tuple[int, int]:
        with torch.device("meta"):
            network = build_model(config, channels, classes, resolution).eval()
            operations = count_operations(network, torch.empty(1, channels, resolution, resolution))
        return operations, sum(parameter.numel() for parameter in network.parameters())

    what = {"config": config.model_dump(mode="json"), "channels": channels, "classes": classes}
    return counted("segmenter", {**what, "resolution": resolution}, count)  # type: ignore[return-value]


def training_operations(config: Any, training: Any) -> float:
    """Of the whole training of a generator."""
    return network_type(config.kind).training_operations(config, training, generator_cost)


def reached(machine: Calibration, stage: str, kind: str, flops_a_step: float) -> float:
    """Operations a second of a stage with a kind of network whose steps are of this size."""
    half = machine.speed * (GPU_STEP_SECONDS if machine.gpu else HALF_SATURATION[kind] / MEASURED_AT)
    return machine.speed * REACHED[stage] * flops_a_step / (flops_a_step + half)


def estimated(plan: Plan, device: str = "auto", calibration: Calibration | None = None) -> Plan:
    """The plan with estimates of seconds and bytes for this machine, or for one of another calibration."""
    calibration = calibration or calibrated(device)
    views = {name: replace(plan, study=part) for name, part in plan.study.parts().items()}
    jobs = []
    for job in plan.jobs:
        name = plan.cohort_of.get(job.id, next(iter(views)))
        seconds, disk = getattr(Estimate(job, views[name], plan.facts[name], calibration), job.stage)()
        jobs.append(replace(job, seconds=round(seconds, 1), disk_bytes=round(disk)))
    return replace(plan, jobs=tuple(jobs))


@dataclass(frozen=True)
class Estimate:
    """Of a job: a method of each stage's name gives seconds and bytes; the others are sizes that they follow from."""

    job: Job
    plan: Plan  # of its cohort
    facts: Facts
    machine: Calibration

    @property
    def resolution(self) -> int:
        return self.plan.study.slices.resolution

    @property
    def pixels(self) -> int:
        """Of a slice in all channels and the annotation."""
        return int(self.resolution**2 * (self.facts.channels + 1))

    @property
    def slices(self) -> float:
        """About how many real ones there are."""
        return self.facts.patients * self.facts.slices_each

    def samples(self, job: Job) -> int:
        """Slices of a sample job; of a folder as many as it would have with a file for each channel."""
        return int(job.spec["count"] or max(1, job.local["files"] // (self.facts.channels + 1)))

    def input(self, role: str) -> Job:
        return self.plan.by_id[dict(self.job.inputs)[role]]

    def compared(self) -> tuple[float, float, float]:
        """About how many training, held-out and synthetic slices there are for a job that compares them."""
        return *self.real_parts(), self.samples(self.input("sample"))

    def real_parts(self) -> tuple[float, float]:
        """About how many training and held-out slices there are."""
        training = self.facts.counts["train"] * self.facts.slices_each
        return training, self.slices - training

    def searched(self, among: float, queries: float) -> float:
        """Seconds of a search for copies: what each slice takes by itself, and products of its vectors with all."""
        return (queries + among) * (SLICE_SEARCHED + VECTORS_SEARCHED * among) / (self.machine.speed * SEARCHED)

    def generator_config(self, spec: dict[str, Any]) -> Any:
        channels = self.facts.channels + annotation_channels(self.facts.classes, spec["training"]["annotation"])
        return generator_config({**spec["model"], "channels": channels})

    def plugin_cost(self, spec: dict[str, Any]) -> dict[str, float]:
        """Operations of a plug-in's training and of a sample, and its weights; 0 where it does not tell."""
        channels = self.facts.channels + annotation_channels(self.facts.classes, spec["annotation"])
        slices = round(self.facts.counts["train"] * self.facts.slices_each)
        cost = plugin_type(spec["plugin"]["name"]).cost(
            spec["config"], (channels, self.resolution, self.resolution), slices
        )
        return cost or {"training": 0.0, "sample": 0.0, "weights": 0.0}

    def segmenter_cost(self, job: Job) -> tuple[int, int]:
        classes = len(self.facts.classes)
        return segmenter_cost(model_config(job.spec["model"]), self.facts.channels, classes, self.resolution)

    def phantom(self) -> tuple[float, float]:
        patients, voxels = self.facts.patients, self.facts.voxels
        return patients * (0.01 + voxels / VOXELS_A_SECOND["phantom"]), patients * voxels * 6.0

    def prepare(self) -> tuple[float, float]:
        facts, pixels = self.facts, self.pixels
        volumes = facts.counts["test"] * (facts.voxels * 0.05 + facts.shape[2] * pixels * COMPRESSED)
        seconds = facts.patients * (0.03 + facts.voxels / VOXELS_A_SECOND["prepare"])
        return seconds, self.slices * pixels * COMPRESSED + volumes

    def generator(self) -> tuple[float, float]:
        spec = self.job.spec
        if "plugin" in spec:
            cost = self.plugin_cost(spec)
            return cost["training"] / (self.machine.speed * REACHED["generator"]), cost["weights"] * 4
        training = network_type(spec["model"]["kind"]).training.model_validate(spec["training"])
        config = self.generator_config(spec)
        operations = training_operations(config, training)
        per_step = operations / (training.kimg * 1000) * training.batch
        seconds = operations / reached(self.machine, "generator", config.kind, per_step)
        # the EMA generator, and two checkpoints with both networks and their optimisers while it trains
        return _limited(seconds, training.max_minutes), generator_cost(config).weights * 4 * 2.5

    def sample(self) -> tuple[float, float]:
        spec = self.job.spec
        disk = self.samples(self.job) * self.pixels * COMPRESSED
        if "folder" in spec:
            training, heldout = self.real_parts()
            made = self.samples(self.job)
            searched = self.searched(heldout, min(training, COMPARED) + made)
            return self.job.local["files"] / FILES_A_SECOND + searched, disk
        trained = self.plan.by_id[self.job.inputs[0][1]].spec
        if "plugin" in trained:
            operations = spec["count"] * self.plugin_cost(trained)["sample"]
            return operations / (self.machine.speed * REACHED["sample"]), disk
        config = self.generator_config(trained)
        sampler = None if spec["sampler"] is None else SamplerConfig.model_validate(spec["sampler"])
        operations = spec["count"] * network_type(config.kind).sampling_operations(config, sampler, generator_cost)
        block = sampling_block(self.resolution, torch.bfloat16, torch.device("cpu"))
        per_step = block * generator_cost(config).forward  # of which a sampler makes many
        return operations / reached(self.machine, "sample", config.kind, per_step), disk

    def audit(self) -> tuple[float, float]:
        config = AuditConfig.model_validate(self.job.spec["config"])
        training, heldout, made = self.compared()
        seconds = self.searched(training, made + heldout + 26 * config.copies)
        seconds += self.searched(heldout, made + min(training, COMPARED))  # for copies of held-out patients
        return 6 + seconds, made * 60.0 + 2e6

    def segmenter(self) -> tuple[float, float]:
        spec, facts = self.job.spec, self.facts
        training = SegmenterTrainingConfig.model_validate(spec["training"])
        mixture = training.mixture
        patients = mixture.patient_count or facts.counts["train"] * mixture.patient_fraction
        real = round(patients * facts.slices_each)
        if mixture.total is not None:
            slices = real if mixture.total == "real" else mixture.total
        else:
            made = sum(self.samples(self.plan.by_id[job_id]) for role, job_id in self.job.inputs if role == "sample")
            slices = made + (real if spec["cell"]["training"] != "synthetic" else 0)
        flops, weights = self.segmenter_cost(self.job)
        validated = facts.slices_each * training.validations * facts.counts["val"]  # those that the rule drops are not
        passes = training.planned_steps(slices) * training.batch * 3 + validated  # backward counts as two forward
        speed = reached(self.machine, "segmenter", spec["model"]["kind"], 3 * flops * training.batch)
        return _limited(passes * flops / speed, training.max_minutes), weights * 4.0

    def evaluate(self) -> tuple[float, float]:
        trained, facts = self.input("segmenter"), self.facts
        flops, _ = self.segmenter_cost(trained)
        speed = reached(self.machine, "evaluate", trained.spec["model"]["kind"], 3 * 32 * flops)
        shown = facts.shape[2] if self.job.spec["dropped_slices"] == "predict" else facts.slices_each
        predicting = shown * flops / speed
        scoring = 0.06 + facts.voxels * 3e-8  # 0.25 s for 240 x 240 x 155 voxels
        return facts.counts["test"] * (predicting + scoring), facts.counts["test"] * facts.voxels * 0.01

    def quality(self) -> tuple[float, float]:
        spec = self.job.spec
        training, _, made = self.compared()
        slices = self.slices + made
        channels = len(spec["channels"] or ()) or self.facts.channels
        files = sum(bool(extractor["file"]) for extractor in spec["extractors"])
        # Inception and its kin: 11 GFLOP a slice, features of 2048 dimensions and a few seconds a distance
        large = slices * channels * 1.2e10 * files / self.machine.speed + 40 * channels * files
        # an extractor that needs no file, on one channel: from quickstart's jobs with 84 and 260 draws
        config = QualityConfig.model_validate(spec["config"])
        draws = config.kernel_subsets + config.kernel_floor_subsets * (1 + config.matched + config.divisions)
        small = 6e-4 * slices + 1.2e-8 * draws * min(config.kernel_size, training, made) ** 2
        seconds = 1 + large + (len(spec["extractors"]) - files) * channels * small
        return seconds, slices * channels * (files * 8192 + 1024.0)

    def annotations(self) -> tuple[float, float]:
        slices = self.slices + self.samples(self.input("sample"))  # 1 s for 1,000 of 64 x 64 pixels, and the draws
        return 1 + slices * self.resolution**2 / 4e6 + slices * 1e-3, 3e5

    def report(self) -> tuple[float, float]:
        return 8.0 + math.sqrt(len(self.plan.jobs)), 5e6

    def overview(self) -> tuple[float, float]:
        return 1.0, 1e6


def _limited(seconds: float, minutes: float | None) -> float:
    return min(seconds, minutes * 60) if minutes else seconds


def main() -> None:
    """Writes costs.json for the presets' networks, with the channels and classes of BraTS and of phantoms."""
    from understudy.study.config.networks import GeneratorSpec
    from understudy.study.config.schema import Study, preset, presets

    _known().clear()  # count all of them, whatever is known
    for name in presets():
        study = Study.model_validate(preset(name))
        resolution = study.slices.resolution
        for generator in study.generators.values():
            if isinstance(generator, GeneratorSpec):
                fields = {**generator.model.model_dump(), "resolution": resolution, "channels": 5}
                training_operations(generator_config(fields), generator.training)
        for segmenter in study.segmenters.values():
            segmenter_cost(segmenter.model, 4, 4, resolution)
    write_json(COSTS, _known())


if __name__ == "__main__":
    main()
