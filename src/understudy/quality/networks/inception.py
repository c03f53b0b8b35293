"""Inception-v3 (Szegedy et al. 2015, 1512.00567) in its two kinds: the FID's graph of 2015, and the later one.

The graph of 2015-12-05 that every FID is computed with differs from the later network in three ways: its average pools
do not count the padding, the pool of its last block takes the maximum, and it has 1008 classes. Parameter names are
those of torch-fidelity and torchvision, which agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

DIMENSION = 2048


class _Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = False
    ) -> None:
        super().__init__()
        height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (height // 2, width // 2) if pad else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


_ACROSS, _DOWN = (1, 7), (7, 1)
# A branch is a list of convolutions one after the other, each: (name here, name in the graph of 2015, outputs, kernel,
# stride); the last two may stand side by side, in a list.
_Branches = list[list[Any]]


_A: _Branches = [
    [("branch1x1", "conv", 64, 1, 1)],
    [("branch5x5_1", "tower_conv", 48, 1, 1), ("branch5x5_2", "tower_conv_1", 64, 5, 1)],
    [("branch3x3dbl_1", "tower_1_conv", 64, 1, 1), ("branch3x3dbl_2", "tower_1_conv_1", 96, 3, 1),
     ("branch3x3dbl_3", "tower_1_conv_2", 96, 3, 1)],
]  # fmt: skip
_B: _Branches = [
    [("branch3x3", "conv", 384, 3, 2)],
    [("branch3x3dbl_1", "tower_conv", 64, 1, 1), ("branch3x3dbl_2", "tower_conv_1", 96, 3, 1),
     ("branch3x3dbl_3", "tower_conv_2", 96, 3, 2)],
]  # fmt: skip


def _c(width: int) -> _Branches:
    return [
        [("branch1x1", "conv", 192, 1, 1)],
        [("branch7x7_1", "tower_conv", width, 1, 1), ("branch7x7_2", "tower_conv_1", width, _ACROSS, 1),
         ("branch7x7_3", "tower_conv_2", 192, _DOWN, 1)],
        [("branch7x7dbl_1", "tower_1_conv", width, 1, 1), ("branch7x7dbl_2", "tower_1_conv_1", width, _DOWN, 1),
         ("branch7x7dbl_3", "tower_1_conv_2", width, _ACROSS, 1), ("branch7x7dbl_4", "tower_1_conv_3", width, _DOWN, 1),
         ("branch7x7dbl_5", "tower_1_conv_4", 192, _ACROSS, 1)],
    ]  # fmt: skip


_D: _Branches = [
    [("branch3x3_1", "tower_conv", 192, 1, 1), ("branch3x3_2", "tower_conv_1", 320, 3, 2)],
    [("branch7x7x3_1", "tower_1_conv", 192, 1, 1), ("branch7x7x3_2", "tower_1_conv_1", 192, _ACROSS, 1),
     ("branch7x7x3_3", "tower_1_conv_2", 192, _DOWN, 1), ("branch7x7x3_4", "tower_1_conv_3", 192, 3, 2)],
]  # fmt: skip
_E: _Branches = [
    [("branch1x1", "conv", 320, 1, 1)],
    [("branch3x3_1", "tower_conv", 384, 1, 1),
     [("branch3x3_2a", "tower_mixed_conv", 384, (1, 3), 1),
      ("branch3x3_2b", "tower_mixed_conv_1", 384, (3, 1), 1)]],
    [("branch3x3dbl_1", "tower_1_conv", 448, 1, 1), ("branch3x3dbl_2", "tower_1_conv_1", 384, 3, 1),
     [("branch3x3dbl_3a", "tower_1_mixed_conv", 384, (1, 3), 1),
      ("branch3x3dbl_3b", "tower_1_mixed_conv_1", 384, (3, 1), 1)]],
]  # fmt: skip


class _Block(nn.Module):
    """Branches side by side, joined along the channels; last a pool and (but for "halves") its convolution."""

    def __init__(self, inputs: int, branches: _Branches, pool: str, pooled: int = 192) -> None:
        super().__init__()
        self.pool, self.in_graph = pool, {}
        self.chains: list[list[list[str]]] = []
        for branch in branches:
            width = inputs
            steps = [step if isinstance(step, list) else [step] for step in branch]
            for step in steps:
                for name, graph, outputs, kernel, stride in step:
                    self.add_module(name, _Convolution(width, outputs, kernel, stride, pad=stride == 1))
                    self.in_graph[graph] = name
                width = step[-1][2]
            self.chains.append([[name for name, *_ in step] for step in steps])
        if pool != "halves":
            self.branch_pool, self.in_graph["tower_2_conv"] = _Convolution(inputs, pooled, 1), "branch_pool"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined: list[torch.Tensor] = []
        for *steps, last in self.chains:
            y = x
            for (name,) in steps:
                y = getattr(self, name)(y)
            joined += [getattr(self, name)(y) for name in last]
        if self.pool == "halves":
            return torch.cat([*joined, F.max_pool2d(x, 3, 2)], 1)
        if self.pool == "max":
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.pool == "padded")
        return torch.cat([*joined, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """[n, 3, 299, 299] -> [n, 2048], the mean over positions of the last block.

    `fid`: the graph of 2015-12-05 with its 1008 classes, else the later network without its classes.
    """

    def __init__(self, fid: bool) -> None:
        super().__init__()
        average, last = ("unpadded", "max") if fid else ("padded", "padded")
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, pad=True)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c = _Block(192, _A, average, 32), _Block(256, _A, average, 64)
        self.Mixed_5d, self.Mixed_6a = _Block(288, _A, average, 64), _Block(288, _B, "halves")
        self.Mixed_6b, self.Mixed_6c = _Block(768, _c(128), average), _Block(768, _c(160), average)
        self.Mixed_6d, self.Mixed_6e = _Block(768, _c(160), average), _Block(768, _c(192), average)
        self.Mixed_7a, self.Mixed_7b = _Block(768, _D, "halves"), _Block(1280, _E, average)
        self.Mixed_7c = _Block(2048, _E, last)
        if fid:
            self.fc = nn.Linear(DIMENSION, 1008)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = F.max_pool2d(x, 3, 2)
            if name != "fc":
                x = layer(x)
        return x.mean((2, 3))


LAYERS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_5c",
    "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip

# What a convolution's tensors may be called, with or without modules of their own for the two steps.
_PARTS = {
    "conv.weight": ("weight", "conv_weight"),
    "bn.weight": ("gamma", "bn_weight", "bn_gamma"),
    "bn.bias": ("beta", "bias", "bn_bias", "bn_beta"),
    "bn.running_mean": ("mean", "moving_mean", "running_mean", "bn_mean", "bn_running_mean"),
    "bn.running_var": ("var", "variance", "moving_variance", "running_var", "bn_var", "bn_running_var"),
}


def graph_names() -> dict[str, str]:
    """Convolution of the 2015 graph (dots and slashes as underscores) -> this module's name, e.g.
    "layers_mixed_3_tower_conv_1" -> "Mixed_6a.branch3x3dbl_2"."""
    network, mixed = Inception(fid=True), 0
    found: dict[str, str] = {}
    for position, name in enumerate(LAYERS):
        layer = getattr(network, name)
        if isinstance(layer, _Block):
            own = "layers_mixed" + (f"_{mixed}" if mixed else "")
            found |= {f"{own}_{theirs}": f"{name}.{ours}" for theirs, ours in layer.in_graph.items()}
            mixed += 1
        else:
            found["layers_conv" + (f"_{position}" if position else "")] = name
    return found


def from_graph(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors named as in NVIDIA's TorchScript under this module's names; those of other layers are left out.

    The graph scales no normalised channel: where a convolution has no such tensor it is one.
    """
    plain = {name.replace(".", "_").replace("/", "_"): tensor for name, tensor in tensors.items()}
    found = {f"fc.{part}": plain[f"output_{part}"] for part in ("weight", "bias") if f"output_{part}" in plain}
    for theirs, ours in graph_names().items():
        for part, names in _PARTS.items():
            found |= {f"{ours}.{part}": plain[f"{theirs}_{name}"] for name in names if f"{theirs}_{name}" in plain}
        if f"{ours}.bn.bias" in found:
            found.setdefault(f"{ours}.bn.weight", torch.ones_like(found[f"{ours}.bn.bias"]))
    return found
