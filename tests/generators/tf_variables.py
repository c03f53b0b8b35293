"""Random variables of the official TensorFlow 1 networks by their names and layouts, and their fused enlargement."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Shapes = dict[str, tuple[int, ...]]


def variables(
    kind: str, resolution: int, channels: int, base: int, most: int, z: int,
    w: int = 6, hidden: int = 7, layers: int = 3,
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """All variables of "progan" or "sg1" with prefixes, N(0, 1)."""
    top = int(math.log2(resolution))
    width = [min(base >> stage, most) for stage in range(top)]
    shapes: Shapes = {f"D/{k}": v for k, v in _discriminator(top, width, channels).items()}
    if kind == "progan":
        shapes |= {f"G/{k}": v for k, v in _progan(top, width, channels, z).items()}
    else:
        shapes |= {f"G/G_synthesis/{k}": v for k, v in _synthesis(top, width, channels, w).items()}
        sizes = [z, *[hidden] * (layers - 1), w]
        for i in range(layers):
            shapes[f"G/G_mapping/Dense{i}/weight"] = (sizes[i], sizes[i + 1])
            shapes[f"G/G_mapping/Dense{i}/bias"] = (sizes[i + 1],)
        shapes["G/dlatent_avg"] = (w,)
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return arrays | {k: np.zeros((), np.float32) for k in ("G/lod", "D/lod")}


def _discriminator(top: int, width: list[int], channels: int) -> Shapes:
    shapes: Shapes = {}
    for log in range(2, top + 1):
        shapes[f"FromRGB_lod{top - log}"] = (1, 1, channels, width[log - 1])
        if log > 2:
            edge = 2**log
            shapes[f"{edge}x{edge}/Conv0"] = (3, 3, width[log - 1], width[log - 1])
            shapes[f"{edge}x{edge}/Conv1_down"] = (3, 3, width[log - 1], width[log - 2])
    shapes["4x4/Conv"] = (3, 3, width[1] + 1, width[1])
    shapes["4x4/Dense0"] = (16 * width[1], width[0])
    shapes["4x4/Dense1"] = (width[0], 1)
    return _with_bias(shapes)


def _with_bias(shapes: Shapes) -> Shapes:
    return {f"{k}/weight": v for k, v in shapes.items()} | {f"{k}/bias": (v[-1],) for k, v in shapes.items()}


def _progan(top: int, width: list[int], channels: int, z: int) -> Shapes:
    layers: Shapes = {"4x4/Conv": (3, 3, width[1], width[1])}
    enlarging: Shapes = {}
    for log in range(2, top + 1):
        layers[f"ToRGB_lod{top - log}"] = (1, 1, width[log - 1], channels)
        if log > 2:
            edge = 2**log
            layers[f"{edge}x{edge}/Conv1"] = (3, 3, width[log - 1], width[log - 1])
            enlarging[f"{edge}x{edge}/Conv0_up/weight"] = (3, 3, width[log - 1], width[log - 2])
            enlarging[f"{edge}x{edge}/Conv0_up/bias"] = (width[log - 1],)
    dense: Shapes = {"4x4/Dense/weight": (z, 16 * width[1]), "4x4/Dense/bias": (width[1],)}
    return _with_bias(layers) | enlarging | dense


def _synthesis(top: int, width: list[int], channels: int, w: int) -> Shapes:
    shapes: Shapes = {"4x4/Const/const": (1, width[1], 4, 4)}
    for log in range(2, top + 1):
        edge, wide = 2**log, width[log - 1]
        shapes[f"ToRGB_lod{top - log}/weight"] = (1, 1, wide, channels)
        shapes[f"ToRGB_lod{top - log}/bias"] = (channels,)
        names = ("Const", "Conv") if log == 2 else ("Conv0_up", "Conv1")
        for i, name in enumerate(names):
            layer = f"{edge}x{edge}/{name}/"
            if name != "Const":
                shapes[layer + "weight"] = (3, 3, wide if i else width[log - 2], wide)
            shapes |= {layer + "Noise/weight": (wide,), layer + "bias": (wide,)}
            shapes |= {layer + "StyleMod/weight": (w, 2 * wide), layer + "StyleMod/bias": (2 * wide,)}
            shapes[f"noise{2 * (log - 2) + i}"] = (1, 1, edge, edge)
    return shapes


def fused_enlarging(x: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float64]:
    """The fused form in loops: x [N, I, H, H], kernel [3, 3, O, I] -> [N, O, 2H, 2H].

    Every pixel adds, around its place at twice the size, the 4x4 kernel that is the sum of four shifted 3x3 ones.
    """
    wide = np.zeros((4, 4, *kernel.shape[2:]))
    for dy in (0, 1):
        for dx in (0, 1):
            wide[dy : dy + 3, dx : dx + 3] += kernel
    n, _, edge, _ = x.shape
    out = np.zeros((n, kernel.shape[2], 2 * edge + 2, 2 * edge + 2))
    for i in range(edge):
        for j in range(edge):
            out[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
                "hwoi,ni->nohw", wide, x[:, :, i, j], optimize=True
            )
    return out[:, :, 1:-1, 1:-1]
