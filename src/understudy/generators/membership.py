"""What a trained network gives away about the slices that it was trained on: a score for each slice, higher for slices
that it knows.

Diffusion: minus the error of the prediction, averaged over noise levels, with the same noise for every slice. A GAN:
the discriminator's score, each slice for itself (its minibatch deviation is that of one image).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.diffusion.process import training_losses
from understudy.generators.folder import CONFIG, DISCRIMINATOR, WEIGHTS, load_generator
from understudy.generators.joint import encode
from understudy.generators.registry import build, model_config
from understudy.io.files import read_json, sha256_file
from understudy.runtime.devices import resolve_device
from understudy.slices import SliceSet

LEVELS = 10  # noise levels at which a diffusion model is asked, evenly over its steps
_BATCH = 64


def scores(
    folder: str | Path, slices: SliceSet, rows: NDArray[np.int64], device: str = "cpu", seed: int = 0
) -> tuple[NDArray[np.float64], str]:
    """A score of each row [n], higher for slices that the network knows, and what it is in words.

    Args:
        folder: of a trained generator.
        slices: real slices of the channels and classes that it was trained on.
        seed: of the noise.

    Raises:
        UnderstudyError: the folder has no discriminator, is damaged, or was trained on other slices.
    """
    config = read_json(Path(folder) / CONFIG)
    _check_fit(config, slices, Path(folder))
    where = resolve_device(device)
    if config["kind"] == "diffusion":
        judge, name = _denoiser(folder, where, seed), "denoising error"
    else:
        judge, name = _discriminator(Path(folder), config, where), "discriminator score"
    order = [slices.channels.index(channel) for channel in config["channels"]]
    found = [
        judge(encode(images[:, order], labels, slices.classes, config["annotation"]).to(where))
        for _, images, labels in slices.blocks(rows, _BATCH)
    ]
    return torch.cat(found).double().cpu().numpy(), name


@dataclass(frozen=True)
class NetworkWitness:
    """A generator's folder as what an audit asks: a score of each slice, and which weights gave it."""

    folder: Path
    device: str = "cpu"

    def __call__(self, slices: SliceSet, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], str]:
        return scores(self.folder, slices, rows, self.device)

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 (hex) of each file of weights, by its name."""
        files = (self.folder / WEIGHTS, self.folder / DISCRIMINATOR)
        return {path.name: sha256_file(path) for path in files if path.is_file()}


def can_testify(folder: str | Path) -> bool:
    """Whether a folder holds a network that can be asked: a diffusion model, or a GAN with its discriminator."""
    return (Path(folder) / DISCRIMINATOR).is_file() or read_json(Path(folder) / CONFIG)["kind"] == "diffusion"


def _check_fit(config: dict[str, Any], slices: SliceSet, folder: Path) -> None:
    size = config["model"]["resolution"]
    if set(config["channels"]) != set(slices.channels) or size != slices.resolution:
        raise UnderstudyError(
            f"the generator makes {', '.join(config['channels'])} at {size} pixels, the slices have"
            f" {', '.join(slices.channels)} at {slices.resolution}",
            where=folder,
            fix="give the slices that it was trained on",
        )


def _denoiser(folder: str | Path, device: torch.device, seed: int) -> Any:
    generator, config = load_generator(folder)
    generator.to(device)
    process = model_config({"kind": "diffusion", **config["model"]}).process()
    steps = np.linspace(0, len(process) - 1, LEVELS + 2)[1:-1].astype(int)
    shape = (config["model"]["channels"], config["model"]["resolution"], config["model"]["resolution"])
    noises = torch.randn((LEVELS, *shape), generator=torch.Generator().manual_seed(seed)).to(device)

    @torch.no_grad()
    def judge(clean: Tensor) -> Tensor:
        total = torch.zeros(len(clean), device=device)
        for step, noise in zip(steps, noises, strict=True):
            t = torch.full((len(clean),), int(step), device=device)
            losses = training_losses(
                lambda x, time: generator(x, time, torch.float32), process, clean, t, noise.expand_as(clean)
            )
            total -= losses["mse"] / LEVELS
        return total

    return judge


def _discriminator(folder: Path, config: dict[str, Any], device: torch.device) -> Any:
    path = folder / DISCRIMINATOR
    if not path.is_file():
        raise UnderstudyError(
            f"the folder holds {WEIGHTS} only, and a GAN is asked through its discriminator",
            where=folder,
            fix=f"train it again: trainings now keep {DISCRIMINATOR} (older ones have it in their checkpoints, which"
            " are deleted when they end)",
        )
    try:
        network: Any = build(model_config({"kind": config["kind"], **config["model"]})).discriminator  # type: ignore[union-attr]
        network.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise UnderstudyError(
            f"the discriminator cannot be loaded ({str(error).splitlines()[0]})",
            where=path,
            fix="train the generator again, or restore the folder from a copy",
        ) from error
    network.requires_grad_(False).eval().to(device)

    @torch.no_grad()
    def judge(images: Tensor) -> Tensor:
        found: Tensor = network(images, dtype=torch.float32, batches=len(images)).flatten()
        return found

    return judge
