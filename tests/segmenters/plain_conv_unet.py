"""nnU-Net's own 2D network (package dynamic-network-architectures), and our weights put into it, by their order."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from understudy.segmenters.unet import UNet


def reference(channels: int, classes: int, filters: tuple[int, ...]) -> Any:
    """PlainConvUNet with the properties of nnU-Net's 2D plan."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    stages = len(filters)
    return PlainConvUNet(
        channels, stages, filters, nn.Conv2d, 3, (1,) + (2,) * (stages - 1), 2, classes, 2, conv_bias=True,
        norm_op=nn.InstanceNorm2d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=True)  # fmt: skip


def copy_weights(ours: UNet, theirs: Any) -> None:
    """Our weights; what only the other has becomes neutral: biases before a normalisation, and its lowest output."""
    body, encoder, decoder = ours.body, theirs.encoder.stages, theirs.decoder
    for parameter in theirs.parameters():
        nn.init.zeros_(parameter)
    for block, stage in zip([body.input_block, *body.downsamples, body.bottleneck], encoder, strict=True):
        _copy_block(block, stage[0].convs)
    for up, transposed, stage in zip(body.upsamples, decoder.transpconvs, decoder.stages, strict=True):
        transposed.weight.data.copy_(up.transp_conv.conv.weight)
        _copy_block(up.conv_block, stage.convs)
    heads = [body.output_block, *body.deep_supervision_heads]
    for head, layer in zip(heads, reversed(decoder.seg_layers), strict=False):
        layer.load_state_dict(head.conv.conv.state_dict())


@torch.no_grad()
def _copy_block(block: Any, convolutions: Any) -> None:
    for number, theirs in enumerate(convolutions, 1):
        norm = getattr(block, f"norm{number}")
        theirs.conv.weight.copy_(getattr(block, f"conv{number}").conv.weight)
        theirs.norm.weight.copy_(norm.weight)
        theirs.norm.bias.copy_(norm.bias)
