"""Operations of generators: against counts of real passes and the facts' figures."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from understudy.generators import registry as models
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.study.engine.costs import generator_cost, sampling_work, training_work

SMALL = {
    "progan": {"fmap_base": 128, "fmap_max": 16},
    "stylegan1": {"fmap_base": 128, "fmap_max": 16, "z_dim": 8, "w_dim": 8, "mapping_width": 8},
    "stylegan2": {"channel_base": 256, "channel_max": 16, "z_dim": 8, "w_dim": 8},
    "stylegan3": {"channel_base": 256, "channel_max": 16, "z_dim": 8, "w_dim": 8},
    "diffusion": {"model_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2], "num_heads": 2},
}


@pytest.mark.parametrize("kind", models.KINDS)
def test_operations_are_those_of_a_real_pass(kind: str) -> None:
    config = models.model_config({"kind": kind, "resolution": 16, "channels": 3, **SMALL[kind]})
    network = models.build(config)
    inputs = [torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64)]
    if kind != "diffusion":
        inputs = [network.generator.latents(0, 0, 4)]
    # torch counts attention only where it is plain matrix products
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.generator(*inputs)
    cost = generator_cost(config)
    assert cost.forward == counter.get_total_flops() // 4
    assert (cost.scores > 0) == (kind != "diffusion")
    assert cost.weights == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("kind", models.KINDS)
def test_work_follows_the_images(kind: str) -> None:
    config = models.model_config({"kind": kind, "resolution": 16, "channels": 3, **SMALL[kind]})
    training = models.network_type(kind).training
    grown = {"stabilise_kimg": 1, "fade_kimg": 1} if kind in ("progan", "stylegan1") else {}
    some, more = (training_work(config, training(kimg=k, **grown)) for k in (20, 40))
    last = training_work(config, training(kimg=60, **grown)) - more
    assert 0 < some < more
    assert more - some == pytest.approx(last)


def test_a_growing_model_works_less_than_one_at_full_size() -> None:
    config = models.model_config({"kind": "progan", "resolution": 64, "channels": 3, **SMALL["progan"]})
    training = models.network_type("progan").training
    growing, full = (
        training_work(config, training(kimg=100, stabilise_kimg=s, fade_kimg=s, start_resolution=8)) for s in (10, 0)
    )
    assert growing < full


def test_a_sample_of_a_diffusion_model_costs_its_steps() -> None:
    config = models.model_config({"kind": "diffusion", "resolution": 16, "channels": 3, **SMALL["diffusion"]})
    once = generator_cost(config).forward
    assert sampling_work(config, SamplerConfig(kind="ddim", steps=8)) == 8 * once
    assert sampling_work(config, SamplerConfig(kind="ancestral", steps=None)) == 4000 * once
