"""Swin + UPerNet: transformers' own model with the same weights says the same; sizes, seeds and errors."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from understudy.errors import UnderstudyError
from understudy.segmenters.swin import Swin, SwinConfig, build_swin

TINY = SwinConfig(size="mini", embed=8, depths=(2, 1, 2, 1), heads=(1, 2, 2, 4), head_channels=8, auxiliary_channels=4)


def image(resolution: int, channels: int = 4, n: int = 2) -> torch.Tensor:
    return torch.randn(n, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))


def test_the_papers_network_has_the_published_size_and_shape() -> None:
    with torch.device("meta"):
        network = build_swin(SwinConfig(), channels=4, classes=4, resolution=256)
    # transformers' Swin-B + UPerNet with four channels and four classes
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 121.17
    shape = SwinConfig().shape(256)
    assert (shape.embed, shape.depths, shape.heads) == (128, (2, 2, 18, 2), (4, 8, 16, 32))
    assert (shape.patch, shape.window, shape.drop_path) == (4, 7, 0.3)
    assert (shape.head_channels, shape.auxiliary_channels, network.level_weights) == (512, 256, (1.0, 0.4))


@pytest.mark.parametrize(("resolution", "window"), [(64, 7), (128, 4)])  # windows that do and do not divide the grid
def test_the_scores_and_the_loss_are_those_of_transformers(resolution: int, window: int) -> None:
    quiet = TINY.model_copy(update={"drop_path": 0.0, "dropout": 0.0, "window": window})
    network, x = build_swin(quiet, 4, 3, resolution), image(resolution)
    labels = torch.randint(0, 3, (2, resolution, resolution), generator=torch.Generator().manual_seed(1))
    (scores,) = network.eval()(x)
    torch.testing.assert_close(scores, network.body(x).logits)
    network.train()
    ours = sum(w * F.cross_entropy(s, labels) for w, s in zip(network.level_weights, network(x), strict=True))
    torch.testing.assert_close(ours, network.body(x, labels=labels).loss)  # holds the auxiliary head's scores too


@pytest.mark.parametrize(("resolution", "channels", "classes"), [(32, 1, 2), (64, 5, 4), (128, 3, 2)])
def test_any_resolution_and_any_number_of_channels_and_classes(resolution: int, channels: int, classes: int) -> None:
    network = build_swin(TINY, channels, classes, resolution)
    outputs = network(image(resolution, channels))
    assert [tuple(x.shape) for x in outputs] == [(2, classes, resolution, resolution)] * 2
    sum(x.square().mean() for x in outputs).backward()
    still = {n for n, p in network.named_parameters() if p.grad is None}
    assert still == {"body.backbone.swin.layernorm.weight", "body.backbone.swin.layernorm.bias"}  # unused there
    assert len(network.eval()(image(resolution, channels))) == 1


def test_sizes_by_name_and_freely() -> None:
    assert SwinConfig(size="tiny").shape(256).depths == (2, 2, 6, 2)
    assert SwinConfig(size="small").shape(256).heads == (3, 6, 12, 24)
    assert SwinConfig(size="tiny", embed=24, heads=(1, 2, 3, 4)).shape(256).embed == 24
    assert [SwinConfig().shape(r).patch for r in (32, 64, 128, 256)] == [2, 2, 4, 4]
    assert [SwinConfig().shape(r).window for r in (32, 64, 128, 256)] == [4, 4, 7, 7]
    with torch.device("meta"):
        mini = sum(p.numel() for p in build_swin(SwinConfig(size="mini"), 4, 4, 64).parameters())
    assert mini < 5e6


@pytest.mark.parametrize(
    ("config", "resolution", "said"),
    [
        (SwinConfig(), 8, "at least 16 pixels"),
        (SwinConfig(patch=4), 24, "at least 32 pixels"),
        (SwinConfig(patch=5), 64, "multiple of 5"),
        (SwinConfig(heads=(3, 6, 12, 24)), 256, "128 features"),
        (SwinConfig(depths=(2, 2)), 256, "same number of stages"),
    ],
)
def test_what_does_not_fit_is_refused(config: SwinConfig, resolution: int, said: str) -> None:
    with pytest.raises(UnderstudyError, match=said):
        build_swin(config, 1, 2, resolution)


def test_the_seed_decides_the_weights_and_nothing_else_is_touched() -> None:
    before = torch.get_rng_state()
    one, same, other = (build_swin(TINY, 1, 2, 32, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_weight_decay_leaves_layer_norms_and_position_biases_alone() -> None:
    network = build_swin(TINY, 1, 2, 32)
    spared = {id(p) for p in network.undecayed()}
    names = {n for n, p in network.named_parameters() if id(p) in spared}
    assert all("norm" in n or n.endswith("relative_position_bias_table") for n in names)
    assert not any("batch_norm" in n for n in names)
    rest = {n for n, _ in network.named_parameters()} - names
    assert not any("norm" in n for n in rest if "batch_norm" not in n)


def test_blocks_are_skipped_on_both_branches_and_only_in_training() -> None:
    network: Swin = build_swin(TINY.model_copy(update={"drop_path": 0.9}), 1, 2, 32)
    last = network.body.backbone.swin.encoder.layers[-1].blocks[-1]
    x = torch.ones(64, 3, 64)
    skipped = (last.mlp(x).flatten(1) == 0).all(1).float().mean()
    assert 0.7 < float(skipped) < 1
    network.eval()
    assert (last.mlp(x) != 0).any(-1).all()
