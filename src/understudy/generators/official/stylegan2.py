"""Official StyleGAN 2 weights (stylegan2-ada-pytorch and stylegan3 repositories) by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from understudy.errors import UnderstudyError
from understudy.generators.networks.stylegan2 import StyleGan2, StyleGan2Config, build
from understudy.generators.official.names import Arrays, Rules, fill, our_arguments

# Official argument -> ours. Arguments of other models, or of how the official code computes, are in _NO_EFFECT.
_STYLEGAN2_ARGUMENTS = {
    "resolution": "resolution",
    "img_resolution": "resolution",
    "img_channels": "channels",
    "z_dim": "z_dim",
    "w_dim": "w_dim",
    "channel_base": "channel_base",
    "channel_max": "channel_max",
    "mapping_layers": "mapping_layers",
    "map_depth": "mapping_layers",
    "num_layers": "mapping_layers",
    "lr_multiplier": "mapping_rate",
    "w_avg_beta": "w_avg_beta",
    "conv_clamp": "conv_clamp",
    "mbstd_group": "mbstd_group",
    "mbstd_group_size": "mbstd_group",
    "mbstd_num_channels": "mbstd_maps",
}
_NO_EFFECT = {
    "kind", "conv_kernel", "use_radial_filters", "num_fp16_res", "fused_modconv_default", "force_fp32",
    "freeze_layers", "channels_last", "noise_mode",
    "embed_features", "layer_features",
}  # fmt: skip
_REQUIRED = {
    "c_dim": (0,),
    "architecture": ("skip", "resnet"),
    "activation": ("lrelu",),
    "use_noise": (True,),
    "resample_filter": ((1, 3, 3, 1),),
}

_STYLEGAN2_GENERATOR: Rules = [
    (r".*resample_filter", None),
    (r"mapping\.w_avg", "mapping.w_avg"),
    (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
    (r"synthesis\.b(\d+)\.const", lambda m: f"synthesis.blocks.{_level(m[1])}.const"),
    (
        r"synthesis\.b(\d+)\.conv([01])\.(weight|affine\.weight|affine\.bias)",
        lambda m: f"synthesis.blocks.{_level(m[1])}.conv{m[2]}.conv.{m[3]}",
    ),
    (
        r"synthesis\.b(\d+)\.conv([01])\.(bias|noise_strength|noise_const)",
        lambda m: f"synthesis.blocks.{_level(m[1])}.conv{m[2]}.{m[3]}",
    ),
    (
        r"synthesis\.b(\d+)\.torgb\.(weight|affine\.weight|affine\.bias)",
        lambda m: f"synthesis.blocks.{_level(m[1])}.to_image.conv.{m[2]}",
    ),
    (r"synthesis\.b(\d+)\.torgb\.bias", lambda m: f"synthesis.blocks.{_level(m[1])}.to_image.bias"),
]


def _level(resolution: str) -> int:
    """Index of a synthesis block: 0 for 4x4, 1 for 8x8, ..."""
    return int(resolution).bit_length() - 3


def discriminator_rules(resolution: int) -> Rules:
    """Names of an official discriminator of this resolution -> ours."""
    top = _level(str(resolution))
    return [
        (r".*resample_filter", None),
        (r"b(\d+)\.fromrgb\.(weight|bias)", lambda m: f"blocks.{top - _level(m[1])}.from_image.{m[2]}"),
        (r"b4\.conv\.(weight|bias)", r"conv.\1"),
        (r"b4\.fc\.(weight|bias)", r"dense.\1"),
        (r"b4\.out\.(weight|bias)", r"out.\1"),
        (r"b(\d+)\.(conv0|conv1|skip)\.(weight|bias)", lambda m: f"blocks.{top - _level(m[1])}.{m[2]}.{m[3]}"),
    ]


def stylegan2_config(arguments: Mapping[str, Any]) -> StyleGan2Config:
    """Our configuration for the arguments of the official network.

    Raises:
        UnderstudyError: an argument that is unknown or has a value that this package does not implement.
    """
    config = StyleGan2Config(**our_arguments(arguments, _STYLEGAN2_ARGUMENTS, _REQUIRED, _NO_EFFECT))
    if arguments.get("layer_features") not in (None, config.w_dim):
        raise UnderstudyError(
            f"a mapping of width {arguments['layer_features']} to w of size {config.w_dim} is not supported",
            where="layer_features",
            fix="use a model whose mapping is as wide as w",
        )
    return config


def load(arguments: Mapping[str, Any], weights: Arrays) -> StyleGan2:
    """StyleGAN 2 with official weights; see `load_official_arrays`."""
    config = stylegan2_config(arguments)
    model = build(config)
    parts = {p: {k[2:]: v for k, v in weights.items() if k.startswith(p + "/")} for p in "GD"}
    if not parts["G"] and not parts["D"]:
        parts["G"] = {k: v for k, v in weights.items() if k.startswith(("mapping.", "synthesis."))}
        parts["D"] = {k: v for k, v in weights.items() if re.match(r"b\d+\.", k)}
    if parts["G"]:
        if any(re.match(r"synthesis\.b\d+\.skip\.", name) for name in parts["G"]):
            raise UnderstudyError(
                "a residual generator (architecture resnet) is not supported",
                where="G",
                fix="use a model of the default architecture, skip",
            )
        fill(model.generator, parts["G"], _STYLEGAN2_GENERATOR, "G")
    if parts["D"]:
        fill(model.discriminator, parts["D"], discriminator_rules(config.resolution), "D")
    return model
