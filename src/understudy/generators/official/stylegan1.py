"""Official StyleGAN 1 weights (stylegan repository) by the names of their variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.generators.networks.stylegan1 import StyleGan1, StyleGan1Config, build
from understudy.generators.official import tensorflow
from understudy.generators.official.names import Arrays, Rules, fill

_ARGUMENTS = tensorflow.ARGUMENTS | {
    "dlatent_size": "w_dim",
    "w_dim": "w_dim",
    "mapping_layers": "mapping_layers",
    "mapping_fmaps": "mapping_width",
    "mapping_lrmul": "mapping_rate",
    "dlatent_avg_beta": "w_avg_beta",
    "truncation_cutoff": "psi_cutoff",
}
_REQUIRED = tensorflow.REQUIRED | {
    "mbstd_num_features": (1,),
    "nonlinearity": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "use_styles": (True,),
    "const_input_layer": (True,),
    "use_noise": (True,),
    "use_pixel_norm": (False,),
    "use_instance_norm": (True,),
    "blur_filter": ((1, 2, 1),),
    "fused_scale": ("auto", True, False),
}
_NO_EFFECT = tensorflow.NO_EFFECT | {
    "func_name", "dlatent_broadcast", "randomize_noise", "force_clean_graph", "style_mixing_prob", "truncation_psi",
    "truncation_psi_val", "truncation_cutoff_val",
}  # fmt: skip
_FUSED_FROM = 128  # pixels: from here on "auto" enlarges by transposed convolutions


def stylegan1_config(arguments: Mapping[str, Any]) -> StyleGan1Config:
    """Our configuration for the arguments of the official networks.

    Raises:
        UnderstudyError: an argument that is unknown or has a value that this package does not implement.
    """
    return StyleGan1Config(**tensorflow.our_arguments(arguments, _ARGUMENTS, _REQUIRED, _NO_EFFECT))


def _sizes(generator: Arrays) -> dict[str, int]:
    """Sizes of the mapping network, by our names, as its arrays tell them."""
    layers = {k: v for k, v in generator.items() if re.fullmatch(r"(G_)?mapping/Dense\d+/weight", k)}
    first = next((v for k, v in layers.items() if "/Dense0/" in k), None)
    last = next((v for k, v in layers.items() if f"/Dense{len(layers) - 1}/" in k), None)
    if first is None or last is None or first.ndim != 2 or last.ndim != 2:
        return {}  # what is missing or misshapen is named when the network is filled
    sizes = {"z_dim": first.shape[0], "w_dim": last.shape[1], "mapping_layers": len(layers)}
    return sizes | ({"mapping_fmaps": first.shape[1]} if len(layers) > 1 else {})


def _rules(resolution: int) -> Rules:
    top = tensorflow.number(str(resolution))
    inner = {"weight": "conv{1}.weight", "bias": "style{1}.bias", "Noise/weight": "style{1}.noise_weight",
             "StyleMod/weight": "style{1}.affine.weight", "StyleMod/bias": "style{1}.affine.bias"}  # fmt: skip

    def layer(m: re.Match[str]) -> str:
        second = m[2] in ("Conv1", "Conv")
        return f"blocks.{tensorflow.number(m[1])}." + inner[m[3]].replace("{1}", str(int(second)))

    def noise(m: re.Match[str]) -> str:
        return f"blocks.{int(m[1]) // 2}.style{int(m[1]) % 2}.noise_const"

    scope = r"(?:G_)?synthesis/"
    return [
        ("lod", "level"),
        (scope + "lod", None),
        ("dlatent_avg", "mapping.w_avg"),
        (r"(?:G_)?mapping/Dense(\d+)/(weight|bias)", r"mapping.layers.\1.\2"),
        (scope + "4x4/Const/const", "blocks.0.const"),
        (scope + r"(\d+)x\1/(Const|Conv|Conv0_up|Conv1)/((?:Noise/|StyleMod/)?weight|(?:StyleMod/)?bias)", layer),
        (scope + r"noise(\d+)", noise),
        (scope + r"ToRGB_lod(\d+)/(weight|bias)", lambda m: f"to_image.{top - int(m[1])}.{m[2]}"),
    ]


def _layout(name: str, array: NDArray[Any], fused: Any) -> NDArray[Any]:
    """`fused`: the argument fused_scale; fused enlarging layers are transposed convolutions."""
    match = re.search(r"(\d+)x\1/Conv0_up/weight", name)
    if match and array.ndim == 4 and (fused is True or (fused == "auto" and int(match[1]) >= _FUSED_FROM)):
        array = tensorflow.turned(array)
    return tensorflow.layout(name, array)


def load(arguments: Mapping[str, Any], weights: Arrays) -> StyleGan1:
    """StyleGAN 1 with official weights; see `load_official_arrays`."""
    generator, discriminator = tensorflow.parts(weights)
    config = stylegan1_config({**_sizes(generator), **arguments})
    model = build(config)
    if generator:
        grown = {"lod": np.zeros(()), **generator}  # how far it has grown: all, if the file does not say
        transform = partial(_layout, fused=arguments.get("fused_scale", "auto"))
        fill(model.generator, grown, _rules(config.resolution), "G", transform)
    if discriminator:
        rules = tensorflow.discriminator_rules(config.resolution)
        fill(model.discriminator, discriminator, rules, "D", tensorflow.layout)
    return model
