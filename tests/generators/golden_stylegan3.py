"""What our StyleGAN 3 computes for the outputs of a golden file."""

from __future__ import annotations

import golden_stylegan2
import numpy as np
import torch

from understudy.generators.networks.stylegan3 import StyleGan3

INPUTS = golden_stylegan2.INPUTS


def compute(model: StyleGan3, given: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Our value for every output of a StyleGAN 3 golden file, which has no noise maps."""
    return golden_stylegan2.compute(model, given, lambda ws, _, dtype: model.generator.synthesis(ws, dtype))
