"""Official StyleGAN 3 weights (stylegan3 repository, configurations T and R) by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.generators.networks.stylegan3 import FilteredConv, StyleGan3, StyleGan3Config, build
from understudy.generators.official import stylegan2
from understudy.generators.official.names import Arrays, Rules, fill, our_arguments

# Official argument -> ours. Arguments of how the official code computes are in _NO_EFFECT.
_ARGUMENTS = {
    "resolution": "resolution",
    "img_resolution": "resolution",
    "img_channels": "channels",
    "z_dim": "z_dim",
    "w_dim": "w_dim",
    "channel_base": "channel_base",
    "channel_max": "channel_max",
    "mapping_layers": "mapping_layers",
    "map_depth": "mapping_layers",
    "lr_multiplier": "mapping_rate",
    "w_avg_beta": "w_avg_beta",
    "num_layers": "num_layers",
    "num_critical": "num_critical",
    "first_cutoff": "first_cutoff",
    "first_stopband": "first_stopband",
    "last_stopband_rel": "last_stopband",
    "margin_size": "margin",
    "output_scale": "output_scale",
    "conv_kernel": "conv_kernel",
    "use_radial_filters": "use_radial_filters",
    "magnitude_ema_beta": "magnitude_beta",
    "conv_clamp": "conv_clamp",
    "mbstd_group": "mbstd_group",
    "mbstd_group_size": "mbstd_group",
    "mbstd_num_channels": "mbstd_maps",
}
_NO_EFFECT = {"kind", "num_fp16_res", "force_fp32", "freeze_layers", "architecture"}
_REQUIRED = {"c_dim": (0,), "filter_size": (6,), "lrelu_upsampling": (2,)}
_LAYER = r"synthesis\.L(\d+)_(\d+)_(\d+)\."


def stylegan3_config(arguments: Mapping[str, Any]) -> StyleGan3Config:
    """Our configuration for the arguments of the official network.

    Raises:
        UnderstudyError: an argument that is unknown or has a value that this package does not implement.
    """
    return StyleGan3Config(**our_arguments(arguments, _ARGUMENTS, _REQUIRED, _NO_EFFECT))


def _rules(config: StyleGan3Config) -> Rules:
    return [
        (r"mapping\.w_avg", "mapping.w_avg"),
        (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
        (r"synthesis\.input\.(weight|freqs|phases|transform|affine\.weight|affine\.bias)", r"synthesis.input.\1"),
        (_LAYER + r"(up_filter|down_filter)", None),
        (_LAYER + r"(weight|bias|magnitude_ema|affine\.weight|affine\.bias)", lambda match: _layer_name(match, config)),
    ]


def _layer_name(match: re.Match[str], config: StyleGan3Config) -> str:
    """Our name for a variable of a layer, whose official name says its number, size and width."""
    index, size, channels = (int(match[i]) for i in (1, 2, 3))
    name = "magnitude" if match[4] == "magnitude_ema" else match[4]
    bands = config.bands
    expected = (bands[index].size, bands[index].channels) if index < len(bands) else None
    if expected != (size, channels):
        raise UnderstudyError(
            f"layer {index} of the official weights has size {size} and {channels} channels; the configuration says"
            f" {expected or f'that there are {len(bands)} layers'}",
            where=f"G/{match.string}",
            fix="check resolution, channels, widths and the schedule in the configuration",
        )
    if index < config.num_layers:
        return f"synthesis.layers.{index}.{name}"
    return f"synthesis.to_image.{name if name in ('bias', 'magnitude') else 'conv.' + name}"


def _check_filters(network: StyleGan3, arrays: Arrays) -> None:
    """Filters follow from the configuration; other ones mean another schedule than ours."""
    for official, array in arrays.items():
        match = re.fullmatch(_LAYER + r"(up_filter|down_filter)", official)
        if match is None:
            continue
        index, layers = int(match[1]), network.generator.synthesis.layers
        layer = layers[index] if index < len(layers) else None
        ours = getattr(layer, match[4]) if isinstance(layer, FilteredConv) else np.ones(1)
        if ours.shape != array.shape or not np.allclose(ours, array, rtol=0, atol=1e-5 * np.abs(ours).max()):
            raise UnderstudyError(
                f"filter of shape {array.shape} differs from the configured one of shape {ours.shape}",
                where=f"G/{official}",
                fix="check cutoffs, stopbands, use_radial_filters and the resolution in the configuration",
            )


def _discriminator_widths(arrays: Arrays) -> dict[str, int]:
    """channel_base and channel_max of a discriminator, from the shapes: configuration R widens the generator only."""
    widths = {
        int(match[1]): len(array)
        for name, array in arrays.items()
        if (match := re.fullmatch(r"b(\d+)\.(?:conv0|conv)\.weight", name))
    }
    if not widths:
        return {}
    most = max(widths.values())
    narrow = [r * width for r, width in widths.items() if width < most]
    return {"discriminator_max": most, "discriminator_base": max(narrow, default=most * max(widths))}


def load(arguments: Mapping[str, Any], weights: Arrays) -> StyleGan3:
    """StyleGAN 3 with official weights; see `load_official_arrays`."""
    parts = {p: {k[2:]: v for k, v in weights.items() if k.startswith(p + "/")} for p in "GD"}
    if not parts["G"] and not parts["D"]:
        parts["G"] = {k: v for k, v in weights.items() if k.startswith(("mapping.", "synthesis."))}
        parts["D"] = {k: v for k, v in weights.items() if re.match(r"b\d+\.", k)}
    config = stylegan3_config(arguments)
    config = config.model_copy(update=_discriminator_widths(parts["D"]))
    model = build(config)
    if parts["G"]:
        _check_filters(model, parts["G"])
        fill(model.generator, parts["G"], _rules(config), "G")
    if parts["D"]:
        rules = stylegan2.discriminator_rules(config.resolution)
        fill(model.discriminator, parts["D"], rules, "D")
    return model
