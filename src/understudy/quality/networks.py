"""The networks whose features are compared: random weights, ResNet-50, Inception-v3 in two kinds, DINOv2."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from understudy.errors import UnderstudyError
from understudy.quality.weights import Weights, load_into


class RandomNetwork(nn.Module):
    """[n, 1, S, S] -> [n, 128]: the mean over positions of each of four stages, each of half the edge.

    Random convolutions keep much of an image's statistics (edges, contrast, their arrangement) and know nothing of any
    training set, so they favour no generator and no anatomy.
    """

    dimension = 128

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        # drawn by numpy, whose streams do not change between versions
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


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet50(nn.Module):
    """[n, 3, H, W] -> [n, 2048], the mean of the last stage (He et al. 2015, 1512.03385; torchvision's names).

    The stride is in the 3x3 convolution; `blocks`: bottlenecks of each stage.
    """

    dimension = 2048

    def __init__(self, blocks: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, count in enumerate(blocks):
            width, made = 64 << stage, []
            for block in range(count):
                made.append(_Bottleneck(inputs, width, 2 if stage and not block else 1))
                inputs = 4 * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x.mean((2, 3))


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


# A branch of Inception is a list of convolutions one after the other, each: (name here, name in the graph of 2015,
# outputs, kernel, stride); the last two may stand side by side, in a list.
_Branches = list[list[Any]]
_ACROSS, _DOWN = (1, 7), (7, 1)
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
    """Inception-v3 (Szegedy et al. 2015, 1512.00567): [n, 3, 299, 299] -> [n, 2048], the mean of the last block.

    `fid`: the graph of 2015-12-05 that every FID is computed with, else the later network without its classes. They
    differ in three ways: the FID's average pools do not count the padding, the pool of its last block takes the
    maximum, and it has 1008 classes. Parameter names are those of torch-fidelity and torchvision, which agree.
    """

    dimension = 2048

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
            self.fc = nn.Linear(self.dimension, 1008)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = F.max_pool2d(x, 3, 2)
            if name != "fc":
                x = layer(x)
        return x.mean((2, 3))


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
    found: dict[str, str] = {}
    blocks = 0
    for position, (name, layer) in enumerate(Inception(fid=False).named_children()):
        if isinstance(layer, _Block):
            own = "layers_mixed" + (f"_{blocks}" if blocks else "")
            found |= {f"{own}_{theirs}": f"{name}.{ours}" for theirs, ours in layer.in_graph.items()}
            blocks += 1
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


class ClassToken(nn.Module):
    """The normalised class token of a vision transformer: [n, 3, H, W], multiples of the patch -> [n, hidden]."""

    def __init__(self, body: nn.Module, dimension: int) -> None:
        super().__init__()
        self.body, self.dimension = body, dimension

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(pixel_values=x).last_hidden_state[:, 0]
        return found


# names in Meta's files, and in Hugging Face's made before transformers 5 -> those of transformers' `Dinov2Model`
_DINOV2 = {
    r"^(cls_token|mask_token)$": r"embeddings.\1",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^norm\.": "layernorm.",
    r"^blocks\.": "encoder.layer.",
    r"\.ls(\d)\.gamma$": r".layer_scale\1.lambda1",
    r"\.attn\.proj\.|\.attention\.output\.dense\.": ".attention.o_proj.",
    r"\.attention\.attention\.([qkv])(uery|ey|alue)\.": r".attention.\1_proj.",
}


def dinov2(weights: Weights) -> ClassToken:
    """DINOv2 (Oquab et al. 2023, 2304.07193) of Meta's state dict or Hugging Face's, of plain MLPs (ViT-S, B, L).

    The shape of the network is read from the weights, so nothing is looked up anywhere. Raises `UnderstudyError` if it
    is no such state dict, has registers, or weights are missing.
    """
    from transformers import Dinov2Config, Dinov2Model

    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in weights.tensors.items():
        for pattern, own in _DINOV2.items():
            name = re.sub(pattern, own, name)
        if ".attn.qkv." in name:  # one joint projection to queries, keys and values
            parts = zip("qkv", tensor.chunk(3), strict=True)
            tensors |= {name.replace("attn.qkv", f"attention.{part}_proj"): third for part, third in parts}
        else:
            tensors[name] = tensor
    blocks = {int(m[1]) for name in tensors if (m := re.match(r"encoder\.layer\.(\d+)\.norm1\.weight", name))}
    cls, positions, patches = (
        tensors.get(f"embeddings.{name}")
        for name in ("cls_token", "position_embeddings", "patch_embeddings.projection.weight")
    )
    registers = any("register_tokens" in name for name in tensors)
    if not blocks or cls is None or positions is None or patches is None or registers:
        fix = "give dinov2_vitl14_pretrain.pth (or vitb14, vits14)"
        raise UnderstudyError("not the state dict of a DINOv2 without registers", where=weights.path, fix=fix)
    hidden, patch = int(cls.shape[-1]), int(patches.shape[-1])
    grid = round((positions.shape[1] - 1) ** 0.5)
    body = Dinov2Model(
        Dinov2Config(
            hidden_size=hidden, num_hidden_layers=max(blocks) + 1, num_attention_heads=hidden // 64,
            image_size=grid * patch, patch_size=patch, mlp_ratio=4,
        )
    )  # fmt: skip
    load_into(body, tensors, weights)
    return ClassToken(body, hidden)
