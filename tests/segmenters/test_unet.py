from __future__ import annotations

import pytest
import torch
from torch import nn

from understudy.errors import UnderstudyError
from understudy.segmenters.unet import SliceNorm, UNetConfig, build_unet, level_weights


def test_the_papers_network_has_the_published_size() -> None:
    network = build_unet(UNetConfig(), channels=4, classes=4, resolution=256)
    heads = sum(p.numel() for p in network.body.deep_supervision_heads.parameters())
    total = sum(p.numel() for p in network.parameters())
    # 33.47 M for MONAI's DynUNet (33.48 M in nnU-Net, whose convolutions have a bias)
    assert round(total / 1e6, 2) == 33.47
    assert heads == sum(f * 4 + 4 for f in (64, 128, 256, 512))


@pytest.mark.parametrize(
    ("resolution", "stages"),
    [
        (256, (32, 64, 128, 256, 512, 512, 512)),
        (128, (32, 64, 128, 256, 512, 512)),
        (64, (32, 64, 128, 256, 256)),
        (32, (32, 64, 128, 128)),
        (16, (32, 64, 64)),
    ],
)
def test_default_stages(resolution: int, stages: tuple[int, ...]) -> None:
    assert UNetConfig().stages(resolution) == stages


@pytest.mark.parametrize(("config", "resolution"), [(UNetConfig(), 8), (UNetConfig(depth=6), 32)])
def test_a_network_too_deep_for_the_slices_is_refused(config: UNetConfig, resolution: int) -> None:
    with pytest.raises(UnderstudyError, match="does not fit"):
        build_unet(config, 1, 2, resolution)


def test_level_weights_are_the_papers() -> None:
    # nnU-Net: 1/2^i of six outputs, the last set to 0, normalised: 0.516, 0.258, 0.129, 0.065, 0.032, 0
    assert [round(w, 3) for w in level_weights(5)] == [0.516, 0.258, 0.129, 0.065, 0.032]
    assert sum(level_weights(3)) == pytest.approx(1)


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 5)])
def test_outputs_at_every_level(channels: int, classes: int) -> None:
    network = build_unet(UNetConfig(width=4, deep_supervision=3), channels, classes, 64)
    shapes = [tuple(level.shape) for level in network(torch.zeros(2, channels, 64, 64))]
    assert shapes == [(2, classes, edge, edge) for edge in (64, 32, 16)]
    assert len(network.level_weights) == 3
    assert [tuple(x.shape) for x in network.eval()(torch.zeros(2, channels, 64, 64))] == shapes[:1]


def test_shallow_networks_have_fewer_levels() -> None:
    network = build_unet(UNetConfig(width=4), 1, 2, 16)
    assert len(network(torch.zeros(1, 1, 16, 16))) == len(network.level_weights) == 2


def test_the_blocks_are_nnunets() -> None:
    network = build_unet(UNetConfig(width=4), 1, 2, 32)
    norms = [m for m in network.modules() if isinstance(m, nn.InstanceNorm2d)]
    assert norms
    assert all(m.affine and m.eps == 1e-5 for m in norms)
    assert {m.negative_slope for m in network.modules() if isinstance(m, nn.LeakyReLU)} == {0.01}
    assert not any(isinstance(m, nn.MaxPool2d) for m in network.modules())


def test_the_seed_decides_the_weights_and_nothing_else_is_touched() -> None:
    before = torch.get_rng_state()
    one, same, other = (build_unet(UNetConfig(width=4), 1, 2, 16, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_slice_norm_is_instance_norm_forwards_and_backwards() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 6, 6, generator=generator).to(memory_format=torch.channels_last)
    upstream = torch.randn(3, 5, 6, 6, generator=generator)
    results = []
    for kind in (nn.InstanceNorm2d, SliceNorm):
        layer = kind(5, affine=True)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.5, 2, 5))
            layer.bias.copy_(torch.linspace(-1, 1, 5))
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = layer(leaf)
        results.append([y, *torch.autograd.grad(y, (leaf, layer.weight, layer.bias), upstream)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
