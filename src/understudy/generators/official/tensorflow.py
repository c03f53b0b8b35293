"""What the importers of Progressive GAN and StyleGAN 1, both of TensorFlow 1, share: layouts, arguments, discriminator.

Kernels are [height, width, inputs, outputs] there, and dense weights [inputs, outputs]. `lod{k}` counts the halvings
from the full resolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.generators.official import names
from understudy.generators.official.names import Arrays, Rules

# Official argument -> ours, where both models have it.
ARGUMENTS = {
    "num_channels": "channels",
    "resolution": "resolution",
    "fmap_base": "fmap_base",
    "fmap_max": "fmap_max",
    "fmap_decay": "fmap_decay",
    "mbstd_group_size": "mbstd_group",
    "latent_size": "z_dim",
    "z_dim": "z_dim",
}
NO_EFFECT = {"kind", "dtype", "structure", "is_template_graph", "is_training", "is_validation"}
REQUIRED: dict[str, tuple[Any, ...]] = {"label_size": (0,), "use_wscale": (True,), "normalize_latents": (True,)}


def our_arguments(
    arguments: Mapping[str, Any], known: Mapping[str, str], required: Mapping[str, tuple[Any, ...]], ignored: set[str]
) -> dict[str, Any]:  # fmt: skip
    """See `names.our_arguments`."""
    ours = names.our_arguments(arguments, known, required, ignored)
    if ours.get("mbstd_group") == 0:
        ours["mbstd_group"] = 1  # both mean none
    return ours


def parts(weights: Arrays) -> tuple[Arrays, Arrays]:
    """(generator, discriminator) of arrays with prefixes, or of one network without."""
    found = [{k[2:]: v for k, v in weights.items() if k.startswith(p)} for p in ("G/", "D/")]
    if not any(found) and weights:
        found[any(k.startswith("FromRGB") for k in weights)] = dict(weights)
    return found[0], found[1]


def number(resolution: str) -> int:
    """Index of a resolution: 0 for 4, 1 for 8, ..."""
    return int(resolution).bit_length() - 3


def layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """An official array in our layout, kernels of enlarging layers excepted."""
    if name.endswith("/weight"):
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if array.ndim == 2:
            return array.T
    return array


def turned(kernel: NDArray[Any]) -> NDArray[Any]:
    """A kernel [height, width, ...] read backwards: of a transposed convolution, as one behind an enlargement."""
    return np.ascontiguousarray(kernel[::-1, ::-1])


def discriminator_rules(resolution: int) -> Rules:
    """Names of an official discriminator of this resolution -> ours."""
    top = number(str(resolution))

    def block(m: re.Match[str]) -> str:
        return f"blocks.{number(m[1]) - 1}.conv{m[2][0]}.{m[3]}"

    return [
        ("lod", None),
        (r"FromRGB_lod(\d+)/(weight|bias)", lambda m: f"from_image.{top - int(m[1])}.{m[2]}"),
        (r"4x4/Conv/(weight|bias)", r"conv.\1"),
        (r"4x4/Dense0/(weight|bias)", r"dense.\1"),
        (r"4x4/Dense1/(weight|bias)", r"out.\1"),
        (r"(\d+)x\1/Conv(0|1_down)/(weight|bias)", block),
    ]
