"""Our U-Net beside nnU-Net's own: parameters, values at every level, gradients. Needs the extra `peers`."""

from __future__ import annotations

import pytest
import torch
from plain_conv_unet import copy_weights, reference

from understudy.segmenters.unet import UNetConfig, build_unet

pytest.importorskip(
    "dynamic_network_architectures",
    reason="needs dynamic-network-architectures, of the extra `peers` (it pulls torchvision in)",
)


def test_the_papers_network_has_nnunets_parameters() -> None:
    filters = UNetConfig().stages(256)
    with torch.device("meta"):
        theirs, ours = reference(4, 4, filters), build_unet(UNetConfig(), 4, 4, 256)
    count = sum(p.numel() for p in theirs.parameters())
    assert round(count / 1e6, 2) == 33.48
    # theirs has biases that the normalisation after them takes out again, and an output of weight 0 in its loss
    biases = 2 * sum(filters) + 2 * sum(filters[:-1]) + sum(filters[:-1])
    lowest = filters[-2] * 4 + 4
    assert count - sum(p.numel() for p in ours.parameters()) == biases + lowest


def test_the_same_weights_give_the_same_scores_and_gradients_at_every_level() -> None:
    config = UNetConfig(width=4)
    ours = build_unet(config, 4, 3, 128, seed=1)  # six stages: five of its levels are supervised
    theirs = reference(4, 3, config.stages(128))
    copy_weights(ours, theirs)
    x = torch.randn(2, 4, 128, 128, generator=torch.Generator().manual_seed(0))
    found, expected = ours(x), theirs(x)[:5]
    assert len(found) == 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    sum(level.square().mean() for level in found).backward()
    sum(level.square().mean() for level in expected).backward()
    first, theirs_first = ours.body.input_block.conv1.conv, theirs.encoder.stages[0][0].convs[0].conv
    torch.testing.assert_close(first.weight.grad, theirs_first.weight.grad, rtol=1e-3, atol=1e-5)
