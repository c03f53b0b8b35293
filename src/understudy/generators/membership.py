"""Membership inference: a score of each slice by a trained generator, higher for slices that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.generators.folder import CONFIG
from understudy.generators.joint import encode
from understudy.generators.registry import type_of
from understudy.io.files import read_json
from understudy.runtime.devices import resolve_device
from understudy.slices import SliceSet


def supports_membership_inference(folder: str | Path) -> bool:
    """Whether a folder holds a generator that can score slices; a GAN does so by its discriminator."""
    return type_of(read_json(Path(folder) / CONFIG)).supports_membership_inference(Path(folder))


def membership_scores(
    folder: str | Path, slices: SliceSet, rows: NDArray[np.int64], device: str = "cpu", seed: int = 0
) -> tuple[NDArray[np.float64], str]:
    """Scores float64 [n] of the rows, and the name of the score.

    Diffusion: minus the error of the prediction, averaged over noise levels, with the same noise for every slice. A
    GAN: the discriminator's score, each slice for itself. A plug-in: whatever it gives.

    Args:
        folder: of a trained generator.
        slices: real slices of the channels and classes that it was trained on.
        seed: of the noise.

    Raises:
        UnderstudyError: the generator cannot score, is damaged, or was trained on other slices.
    """
    folder, where = Path(folder), resolve_device(device)
    config = read_json(folder / CONFIG)
    size = config["model"]["resolution"]
    if set(config["channels"]) != set(slices.channels) or size != slices.resolution:
        raise UnderstudyError(
            f"the generator makes {', '.join(config['channels'])} at {size} pixels, the slices have"
            f" {', '.join(slices.channels)} at {slices.resolution}",
            where=folder,
            fix="give the slices that it was trained on",
        )
    scorer, name = type_of(config).membership_scorer(folder, config, where, seed)
    order = [slices.channels.index(channel) for channel in config["channels"]]
    scores = [
        scorer(encode(images[:, order], labels, slices.classes, config["annotation"]).to(where))
        for _, images, labels in slices.blocks(rows, 64)
    ]
    return torch.cat(scores).double().cpu().numpy(), name


@dataclass(frozen=True)
class MembershipScores:
    """`membership_scores` of a folder as the audit calls it, `scores(slices, rows)`, and the hashes of the weights."""

    folder: Path
    device: str = "cpu"

    def __call__(self, slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
        return membership_scores(self.folder, slices, rows, self.device)

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 (hex) of each file of weights, by its name."""
        config = read_json(self.folder / CONFIG)
        return type_of(config).weights(self.folder, config)
