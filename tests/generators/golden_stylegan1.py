"""What our StyleGAN 1 computes for the outputs of a golden file."""

from __future__ import annotations

import re

import numpy as np
import torch

from understudy.generators.networks.stylegan1 import StyleGan1

INPUTS = {"z", "real"}


def compute(model: StyleGan1, given: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Our value for every output of a golden file, at the levels (and truncation) that its name tells."""
    inputs = {k: torch.from_numpy(v) for k, v in given.items()}
    found: dict[str, torch.Tensor] = {}
    for name in given:
        if match := re.fullmatch(r"img(?:_psi([\d.]+))?(?:_cutoff(\d+))?_lod([\d.]+)", name):
            given_cutoff = {"psi_cutoff": int(match[2])} if match[2] else {}
            model.generator.config = model.config.model_copy(update=given_cutoff)
            found[name] = model.generator(inputs["z"], float(match[1] or 1), level=float(match[3]))
        elif match := re.fullmatch(r"score_real_lod([\d.]+)", name):
            found[name] = model.discriminator(inputs["real"], level=float(match[1]))
        elif name == "w":
            found[name] = model.generator.broadcast(model.generator.mapping(inputs["z"]))
    return found
