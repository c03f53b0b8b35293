"""The weights of a package: written so that nothing but the averaged generator can be in them, and checked so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open

from understudy.errors import UnderstudyError
from understudy.generators.folder import CONFIG, WEIGHTS, load_generator, save_model
from understudy.generators.registry import KINDS
from understudy.generators.training.config import UNTRACED
from understudy.io.files import read_json, sha256_file

MODEL = "model"  # folder in the package
_KEPT = ("kind", "model", "channels", "classes", "annotation", "spacing", "axes", "kimg", "steps", "precision", "torch")
_NOT_TRAINING = {*UNTRACED, "seed"}  # the seed gives the order of the training slices


def write_weights(model: Path, folder: Path) -> dict[str, Any]:
    """Writes the averaged generator and what is needed to sample from it into `folder`.

    The tensors are read into the network of the configuration and written anew: a tensor that is not the
    architecture's, optimiser states, metadata of the file and the discriminator stay behind. Of config.json only named
    fields go along: no seed or order of data, no hash of the training slices, no history.

    Args:
        model: folder of a finished training.
        folder: the new one.

    Returns:
        The configuration that was written.

    Raises:
        UnderstudyError: damaged weights, values that are not finite, disk full.
    """
    generator, config = load_generator(model)
    for name, value in generator.state_dict().items():
        if not torch.isfinite(value).all():
            raise UnderstudyError(f"{name} has values that are not finite", where=model, fix="train it again")
    kept = {name: config[name] for name in _KEPT if name in config}
    if "training" in config:
        kept["training"] = {k: v for k, v in config["training"].items() if k not in _NOT_TRAINING}
    folder.mkdir(parents=True)
    save_model(folder, generator, kept)
    for name in (WEIGHTS, CONFIG):
        (folder / name).chmod(0o644)
    return kept


def describe(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What a certificate says of written weights."""
    with safe_open(folder / WEIGHTS, "pt") as tensors:
        sizes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118  # no mapping
    numbers = [int(torch.Size(size).numel()) for size in sizes]
    return {
        **{k: config.get(k) for k in ("kind", "channels", "classes", "annotation", "spacing", "axes")},
        "resolution": config["model"]["resolution"],
        "weights": {
            "file": f"{MODEL}/{WEIGHTS}",
            "sha256": sha256_file(folder / WEIGHTS),
            "tensors": len(sizes),
            "parameters": sum(numbers),
        },
        "config_sha256": sha256_file(folder / CONFIG),
    }


def weights_problems(folder: Path, said: dict[str, Any]) -> list[str]:
    """What is wrong with weights and configuration, compared with the certificate's `model`; nothing is executed.

    Raises:
        UnderstudyError: a file that cannot be read, or whose tensors are not the architecture's.
    """
    problems = []
    if sha256_file(folder / WEIGHTS) != said["weights"]["sha256"]:
        problems.append("the weights are not those that were certified")
    if sha256_file(folder / CONFIG) != said["config_sha256"]:
        problems.append("the configuration is not the one that was certified")
    config = read_json(folder / CONFIG)
    if config.get("kind") not in KINDS or set(config) - {*_KEPT, "training"}:
        return [*problems, "the configuration has other fields than a release has"]
    if extra := header_metadata(folder / WEIGHTS):
        problems.append(f"the weights' file holds metadata ({', '.join(sorted(extra))})")
    generator, _ = load_generator(folder)  # refuses tensors that are missing, strange, or of another shape
    if not all(torch.isfinite(value).all() for value in generator.state_dict().values()):
        problems.append("the weights hold values that are not finite")
    return problems


def header_metadata(path: Path) -> dict[str, str]:
    """The free text of a safetensors file; {} for what we write.

    Raises:
        UnderstudyError: no safetensors file.
    """
    try:
        with safe_open(path, "pt") as tensors:
            return dict(tensors.metadata() or {})
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise UnderstudyError(
            f"the weights cannot be read ({str(error).splitlines()[0]})", where=path, fix="get them again"
        ) from error
