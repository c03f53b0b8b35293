"""What a feature extractor is, and the one that any network becomes with an input rule."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from understudy.quality.rules import InputRule, apply_rule
from understudy.runtime.devices import resolve_device
from understudy.runtime.memory import in_parts

Features = NDArray[np.float32]


@runtime_checkable
class Extractor(Protocol):
    """Turns slices into vectors. Anything with these five members will do (radiomic features need no network).

    Attributes:
        name: of the extractor, e.g. "inception2015".
        sha256: of its weights (hex), or of whatever its features depend on.
        rule: how slices become its input, plain JSON values; stored with results and part of the cache's key.
        dimension: length of a vector.
        channels: None: looks at one channel at a time. Names: wants these channels together, in this order.
    """

    name: str
    sha256: str
    rule: dict[str, Any]
    dimension: int
    channels: tuple[str, ...] | None

    def features(self, images: NDArray[np.uint8]) -> Features:
        """Vectors float32 [n, dimension] of images uint8 [n, H, W], or [n, C, H, W] if `channels` are named."""
        ...


@runtime_checkable
class LabelledExtractor(Protocol):
    """An extractor that looks at the annotation too."""

    def labelled_features(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Features:
        """As `Extractor.features`, with labels uint8 [n, H, W]: class indices."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """An extractor whose features a last layer turns into class scores, for the inception score."""

    def logits(self, features: Features) -> Features:
        """Class scores float32 [n, classes] of features float32 [n, dimension]."""
        ...


class NetworkExtractor:
    """A network that maps float32 [n, copies, S, S] to [n, dimension], with its input rule."""

    channels: tuple[str, ...] | None = None

    def __init__(
        self,
        name: str,
        network: nn.Module,
        dimension: int,
        rule: InputRule,
        sha256: str,
        device: str | torch.device = "cpu",
        batch: int = 32,
    ) -> None:
        self.name, self.dimension, self.sha256, self.batch = name, dimension, sha256, batch
        self.input_rule, self.rule = rule, rule.as_dict()
        self.device = resolve_device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def features(self, images: NDArray[np.uint8]) -> Features:
        """As `Extractor.features`, in batches."""
        out = np.empty((len(images), self.dimension), np.float32)
        for start in range(0, len(images), self.batch):
            block = images[start : start + self.batch]
            out[start : start + self.batch] = np.concatenate(
                in_parts(lambda rows, block=block: self._of(block[rows]), len(block), "features")  # type: ignore[misc]
            )
        return out

    def _of(self, images: NDArray[np.uint8]) -> Features:
        x = apply_rule(images, self.input_rule, self.device)
        return np.asarray(self.network(x).float().cpu().numpy())


class ClassifyingExtractor(NetworkExtractor):
    """A network with a last linear layer `network.fc`, of which the inception score leaves out the bias."""

    @torch.inference_mode()
    def logits(self, features: Features) -> Features:
        """As `Classifier.logits`."""
        weight = self.network.fc.weight.cpu().numpy()  # type: ignore[union-attr,operator]
        return np.asarray(features @ weight.T, np.float32)


def sha256_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) of tensors with their names, for weights that were made and not read from a file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
