"""The folder of a generator: `generator.safetensors`, `config.json`, `history.jsonl` and pictures of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import safetensors
import safetensors.torch
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.files import atomic_path, read_json, write_json
from understudy.generators.stylegan2 import Generator, StyleGan2Config, build
from understudy.slices import LabelClass

WEIGHTS, CONFIG = "generator.safetensors", "config.json"


def save_model(folder: Path, generator: Generator, config: dict[str, Any]) -> None:
    """Writes the weights, then `config.json`: the folder is finished when the latter is there."""
    with atomic_path(folder / WEIGHTS) as temporary:
        weights = {k: v.detach().cpu().contiguous() for k, v in generator.state_dict().items()}
        safetensors.torch.save_file(weights, temporary)
    write_json(folder / CONFIG, config)


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


def load_generator(folder: str | Path) -> tuple[Generator, dict[str, Any]]:
    """The averaged generator (float32, CPU, evaluation only) and `config.json` of a finished run.

    Raises:
        UnderstudyError: the run is not finished, or its files are damaged.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    try:
        generator = build(StyleGan2Config(**config["model"])).generator
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


def save_grid(path: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> None:
    """PNG: one column a sample, one row a channel and one for the annotation.

    Args:
        images: uint8 [n, C, H, W]. labels: uint8 [n, H, W]. classes: number of classes, background included.
    """
    annotation = (labels.astype(np.uint16) * 255 // max(1, classes - 1)).astype(np.uint8)
    joint = np.concatenate([images, annotation[:, None]], axis=1)  # [n, C + 1, H, W]
    n, c, h, w = joint.shape
    picture = joint.transpose(1, 2, 0, 3).reshape(c * h, n * w)
    with atomic_path(path) as temporary:
        matplotlib.image.imsave(temporary, picture, cmap="gray", vmin=0, vmax=255, format="png")
