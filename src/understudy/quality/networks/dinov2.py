"""DINOv2 (Oquab et al. 2023, 2304.07193) through transformers' `Dinov2Model`, from the official state dict.

The shape of the network (S, B, L; patch and position grid) is read from the weights, so nothing is looked up anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from understudy.errors import UnderstudyError
from understudy.quality.weights import Weights, load_into

_PLAIN = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_IN_BLOCK = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
_ATTENTION = (  # the names of transformers up to 4, and those since
    ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
    ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
)  # fmt: skip


class ClassToken(nn.Module):
    """The normalised class token of a vision transformer: [n, 3, H, W], multiples of the patch -> [n, hidden]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(pixel_values=x).last_hidden_state[:, 0]
        return found


def dinov2(weights: Weights) -> ClassToken:
    """The network of an official state dict (or of transformers' own), without registers and with plain MLPs.

    Raises:
        UnderstudyError: not such a state dict, or weights are missing.
    """
    from transformers import Dinov2Config, Dinov2Model

    tensors = weights.tensors
    official = "cls_token" in tensors
    cls = "cls_token" if official else "embeddings.cls_token"
    positions = "pos_embed" if official else "embeddings.position_embeddings"
    patches = "patch_embed.proj.weight" if official else "embeddings.patch_embeddings.projection.weight"
    blocks = {int(m[1]) for n in tensors if (m := re.match(r"(?:blocks|encoder\.layer)\.(\d+)\.norm1\.weight", n))}
    if not blocks or not {cls, positions, patches} <= set(tensors) or "register_tokens" in tensors:
        raise UnderstudyError(
            "not the state dict of a DINOv2 without registers", where=weights.path,
            fix="give dinov2_vitl14_pretrain.pth (or vitb14, vits14)")  # fmt: skip
    hidden, patch = int(tensors[cls].shape[-1]), int(tensors[patches].shape[-1])
    grid = round((tensors[positions].shape[1] - 1) ** 0.5)
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=max(blocks) + 1,
        num_attention_heads=hidden // 64,
        image_size=grid * patch,
        patch_size=patch,
        mlp_ratio=4,
    )
    body = Dinov2Model(config)
    load_into(body, _renamed(tensors, set(body.state_dict())) if official else tensors, weights)
    return ClassToken(body)


def _renamed(tensors: Mapping[str, torch.Tensor], wanted: set[str]) -> dict[str, torch.Tensor]:
    """Official names as transformers' names; the joint projection to queries, keys and values is cut in three."""
    names = next(n for n in _ATTENTION if f"encoder.layer.0.{n[0]}.weight" in wanted)
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        block = re.match(r"blocks\.(\d+)\.(.+)", name)
        if block is None:
            found[_PLAIN.get(name, name)] = tensor
            continue
        front, rest = f"encoder.layer.{block[1]}.", block[2]
        kind = rest.rsplit(".", 1)[-1]
        if rest.startswith("attn.qkv."):
            for part, third in zip(names[:3], tensor.chunk(3), strict=True):
                found[f"{front}{part}.{kind}"] = third
        elif rest.startswith("attn.proj."):
            found[f"{front}{names[3]}.{kind}"] = tensor
        else:
            found[front + _IN_BLOCK.get(rest, rest)] = tensor
    return found
