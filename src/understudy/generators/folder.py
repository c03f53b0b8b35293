"""The folder of a generator: `generator.safetensors`, `config.json`, `history.jsonl` and pictures of samples; of a GAN
also `discriminator.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from understudy.errors import UnderstudyError
from understudy.generators.registry import build, model_config
from understudy.io.files import atomic_path, read_json, write_json
from understudy.slices import LabelClass

WEIGHTS, CONFIG = "generator.safetensors", "config.json"
DISCRIMINATOR = "discriminator.safetensors"  # of a GAN: for audits, never for release (it knows the training slices)


def save_model(
    folder: Path, generator: nn.Module, config: dict[str, Any], discriminator: nn.Module | None = None
) -> None:
    """Writes the weights, then `config.json`: the folder is finished when the latter is there."""
    for name, network in ((WEIGHTS, generator), (DISCRIMINATOR, discriminator)):
        if network is None:
            continue
        with atomic_path(folder / name) as temporary:
            weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
            safetensors.torch.save_file(weights, temporary)
    write_json(folder / CONFIG, config)


def snapshot_folder(folder: str | Path, kimg: float) -> Path:
    """Where a training keeps its weights after so many thousand images; a folder like that of a finished one."""
    return Path(folder) / "snapshots" / f"{kimg:g}kimg"


def is_finished(folder: Path, identity: str) -> bool:
    """Whether `folder` holds the finished run of this identity.

    Raises:
        UnderstudyError: it holds another run.
    """
    if not (folder / CONFIG).is_file():
        return False
    if read_json(folder / CONFIG).get("identity") != identity:
        raise UnderstudyError(
            "the folder holds another training (other settings or data)",
            where=folder,
            fix="use another folder, or delete this one",
        )
    return True


def load_generator(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """The averaged generator of any kind (float32, CPU, evaluation only) and `config.json` of a finished run.

    Raises:
        UnderstudyError: the run is not finished, or its files are damaged; a plug-in that is not there.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG, dict)
    if "plugin" in config:
        from understudy.generators.plugin_run import PluginGenerator  # which nobody else needs

        return PluginGenerator(folder, config), config
    try:
        generator: Any = build(model_config({"kind": config["kind"], **config["model"]})).generator
        generator.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise UnderstudyError(
            f"the generator cannot be loaded ({str(error).splitlines()[0]})",
            where=folder,
            fix="train it again, or restore the folder from a copy",
        ) from error
    return generator.requires_grad_(False).eval(), config


def classes_of(config: dict[str, Any]) -> tuple[LabelClass, ...]:
    """The classes recorded in `config.json`."""
    return tuple(LabelClass(**c) for c in config["classes"])
