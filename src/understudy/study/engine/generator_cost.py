"""Operations and weights of a generator and its training, counted on torch's `meta` device, which computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from understudy.generators import registry as models
from understudy.generators.diffusion.samplers import SamplerConfig, default_sampler
from understudy.study.engine.measured import cost_key, counted

_COUNTED = 4  # images in a counted pass: one group of the minibatch deviation


@dataclass(frozen=True)
class GeneratorCost:
    """What a generator costs.

    Attributes:
        forward: operations of the generator for one image, forward.
        scores: operations of the discriminator for one image, forward; 0 without one.
        weights: numbers in all its networks.
    """

    forward: int
    scores: int
    weights: int


def generator_cost(config: Any) -> GeneratorCost:
    """What the network of a configuration costs, counted once."""
    key = cost_key("generator", config=config.model_dump(mode="json"))
    return GeneratorCost(*counted(key, lambda: count_generator(config)))


def count_generator(config: Any) -> tuple[int, int, int]:
    """Counts the network of a configuration: the fields of `GeneratorCost`."""
    with torch.device("meta"):
        network: Any = models.build(config)
        images = torch.empty(_COUNTED, config.channels, config.resolution, config.resolution)
        if config.kind == "diffusion":
            forward = _count(network.generator, images, torch.empty(_COUNTED, dtype=torch.int64))
            scores = 0
        else:
            latents = torch.empty(_COUNTED, network.generator.latents(0, 0, 1).shape[1])
            full = {"level": 0.0} if config.kind in ("progan", "stylegan1") else {}  # a buffer has no value here
            forward = _count(network.generator, latents, **full)
            scores = _count(network.discriminator, images)
        weights = sum(parameter.numel() for parameter in network.parameters())
    return forward // _COUNTED, scores // _COUNTED, weights


def training_work(config: Any, training: Any) -> float:
    """Operations of the whole training.

    A backward pass costs two forward ones. GANs: G learns from 3 G + 3 D and D from 1 G + 6 D an image; the penalties
    add a third where they are lazy, and 9 D where every step differentiates twice.
    """
    images = training.kimg * 1000
    if config.kind == "diffusion":
        return 3.0 * images * generator_cost(config).forward
    if config.kind in ("stylegan2", "stylegan3"):
        cost = generator_cost(config)
        return images * (4 * cost.forward + 9 * cost.scores) * 4 / 3
    work, left, edge = 0.0, images, max(4, training.start_resolution)
    while True:  # each resolution for its time; while one fades in, the networks already work at its size
        cost = _at(config, edge)
        span = (training.stabilise_kimg + training.fade_kimg) * 1000
        shown = left if edge >= config.resolution else min(left, span)
        work += shown * (4 * cost.forward + 18 * cost.scores)
        left -= shown
        if left <= 0 or edge >= config.resolution:
            return work
        edge *= 2


def sampling_work(config: Any, sampler: SamplerConfig | None) -> float:
    """Operations of one sample."""
    steps = 1
    if config.kind == "diffusion":
        steps = (sampler or default_sampler(config.steps)).steps or config.steps
    return float(steps * generator_cost(config).forward)


def _at(config: Any, edge: int) -> GeneratorCost:
    """Cost of a growing model while it works at a resolution: about a quarter with every halving below 16."""
    size = max(edge, 16)
    shrink = (size // edge) ** 2
    cost = generator_cost(config.model_copy(update={"resolution": size}))
    return GeneratorCost(cost.forward // shrink, cost.scores // shrink, cost.weights)


def _count(module: torch.nn.Module, *inputs: torch.Tensor, **options: float) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # takes a while to import

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs, **options)
    return int(counter.get_total_flops())
