"""The five generators at the paper's full widths and 256 x 256 on a CPU, through the commands.

    python benchmarks/paper256.py [--only stylegan2,diffusion] [--batch 4]

For each: `understudy job` builds it and trains it, is killed (SIGKILL) once the first step is in a checkpoint, and
continues with the second; `understudy job` of the next stage makes four slices (diffusion in two steps of its sampler);
`understudy import` reads golden weights, and a checkpoint of the full widths in the official format that is made here
with random numbers. Every command is a process of its own. Prints a Markdown table: seconds and processor seconds of a
step, seconds of four slices, and the most memory that any of these processes took.

--batch replaces the paper's 8 to 32 images a step, which a CPU has no time for. --tiny: 32 x 32 and few channels.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parents[1] / "tests"
sys.path += [str(TESTS / "generators"), str(TESTS / "generators" / "official")]
import official_files as files  # noqa: E402
from test_convert import official_file  # noqa: E402
from test_official_unet import official_shapes  # noqa: E402
from test_official_weights import official_arrays, official_discriminator  # noqa: E402
from tf_variables import variables  # noqa: E402

from understudy.generators.networks import stylegan2, stylegan3, unet  # noqa: E402
from understudy.names import display_name  # noqa: E402
from understudy.study.config.schema import load_study  # noqa: E402
from understudy.study.engine.jobs import job_folder  # noqa: E402
from understudy.study.engine.plan import make_plan  # noqa: E402

GOLDEN = {"progan": "progan_r32", "stylegan1": "stylegan1_r32", "stylegan2": "stylegan2_r32",
          "stylegan3": "stylegan3t_r32", "diffusion": "diffusion_fixed_r32"}  # fmt: skip
TINY = {
    "progan": {"fmap_base": 64, "fmap_max": 8},
    "stylegan1": {"fmap_base": 64, "fmap_max": 8},
    "stylegan2": {"channel_base": 64, "channel_max": 8},
    "stylegan3": {"channel_base": 64, "channel_max": 8},
    "diffusion": {"model_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 1]},
}
UNET = ("--steps", "4000", "--schedule", "linear", "--rescale-timesteps")


def study_text(batch: int, tiny: bool) -> str:
    """Five generators by the recipe `paper`, two steps and four slices each."""
    edge, shape, start = (32, [64, 64, 40], 32) if tiny else (256, [240, 240, 24], 256)
    generators: dict[str, Any] = {}
    for name in GOLDEN:
        training = {"kimg": 2 * batch / 1000, "batch": batch, "checkpoint_seconds": 0.001}
        training |= {"start_resolution": start, "batches": {}} if name in ("progan", "stylegan1") else {}
        generators[name] = {"recipe": "paper", "training": training, "samples": 4, "model": TINY[name] if tiny else {}}
    generators["diffusion"]["sampler"] = {"kind": "dpm++", "steps": 2}
    return json.dumps({
        "name": "paper256", "phantom": {"patients": 5, "shape": shape}, "slices": {"resolution": edge},
        "generators": generators, "audit": None, "annotations": None,
    })  # fmt: skip


class Bench:
    """A study of the five in a folder, and commands on it."""

    def __init__(self, work: Path, batch: int, tiny: bool) -> None:
        self.work, self.tiny = work, tiny
        self.study, self.out = work / "study.yaml", work / "out"
        self.study.write_text(study_text(batch, tiny))
        self.jobs = {job.name: job for job in make_plan(load_study(self.study)).jobs}
        self.say("run", str(self.study), "--out", str(self.out), "--until", "prepare")

    def say(self, *words: str, until: Path | None = None) -> tuple[float, float]:
        """(seconds, peak memory in GB) of a command; killed once `until` holds a checkpoint, an error if it is not."""
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "understudy", *words, "--quiet"], stdout=subprocess.DEVNULL)
        while until is not None and not list(until.glob("checkpoint-*.pt")) and process.poll() is None:
            time.sleep(0.01)
        if until is not None:
            os.kill(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        ended = os.waitstatus_to_exitcode(status)
        process.returncode = ended
        if ended != (0 if until is None else -signal.SIGKILL):
            raise SystemExit(f"understudy {' '.join(words)} ended with {ended}")
        return time.perf_counter() - start, usage.ru_maxrss / (1 << 20)

    def job(self, stage: str, name: str, until: Path | None = None) -> tuple[float, float]:
        given = ("--study", str(self.study), "--out", str(self.out), "--device", "cpu")
        return self.say("job", self.jobs[f"{stage} {name}"].id, *given, until=until)

    def row(self, name: str) -> list[str]:
        """What one generator took."""
        folder = job_folder(self.out, self.jobs[f"generator {name}"])
        _, first = self.job("generator", name, until=folder / "model")
        steps = [int(p.stem.split("-")[1]) for p in (folder / "model").glob("checkpoint-*.pt")]
        assert steps == [1], steps  # one step was done when it was killed
        _, second = self.job("generator", name)
        done = json.loads((folder / "done.json").read_text())
        lines = [json.loads(line) for line in (folder / "model" / "history.jsonl").read_text().splitlines()]
        assert done["restarts"] == 1, done
        sampled, third = self.job("sample", name)
        golden = self.imported(official_file(GOLDEN[name], self.work), name == "diffusion", 32)
        full = self.imported(self.checkpoint(name), name == "diffusion", 32 if self.tiny else 256)
        peak = max(first, second, third, full[1])
        return [
            display_name(name), f"{lines[-1]['seconds'] / 2:.1f}", f"{done['processor_seconds']:.0f}",
            f"{sampled:.0f}", f"{golden[0]:.0f}", f"{full[0]:.0f}", f"{first:.1f}, {second:.1f}",
            f"{third:.1f}", f"{full[1]:.1f}", f"{peak:.1f}",
        ]  # fmt: skip

    def imported(self, path: Path, diffusion: bool, edge: int) -> tuple[float, float]:
        count = len(list(self.work.glob("imported*")))
        own = (*UNET, "--resolution", str(edge)) if diffusion else ()
        return self.say(
            "import", str(path), "--out", str(self.work / f"imported{count}"), "--channels", "T1w,T2w,FLAIR,T1wGd", *own
        )

    def checkpoint(self, name: str) -> Path:
        """Random weights of the widths in question in the official format."""
        fields = {**self.jobs[f"generator {name}"].spec["model"], "resolution": 32 if self.tiny else 256, "channels": 5}
        path = self.work / ("full.pt" if name == "diffusion" else "full.pkl")
        sizes = {"resolution": fields["resolution"], "label_size": 0, "num_channels": 5}
        if name == "diffusion":
            shapes = files.part(official_shapes(unet.DiffusionConfig.model_validate(fields)), "M/")
            torch.save({name: torch.randn(array.shape) * 0.02 for name, array in shapes.items()}, path)
        elif name in ("progan", "stylegan1"):
            base, most = fields["fmap_base"], fields["fmap_max"]
            sizes |= {"fmap_base": base, "fmap_max": most}
            if name == "progan":
                z = fields["z_dim"] or most
                path.write_bytes(files.progan_pickle(variables("progan", sizes["resolution"], 5, base, most, z), sizes))
            else:
                arrays = variables("sg1", sizes["resolution"], 5, base, most, 512, w=512, hidden=512, layers=8)
                path.write_bytes(files.stylegan1_pickle(arrays, sizes))
        else:
            kind, config = (stylegan2, stylegan2.StyleGan2Config) if name == "stylegan2" else (
                stylegan3, stylegan3.StyleGan3Config)  # fmt: skip
            model = kind.build(config.model_validate(fields))
            given = {**fields, "img_channels": 5}
            arrays = official_arrays(model) if name == "stylegan2" else official_arrays3(model)
            write = files.stylegan2_pickle if name == "stylegan2" else files.stylegan3_pickle
            path.write_bytes(write(arrays, given))
        return path


def official_arrays3(model: Any) -> dict[str, Any]:
    """Weights of StyleGAN 3 under the official names."""
    arrays, bands = {}, model.config.bands
    for name, value in model.generator.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["mapping", "layers"]:
            name = f"mapping.fc{parts[2]}.{parts[3]}"
        elif parts[:2] in (["synthesis", "layers"], ["synthesis", "to_image"]):
            last = parts[1] == "to_image"
            index = len(bands) - 1 if last else int(parts[2])
            rest = ".".join(p for p in parts[2 if last else 3 :] if p != "conv").replace("magnitude", "magnitude_ema")
            name = f"synthesis.L{index}_{bands[index].size}_{bands[index].channels}.{rest}"
        arrays["G/" + name] = value.numpy()
    return arrays | official_discriminator(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"some of {','.join(GOLDEN)}")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tiny", action="store_true", help="32 x 32 and few channels: whether it runs")
    asked = parser.parse_args()
    names = ["generator", "s a step", "processor s, two steps and records", "s, four slices", "s, golden import",
             "s, full import", "peak GB: killed, continued", "slices", "import", "most"]  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), asked.batch, asked.tiny)
        print(f"batch {asked.batch}, {torch.get_num_threads()} threads\n\n| {' | '.join(names)} |")
        print("|" + " --- |" * len(names))
        for name in asked.only.split(",") if asked.only else GOLDEN:
            print(f"| {' | '.join(bench.row(name))} |", flush=True)


if __name__ == "__main__":
    main()
