"""Operations and weights of a segmenter, counted on torch's `meta` device, which computes nothing."""

from __future__ import annotations

import functools

import torch
from torch.utils.flop_counter import FlopCounterMode

from understudy.segmenters.models import ModelConfig, build_model


@functools.lru_cache(maxsize=64)
def segmenter_cost(config: ModelConfig, channels: int, classes: int, resolution: int) -> tuple[int, int]:
    """Operations for one slice, forward as in prediction, and numbers in the network.

    Raises:
        UnderstudyError: architecture and resolution do not fit.
    """
    with torch.device("meta"):
        network = build_model(config, channels, classes, resolution).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.empty(1, channels, resolution, resolution))
    return int(counter.get_total_flops()), sum(parameter.numel() for parameter in network.parameters())
