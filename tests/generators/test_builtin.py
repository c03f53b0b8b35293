"""Operations of networks and trainings, as torch counts them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import SMALL, small
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.registry import build, model_config, network_type
from understudy.slices import SliceSet


@pytest.mark.parametrize("kind", SMALL)
def test_operations_are_those_of_a_real_pass(kind: str) -> None:
    config, _ = small(kind)
    network = build(config)
    if network_type(kind).takes_sampler:
        inputs = [torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64)]
    else:
        inputs = [network.generator.latents(0, 0, 4)]
    # torch counts attention only where it is plain matrix products
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.generator(*inputs)
    cost = network_type(kind).count(config)
    assert cost.forward == counter.get_total_flops() // 4
    assert (cost.scores > 0) == hasattr(network, "discriminator")
    assert cost.weights == sum(p.numel() for p in network.parameters())


class Counter(TorchDispatchMode):
    """Operations of whatever runs inside; torch's own counter has hooks that a gradient penalty breaks."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


WIDE: dict[str, dict[str, Any]] = {  # wide enough that what is not counted (noise, minibatch deviation) is small
    "progan": {"fmap_base": 256, "fmap_max": 64},
    "stylegan1": {"fmap_base": 256, "fmap_max": 64, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "mapping_width": 8},
    "stylegan2": {"channel_base": 512, "channel_max": 32, "z_dim": 8, "w_dim": 8, "mapping_layers": 2},
    "stylegan3": {"channel_base": 256, "channel_max": 16, "z_dim": 8, "w_dim": 8, "num_layers": 4},
    "diffusion": {"model_channels": 8, "num_res_blocks": 1, "num_heads": 2, "steps": 50},
}


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        ("progan", {"start_resolution": 16}),
        ("stylegan1", {"start_resolution": 16}),
        ("stylegan1", {"start_resolution": 16, "r1_interval": 2}),
        ("stylegan2", {"r1_interval": 1, "pl_interval": 1}),
        ("stylegan2", {"r1_interval": 2, "pl_interval": 2, "pl_shrink": 1}),
        ("stylegan2", {"r1_interval": 1, "r1_gamma": 0, "pl_weight": 0}),
        ("stylegan3", {"r1_interval": 1}),
        ("diffusion", {}),
    ],
)
def test_a_training_costs_what_its_steps_do(kind: str, training: dict[str, Any], slices: SliceSet) -> None:
    parts = network_type(kind)
    config = model_config({"kind": kind, "resolution": 16, "channels": 3, **WIDE[kind]})
    chosen = {"kimg": 0.016, "batch": 8, "precision": "fp32", "tensorboard": False, **training}
    settings = parts.training(**({"batches": {}} if "start_resolution" in training else {}) | chosen)
    state = parts.state(slices, np.arange(len(slices)), config, settings, torch.device("cpu"))
    with sdpa_kernel(SDPBackend.MATH), Counter() as counter:
        for state.steps in range(2):
            state.step()
    close = 0.2 if kind == "stylegan3" else 0.1  # its filters have no gradients
    assert parts.training_operations(config, settings, parts.count) == pytest.approx(counter.total, rel=close)


@pytest.mark.parametrize("kind", SMALL)
def test_work_follows_the_images(kind: str) -> None:
    parts, config = network_type(kind), small(kind)[0]
    some, more, all_ = (parts.training_operations(config, small(kind, kimg=k)[1], parts.count) for k in (20, 40, 60))
    assert 0 < some < more
    assert more - some == pytest.approx(all_ - more)


def test_a_growing_model_works_less_than_one_at_full_size() -> None:
    parts = network_type("progan")
    config = parts.config(resolution=64, channels=3, fmap_base=64, fmap_max=8)
    growing, full = (
        parts.training_operations(config, parts.training(kimg=100, stabilise_kimg=s, fade_kimg=s), parts.count)
        for s in (10, 0)
    )
    assert growing < full


def test_a_sample_of_a_diffusion_model_costs_its_steps() -> None:
    parts, config = network_type("diffusion"), small("diffusion")[0]
    once = parts.count(config).forward
    assert parts.sampling_operations(config, SamplerConfig(kind="ddim", steps=8), parts.count) == 8 * once
    assert parts.sampling_operations(config, SamplerConfig(kind="ancestral", steps=None), parts.count) == 50 * once
