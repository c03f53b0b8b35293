"""Small networks of all kinds and trainings of them, for the slices of `conftest.slices`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from understudy.generators.registry import model_config, network_type
from understudy.generators.training.config import TrainingConfig
from understudy.generators.training.distributed import ProcessGroup
from understudy.slices import SliceSet

SMALL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "progan": (
        {"fmap_base": 64, "fmap_max": 8},
        {"start_resolution": 8, "stabilise_kimg": 0.024, "fade_kimg": 0.024, "batches": {8: 16}},
    ),
    "stylegan1": (
        {"fmap_base": 64, "fmap_max": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "mapping_width": 8},
        {"start_resolution": 8, "stabilise_kimg": 0.024, "fade_kimg": 0.024, "batches": {8: 16}},
    ),
    "stylegan2": (
        {"channel_base": 128, "channel_max": 16, "z_dim": 16, "w_dim": 16, "mapping_layers": 2},
        {"r1_interval": 4},
    ),
    "stylegan3": (
        {"channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "num_layers": 4, "margin": 4},
        {"r1_interval": 4, "blur_sigma": 1.0},
    ),
    "diffusion": ({"model_channels": 8, "num_res_blocks": 1, "num_heads": 2, "steps": 50, "dropout": 0.1}, {}),
}
"""kind -> fields of a network of a few thousand weights, and of a training that shows what is special about it"""


def small(kind: str, **training: Any) -> tuple[Any, TrainingConfig]:
    """A small network for the slices below, and a training of it: 12 steps of 8 images if nothing else is said."""
    fields, own = SMALL[kind]
    model = model_config({"kind": kind, "resolution": 16, "channels": 3, **fields})
    defaults = {"kimg": 0.096, "batch": 8, "seed": 3, "tensorboard": False, "precision": "fp32"}
    return model, network_type(kind).training(**{**defaults, **own, **training})


def state_of(
    slices: SliceSet,
    kind: str = "stylegan2",
    model: dict[str, Any] | None = None,
    processes: ProcessGroup | None = None,
    **training: Any,
) -> Any:
    """The state of a training of a small network (with the fields `model` changed) on the CPU."""
    config, settings = small(kind, **training)
    config = config.model_copy(update=model or {})
    rows, device = np.arange(len(slices)), torch.device("cpu")
    return network_type(kind).state(slices, rows, config, settings, device, processes)
