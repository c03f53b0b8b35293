"""The paper's Swin transformer with UPerNet's head, through `transformers`, at any number of channels and classes.

Swin-B as in the MMSegmentation configuration that the authors used: patches of 4 x 4 pixels, windows of 7 x 7 patches,
stages of 2, 2, 18 and 2 blocks, stochastic depth up to 0.3, a UPerNet head of 512 channels and, with weight 0.4 in the
loss, an auxiliary head on the third stage. Weights are drawn from the seed; nothing is downloaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import UnderstudyError
from understudy.io.settings import Depth, Settings, Width

if TYPE_CHECKING:
    from transformers import UperNetForSemanticSegmentation

COARSE = 128  # pixels; from here on the published patch (4) and window (7) are used, below it 2 and 4

_PUBLISHED = {"drop_path": 0.3, "head_channels": 512, "auxiliary_channels": 256}
SIZES: dict[str, dict[str, Any]] = {
    "base": {"embed": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), **_PUBLISHED},
    "small": {"embed": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), **_PUBLISHED},
    "tiny": {"embed": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), **_PUBLISHED},
    # ours, for CPUs: 3.6 M parameters
    "mini": {"embed": 32, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8),
             "drop_path": 0.1, "head_channels": 96, "auxiliary_channels": 48},
}  # fmt: skip


class SwinConfig(Settings, frozen=True):
    """The architecture; channels, classes and resolution come from the data."""

    kind: Literal["swin"] = Field("swin", description="name of the architecture")
    size: Literal["base", "small", "tiny", "mini"] = Field(
        "base",
        description="base (the paper), small and tiny as published; mini is ours, for CPUs. Gives the fields left null",
    )
    embed: Width | None = Field(None, description="features of a patch, doubled at every stage")
    depths: tuple[Depth, ...] | None = Field(None, description="blocks of each stage")
    heads: tuple[Width, ...] | None = Field(None, description="attention heads of each stage")
    patch: Width | None = Field(None, description="pixels; null: 4 (the paper), 2 below 128 pixels")
    window: int | None = Field(None, ge=2, le=1 << 14, description="patches; null: 7 (the paper), 4 below 128 pixels")
    mlp_ratio: float = Field(4.0, gt=0, le=64, description="width of the perceptrons, in features")
    drop_path: float | None = Field(None, ge=0, lt=1, description="probability to skip the last block in training")
    dropout: float = Field(0.1, ge=0, lt=1, description="before the classifiers, whole channels")
    head_channels: Width | None = Field(None, description="channels of UPerNet's head")
    auxiliary_channels: Width | None = Field(None, description="channels of the auxiliary head")
    auxiliary_weight: float = Field(0.4, ge=0, description="of the auxiliary head in the loss")

    def shape(self, resolution: int) -> SwinConfig:
        """With all sizes for slices of so many pixels; an UnderstudyError where they do not fit together."""
        coarse = resolution >= COARSE
        own = {name: getattr(self, name) for name in SIZES[self.size] if getattr(self, name) is not None}
        patch = self.patch or (4 if coarse else 2)
        sizes = {**SIZES[self.size], **own, "patch": patch, "window": self.window or (7 if coarse else 4)}
        depths, heads, stages = sizes["depths"], sizes["heads"], len(sizes["depths"])
        if stages < 3 or len(heads) != stages or min(*depths, *heads) < 1:
            problem = f"a Swin transformer with depths {depths} and heads {heads}"
            raise UnderstudyError(problem, "model.depths", "give both for the same number of stages, at least three")
        for stage, number in enumerate(heads):
            if (features := sizes["embed"] << stage) % number:
                problem = f"{features} features of stage {stage + 1} are not divisible by {number} heads"
                raise UnderstudyError(problem, "model.heads", "give heads that divide embed x 2^stage")
        least = patch << (stages - 1)
        if resolution % patch or resolution < least:
            problem = f"patches of {patch} pixels and {stages} stages do not fit slices of {resolution} x {resolution}"
            fix = f"use slices of at least {least} pixels, a multiple of {patch}"
            raise UnderstudyError(problem, "model.patch", fix)
        return self.model_copy(update=sizes)


class Swin(nn.Module):
    """Swin transformer, UPerNet's head and the auxiliary head."""

    def __init__(self, body: UperNetForSemanticSegmentation, auxiliary_weight: float, dropout: float) -> None:
        super().__init__()
        self.body = body
        self.level_weights = (1.0, auxiliary_weight)  # of UPerNet's and the auxiliary head in the loss

        # What MMSegmentation has and `transformers` leaves out: dropout before both classifiers, stochastic depth on
        # each block's second branch, and (in `forward`) the scores of the auxiliary head.
        for head in (body.decode_head, body.auxiliary_head):
            head.classifier.register_forward_pre_hook(
                lambda module, inputs: (F.dropout2d(inputs[0], dropout, module.training),)
            )
        for stage in body.backbone.swin.encoder.layers:
            for block in stage.blocks:
                block.mlp.register_forward_hook(lambda module, inputs, output, skip=block.drop_path: skip(output))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, C, R, R] -> class scores [N, K, R, R] of UPerNet's head and, in training mode, of the auxiliary one."""
        features = self.body.backbone(x).feature_maps
        heads = [self.body.decode_head, self.body.auxiliary_head] if self.training else [self.body.decode_head]
        return [F.interpolate(head(features), size=x.shape[2:], mode="bilinear", align_corners=False) for head in heads]

    def undecayed(self) -> list[nn.Parameter]:
        """Parameters without weight decay, as in the authors' configuration: layer norms and relative position biases
        (the batch norms of the heads do decay there)."""
        norms = [p for m in self.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()]
        return norms + [p for n, p in self.named_parameters() if n.endswith("relative_position_bias_table")]


def build_swin(config: SwinConfig, channels: int, classes: int, resolution: int, seed: int = 0) -> Swin:
    """A new network; see `config.build_model`."""
    import transformers  # takes seconds

    shape: Any = config.shape(resolution)
    backbone = transformers.SwinConfig(
        image_size=resolution, patch_size=shape.patch, num_channels=channels, embed_dim=shape.embed,
        depths=list(shape.depths), num_heads=list(shape.heads), window_size=shape.window, mlp_ratio=config.mlp_ratio,
        drop_path_rate=shape.drop_path, out_features=[f"stage{n + 1}" for n in range(len(shape.depths))],
    )  # fmt: skip
    whole = transformers.UperNetConfig(
        backbone_config=backbone, num_labels=classes, hidden_size=shape.head_channels,
        auxiliary_channels=shape.auxiliary_channels, auxiliary_loss_weight=config.auxiliary_weight,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = transformers.UperNetForSemanticSegmentation(whole)
    return Swin(body, config.auxiliary_weight, config.dropout)
