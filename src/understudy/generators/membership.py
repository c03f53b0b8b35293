"""Membership inference: a score of each slice by a trained generator, higher for slices that it was trained on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.generators.folder import read_config
from understudy.generators.joint import encode
from understudy.generators.registry import type_of
from understudy.runtime.devices import resolve_device
from understudy.slices import SliceSet


def supports_membership_inference(folder: str | Path) -> bool:
    """Whether a folder holds a generator that can score slices; a GAN does so by its discriminator."""
    return type_of(read_config(Path(folder))).supports_membership_inference(Path(folder))


@dataclass(frozen=True)
class MembershipScores:
    """Scores of real slices by the trained generator in a folder, as the audit asks for them."""

    folder: Path
    device: str = "cpu"

    def __call__(self, slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
        """Scores float64 [n] of the rows, and the name of the score.

        Diffusion: minus the error of the prediction, averaged over noise levels, with the same noise for every slice. A
        GAN: the discriminator's score, each slice for itself. A plug-in: whatever it gives.

        Raises:
            UnderstudyError: the generator cannot score, is damaged, or was trained on slices of other channels or size.
        """
        config, device = read_config(self.folder), resolve_device(self.device)
        channels, size = config["channels"], config["model"]["resolution"]
        if set(channels) != set(slices.channels) or size != slices.resolution:
            what = f"the generator makes {', '.join(channels)} at {size} pixels, the slices have"
            what += f" {', '.join(slices.channels)} at {slices.resolution}"
            raise UnderstudyError(what, where=self.folder, fix="give the slices that it was trained on")
        scorer, name = type_of(config).membership_scorer(self.folder, config, device)
        order = [slices.channels.index(channel) for channel in channels]
        scores = [
            scorer(encode(images[:, order], labels, slices.classes, config["annotation"]).to(device))
            for _, images, labels in slices.blocks(rows, 64)
        ]
        return torch.cat(scores).double().cpu().numpy(), name

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 (hex) of each file of weights, by its name."""
        config = read_config(self.folder)
        return type_of(config).weights(self.folder, config)
