"""What a generator is to the rest of the program, whether built in (`builtin`) or of a plug-in (`plugins`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Scorer = Callable[[Tensor], Tensor]
"""Joint images [N, C, R, R] -> scores [N], higher for slices that the generator was trained on."""


class GeneratorType(ABC):
    """A kind of generator.

    Attributes:
        name: in study files and records.
        truncation: whether it can be sampled with a `psi` other than 1.
        takes_sampler: whether it is sampled with a `SamplerConfig`.
    """

    name: str
    truncation = False
    takes_sampler = False

    @abstractmethod
    def load(self, folder: Path, config: dict[str, Any]) -> Any:
        """The generator of a finished training, with `sample(count, seed, start, psi)` and `to(device)`."""

    @abstractmethod
    def weights(self, folder: Path, config: dict[str, Any]) -> dict[str, str]:
        """SHA-256 (hex) of each file of weights; the first is that of what is sampled."""

    @abstractmethod
    def supports_membership_inference(self, folder: Path) -> bool:
        """Whether `membership_scorer` can score slices."""

    @abstractmethod
    def membership_scorer(
        self, folder: Path, config: dict[str, Any], device: torch.device, seed: int
    ) -> tuple[Scorer, str]:
        """The score by which training slices are told from others, and its name."""

    @abstractmethod
    def recipe(self, name: str) -> dict[str, Any]:
        """The fields that a recipe sets."""
