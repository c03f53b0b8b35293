"""What our StyleGAN 2 (and, with its own synthesis, StyleGAN 3) computes for the outputs of a golden file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from understudy.generators.training.losses import path_lengths, squared_gradient

INPUTS = {"z", "real", "pl_noise"}


def compute(
    model: Any, given: dict[str, np.ndarray], synthesis: Callable[..., torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Our value for every output of a golden file.

    Args:
        synthesis: (ws, noise maps, dtype) -> images, where not that of the model's generator.
    """
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
        real = inputs["real"].requires_grad_()
        found["r1_grad_sq"] = squared_gradient(discriminator(real), real)
    if "pl_noise" in inputs:
        ws = generator.broadcast(found["w"]).detach()
        found["pl_length"] = path_lengths(synthesis or generator.synthesis, ws, inputs["pl_noise"])
    return found
