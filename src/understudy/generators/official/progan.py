"""Official Progressive GAN weights (progressive_growing_of_gans) by the names of their variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.generators.networks.progan import ProGan, ProGanConfig, build
from understudy.generators.official import tensorflow
from understudy.generators.official.names import Arrays, Rules, fill

_REQUIRED = tensorflow.REQUIRED | {
    "use_pixelnorm": (True,),
    "pixelnorm_epsilon": (1e-8,),
    "use_leakyrelu": (True,),
    "fused_scale": (True,),  # without, the discriminator averages behind the leaky ReLU: another network
}


def progan_config(arguments: Mapping[str, Any]) -> ProGanConfig:
    """Our configuration for the arguments of the official networks.

    Raises:
        UnderstudyError: an argument that is unknown or has a value that this package does not implement.
    """
    ours = tensorflow.our_arguments(arguments, tensorflow.ARGUMENTS, _REQUIRED, tensorflow.NO_EFFECT)
    return ProGanConfig(**ours)


def _rules(resolution: int) -> Rules:
    top = tensorflow.number(str(resolution))
    return [
        ("lod", "level"),
        (r"4x4/Dense/(weight|bias)", r"first.\1"),
        (r"4x4/Conv/(weight|bias)", r"first.conv.\1"),
        (
            r"(\d+)x\1/Conv([01])(?:_up)?/(weight|bias)",
            lambda m: f"blocks.{tensorflow.number(m[1]) - 1}.conv{m[2]}.{m[3]}",
        ),
        (r"ToRGB_lod(\d+)/(weight|bias)", lambda m: f"to_image.{top - int(m[1])}.{m[2]}"),
    ]


def _layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Enlarging layers are transposed convolutions with kernels [height, width, outputs, inputs]."""
    if name.endswith("Conv0_up/weight") and array.ndim == 4:
        return tensorflow.turned(array).transpose(2, 3, 0, 1)
    return tensorflow.layout(name, array)


def load(arguments: Mapping[str, Any], weights: Arrays) -> ProGan:
    """Progressive GAN with official weights; see `load_official_arrays`."""
    generator, discriminator = tensorflow.parts(weights)
    if generator and not arguments.keys() & {"z_dim", "latent_size"}:
        dense = generator.get("4x4/Dense/weight")
        arguments = {**arguments, "z_dim": None if dense is None else dense.shape[0]}
    config = progan_config(arguments)
    model = build(config)
    if generator:
        grown = {"lod": np.zeros(()), **generator}  # how far it has grown: all, if the file does not say
        fill(model.generator, grown, _rules(config.resolution), "G", _layout)
    if discriminator:
        rules = tensorflow.discriminator_rules(config.resolution)
        fill(model.discriminator, discriminator, rules, "D", tensorflow.layout)
    return model
