"""The five generators by kind: configuration, network, training and trainer.

Example:
    >>> run = train(SliceSet.open("slices"), None, StyleGan2Config(resolution=32, channels=4),
    ...             StyleGan2Training(kimg=100), Path("run"))    # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from understudy.errors import UnderstudyError
from understudy.generators.training.config import TrainingConfig
from understudy.generators.training.shares import Workers
from understudy.slices import SliceSet


@dataclass(frozen=True)
class Kind:
    """Where the parts of a kind of generator are: names of modules and in them, so that naming one imports no other."""

    module: str
    config_name: str
    training_name: str
    trainer_module: str
    trainer_name: str

    @property
    def config(self) -> type[Any]:
        """Class of the architecture's configuration."""
        return _named(self.module, self.config_name)  # type: ignore[no-any-return]

    @property
    def training(self) -> type[TrainingConfig]:
        """Class of the training's configuration."""
        return _named("training.config", self.training_name)  # type: ignore[no-any-return]

    @property
    def trainer(self) -> Callable[..., Any]:
        """Class that does the training's steps."""
        return _named(self.trainer_module, self.trainer_name)  # type: ignore[no-any-return]

    def build(self, config: Any, seed: int = 0) -> Any:
        """A network with fresh weights; what is sampled is its `generator`."""
        return _named(self.module, "build")(config, seed)


KINDS = {
    "progan": Kind("networks.progan", "ProGanConfig", "ProGanTraining", "training.growing", "ProGanTrainer"),
    "stylegan1": Kind(
        "networks.stylegan1", "StyleGan1Config", "StyleGan1Training", "training.growing", "StyleGan1Trainer"
    ),
    "stylegan2": Kind("networks.stylegan2", "StyleGan2Config", "StyleGan2Training", "training.gan", "StyleGan2Trainer"),
    "stylegan3": Kind("networks.stylegan3", "StyleGan3Config", "StyleGan3Training", "training.gan", "StyleGan3Trainer"),
    "diffusion": Kind(
        "networks.unet", "DiffusionConfig", "DiffusionTraining", "training.denoising", "DiffusionTrainer"
    ),
}
DEFAULT_KIND = "stylegan2"


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"understudy.generators.{module}"), name)


def kind_called(name: str) -> Kind:
    """The kind of a name, e.g. "stylegan2".

    Raises:
        UnderstudyError: there is none.
    """
    if name not in KINDS:
        raise UnderstudyError(f"there is no generator of kind {name!r}", fix=f"use one of {', '.join(KINDS)}")
    return KINDS[name]


def model_config(fields: Mapping[str, Any]) -> Any:
    """The configuration that the fields describe, by their "kind" (StyleGAN 2 without one)."""
    return kind_called(fields.get("kind", DEFAULT_KIND)).config(**fields)


def build(config: Any, seed: int = 0) -> nn.Module:
    """A network of the configuration's kind with fresh weights; what is sampled is its `generator`.

    Raises:
        ValueError: there is no such network at its resolution, which may have been left to its default.
    """
    config.check_size()
    network: nn.Module = kind_called(config.kind).build(config, seed)
    return network


def train(
    slices: SliceSet,
    rows: NDArray[np.int64] | None,
    model: Any,
    config: TrainingConfig,
    run_dir: str | Path,
    device: str = "auto",
    progress: bool = True,
    workers: Workers | None = None,
) -> Path:
    """Trains a generator of any kind; see `loop.train`, whose trainer follows from `model`.

    Raises:
        UnderstudyError: also if the training is that of another kind.
    """
    from understudy.generators.training import loop  # which reads models of this registry

    kind = kind_called(model.kind)
    if not isinstance(config, kind.training):
        raise UnderstudyError(
            f"a {type(config).__name__} cannot train {model.kind}", fix=f"use a {kind.training.__name__}"
        )
    return loop.train(kind.trainer, slices, rows, model, config, run_dir, device, progress, workers)
