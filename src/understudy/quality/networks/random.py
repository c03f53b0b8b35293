"""A convolutional network with random weights that are the same everywhere: a yardstick that needs no download.

Random convolutions keep much of an image's statistics (edges, contrast, their arrangement) and know nothing of any
training set, so they favour no generator and no anatomy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class RandomNetwork(nn.Module):
    """[n, 1, S, S] -> [n, 128]: the mean over positions of each of four stages, each of half the edge.

    The weights are drawn by numpy, whose streams do not change between versions of torch.
    """

    dimension = 128

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        rng, inputs = np.random.Generator(np.random.PCG64(seed)), 1
        self.stages = nn.ModuleList()
        for width in (16, 24, 32, 56):
            layer = nn.Conv2d(inputs, width, 5, 2, 2, padding_mode="reflect")
            weight = rng.normal(0, 1, layer.weight.shape) * np.sqrt(2 / (25 * inputs))
            bias = rng.normal(0, 0.1, width)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
                layer.bias.copy_(torch.from_numpy(bias.astype(np.float32)))  # type: ignore[union-attr]
            self.stages.append(layer)
            inputs = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = []
        for stage in self.stages:
            x = F.leaky_relu(stage(x), 0.2)
            found.append(x.mean((2, 3)))
        return torch.cat(found, 1)
