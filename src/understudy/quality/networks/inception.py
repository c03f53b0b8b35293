"""Inception-v3 (Szegedy et al. 2015, 1512.00567) in its two kinds: the FID's graph of 2015, and the later one.

The graph of 2015-12-05 that every FID is computed with differs from the later network in three ways: its average pools
do not count the padding, the pool of its last block takes the maximum, and it has 1008 classes. Parameter names are
those of torch-fidelity and torchvision, which agree.
"""

from __future__ import annotations

from collections.abc import Mapping

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
        shape = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (shape[0] // 2, shape[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, shape, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Branches side by side, joined along the channels.

    `chains` lists names of convolutions applied one after the other; a pair as the last element means that both see
    the same input and both are joined.
    """

    chains: tuple[tuple[str | tuple[str, str], ...], ...] = ()

    def __init__(self, layers: dict[str, _Convolution], pool: str | None) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined: list[torch.Tensor] = []
        for chain in self.chains:
            y = x
            for step in chain:
                if isinstance(step, tuple):
                    joined += [getattr(self, name)(y) for name in step]
                    break
                y = getattr(self, step)(y)
            else:
                joined.append(y)
        return torch.cat([*joined, self._pooled(x)], 1)

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool is None:  # between grids: a maximum that halves the edge, without a convolution
            return F.max_pool2d(x, 3, 2)
        if self.pool == "max":
            x = F.max_pool2d(x, 3, 1, 1)
        else:
            x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.pool == "padded")
        return self.branch_pool(x)  # type: ignore[operator,no-any-return]


class _A(_Block):
    chains = (("branch1x1",), ("branch5x5_1", "branch5x5_2"), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))

    def __init__(self, n: int, pooled: int, pool: str) -> None:
        super().__init__(
            {
                "branch1x1": _Convolution(n, 64, 1),
                "branch5x5_1": _Convolution(n, 48, 1),
                "branch5x5_2": _Convolution(48, 64, 5, pad=True),
                "branch3x3dbl_1": _Convolution(n, 64, 1),
                "branch3x3dbl_2": _Convolution(64, 96, 3, pad=True),
                "branch3x3dbl_3": _Convolution(96, 96, 3, pad=True),
                "branch_pool": _Convolution(n, pooled, 1),
            },
            pool,
        )


class _B(_Block):
    chains = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))

    def __init__(self, n: int) -> None:
        super().__init__(
            {
                "branch3x3": _Convolution(n, 384, 3, 2),
                "branch3x3dbl_1": _Convolution(n, 64, 1),
                "branch3x3dbl_2": _Convolution(64, 96, 3, pad=True),
                "branch3x3dbl_3": _Convolution(96, 96, 3, 2),
            },
            None,
        )


class _C(_Block):
    chains = (
        ("branch1x1",),
        ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
        ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
    )

    def __init__(self, n: int, width: int, pool: str) -> None:
        across, down = (1, 7), (7, 1)
        super().__init__(
            {
                "branch1x1": _Convolution(n, 192, 1),
                "branch7x7_1": _Convolution(n, width, 1),
                "branch7x7_2": _Convolution(width, width, across, pad=True),
                "branch7x7_3": _Convolution(width, 192, down, pad=True),
                "branch7x7dbl_1": _Convolution(n, width, 1),
                "branch7x7dbl_2": _Convolution(width, width, down, pad=True),
                "branch7x7dbl_3": _Convolution(width, width, across, pad=True),
                "branch7x7dbl_4": _Convolution(width, width, down, pad=True),
                "branch7x7dbl_5": _Convolution(width, 192, across, pad=True),
                "branch_pool": _Convolution(n, 192, 1),
            },
            pool,
        )


class _D(_Block):
    chains = (("branch3x3_1", "branch3x3_2"), ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"))

    def __init__(self, n: int) -> None:
        super().__init__(
            {
                "branch3x3_1": _Convolution(n, 192, 1),
                "branch3x3_2": _Convolution(192, 320, 3, 2),
                "branch7x7x3_1": _Convolution(n, 192, 1),
                "branch7x7x3_2": _Convolution(192, 192, (1, 7), pad=True),
                "branch7x7x3_3": _Convolution(192, 192, (7, 1), pad=True),
                "branch7x7x3_4": _Convolution(192, 192, 3, 2),
            },
            None,
        )


class _E(_Block):
    chains = (
        ("branch1x1",),
        ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
        ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
    )

    def __init__(self, n: int, pool: str) -> None:
        super().__init__(
            {
                "branch1x1": _Convolution(n, 320, 1),
                "branch3x3_1": _Convolution(n, 384, 1),
                "branch3x3_2a": _Convolution(384, 384, (1, 3), pad=True),
                "branch3x3_2b": _Convolution(384, 384, (3, 1), pad=True),
                "branch3x3dbl_1": _Convolution(n, 448, 1),
                "branch3x3dbl_2": _Convolution(448, 384, 3, pad=True),
                "branch3x3dbl_3a": _Convolution(384, 384, (1, 3), pad=True),
                "branch3x3dbl_3b": _Convolution(384, 384, (3, 1), pad=True),
                "branch_pool": _Convolution(n, 192, 1),
            },
            pool,
        )


class Inception(nn.Module):
    """[n, 3, 299, 299] -> [n, 2048], the mean over positions of the last block.

    Args:
        fid: the graph of 2015-12-05 with its 1008 classes, else the later network without its classes.
    """

    def __init__(self, fid: bool) -> None:
        super().__init__()
        average, last = ("unpadded", "max") if fid else ("padded", "padded")
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, pad=True)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c = _A(192, 32, average), _A(256, 64, average)
        self.Mixed_5d, self.Mixed_6a = _A(288, 64, average), _B(288)
        self.Mixed_6b, self.Mixed_6c = _C(768, 128, average), _C(768, 160, average)
        self.Mixed_6d, self.Mixed_6e = _C(768, 160, average), _C(768, 192, average)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = _D(768), _E(1280, average), _E(2048, last)
        if fid:
            self.fc = nn.Linear(DIMENSION, 1008)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        pools = {"Conv2d_3b_1x1", "Mixed_5b"}
        for name, layer in self.named_children():
            if name in pools:
                x = F.max_pool2d(x, 3, 2)
            if name != "fc":
                x = layer(x)
        return x.mean((2, 3))


LAYERS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_5c",
    "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c",
)  # fmt: skip

# Names of the 2015 graph, as NVIDIA's TorchScript keeps them, for the convolutions of each kind of block.
_TOWERS: dict[type[_Block], dict[str, str]] = {
    _A: {
        "conv": "branch1x1", "tower_conv": "branch5x5_1", "tower_conv_1": "branch5x5_2",
        "tower_1_conv": "branch3x3dbl_1", "tower_1_conv_1": "branch3x3dbl_2", "tower_1_conv_2": "branch3x3dbl_3",
        "tower_2_conv": "branch_pool",
    },
    _B: {
        "conv": "branch3x3", "tower_conv": "branch3x3dbl_1", "tower_conv_1": "branch3x3dbl_2",
        "tower_conv_2": "branch3x3dbl_3",
    },
    _C: {
        "conv": "branch1x1", "tower_conv": "branch7x7_1", "tower_conv_1": "branch7x7_2",
        "tower_conv_2": "branch7x7_3", "tower_1_conv": "branch7x7dbl_1", "tower_1_conv_1": "branch7x7dbl_2",
        "tower_1_conv_2": "branch7x7dbl_3", "tower_1_conv_3": "branch7x7dbl_4", "tower_1_conv_4": "branch7x7dbl_5",
        "tower_2_conv": "branch_pool",
    },
    _D: {
        "tower_conv": "branch3x3_1", "tower_conv_1": "branch3x3_2", "tower_1_conv": "branch7x7x3_1",
        "tower_1_conv_1": "branch7x7x3_2", "tower_1_conv_2": "branch7x7x3_3", "tower_1_conv_3": "branch7x7x3_4",
    },
    _E: {
        "conv": "branch1x1", "tower_conv": "branch3x3_1", "tower_mixed_conv": "branch3x3_2a",
        "tower_mixed_conv_1": "branch3x3_2b", "tower_1_conv": "branch3x3dbl_1", "tower_1_conv_1": "branch3x3dbl_2",
        "tower_1_mixed_conv": "branch3x3dbl_3a", "tower_1_mixed_conv_1": "branch3x3dbl_3b",
        "tower_2_conv": "branch_pool",
    },
}  # fmt: skip

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
            found |= {f"{own}_{theirs}": f"{name}.{ours}" for theirs, ours in _TOWERS[type(layer)].items()}
            mixed += 1
        else:
            found["layers_conv" + (f"_{position}" if position else "")] = name
    return found


def from_graph(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors named as in NVIDIA's TorchScript under this module's names; those of other layers are left out.

    The graph scales no normalised channel: where a convolution has no such tensor it is one.
    """
    plain = {name.replace(".", "_").replace("/", "_"): tensor for name, tensor in tensors.items()}
    found: dict[str, torch.Tensor] = {}
    for theirs, ours in graph_names().items():
        for part, names in _PARTS.items():
            for name in names:
                if (tensor := plain.get(f"{theirs}_{name}")) is not None:
                    found[f"{ours}.{part}"] = tensor
        if f"{ours}.bn.bias" in found:
            found.setdefault(f"{ours}.bn.weight", torch.ones_like(found[f"{ours}.bn.bias"]))
    for part in ("weight", "bias"):
        if (tensor := plain.get(f"output_{part}")) is not None:
            found[f"fc.{part}"] = tensor
    return found
