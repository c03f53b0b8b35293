"""All five generators on a GPU: images per second in training and sampling, and peak memory.

Run: python benchmarks/gpu.py [--only stylegan2,diffusion] [--precisions fp32,bf16] [--compile both]. Writes
benchmarks/gpu.md, beside the paper's figures. Without a GPU it says so and ends; `--device cpu --tiny` goes through all
of it in small sizes, for nothing but to see that it runs.

256x256, 5 channels, the paper's widths and batches, random slices, no augmentation. Each figure is taken in a process
of its own, one after the other, as the median of the rounds:
- training: rounds of 16 whole steps, so that each lazy penalty has its right share; one such round before warms up.
- sampling, network: the averaged generator in the given precision, a batch at once; diffusion with its default sampler.
- sampling, package: what `understudy sample` does, in float32 with small aligned blocks, so that sample i is the same
  for any batch size. Not compiled.
What is measured is kept beside the table in gpu.jsonl, and not measured again by the same version of torch on the same
GPU: where the time is short, call it once more. fp16 is not among the precisions because the trainings do not offer it:
bf16 needs no loss scaling and is as fast on GPUs since the A100.

torch.compile is measured, not used by the package. Compiled are the generator's pass, and the discriminator where no
gradient by the images is taken: it does not support double backward, so R1, the gradient penalty and the path length
stay as they are. Where it fails the table gives the reason.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from generator_steps import Case, make_trainer, markdown, process_mb
from torch import Tensor

from understudy.generators.diffusion.samplers import SamplerConfig, select_steps

RESOLUTION, STEPS, ROUNDS = 256, 16, 3
RADIAL = {"conv_kernel": 1, "use_radial_filters": True, "channel_base": 65536, "channel_max": 1024,
          "discriminator_base": 32768, "discriminator_max": 512}  # fmt: skip
FULL = {
    "progan": Case("Progressive GAN", "progan", {}, {"start_resolution": 256, "batch": 8, "batches": {}}),
    "stylegan1": Case("StyleGAN 1", "stylegan1", {}, {"start_resolution": 256, "batch": 16, "batches": {}}),
    "stylegan2": Case("StyleGAN 2", "stylegan2", {}, {"batch": 32}),
    "stylegan3": Case("StyleGAN 3-T", "stylegan3", {}, {"batch": 32}),
    "stylegan3r": Case("StyleGAN 3-R", "stylegan3", RADIAL, {"batch": 32}),
    "diffusion": Case("diffusion", "diffusion", {}, {"batch": 12}),
}
TINY = {
    "progan": {"fmap_base": 64, "fmap_max": 8},
    "stylegan1": {"fmap_base": 64, "fmap_max": 8, "z_dim": 8, "w_dim": 8, "mapping_width": 8},
    "stylegan2": {"channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2},
    "stylegan3": {"channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "num_layers": 6},
    "stylegan3r": RADIAL | {"channel_base": 64, "channel_max": 8, "discriminator_base": 64, "discriminator_max": 8,
                            "z_dim": 8, "w_dim": 8, "num_layers": 6},
    "diffusion": {"model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 1), "attention_resolutions": ()},
}  # fmt: skip
PAPER = {  # seconds per 1000 images in training, and where; the paper names no figure for configuration R
    "progan": "36 (one V100)",
    "stylegan1": "31 (two V100; from 6 days and 16,526 kimg)",
    "stylegan2": "10.4 (four A100)",
    "stylegan3": "10.4 (four A100)",
    "diffusion": "244 (one V100)",
}
PAPER_SAMPLING = {"diffusion": "10.4 GPU-seconds an image (4000 steps)"}


@dataclass(frozen=True)
class Job:
    """One figure to take; `part` is "training", "network" or "package"."""

    name: str
    part: str
    precision: str
    compiled: bool
    device: str
    tiny: bool
    rounds: int
    batch: int | None
    backend: str

    def case(self) -> Case:
        """What is trained, in the sizes asked for."""
        case, training = FULL[self.name], {}
        if self.tiny:
            training = {"batch": 4} | ({"start_resolution": 32} if self.name in ("progan", "stylegan1") else {})
        if self.batch:
            training["batch"] = self.batch
        model = TINY[self.name] | {"resolution": 32} if self.tiny else case.model | {"resolution": RESOLUTION}
        return replace(case, model=model, training=case.training | training)


# --- in a process of its own ----------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb(device: torch.device) -> float:
    """What tensors took of the GPU at most, of the CPU what the process took, MB."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else process_mb(peak=True)


def rates(work: Callable[[], int], rounds: int, device: torch.device) -> list[float]:
    """Images per second of each round; `work` does a round and returns its images. One more round warms up."""
    found = []
    for _ in range(rounds + 1):
        wait(device)
        start = time.perf_counter()
        images = work()
        wait(device)
        found.append(images / (time.perf_counter() - start))
    return found[1:]


def compile_trainer(trainer: Any, backend: str) -> None:
    """Compiles the passes of a trainer that no second derivative is taken of."""
    generator = trainer.generator
    if trainer.model.kind == "diffusion":
        generator.compile(backend=backend)
        return
    generator.synthesise = torch.compile(generator.synthesise, backend=backend)
    plain = trainer.discriminator.forward
    fast = torch.compile(plain, backend=backend)

    def forward(images: Tensor, *args: Any, **options: Any) -> Tensor:
        penalised = images.is_leaf and images.requires_grad
        scores: Tensor = (plain if penalised else fast)(images, *args, **options)
        return scores

    trainer.discriminator.forward = forward


def train(job: Job, trainer: Any) -> list[float]:
    """Images per second in training."""
    if job.compiled:
        compile_trainer(trainer, job.backend)
    steps = 4 if job.tiny else STEPS

    def work() -> int:
        before = trainer.images
        for _ in range(steps):
            trainer.step()
        return int(trainer.images - before)

    return rates(work, job.rounds, trainer.device)


@torch.no_grad()
def sample_network(job: Job, trainer: Any) -> list[float]:
    """Images per second of the averaged generator in the precision of the job."""
    average, count = trainer.average, trainer.batch
    if job.compiled:
        average.compile(backend=job.backend)

    def work() -> int:
        if trainer.model.kind == "diffusion":
            return len(average.sample(count, 0, dtype=trainer.dtype))
        return len(average(average.latents(0, 0, count).to(trainer.device), dtype=trainer.dtype).cpu())

    return rates(work, job.rounds, trainer.device)


def sample_package(job: Job, trainer: Any) -> list[float]:
    """Images per second as `understudy sample` makes them."""
    count = 8 if job.tiny else 64
    return rates(lambda: len(trainer.average.sample(count, 0)), job.rounds, trainer.device)


PARTS = {"training": train, "network": sample_network, "package": sample_package}


def work(job: Job, pipe: Connection) -> None:
    """Sends the median of the images per second and the peak memory, or why there is none."""
    device = torch.device(job.device)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(job.case(), job.precision, folder, device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            found = sorted(PARTS[job.part](job, trainer))
        pipe.send({"images_per_second": found[len(found) // 2], "peak_mb": peak_mb(device)})
    except Exception as error:  # whatever it is belongs into the table: the other figures are still wanted
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        pipe.send({"failed": f"{type(error).__name__}: {lines[0][:120]}"})


# --- all of them ----------------------------------------------------------------------------------------------------


def measure(job: Job) -> dict[str, Any]:
    """Runs `work` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(job, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = ours.recv()
    except EOFError:
        process.join()
        found = {"failed": f"the process ended with {process.exitcode}"}
    process.join()
    return found


def planned(options: argparse.Namespace) -> list[Job]:
    """Every figure of the table."""
    compiled = {"no": [False], "yes": [True], "both": [False, True]}[options.compile]
    jobs = []
    for name in options.only.split(",") if options.only else FULL:
        base = Job(
            name, "package", "fp32", False, options.device, options.tiny, options.rounds, options.batch, options.backend
        )
        jobs += [
            replace(base, part=part, precision=precision, compiled=c)
            for precision in options.precisions.split(",")
            for c in compiled
            for part in ("training", "network")
        ]
        jobs.append(base)
    return jobs  # fmt: skip


def machine(device: str) -> str:
    """What is measured on, and with what."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return f"{name}, torch {torch.__version__}"


def run(jobs: list[Job], kept: Path | None, where: str) -> list[tuple[Job, dict[str, Any]]]:
    """Measures what is not kept yet; the file gets a line for each figure as soon as it is there."""
    lines = kept.read_text().splitlines() if kept and kept.is_file() else []
    known = {(entry["machine"], json.dumps(entry["job"], sort_keys=True)): entry["result"]
             for entry in map(json.loads, lines)}  # fmt: skip
    results = []
    for job in jobs:
        key = where, json.dumps(asdict(job), sort_keys=True)
        if key not in known:
            known[key] = measure(job)
            if kept and "failed" not in known[key]:  # what failed is tried again the next time
                with kept.open("a") as file:
                    file.write(json.dumps({"machine": where, "job": asdict(job), "result": known[key]}) + "\n")
        results.append((job, known[key]))
        print(f"{job.name} {job.part} {job.precision}{' compiled' * job.compiled}: {known[key]}",
              file=sys.stderr, flush=True)  # fmt: skip
    return results


def cell(result: dict[str, Any] | None) -> tuple[str, str]:
    """Images per second and peak memory as text."""
    if result is None:
        return "", ""
    if "failed" in result:
        return result["failed"].replace("|", "/"), ""
    return f"{result['images_per_second']:.4g}", f"{result['peak_mb'] / 1000:.2f}"


def table(results: list[tuple[Job, dict[str, Any]]]) -> list[str]:
    """The Markdown table, one line per generator, precision and with or without torch.compile."""
    names = ["generator", "batch", "precision", "compiled", "training, images/s", "s per 1000 images", "peak, GB",
             "sampling, network, images/s", "peak, GB", "sampling, package, images/s",
             "paper: training, s per 1000 images", "paper: sampling"]  # fmt: skip
    lines = [markdown(names), markdown(["---"] * len(names))]
    found = {(j.name, j.part, j.precision, j.compiled): r for j, r in results}
    for job, trained in results:
        if job.part != "training":
            continue
        key = job.precision, job.compiled
        speed, memory = cell(trained)
        seconds = f"{1000 / trained['images_per_second']:.4g}" if "failed" not in trained else ""
        first = key == ("fp32", False)
        package = cell(found.get((job.name, "package", "fp32", False)) if first else None)[0]
        lines.append(markdown([
            job.case().name, job.case().training["batch"], job.precision, "yes" if job.compiled else "no", speed,
            seconds, memory, *cell(found.get((job.name, "network", *key))), package, PAPER.get(job.name, ""),
            PAPER_SAMPLING.get(job.name, ""),
        ]))  # fmt: skip
    return lines


def sampling_cost(results: list[tuple[Job, dict[str, Any]]]) -> list[str]:
    """What the diffusion model's rate says about the paper's 4000 steps."""
    lines = []
    for job, result in results:
        if (job.name, job.part, job.compiled) == ("diffusion", "network", False) and "failed" not in result:
            steps = len(select_steps(make_process(job), SamplerConfig()))
            seconds = 1 / result["images_per_second"]
            lines.append(
                f"- diffusion, {job.precision}: {seconds:.3g} seconds an image in {steps} evaluations; by the same"
                f" rate 4000 would take {seconds * 4000 / steps:.3g} (computed, not measured; the paper: 10.4)."
            )
    return lines


def make_process(job: Job) -> Any:
    """The diffusion process of a job's model."""
    from understudy.generators.networks.unet import DiffusionConfig

    return DiffusionConfig(**job.case().model).process()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="32x32 and a few channels: whether it runs")
    parser.add_argument("--only", default="", help=f"some of {','.join(FULL)}")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--compile", choices=["no", "yes", "both"], default="both")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; aot_eager: trace only, for a trial")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--batch", type=int, help="in place of the paper's")
    parser.add_argument("--out", type=Path, help="default: gpu.md beside this file; on a CPU it is printed only")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks/gpu.py needs a GPU, but torch sees none here. Run it on a machine with an NVIDIA GPU and a CUDA"
            " build of torch, or see that the code runs with: python benchmarks/gpu.py --device cpu --tiny"
        )
    if unknown := set(options.only.split(",")) - {"", *FULL}:
        raise SystemExit(f"--only: no generator {', '.join(sorted(unknown))}; use some of {', '.join(FULL)}")
    out = options.out
    if out is None and options.device.startswith("cuda") and not options.tiny:
        out = Path(__file__).with_name("gpu.md")
    where = machine(options.device)
    results = run(planned(options), out and out.with_suffix(".jsonl"), where)
    edge = 32 if options.tiny else RESOLUTION
    text = [f"# The generators on a GPU\n\n{where}; {edge}x{edge}, 5 channels, medians of {options.rounds} rounds.",
            "Written by `python benchmarks/gpu.py`, which says what is measured. The paper's figures are quoted: other"
            " GPUs,\nother code, and with the reading of the data.\n",
            *table(results), "", *sampling_cost(results)]  # fmt: skip
    print("\n".join(text))
    if out:
        out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
