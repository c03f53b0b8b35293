"""Operations and weights of a segmenter, counted on torch's `meta` device, which computes nothing."""

from __future__ import annotations

import functools

import torch

from understudy.segmenters.models import ModelConfig, build_model
from understudy.study.engine.measured import cost_key, counted


@functools.lru_cache(maxsize=64)
def segmenter_cost(config: ModelConfig, channels: int, classes: int, resolution: int) -> tuple[int, int]:
    """Operations for one slice, forward as in prediction, and numbers in the network; counted once.

    Raises:
        UnderstudyError: architecture and resolution do not fit.
    """
    what = {"config": config.model_dump(mode="json"), "channels": channels, "classes": classes}
    key = cost_key("segmenter", **what, resolution=resolution)
    operations, weights = counted(key, lambda: count_segmenter(config, channels, classes, resolution))
    return operations, weights


def count_segmenter(config: ModelConfig, channels: int, classes: int, resolution: int) -> tuple[int, int]:
    """Counts the network."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a while to import

    with torch.device("meta"):
        network = build_model(config, channels, classes, resolution).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.empty(1, channels, resolution, resolution))
    return int(counter.get_total_flops()), sum(parameter.numel() for parameter in network.parameters())
