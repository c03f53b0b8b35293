"""The U-Net's architecture from the names and shapes of its weights."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from understudy.errors import UnderstudyError
from understudy.generators.networks.unet import DiffusionConfig, build
from understudy.generators.official.weights import unet_config

_LAYERS = {"norm1": "in_layers.0", "conv1": "in_layers.2", "film": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "skip": "skip_connection", "project": "proj_out"}  # fmt: skip


def official_shapes(config: DiffusionConfig) -> dict[str, np.ndarray]:
    """Arrays of one byte an element with the official names and our shapes."""
    arrays = {}
    with torch.device("cpu"):
        state = build(config).generator.state_dict()
    for name, value in state.items():
        official = re.sub(r"^encoder\.(\d+)", lambda m: f"input_blocks.{int(m[1]) + 1}", name)
        official = re.sub(r"^decoder", "output_blocks", official)
        official = re.sub(r"^middle", "middle_block", official).replace("time.1", "time.2")
        official = re.sub(r"^time", "time_embed", official)
        official = re.sub(r"^stem", "input_blocks.0.0", official)
        official = re.sub(r"^norm", "out.0", re.sub(r"^out\.(?=weight|bias)", "out.2.", official))
        place = re.match(r"(.*blocks?(?:\.\d+)+)\.(\w+)\.(weight|bias)", official)
        if place and not official.startswith("input_blocks.0."):
            layer = _LAYERS.get(place[2], place[2])
            if place[2] == "conv":
                layer = "op" if official.startswith("input") else "conv"
            official = f"{place[1]}.{layer}.{place[3]}"
        arrays[f"M/{official}"] = np.zeros(tuple(value.shape), np.bool_)
    return arrays


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resolution": 64, "channel_mult": (1, 2, 3, 4), "attention_resolutions": (32, 16, 8)},
        {"resblock_updown": True, "learn_sigma": True, "num_res_blocks": 3},
        {"scale_shift_norm": False, "channel_mult": (1,), "attention_resolutions": ()},
        {"channel_mult": (0.5, 1, 2), "model_channels": 64, "channels": 2},
        {"resblock_updown": True, "channel_mult": (1, 1), "num_res_blocks": 2, "attention_resolutions": (32,)},
    ],
)
def test_the_architecture_is_read_off_the_weights(options: dict[str, Any]) -> None:
    basis = {"resolution": 32, "model_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2, 2),
             "attention_resolutions": (16,)}  # fmt: skip
    config = DiffusionConfig(**basis | options)
    told = {"image_size": config.resolution, "steps": 4000, "noise_schedule": "linear", "num_heads": 4}
    assert unet_config(official_shapes(config), told) == config


def test_other_networks_are_refused() -> None:
    arrays = official_shapes(DiffusionConfig(resolution=16, model_channels=32, num_res_blocks=1))
    for wrong in (
        {k: v for k, v in arrays.items() if not k.startswith("M/output_blocks")},
        {k: v for k, v in arrays.items() if k != "M/input_blocks.1.0.out_layers.3.weight"},
        arrays | {"M/out.2.weight": np.zeros((7, 32, 3, 3))},
        arrays | {"M/input_blocks.0.0.weight": np.zeros(3)},
        arrays | {"M/label_emb.weight": np.zeros((3, 3))},
        arrays | {"M/input_blocks.99.0.in_layers.0.weight": np.zeros(3)},
    ):
        with pytest.raises(UnderstudyError):
            unet_config(wrong, {"image_size": 16, "steps": 1000, "noise_schedule": "linear"})
