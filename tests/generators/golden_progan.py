"""What our Progressive GAN computes for the outputs of a golden file."""

from __future__ import annotations

import re

import numpy as np
import torch

from understudy.generators.networks.progan import ProGan

INPUTS = {"z", "real"}


def compute(model: ProGan, given: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Our value for every output of a golden file, at the levels that its name tells."""
    inputs = {k: torch.from_numpy(v) for k, v in given.items()}
    found: dict[str, torch.Tensor] = {}
    for name in given:
        if match := re.fullmatch(r"img_lod([\d.]+)", name):
            found[name] = model.generator(inputs["z"], level=float(match[1]))
        elif match := re.fullmatch(r"score_real_lod([\d.]+)", name):
            found[name] = model.discriminator(inputs["real"], level=float(match[1]))
    return found
