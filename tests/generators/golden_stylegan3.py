"""What our StyleGAN 3 computes for the outputs of a golden file."""

from __future__ import annotations

import numpy as np
import torch

from understudy.generators.gan_losses import path_lengths, squared_gradient
from understudy.generators.stylegan3 import StyleGan3

INPUTS = {"z", "real", "pl_noise"}


def compute(model: StyleGan3, given: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Our value for every output of a StyleGAN 3 golden file."""
    inputs = {k: torch.from_numpy(v) for k, v in given.items()}
    generator, discriminator = model.generator, model.discriminator
    found: dict[str, torch.Tensor] = {}
    if "z" in inputs:
        found["w"] = generator.mapping(inputs["z"])
        found["img"] = generator(inputs["z"])
        found["score_fake"] = discriminator(found["img"])
        for name in given:
            if name.startswith("img_psi"):
                found[name] = generator(inputs["z"], psi=float(name.removeprefix("img_psi")))
    if "real" in inputs:
        found["score_real"] = discriminator(inputs["real"])
        found["r1_grad_sq"] = squared_gradient(discriminator, inputs["real"])[1]
    if "pl_noise" in inputs:
        ws = generator.broadcast(found["w"]).detach()
        # StyleGAN 3 has no noise maps.
        found["pl_length"] = path_lengths(
            lambda ws, _, dtype: generator.synthesis(ws, dtype), ws, inputs["pl_noise"]
        )
    return found
