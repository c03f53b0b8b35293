"""The architecture of guided-diffusion's U-Net, read off the names and shapes of its weights."""

from __future__ import annotations

import re
from typing import Any

from understudy.errors import UnderstudyError
from understudy.generators.official.names import Arrays

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
        return _arguments(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnderstudyError(
            f"the weights do not form guided-diffusion's U-Net (at {str(error)[:80]})", fix=_FIX
        ) from error


def _arguments(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    channels, unit = shapes["input_blocks.0.0.weight"][1], shapes["time_embed.0.weight"][1]
    outputs = shapes["out.2.weight"][0]
    if outputs not in (channels, 2 * channels):
        raise ValueError(f"{outputs} outputs for {channels} channels")
    blocks = _block_count(shapes)
    levels, attending = _levels(shapes, blocks)
    embedding, width = shapes["input_blocks.1.0.emb_layers.1.weight"][0], levels[0]
    return {
        "in_channels": channels,
        "out_channels": outputs,
        "learn_sigma": outputs == 2 * channels,
        "model_channels": unit,
        "num_res_blocks": blocks,
        "channel_mult": tuple(w // unit if w % unit == 0 else w / unit for w in levels),
        "attention_resolutions": tuple(attending),
        "use_scale_shift_norm": embedding == 2 * width,
        "resblock_updown": len(levels) > 1 and f"input_blocks.{blocks + 1}.0.in_layers.0.weight" in shapes,
    }


def _block_count(shapes: dict[str, tuple[int, ...]]) -> int:
    """Residual blocks of one level: on the way up a level has one more, and its last one is followed by a doubling."""
    indices = {int(m[1]) for name in shapes if (m := re.match(r"output_blocks\.(\d+)\.0\.", name))}
    for index in sorted(indices):
        tail = {name.split(".", 2)[2] for name in shapes if name.startswith(f"output_blocks.{index}.")}
        if any(re.match(r"[12]\.(conv|in_layers)\.", name) for name in tail):
            return index
    return len(indices) - 1


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
