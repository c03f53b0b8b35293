"""What our diffusion model computes for the outputs of a golden file."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from understudy.generators.diffusion.process import training_losses
from understudy.generators.diffusion.samplers import SamplerConfig, ancestral_step, ddim_steps, evenly_spaced, strided
from understudy.generators.networks.unet import Diffusion

INPUTS = {"x", "t", "noise", "x_T"}


def respacing(spec: str, total: int) -> list[int]:
    """Steps to keep of `total` in guided diffusion's notation: "250", "10,15,20" for equal sections, "ddim25"."""
    if spec.startswith("ddim"):
        return strided(total, int(spec.removeprefix("ddim")))
    counts, kept, start = [int(part) for part in spec.split(",")], list[int](), 0
    for number, count in enumerate(counts):
        length = total // len(counts) + (number < total % len(counts))
        kept += [start + step for step in evenly_spaced(length, count)]
        start += length
    return kept


STEPS = (1, 8)  # of the respaced process, one for each image, in the order of the file


def compute(model: Diffusion, given: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Our value for every output of a diffusion golden file; numbers of steps are read from the names."""
    inputs = {k: torch.from_numpy(v) for k, v in given.items()}
    network, process = model.generator.eval(), model.config.process()
    found: dict[str, Tensor] = {"betas": torch.from_numpy(process.betas)}
    for name in given:
        if match := re.fullmatch(r"timesteps_([\w,]+)", name):
            found[name] = torch.tensor(respacing(match[1].replace("_", ","), len(process)))
    with torch.no_grad():
        if "x" in inputs and "t" in inputs:
            x, t = inputs["x"], inputs["t"]
            found["model_out"] = network(x, process.network_time(t))
            if "noise" in inputs:
                found["x_t"] = process.noised(x, t, inputs["noise"])
                losses = training_losses(network, process, x, t, inputs["noise"])
                found |= {f"train_{name}": value for name, value in losses.items()}
        for name in given:
            if match := re.fullmatch(r"ddim(\d+)_eta0", name):
                found[name] = ddim(model, inputs["x_T"], int(match[1]))
            elif match := re.fullmatch(r"respaced(\d+)_mean", name):
                found |= ancestral(model, inputs["x_t"], match[1])
    return found


def ddim(model: Diffusion, x: Tensor, steps: int) -> Tensor:
    """DDIM without noise from x_T in all steps of the respaced process."""
    process = model.config.process()
    process = process.kept(strided(len(process), steps))
    *_, x = ddim_steps(model.generator, process, x, SamplerConfig(kind="ddim"), lambda: torch.zeros(()))
    return x


def ancestral(model: Diffusion, x: Tensor, steps: str) -> dict[str, Tensor]:
    """One step of ancestral sampling of every image, from its own step of the respaced process."""
    process = model.config.process()
    process = process.kept(respacing(steps, len(process)))
    rows = [ancestral_step(model.generator, process, x[i : i + 1], STEPS[i % len(STEPS)]) for i in range(len(x))]
    mean, log_variance, x0 = (torch.cat(parts) for parts in zip(*rows, strict=True))
    name = f"respaced{steps}_"
    return {name + "mean": mean, name + "log_variance": log_variance, name + "pred_xstart": x0}
