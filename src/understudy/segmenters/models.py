"""The two segmentation networks by kind: configuration and network.

A network maps z-scored slices [N, C, R, R] to a list of class scores, the first [N, K, R, R]; in training further
ones follow that the loss is applied to with `level_weights`. In evaluation mode there is only the first.

Example:
    >>> import torch
    >>> network = build_model(model_config({"kind": "unet", "width": 8}), channels=1, classes=2, resolution=32)
    >>> len(network(torch.zeros(1, 1, 32, 32))), len(network.level_weights)
    (3, 3)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, TypeAdapter

from understudy.segmenters import swin, unet
from understudy.segmenters.swin import Swin, SwinConfig
from understudy.segmenters.unet import UNet, UNetConfig

ModelConfig = Annotated[UNetConfig | SwinConfig, Discriminator("kind")]
Network = UNet | Swin
KINDS: dict[str, type[UNetConfig] | type[SwinConfig]] = {"unet": UNetConfig, "swin": SwinConfig}
DEFAULT_KIND = "unet"

_ADAPTER: TypeAdapter[UNetConfig | SwinConfig] = TypeAdapter(ModelConfig)


def model_config(fields: Mapping[str, Any]) -> UNetConfig | SwinConfig:
    """The configuration that the fields describe, by their "kind" (a U-Net without one).

    Raises:
        pydantic.ValidationError: no such kind, or fields that it does not have.
    """
    return _ADAPTER.validate_python({"kind": DEFAULT_KIND, **fields})


def build_model(
    config: UNetConfig | SwinConfig, channels: int, classes: int, resolution: int, seed: int = 0
) -> Network:
    """A network with weights drawn from `seed` (the global random state is left alone).

    Args:
        config: the architecture.
        channels: image channels.
        classes: classes including the background.
        resolution: edge of the slices, pixels.
        seed: of the weights.

    Raises:
        UnderstudyError: architecture and resolution do not fit.
    """
    if isinstance(config, SwinConfig):
        return swin.build(config, channels, classes, resolution, seed)
    return unet.build(config, channels, classes, resolution, seed)
