"""The networks of this package with official weights: what official arguments and variables are called here.

A rule is (pattern of the whole official name, our name or a function that makes it); None: derived, not a weight.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from understudy.errors import UnderstudyError
from understudy.generators.networks import progan, stylegan1, stylegan2, stylegan3, unet
from understudy.io.readers import built

Arrays = Mapping[str, NDArray[Any]]
Rules = list[tuple[str, str | Callable[[re.Match[str]], str] | None]]
Layout = Callable[[str, NDArray[Any]], NDArray[Any]]  # official name and array -> the array in our layout
# Official name of an argument -> our name, the only values that this package implements, or None: without effect here.
Arguments = dict[str, str | tuple[Any, ...] | None]


def load_official_arrays(config: Mapping[str, Any], weights: Arrays) -> nn.Module:
    """The network of this package with official weights.

    Args:
        config: arguments of the official network by their official names, and `kind` ("sg2").
        weights: arrays by their official names, "G/...", "D/..." (either may be absent), or "M/..." of a U-Net.

    Raises:
        UnderstudyError: unknown kind, argument or variable, a value that the network here cannot have, a wrong shape,
            or missing variables.
    """
    kind = str(config.get("kind", "sg2"))
    if kind not in _LOADERS:
        raise UnderstudyError(f"unknown kind of official model {kind!r}", fix=f"supported: {', '.join(_LOADERS)}")
    try:
        return _LOADERS[kind](config, weights)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        reason = f"{name}: {problem['msg']}" if name else problem["msg"].removeprefix("Value error, ")
        fix = "resolutions are powers of two from 16 to 512"
        if kind == "diffusion":
            fix = "check the options --resolution, --schedule, --heads and --head-channels"
        raise UnderstudyError(f"the model cannot be built here: {reason}", fix=fix) from error


def _built(build: Callable[[Any], Any], config: Any, weights: Arrays) -> Any:
    return built(build, config, weights.values(), Path("sizes of the network"))


def _ours(arguments: Mapping[str, Any], known: Arguments) -> dict[str, Any]:
    # arguments of the official network by our names
    ours: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in known:
            raise UnderstudyError("unknown argument of the official network", where=name)
        meaning = known[name]
        if isinstance(meaning, str):
            ours[meaning] = value
        elif meaning is not None and (tuple(value) if isinstance(value, list) else value) not in meaning:
            raise UnderstudyError(f"{name} = {value!r} is not supported", name, f"use {' or '.join(map(str, meaning))}")
    return ours


def _part(weights: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}


def _fill(module: nn.Module, arrays: Arrays, rules: Rules, part: str, layout: Layout = lambda name, x: x) -> None:
    # fills every parameter and buffer; every array is used or known to be derived. `part`: "G", "D" or "M"
    state = module.state_dict()
    missing = set(state)
    for official, array in arrays.items():
        matches = ((re.fullmatch(pattern, official), target) for pattern, target in rules)
        match, target = next(((m, target) for m, target in matches if m), (None, None))
        if match is None:
            raise UnderstudyError("unknown variable in the official weights", official, "check the kind of the model")
        if target is None:
            continue
        name = match.expand(target) if isinstance(target, str) else target(match)
        array = layout(official, array)
        if name not in state or state[name].shape != array.shape:
            expected = tuple(state[name].shape) if name in state else "nothing"
            problem = f"official weight of shape {array.shape} where {expected} is expected"
            raise UnderstudyError(problem, f"{part}/{official}", "check resolution, channels and widths")
        state[name] = torch.from_numpy(np.array(array, np.float32))
        missing.discard(name)
    if missing:
        problem = f"the official weights lack {len(missing)} variables, e.g. {sorted(missing)[0]}"
        raise UnderstudyError(problem, part, "the file is incomplete or of another configuration")
    module.load_state_dict(state)


def _stage(resolution: str | int) -> int:
    # index of a resolution: 0 for 4, 1 for 8, ...
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
    ours = _ours(arguments, known)
    return ours | ({"mbstd_group": 1} if ours.get("mbstd_group") == 0 else {})  # both mean none


def _tf_layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
    # kernels of enlarging layers excepted
    if name.endswith("/weight") and array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if name.endswith("/weight") and array.ndim == 2 else array


def _fill_tf(model: progan.ProGan | stylegan1.StyleGan1, weights: Arrays, rules: Rules, layout: Layout) -> None:
    # `rules` and `layout` are the generator's
    top = _stage(model.config.resolution)
    if generator := _part(weights, "G/"):
        grown = {"lod": np.zeros(()), **generator}  # how far it has grown: all, if the file does not say
        rules = [
            ("lod", "level"),
            *rules,
            (r"(?:G_synthesis/)?ToRGB_lod(\d+)/(weight|bias)", lambda m: f"to_image.{top - int(m[1])}.{m[2]}"),
        ]
        _fill(model.generator, grown, rules, "G", layout)
    if judge := _part(weights, "D/"):
        rules = [
            ("lod", None),
            (r"FromRGB_lod(\d+)/(weight|bias)", lambda m: f"from_image.{top - int(m[1])}.{m[2]}"),
            (r"4x4/Conv/(weight|bias)", r"conv.\1"),
            (r"4x4/Dense0/(weight|bias)", r"dense.\1"),
            (r"4x4/Dense1/(weight|bias)", r"out.\1"),
            (r"(\d+)x\1/Conv(0|1_down)/(weight|bias)", lambda m: f"blocks.{_stage(m[1]) - 1}.conv{m[2][0]}.{m[3]}"),
        ]
        _fill(model.discriminator, judge, rules, "D", _tf_layout)


def _load_progan(arguments: Mapping[str, Any], weights: Arrays) -> progan.ProGan:
    dense = weights.get("G/4x4/Dense/weight")
    if dense is not None and not arguments.keys() & {"z_dim", "latent_size"}:
        arguments = {**arguments, "z_dim": dense.shape[0]}
    model = _built(progan.build, progan.ProGanConfig(**_tf_arguments(arguments, _PROGAN_ARGUMENTS)), weights)

    def layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
        if name.endswith("Conv0_up/weight") and array.ndim == 4:
            # of a transposed convolution, [height, width, outputs, inputs], read backwards as one behind an enlargement
            return np.ascontiguousarray(array[::-1, ::-1]).transpose(2, 3, 0, 1)
        return _tf_layout(name, array)

    rules: Rules = [
        (r"4x4/Dense/(weight|bias)", r"first.\1"),
        (r"4x4/Conv/(weight|bias)", r"first.conv.\1"),
        (r"(\d+)x\1/Conv([01])(?:_up)?/(weight|bias)", lambda m: f"blocks.{_stage(m[1]) - 1}.conv{m[2]}.{m[3]}"),
    ]
    _fill_tf(model, weights, rules, layout)
    return model


def stylegan1_config(arguments: Mapping[str, Any]) -> stylegan1.StyleGan1Config:
    """Our configuration for the arguments of an official StyleGAN."""
    return stylegan1.StyleGan1Config(**_tf_arguments(arguments, _STYLEGAN1_ARGUMENTS))


def _load_stylegan1(arguments: Mapping[str, Any], weights: Arrays) -> stylegan1.StyleGan1:
    # sizes of the mapping, as its arrays tell them; what is missing or misshapen is named when the network is filled
    count = sum(re.fullmatch(r"G/G_mapping/Dense\d+/weight", name) is not None for name in weights)
    first, last = (weights.get(f"G/G_mapping/Dense{i}/weight") for i in (0, count - 1))
    if first is not None and last is not None and first.ndim == last.ndim == 2:
        sizes = {"z_dim": first.shape[0], "w_dim": last.shape[1], "mapping_layers": count}
        sizes |= {"mapping_fmaps": first.shape[1]} if count > 1 else {}
        arguments = {**sizes, **arguments}
    model = _built(stylegan1.build, stylegan1_config(arguments), weights)
    fused = arguments.get("fused_scale", "auto")

    def layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
        match = re.search(r"(\d+)x\1/Conv0_up/weight", name)
        # "auto" enlarges by transposed convolutions from 128 pixels on
        if match and array.ndim == 4 and (fused is True or (fused == "auto" and int(match[1]) >= 128)):
            array = np.ascontiguousarray(array[::-1, ::-1])
        return _tf_layout(name, array)

    ours = {
        "weight": "conv{}.weight", "bias": "style{}.bias", "Noise/weight": "style{}.noise_weight",
        "StyleMod/weight": "style{}.affine.weight", "StyleMod/bias": "style{}.affine.bias",
    }  # fmt: skip
    rules: Rules = [
        ("G_synthesis/lod", None),
        ("dlatent_avg", "mapping.w_avg"),
        (r"G_mapping/Dense(\d+)/(weight|bias)", r"mapping.layers.\1.\2"),
        ("G_synthesis/4x4/Const/const", "blocks.0.const"),
        (r"G_synthesis/(\d+)x\1/(Const|Conv|Conv0_up|Conv1)/((?:Noise/|StyleMod/)?weight|(?:StyleMod/)?bias)",
         lambda m: f"blocks.{_stage(m[1])}." + ours[m[3]].format(int(m[2] in ("Conv1", "Conv")))),
        (r"G_synthesis/noise(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.style{int(m[1]) % 2}.noise_const"),
    ]  # fmt: skip
    _fill_tf(model, weights, rules, layout)
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
_MAPPING: Rules = [(r"mapping\.w_avg", "mapping.w_avg"), (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2")]
_BLOCK = r"synthesis\.b(\d+)\."
_STYLEGAN2_RULES: Rules = [
    (r".*resample_filter", None),
    *_MAPPING,
    (_BLOCK + "const", lambda m: f"synthesis.blocks.{_stage(m[1])}.const"),
    (_BLOCK + r"(conv[01]|torgb)\.(weight|affine\.weight|affine\.bias)",
     lambda m: f"synthesis.blocks.{_stage(m[1])}.{m[2].replace('torgb', 'to_image')}.conv.{m[3]}"),
    (_BLOCK + r"(conv[01])\.(bias|noise_strength|noise_const)",
     lambda m: f"synthesis.blocks.{_stage(m[1])}.{m[2]}.{m[3]}"),
    (_BLOCK + r"torgb\.bias", lambda m: f"synthesis.blocks.{_stage(m[1])}.to_image.bias"),
]  # fmt: skip
_LAYER = r"synthesis\.L(\d+)_(\d+)_(\d+)\."


def _fill_torch(model: stylegan2.StyleGan2 | stylegan3.StyleGan3, weights: Arrays, rules: Rules) -> None:
    # `rules` are the generator's
    top = _stage(model.config.resolution)
    if generator := _part(weights, "G/"):
        _fill(model.generator, generator, rules, "G")
    if judge := _part(weights, "D/"):
        rules = [
            (r".*resample_filter", None),
            (r"b(\d+)\.fromrgb\.(weight|bias)", lambda m: f"blocks.{top - _stage(m[1])}.from_image.{m[2]}"),
            (r"b4\.(conv|fc|out)\.(weight|bias)", lambda m: f"{m[1].replace('fc', 'dense')}.{m[2]}"),
            (r"b(\d+)\.(conv0|conv1|skip)\.(weight|bias)", lambda m: f"blocks.{top - _stage(m[1])}.{m[2]}.{m[3]}"),
        ]
        _fill(model.discriminator, judge, rules, "D")


def stylegan2_config(arguments: Mapping[str, Any]) -> stylegan2.StyleGan2Config:
    """Our configuration for the arguments of an official StyleGAN 2."""
    config = stylegan2.StyleGan2Config(**_ours(arguments, _STYLEGAN2_ARGUMENTS))
    if arguments.get("layer_features") not in (None, config.w_dim):
        problem = f"a mapping of width {arguments['layer_features']} to w of size {config.w_dim} is not supported"
        raise UnderstudyError(problem, where="layer_features")
    return config


def _load_stylegan2(arguments: Mapping[str, Any], weights: Arrays) -> stylegan2.StyleGan2:
    model = _built(stylegan2.build, stylegan2_config(arguments), weights)
    if any(re.match(r"G/synthesis\.b\d+\.skip\.", name) for name in weights):
        raise UnderstudyError("a residual generator is not supported", "G", "use a model of the architecture skip")
    _fill_torch(model, weights, _STYLEGAN2_RULES)
    return model


def _load_stylegan3(arguments: Mapping[str, Any], weights: Arrays) -> stylegan3.StyleGan3:
    config = stylegan3.StyleGan3Config(**_ours(arguments, _STYLEGAN3_ARGUMENTS))
    # widths of the discriminator, from the shapes: configuration R widens the generator only
    kernels = {name: re.fullmatch(r"D/b(\d+)\.(?:conv0|conv)\.weight", name) for name in weights}
    if widths := {int(match[1]): len(weights[name]) for name, match in kernels.items() if match}:
        most = max(widths.values())
        narrow = [resolution * width for resolution, width in widths.items() if width < most]
        base = max(narrow, default=most * max(widths))
        config = config.model_copy(update={"discriminator_max": most, "discriminator_base": base})
    model = _built(stylegan3.build, config, weights)

    def layer(match: re.Match[str]) -> str:
        # our name for a variable of a layer, whose official name says its number, size and width
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

    for name, array in weights.items():  # filters follow from the configuration; other ones mean another schedule
        if match := re.fullmatch("G/" + _LAYER + r"(up_filter|down_filter)", name):
            layers = dict(enumerate(model.generator.synthesis.layers))
            ours = getattr(layers.get(int(match[1])), match[4], np.ones(1))
            if ours.shape != array.shape or not np.allclose(ours, array, rtol=0, atol=1e-5 * np.abs(ours).max()):
                problem = f"filter of shape {array.shape} differs from the configured one of shape {ours.shape}"
                raise UnderstudyError(problem, name, "check cutoffs, stopbands, use_radial_filters, resolution")
    rules: Rules = [
        *_MAPPING,
        (r"synthesis\.input\.(weight|freqs|phases|transform|affine\.weight|affine\.bias)", r"synthesis.input.\1"),
        (_LAYER + r"(up_filter|down_filter)", None),
        (_LAYER + r"(weight|bias|magnitude_ema|affine\.weight|affine\.bias)", layer),
    ]
    _fill_torch(model, weights, rules)
    return model


# --- guided diffusion (openai/guided-diffusion) ---

_UNET_ARGUMENTS: Arguments = {
    "image_size": "resolution", "steps": "steps", "noise_schedule": "noise_schedule", "num_heads": "num_heads",
    "num_head_channels": "num_head_channels", "rescale_timesteps": "rescale_timesteps",
    "use_new_attention_order": (True, False),
    # read off the weights
    **dict.fromkeys(("kind", "in_channels", "model_channels", "out_channels", "num_res_blocks", "channel_mult")),
    **dict.fromkeys(("attention_resolutions", "use_scale_shift_norm", "resblock_updown", "learn_sigma")),
}  # fmt: skip
# Widths of the U-Net -> the resolution for which guided-diffusion has them by default.
_RESOLUTIONS = {(1, 2, 3, 4): 64, (1, 1, 2, 3, 4): 128, (1, 1, 2, 2, 4, 4): 256, (0.5, 1, 1, 2, 2, 4, 4): 512}
_UNET = "give a model of guided-diffusion's U-Net without labels, trained with convolutions for resampling"
_UNET_LAYERS = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "film", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "skip", "norm": "norm", "qkv": "qkv", "proj_out": "project",
    "op": "conv", "conv": "conv",
}  # fmt: skip
_UNIT = rf"(\d+)\.({'|'.join(map(re.escape, _UNET_LAYERS))})\.(weight|bias)"
_UNET_RULES: Rules = [
    (r"time_embed\.0\.(weight|bias)", r"time.0.\1"),
    (r"time_embed\.2\.(weight|bias)", r"time.1.\1"),
    (r"input_blocks\.0\.0\.(weight|bias)", r"stem.\1"),
    (r"out\.0\.(weight|bias)", r"norm.\1"),
    (r"out\.2\.(weight|bias)", r"out.\1"),
    (rf"middle_block\.{_UNIT}", lambda m: f"middle.{m[1]}.{_UNET_LAYERS[m[2]]}.{m[3]}"),
    # The official input block 0 is our stem.
    (rf"input_blocks\.(\d+)\.{_UNIT}", lambda m: f"encoder.{int(m[1]) - 1}.{m[2]}.{_UNET_LAYERS[m[3]]}.{m[4]}"),
    (rf"output_blocks\.(\d+)\.{_UNIT}", lambda m: f"decoder.{m[1]}.{m[2]}.{_UNET_LAYERS[m[3]]}.{m[4]}"),
]


def unet_config(weights: Arrays, told: Mapping[str, Any]) -> unet.DiffusionConfig:
    """Our configuration of guided-diffusion's U-Net, from names and shapes of its weights, and what they do not tell.

    Args:
        weights: "M/...", see `load_official_arrays`.
        told: by official names: steps and noise_schedule always, image_size where the widths are not guided-diffusion's
            own, num_heads (default 4) or num_head_channels, use_new_attention_order, rescale_timesteps.

    Raises:
        UnderstudyError: the weights are of another form than the U-Net's, or something is not told.
    """
    ours = _ours(told, _UNET_ARGUMENTS)
    ours["split_heads_first"] = not told.get("use_new_attention_order", False)
    if {"num_heads", "num_head_channels"} <= told.keys():
        raise UnderstudyError("both num_heads and num_head_channels are given", fix="give the one of the training")
    shapes = {name.removeprefix("M/"): array.shape for name, array in weights.items()}
    if "label_emb.weight" in shapes:
        raise UnderstudyError("the model is conditioned on labels, which is not supported", "label_emb", _UNET)
    try:
        found, rates = _unet_shapes(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        problem = f"the weights do not form guided-diffusion's U-Net (at {str(error)[:80]})"
        raise UnderstudyError(problem, fix=_UNET) from error
    if found["channel_mult"] in _RESOLUTIONS:
        ours.setdefault("resolution", _RESOLUTIONS[found["channel_mult"]])
    needed = {
        "resolution": "image_size (--resolution)", "steps": "steps (--steps)",
        "noise_schedule": "noise_schedule (--schedule)",
    }  # fmt: skip
    if missing := [words for name, words in needed.items() if name not in ours]:
        problem = f"a .pt holds only weights, which do not tell {', '.join(missing)}"
        paper = "the paper's authors used --resolution 256 --steps 4000 --schedule linear"
        own = "guided-diffusion's own defaults are --steps 1000 --schedule linear"
        raise UnderstudyError(problem, fix=f"give them as in the training: {paper}; {own}")
    attention = tuple(ours["resolution"] // rate for rate in rates)
    return unet.DiffusionConfig(**found, **ours, attention_resolutions=attention)


def _unet_shapes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], list[int]]:
    # the architecture by our names, and the halvings (1, 2, 4, ...) at which there is attention
    def blocks_with(pattern: str) -> set[int]:
        return {int(match[1]) for name in shapes if (match := re.match(pattern, name))}

    channels, unit = shapes["input_blocks.0.0.weight"][1], shapes["time_embed.0.weight"][1]
    outputs = shapes["out.2.weight"][0]
    if outputs not in (channels, 2 * channels):
        raise ValueError(f"{outputs} outputs for {channels} channels")
    # Residual blocks of one level: on the way up a level has one more, and its last one is followed by a doubling.
    doubled = blocks_with(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers)\.")
    blocks = min(doubled, default=len(blocks_with(r"output_blocks\.(\d+)\.0\.")) - 1)
    count = 1 + max(blocks_with(r"input_blocks\.(\d+)\."))
    firsts = range(1, count, blocks + 1)  # the first block of each level
    if count != len(firsts) * (blocks + 1):
        raise ValueError(f"{count} input blocks")
    widths = [shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0] for first in firsts]
    found = {
        "channels": channels, "model_channels": unit, "learn_sigma": outputs == 2 * channels, "num_res_blocks": blocks,
        "channel_mult": tuple(width / unit for width in widths),
        "scale_shift_norm": shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * widths[0],
        "resblock_updown": len(widths) > 1 and f"input_blocks.{blocks + 1}.0.in_layers.0.weight" in shapes,
    }  # fmt: skip
    return found, [2**level for level, first in enumerate(firsts) if f"input_blocks.{first}.1.qkv.weight" in shapes]


def _load_diffusion(arguments: Mapping[str, Any], weights: Arrays) -> unet.Diffusion:
    def layout(name: str, array: NDArray[Any]) -> NDArray[Any]:
        convolution = re.search(r"\.(qkv|proj_out)\.weight$", name) and array.ndim == 3  # of length 1
        return array[:, :, 0] if convolution else array

    model = _built(unet.build, unet_config(weights, arguments), weights)
    _fill(model.generator, _part(weights, "M/"), _UNET_RULES, "M", layout)
    return model


_LOADERS: dict[str, Callable[[Mapping[str, Any], Arrays], nn.Module]] = {
    "progan": _load_progan, "sg1": _load_stylegan1, "sg2": _load_stylegan2, "sg3t": _load_stylegan3,
    "sg3r": _load_stylegan3, "diffusion": _load_diffusion,
}  # fmt: skip
