"""Official weights of guided diffusion (openai/guided-diffusion)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.generators.networks.unet import Diffusion, DiffusionConfig, build
from understudy.generators.official.rules import Arguments, Arrays, Rules, fill, our_arguments

_ARGUMENTS: Arguments = {
    "image_size": "resolution", "in_channels": "channels", "model_channels": "model_channels",
    "num_res_blocks": "num_res_blocks", "num_heads": "num_heads", "use_scale_shift_norm": "scale_shift_norm",
    "resblock_updown": "resblock_updown", "dropout": "dropout", "steps": "steps", "noise_schedule": "noise_schedule",
    "learn_sigma": "learn_sigma", "rescale_timesteps": "rescale_timesteps", "rescale_learned_sigmas": "rescale_vlb",
    "num_classes": (None,), "dims": (2,), "conv_resample": (True,),
    **dict.fromkeys(("kind", "use_checkpoint", "use_fp16")),
    # converted one by one in `diffusion_config`
    **dict.fromkeys(("attention_resolutions", "channel_mult", "num_head_channels", "use_new_attention_order")),
    **dict.fromkeys(("out_channels", "num_heads_upsample")),
}  # fmt: skip
_DEFAULTS = {"num_heads": 1, "scale_shift_norm": False, "channel_mult": (1, 2, 4, 8), "steps": 1000}

_LAYERS = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "film", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "skip", "norm": "norm", "qkv": "qkv", "proj_out": "project",
    "op": "conv", "conv": "conv",
}  # fmt: skip
_STAGE = rf"(\d+)\.({'|'.join(map(re.escape, _LAYERS))})\.(weight|bias)"
_RULES: Rules = [
    (r"time_embed\.0\.(weight|bias)", r"time.0.\1"),
    (r"time_embed\.2\.(weight|bias)", r"time.1.\1"),
    (r"input_blocks\.0\.0\.(weight|bias)", r"stem.\1"),
    (r"out\.0\.(weight|bias)", r"norm.\1"),
    (r"out\.2\.(weight|bias)", r"out.\1"),
    (rf"middle_block\.{_STAGE}", lambda m: f"middle.{m[1]}.{_LAYERS[m[2]]}.{m[3]}"),
    # The official input block 0 is our stem.
    (rf"input_blocks\.(\d+)\.{_STAGE}", lambda m: f"encoder.{int(m[1]) - 1}.{m[2]}.{_LAYERS[m[3]]}.{m[4]}"),
    (rf"output_blocks\.(\d+)\.{_STAGE}", lambda m: f"decoder.{m[1]}.{m[2]}.{_LAYERS[m[3]]}.{m[4]}"),
]


def diffusion_config(arguments: Mapping[str, Any]) -> DiffusionConfig:
    """Our configuration for the arguments of the official network and its process; errors as of `our_arguments`."""
    ours: dict[str, Any] = {**_DEFAULTS, **our_arguments(arguments, _ARGUMENTS)}
    if "image_size" not in arguments:
        raise UnderstudyError("the size of the images is not given", where="image_size")
    ours["split_heads_first"] = not arguments.get("use_new_attention_order", False)
    width, up = arguments.get("num_head_channels", -1), arguments.get("num_heads_upsample", -1)
    if width not in (-1, None):
        ours["num_head_channels"] = width
    elif up not in (-1, None, arguments.get("num_heads")):
        raise UnderstudyError("other heads on the way up are not supported", where="num_heads_upsample")
    if "attention_resolutions" in arguments:
        # Given as down-rates. The official network asks for the exact rate: others than powers of two are never met.
        rates = [rate for rate in arguments["attention_resolutions"] if ours["resolution"] % rate == 0]
        ours["attention_resolutions"] = tuple(ours["resolution"] // rate for rate in rates)
    if "channel_mult" in arguments:
        ours["channel_mult"] = tuple(float(factor) for factor in arguments["channel_mult"])
    if (outputs := arguments.get("out_channels")) is not None:
        channels = int(ours.setdefault("channels", outputs))
        if outputs not in (channels, 2 * channels):
            raise UnderstudyError(f"{outputs} outputs for {channels} channels", where="out_channels")
        if ours.setdefault("learn_sigma", outputs == 2 * channels) != (outputs == 2 * channels):
            raise UnderstudyError(f"learn_sigma contradicts {outputs} outputs for {channels} channels")
    return DiffusionConfig(**ours)


def load_diffusion(arguments: Mapping[str, Any], weights: Arrays) -> Diffusion:
    """The U-Net with official weights (a `model*.pt` or `ema_*.pt`, as arrays); see `load_official_arrays`."""
    model = build(diffusion_config(arguments))
    arrays = {k.removeprefix("M/"): np.asarray(v) for k, v in weights.items()}
    for name, array in arrays.items():
        if re.search(r"\.(qkv|proj_out)\.weight$", name) and array.ndim == 3:  # convolutions of length 1
            arrays[name] = array[:, :, 0]
    fill(model.generator, arrays, _RULES, "M")
    return model


# --- the architecture, read off the names and shapes of the weights ---

_FIX = "give a model of guided-diffusion's U-Net without labels, trained with convolutions for resampling"


def unet_arguments(weights: Arrays) -> dict[str, Any]:
    """Official arguments of the U-Net with these weights ("M/..." or without prefix).

    What weights cannot tell is left out: the resolution, the heads of the attention, the steps and the noise schedule.

    Raises:
        UnderstudyError: the weights are of another form than the U-Net's.
    """
    shapes = {name.removeprefix("M/"): array.shape for name, array in weights.items()}
    if "label_emb.weight" in shapes:
        raise UnderstudyError("the model is conditioned on labels, which is not supported", fix=_FIX)
    try:
        channels, unit = shapes["input_blocks.0.0.weight"][1], shapes["time_embed.0.weight"][1]
        outputs = shapes["out.2.weight"][0]
        if outputs not in (channels, 2 * channels):
            raise ValueError(f"{outputs} outputs for {channels} channels")
        # Residual blocks of one level: on the way up a level has one more, and its last one is followed by a doubling.
        indices = sorted({int(m[1]) for name in shapes if (m := re.match(r"output_blocks\.(\d+)\.0\.", name))})
        doubling = re.compile(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers)\.")
        doubled = [int(m[1]) for name in shapes if (m := doubling.match(name))]
        blocks = min((index for index in indices if index in doubled), default=len(indices) - 1)
        widths, attending = _levels(shapes, blocks)
        return {
            "in_channels": channels, "out_channels": outputs, "learn_sigma": outputs == 2 * channels,
            "model_channels": unit, "num_res_blocks": blocks, "attention_resolutions": tuple(attending),
            "channel_mult": tuple(w // unit if w % unit == 0 else w / unit for w in widths),
            "use_scale_shift_norm": shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * widths[0],
            "resblock_updown": len(widths) > 1 and f"input_blocks.{blocks + 1}.0.in_layers.0.weight" in shapes,
        }  # fmt: skip
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        problem = f"the weights do not form guided-diffusion's U-Net (at {str(error)[:80]})"
        raise UnderstudyError(problem, fix=_FIX) from error


def _levels(shapes: dict[str, tuple[int, ...]], blocks: int) -> tuple[list[int], list[int]]:
    """Width of each level, and the halvings (1, 2, 4, ...) at which there is attention."""
    count = 1 + max(int(m[1]) for name in shapes if (m := re.match(r"input_blocks\.(\d+)\.", name)))
    widths, attending = [], []
    for level in range(count // (blocks + 1)):
        first = 1 + level * (blocks + 1)
        widths.append(shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0])
        if f"input_blocks.{first}.1.qkv.weight" in shapes:
            attending.append(2**level)
    if count != len(widths) * (blocks + 1):
        raise ValueError(f"{count} input blocks")
    return widths, attending
