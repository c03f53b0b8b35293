"""Official weights of the four GANs: their arguments and the names of their variables, and ours.

`load_*` serve `weights.load_official_arrays`; errors are those of `rules.our_arguments` and `rules.fill`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.generators.networks import progan, stylegan1, stylegan2, stylegan3
from understudy.generators.official.rules import Arguments, Arrays, Rules, fill, our_arguments, parts


def _number(resolution: str | int) -> int:
    """Index of a resolution: 0 for 4, 1 for 8, ..."""
    return int(resolution).bit_length() - 3


# --- Progressive GAN and StyleGAN 1, of TensorFlow 1 (progressive_growing_of_gans, stylegan) ---
# Kernels are [height, width, inputs, outputs] there, and dense weights [inputs, outputs]. `lod{k}` counts the halvings
# from the full resolution.

_TF_ARGUMENTS: Arguments = {
    "resolution": "resolution", "num_channels": "channels", "fmap_base": "fmap_base", "fmap_max": "fmap_max",
    "fmap_decay": "fmap_decay", "mbstd_group_size": "mbstd_group", "latent_size": "z_dim", "z_dim": "z_dim",
    "label_size": (0,), "use_wscale": (True,), "normalize_latents": (True,),
    **dict.fromkeys(("kind", "dtype", "structure", "is_template_graph", "is_training", "is_validation")),
}  # fmt: skip
_PROGAN_ARGUMENTS = _TF_ARGUMENTS | {
    "use_pixelnorm": (True,), "pixelnorm_epsilon": (1e-8,), "use_leakyrelu": (True,),
    "fused_scale": (True,),  # without, the discriminator averages behind the leaky ReLU: another network
}  # fmt: skip
_STYLEGAN1_ARGUMENTS = _TF_ARGUMENTS | {
    "w_dim": "w_dim", "dlatent_size": "w_dim", "mapping_layers": "mapping_layers", "mapping_fmaps": "mapping_width",
    "mapping_lrmul": "mapping_rate", "dlatent_avg_beta": "w_avg_beta", "truncation_cutoff": "psi_cutoff",
    "mbstd_num_features": (1,), "nonlinearity": ("lrelu",), "mapping_nonlinearity": ("lrelu",), "use_styles": (True,),
    "const_input_layer": (True,), "use_noise": (True,), "use_pixel_norm": (False,), "use_instance_norm": (True,),
    "blur_filter": ((1, 2, 1),), "fused_scale": ("auto", True, False),
    **dict.fromkeys(("func_name", "dlatent_broadcast", "randomize_noise", "force_clean_graph", "style_mixing_prob")),
    **dict.fromkeys(("truncation_psi", "truncation_psi_val", "truncation_cutoff_val")),
}  # fmt: skip


def _tf_arguments(arguments: Mapping[str, Any], known: Arguments) -> dict[str, Any]:
    ours = our_arguments(arguments, known)
    return ours | ({"mbstd_group": 1} if ours.get("mbstd_group") == 0 else {})  # both mean none


def _tf_layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """An official array in our layout, kernels of enlarging layers excepted."""
    if name.endswith("/weight") and array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if name.endswith("/weight") and array.ndim == 2 else array


def _fill_tf(
    model: progan.ProGan | stylegan1.StyleGan1, generator: Arrays, judge: Arrays, rules: Rules, layout: Any
) -> None:
    """Fills both networks of either model; `layout` is the generator's."""
    top = _number(model.config.resolution)
    if generator:
        rules = [
            ("lod", "level"),
            *rules,
            (r"(?:(?:G_)?synthesis/)?ToRGB_lod(\d+)/(weight|bias)", lambda m: f"to_image.{top - int(m[1])}.{m[2]}"),
        ]
        grown = {"lod": np.zeros(()), **generator}  # how far it has grown: all, if the file does not say
        fill(model.generator, grown, rules, "G", layout)
    if judge:
        rules = [
            ("lod", None),
            (r"FromRGB_lod(\d+)/(weight|bias)", lambda m: f"from_image.{top - int(m[1])}.{m[2]}"),
            (r"4x4/Conv/(weight|bias)", r"conv.\1"),
            (r"4x4/Dense0/(weight|bias)", r"dense.\1"),
            (r"4x4/Dense1/(weight|bias)", r"out.\1"),
            (r"(\d+)x\1/Conv(0|1_down)/(weight|bias)", lambda m: f"blocks.{_number(m[1]) - 1}.conv{m[2][0]}.{m[3]}"),
        ]
        fill(model.discriminator, judge, rules, "D", _tf_layout)


def load_progan(arguments: Mapping[str, Any], weights: Arrays) -> progan.ProGan:
    generator, judge = parts(weights)
    if generator and not arguments.keys() & {"z_dim", "latent_size"}:
        dense = generator.get("4x4/Dense/weight")
        arguments = {**arguments, "z_dim": None if dense is None else dense.shape[0]}
    model = progan.build(progan.ProGanConfig(**_tf_arguments(arguments, _PROGAN_ARGUMENTS)))
    rules: Rules = [
        (r"4x4/Dense/(weight|bias)", r"first.\1"),
        (r"4x4/Conv/(weight|bias)", r"first.conv.\1"),
        (r"(\d+)x\1/Conv([01])(?:_up)?/(weight|bias)", lambda m: f"blocks.{_number(m[1]) - 1}.conv{m[2]}.{m[3]}"),
    ]

    def layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
        if name.endswith("Conv0_up/weight") and array.ndim == 4:
            # of a transposed convolution, [height, width, outputs, inputs], read backwards as one behind an enlargement
            return np.ascontiguousarray(array[::-1, ::-1]).transpose(2, 3, 0, 1)
        return _tf_layout(name, array)

    _fill_tf(model, generator, judge, rules, layout)
    return model


def stylegan1_config(arguments: Mapping[str, Any]) -> stylegan1.StyleGan1Config:
    return stylegan1.StyleGan1Config(**_tf_arguments(arguments, _STYLEGAN1_ARGUMENTS))


def load_stylegan1(arguments: Mapping[str, Any], weights: Arrays) -> stylegan1.StyleGan1:
    generator, judge = parts(weights)
    # sizes of the mapping, as its arrays tell them; what is missing or misshapen is named when the network is filled
    dense = {k: v for k, v in generator.items() if re.fullmatch(r"(G_)?mapping/Dense\d+/weight", k)}
    first = next((v for k, v in dense.items() if "/Dense0/" in k), None)
    last = next((v for k, v in dense.items() if f"/Dense{len(dense) - 1}/" in k), None)
    if first is not None and last is not None and first.ndim == last.ndim == 2:
        sizes = {"z_dim": first.shape[0], "w_dim": last.shape[1], "mapping_layers": len(dense)}
        sizes |= {"mapping_fmaps": first.shape[1]} if len(dense) > 1 else {}
        arguments = {**sizes, **arguments}
    model = stylegan1.build(stylegan1_config(arguments))
    fused = arguments.get("fused_scale", "auto")
    ours = {
        "weight": "conv{}.weight", "bias": "style{}.bias", "Noise/weight": "style{}.noise_weight",
        "StyleMod/weight": "style{}.affine.weight", "StyleMod/bias": "style{}.affine.bias",
    }  # fmt: skip
    scope = r"(?:G_)?synthesis/"
    rules: Rules = [
        (scope + "lod", None),
        ("dlatent_avg", "mapping.w_avg"),
        (r"(?:G_)?mapping/Dense(\d+)/(weight|bias)", r"mapping.layers.\1.\2"),
        (scope + "4x4/Const/const", "blocks.0.const"),
        (
            scope + r"(\d+)x\1/(Const|Conv|Conv0_up|Conv1)/((?:Noise/|StyleMod/)?weight|(?:StyleMod/)?bias)",
            lambda m: f"blocks.{_number(m[1])}." + ours[m[3]].format(int(m[2] in ("Conv1", "Conv"))),
        ),
        (scope + r"noise(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.style{int(m[1]) % 2}.noise_const"),
    ]

    def layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
        match = re.search(r"(\d+)x\1/Conv0_up/weight", name)
        # "auto" enlarges by transposed convolutions from 128 pixels on
        if match and array.ndim == 4 and (fused is True or (fused == "auto" and int(match[1]) >= 128)):
            array = np.ascontiguousarray(array[::-1, ::-1])
        return _tf_layout(name, array)

    _fill_tf(model, generator, judge, rules, layout)
    return model


# --- StyleGAN 2 and 3, of PyTorch (stylegan2-ada-pytorch, stylegan3) ---

_ARGUMENTS: Arguments = {
    "resolution": "resolution", "img_resolution": "resolution", "img_channels": "channels", "z_dim": "z_dim",
    "w_dim": "w_dim", "c_dim": (0,), "channel_base": "channel_base", "channel_max": "channel_max",
    "mapping_layers": "mapping_layers", "map_depth": "mapping_layers", "lr_multiplier": "mapping_rate",
    "w_avg_beta": "w_avg_beta", "conv_clamp": "conv_clamp", "mbstd_group": "mbstd_group",
    "mbstd_group_size": "mbstd_group", "mbstd_num_channels": "mbstd_maps",
    **dict.fromkeys(("kind", "num_fp16_res", "force_fp32", "freeze_layers")),
}  # fmt: skip
_STYLEGAN2_ARGUMENTS = _ARGUMENTS | {
    "num_layers": "mapping_layers", "architecture": ("skip", "resnet"), "activation": ("lrelu",), "use_noise": (True,),
    "resample_filter": ((1, 3, 3, 1),),
    **dict.fromkeys(("conv_kernel", "use_radial_filters", "fused_modconv_default", "channels_last", "noise_mode")),
    **dict.fromkeys(("embed_features", "layer_features")),
}  # fmt: skip
_STYLEGAN3_ARGUMENTS = _ARGUMENTS | {
    "num_layers": "num_layers", "num_critical": "num_critical", "first_cutoff": "first_cutoff",
    "first_stopband": "first_stopband", "last_stopband_rel": "last_stopband", "margin_size": "margin",
    "output_scale": "output_scale", "conv_kernel": "conv_kernel", "use_radial_filters": "use_radial_filters",
    "magnitude_ema_beta": "magnitude_beta", "filter_size": (6,), "lrelu_upsampling": (2,), "architecture": None,
}  # fmt: skip
_BLOCK = r"synthesis\.b(\d+)\."
_STYLEGAN2_RULES: Rules = [
    (r".*resample_filter", None),
    (r"mapping\.w_avg", "mapping.w_avg"),
    (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
    (_BLOCK + "const", lambda m: f"synthesis.blocks.{_number(m[1])}.const"),
    (_BLOCK + r"(conv[01]|torgb)\.(weight|affine\.weight|affine\.bias)",
     lambda m: f"synthesis.blocks.{_number(m[1])}.{m[2].replace('torgb', 'to_image')}.conv.{m[3]}"),
    (_BLOCK + r"(conv[01])\.(bias|noise_strength|noise_const)",
     lambda m: f"synthesis.blocks.{_number(m[1])}.{m[2]}.{m[3]}"),
    (_BLOCK + r"torgb\.bias", lambda m: f"synthesis.blocks.{_number(m[1])}.to_image.bias"),
]  # fmt: skip


def _judge_rules(resolution: int) -> Rules:
    """Names of an official discriminator of this resolution -> ours."""
    top = _number(resolution)
    return [
        (r".*resample_filter", None),
        (r"b(\d+)\.fromrgb\.(weight|bias)", lambda m: f"blocks.{top - _number(m[1])}.from_image.{m[2]}"),
        (r"b4\.conv\.(weight|bias)", r"conv.\1"),
        (r"b4\.fc\.(weight|bias)", r"dense.\1"),
        (r"b4\.out\.(weight|bias)", r"out.\1"),
        (r"b(\d+)\.(conv0|conv1|skip)\.(weight|bias)", lambda m: f"blocks.{top - _number(m[1])}.{m[2]}.{m[3]}"),
    ]


def stylegan2_config(arguments: Mapping[str, Any]) -> stylegan2.StyleGan2Config:
    config = stylegan2.StyleGan2Config(**our_arguments(arguments, _STYLEGAN2_ARGUMENTS))
    if arguments.get("layer_features") not in (None, config.w_dim):
        problem = f"a mapping of width {arguments['layer_features']} to w of size {config.w_dim} is not supported"
        raise UnderstudyError(problem, where="layer_features")
    return config


def load_stylegan2(arguments: Mapping[str, Any], weights: Arrays) -> stylegan2.StyleGan2:
    model = stylegan2.build(stylegan2_config(arguments))
    generator, judge = parts(weights)
    if any(re.match(r"synthesis\.b\d+\.skip\.", name) for name in generator):
        raise UnderstudyError("a residual generator is not supported", "G", "use a model of the architecture skip")
    if generator:
        fill(model.generator, generator, _STYLEGAN2_RULES, "G")
    if judge:
        fill(model.discriminator, judge, _judge_rules(model.config.resolution), "D")
    return model


_LAYER = r"synthesis\.L(\d+)_(\d+)_(\d+)\."


def load_stylegan3(arguments: Mapping[str, Any], weights: Arrays) -> stylegan3.StyleGan3:
    generator, judge = parts(weights)
    # widths of the discriminator, from the shapes: configuration R widens the generator only
    kernels = {name: re.fullmatch(r"b(\d+)\.(?:conv0|conv)\.weight", name) for name in judge}
    widths = {int(match[1]): len(judge[name]) for name, match in kernels.items() if match}
    config = stylegan3.StyleGan3Config(**our_arguments(arguments, _STYLEGAN3_ARGUMENTS))
    if widths:
        most = max(widths.values())
        narrow = [resolution * width for resolution, width in widths.items() if width < most]
        base = max(narrow, default=most * max(widths))
        config = config.model_copy(update={"discriminator_max": most, "discriminator_base": base})
    model = stylegan3.build(config)

    def layer(match: re.Match[str]) -> str:
        """Our name for a variable of a layer, whose official name says its number, size and width."""
        index, size, channels = (int(match[i]) for i in (1, 2, 3))
        name, bands = match[4].removesuffix("_ema"), config.bands
        expected = (bands[index].size, bands[index].channels) if index < len(bands) else None
        if expected != (size, channels):
            ours = expected or f"that there are {len(bands)} layers"
            problem = f"layer {index} has size {size} and {channels} channels; the configuration says {ours}"
            raise UnderstudyError(problem, f"G/{match.string}", "check resolution, channels, widths and the schedule")
        if index < config.num_layers:
            return f"synthesis.layers.{index}.{name}"
        return f"synthesis.to_image.{name if name in ('bias', 'magnitude') else 'conv.' + name}"

    if generator:
        _check_filters(model, generator)
        rules: Rules = [
            (r"mapping\.w_avg", "mapping.w_avg"),
            (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
            (r"synthesis\.input\.(weight|freqs|phases|transform|affine\.weight|affine\.bias)", r"synthesis.input.\1"),
            (_LAYER + r"(up_filter|down_filter)", None),
            (_LAYER + r"(weight|bias|magnitude_ema|affine\.weight|affine\.bias)", layer),
        ]
        fill(model.generator, generator, rules, "G")
    if judge:
        fill(model.discriminator, judge, _judge_rules(config.resolution), "D")
    return model


def _check_filters(model: stylegan3.StyleGan3, arrays: Arrays) -> None:
    """Filters follow from the configuration; other ones mean another schedule than ours."""
    for official, array in arrays.items():
        match = re.fullmatch(_LAYER + r"(up_filter|down_filter)", official)
        if match is None:
            continue
        index, layers = int(match[1]), model.generator.synthesis.layers
        layer = layers[index] if index < len(layers) else None
        ours = getattr(layer, match[4]) if isinstance(layer, stylegan3.FilteredConv) else np.ones(1)
        if ours.shape != array.shape or not np.allclose(ours, array, rtol=0, atol=1e-5 * np.abs(ours).max()):
            problem = f"filter of shape {array.shape} differs from the configured one of shape {ours.shape}"
            raise UnderstudyError(problem, f"G/{official}", "check cutoffs, stopbands, use_radial_filters, resolution")
