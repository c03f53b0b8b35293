"""The paper's Swin transformer with UPerNet's head, through `transformers`, at any number of channels and classes.

Swin-B as in MMSegmentation's configuration that the authors used (facts/segmenters 2.3): patches of 4 x 4 pixels,
windows of 7 x 7 patches, stages of 2, 2, 18 and 2 blocks, stochastic depth up to 0.3, a UPerNet head of 512 channels
and, with weight 0.4 in the loss, a one-convolution auxiliary head on the third stage. 121.2 M parameters with four
channels and four classes. Weights are drawn from the seed; nothing is downloaded.

What `transformers` leaves out and is put back here: the auxiliary head's scores (computed, but not returned),
dropout before both classifiers, and stochastic depth on the blocks' second branch, the perceptron.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional as F

from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from transformers import UperNetForSemanticSegmentation

# `transformers` takes seconds to import: only where a network is built.

COARSE = 128  # pixels on an edge from which the published patch (4) and window (7) are used; below it 2 and 4


@dataclass(frozen=True)
class _Size:
    embed: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    drop_path: float = 0.3
    head_channels: int = 512
    auxiliary_channels: int = 256


SIZES = {
    "base": _Size(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "small": _Size(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "tiny": _Size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "mini": _Size(32, (2, 2, 2, 2), (1, 2, 4, 8), 0.1, 96, 48),  # ours, for CPUs: 3.6 M parameters
}


class SwinConfig(BaseModel):
    """The architecture; channels, classes and resolution come from the data.

    Example:
        >>> shape = SwinConfig(size="tiny").shape(64)
        >>> shape.embed, shape.patch, shape.window
        (96, 2, 4)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["swin"] = Field(default="swin", description="name of the architecture")
    size: Literal["base", "small", "tiny", "mini"] = Field(
        default="base",
        description="base (the paper), small and tiny as published; mini is ours, for CPUs. Gives the fields left null",
    )
    embed: int | None = Field(
        default=None, ge=1, description="features of a patch in the first stage; they double at every stage"
    )
    depths: tuple[int, ...] | None = Field(default=None, description="blocks of each stage")
    heads: tuple[int, ...] | None = Field(default=None, description="attention heads of each stage")
    patch: int | None = Field(
        default=None, ge=1, description="edge of a patch, pixels; null: 4 (the paper), 2 below 128 pixels"
    )
    window: int | None = Field(
        default=None, ge=2, description="edge of a window, patches; null: 7 (the paper), 4 below 128 pixels"
    )
    mlp_ratio: float = Field(default=4.0, gt=0, description="width of the perceptrons, in features")
    drop_path: float | None = Field(
        default=None, ge=0, lt=1, description="probability that the last block is skipped in training"
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifiers, whole channels")
    head_channels: int | None = Field(default=None, ge=1, description="channels of UPerNet's head")
    auxiliary_channels: int | None = Field(default=None, ge=1, description="channels of the auxiliary head")
    auxiliary_weight: float = Field(default=0.4, ge=0, description="of the auxiliary head in the loss")

    def shape(self, resolution: int) -> SwinShape:
        """All sizes for slices of `resolution` x `resolution` pixels.

        Raises:
            UnderstudyError: they do not fit together, or the resolution is too small for them.
        """
        size, coarse = SIZES[self.size], resolution >= COARSE

        def own(name: str) -> Any:
            value = getattr(self, name)
            return getattr(size, name) if value is None else value

        found = SwinShape(
            embed=own("embed"),
            depths=tuple(own("depths")),
            heads=tuple(own("heads")),
            patch=self.patch or (4 if coarse else 2),
            window=self.window or (7 if coarse else 4),
            drop_path=own("drop_path"),
            head_channels=own("head_channels"),
            auxiliary_channels=own("auxiliary_channels"),
        )
        found.check(resolution)
        return found


@dataclass(frozen=True)
class SwinShape:
    """A `SwinConfig` with every size filled in."""

    embed: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: int
    window: int
    drop_path: float
    head_channels: int
    auxiliary_channels: int

    def check(self, resolution: int) -> None:
        """Raises UnderstudyError where `shape` says."""
        stages = len(self.depths)
        if stages < 3 or len(self.heads) != stages or min(self.depths) < 1 or min(self.heads) < 1:
            raise UnderstudyError(
                f"a Swin transformer with depths {self.depths} and heads {self.heads}",
                where="model.depths",
                fix="give both for the same number of stages, at least three",
            )
        for stage, heads in enumerate(self.heads):
            if (self.embed << stage) % heads:
                raise UnderstudyError(
                    f"{self.embed << stage} features of stage {stage + 1} do not divide among {heads} heads",
                    where="model.heads",
                    fix="give heads that divide embed x 2^stage",
                )
        if resolution % self.patch or resolution // self.patch < 1 << (stages - 1):
            raise UnderstudyError(
                f"patches of {self.patch} pixels and {stages} stages do not fit slices of {resolution} x {resolution}",
                where="model.patch",
                fix=f"use slices of at least {self.patch << (stages - 1)} pixels, a multiple of {self.patch}",
            )


class Swin(nn.Module):
    """Swin transformer, UPerNet's head and the auxiliary head.

    Attributes:
        level_weights: weights of the outputs in the loss, UPerNet's (1) and the auxiliary head's.
    """

    def __init__(self, body: UperNetForSemanticSegmentation, auxiliary_weight: float, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.level_weights = (1.0, auxiliary_weight)

        def drop(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            return (F.dropout2d(inputs[0], dropout, module.training),)

        for head in (body.decode_head, body.auxiliary_head):
            head.classifier.register_forward_pre_hook(drop)
        for stage in body.backbone.swin.encoder.layers:
            for block in stage.blocks:
                block.mlp.register_forward_hook(_dropping(block.drop_path))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """[N, C, R, R] z-scored slices -> class scores [N, K, R, R] of UPerNet's head and the auxiliary one.

        In evaluation mode only the first is returned.
        """
        features = self.body.backbone(x).feature_maps
        heads = [self.body.decode_head, self.body.auxiliary_head] if self.training else [self.body.decode_head]
        return [F.interpolate(head(features), size=x.shape[2:], mode="bilinear", align_corners=False) for head in heads]

    def undecayed(self) -> list[nn.Parameter]:
        """Parameters that weight decay leaves alone, as in the authors' configuration: the transformer's layer
        norms and relative position biases (the heads' batch norms do decay there)."""
        norms = [p for m in self.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()]
        return norms + [p for n, p in self.named_parameters() if n.endswith("relative_position_bias_table")]


def _dropping(path: nn.Module) -> Any:
    return lambda module, inputs, output: path(output)


def build(config: SwinConfig, channels: int, classes: int, resolution: int, seed: int = 0) -> Swin:
    """A new network with weights drawn from `seed` (the global random state is left alone).

    Args:
        config: the architecture.
        channels: image channels.
        classes: classes including the background.
        resolution: edge of the slices, pixels.
        seed: of the weights.

    Raises:
        UnderstudyError: architecture and resolution do not fit.

    Example:
        >>> network = build(SwinConfig(size="mini"), channels=3, classes=2, resolution=32)
        >>> [tuple(level.shape) for level in network(torch.zeros(2, 3, 32, 32))]
        [(2, 2, 32, 32), (2, 2, 32, 32)]
    """
    import transformers

    shape = config.shape(resolution)
    backbone = transformers.SwinConfig(
        image_size=resolution,
        patch_size=shape.patch,
        num_channels=channels,
        embed_dim=shape.embed,
        depths=list(shape.depths),
        num_heads=list(shape.heads),
        window_size=shape.window,
        mlp_ratio=config.mlp_ratio,
        drop_path_rate=shape.drop_path,
        out_features=[f"stage{number + 1}" for number in range(len(shape.depths))],
    )
    whole = transformers.UperNetConfig(
        backbone_config=backbone,
        num_labels=classes,
        hidden_size=shape.head_channels,
        auxiliary_channels=shape.auxiliary_channels,
        auxiliary_loss_weight=config.auxiliary_weight,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = transformers.UperNetForSemanticSegmentation(whole)
    return Swin(body, config.auxiliary_weight, config.dropout)
