"""Extractors by name: those that need a file of weights, and the random network that needs none.

The encoder of our own U-Net is handed over by `study` or the command line, which may know of both rooms; radiomic
features are one more class with the members of `Extractor`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from understudy.errors import UnderstudyError
from understudy.quality.extractor import ClassifyingExtractor, Extractor, NetworkExtractor, sha256_state
from understudy.quality.networks import inception, resnet
from understudy.quality.networks.random import DIMENSION as RANDOM_DIMENSION
from understudy.quality.networks.random import RandomNetwork
from understudy.quality.rules import InputRule, Resize
from understudy.quality.weights import Weights, load_into, read_weights

_IMAGENET_MEAN = tuple(255 * m for m in (0.485, 0.456, 0.406))
_IMAGENET_STD = tuple(255 * s for s in (0.229, 0.224, 0.225))
RANDOM_EDGE = 64
FROM_A_FILE = ("inception2015", "radimagenet_inception", "radimagenet_resnet50", "dinov2")


def random_network(resize: Resize = "antialiased_bicubic", device: str = "cpu", seed: int = 0) -> NetworkExtractor:
    """The network with fixed random weights, on slices of 64 x 64 pixels."""
    network = RandomNetwork(seed)
    rule = InputRule(RANDOM_EDGE, resize, (127.5,), (127.5,), copies=1)
    digest = sha256_state(network.state_dict())
    return NetworkExtractor("random", network, RANDOM_DIMENSION, rule, digest, device, batch=128)


def from_file(
    name: str, path: str | Path, sha256: str | None = None, resize: Resize = "antialiased_bicubic", device: str = "cpu"
) -> NetworkExtractor:
    """An extractor of `FROM_A_FILE` with the user's weights.

    Args:
        name: see `FROM_A_FILE`.
        path: state dict (.pth, .pt, .safetensors); for inception2015 also NVIDIA's TorchScript.
        sha256: that the file must have; None: the published one where there is one.
        resize: see `InputRule`.
        device: e.g. "cpu".

    Raises:
        UnderstudyError: unknown name, wrong file, wrong hash, missing weights.
    """
    makers: dict[str, Callable[[Weights, Resize, str], NetworkExtractor]] = {
        "inception2015": _inception2015,
        "radimagenet_inception": _radimagenet_inception,
        "radimagenet_resnet50": _radimagenet_resnet50,
        "dinov2": _dinov2,
    }
    if name not in makers:
        raise UnderstudyError(f"there is no extractor {name!r}", fix=f"use one of {', '.join(makers)}")
    return makers[name](read_weights(path, name, sha256), resize, device)


def _inception2015(weights: Weights, resize: Resize, device: str) -> NetworkExtractor:
    network = inception.Inception(fid=True)
    tensors = weights.tensors if weights.script is None else inception.from_graph(weights.tensors)
    load_into(network, tensors, weights.path)
    if weights.script is not None:
        _compare_with_script(network.eval(), weights)
    rule = InputRule(299, resize, (128.0,), (128.0,))
    return ClassifyingExtractor("inception2015", network, inception.DIMENSION, rule, weights.sha256, device)


@torch.inference_mode()
def _compare_with_script(network: torch.nn.Module, weights: Weights) -> None:
    """Refuses to go on unless the archive's own layers give the same features (its hash was checked before)."""
    layers: Any = getattr(weights.script, "layers", None)
    if not hasattr(layers, "forward"):
        return
    x = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = layers(x).reshape(1, -1).float()
    ours = network(x)
    if theirs.shape != ours.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.std())):
        raise UnderstudyError(
            "the weights were read, but the network computes other features than the file's own", where=weights.path,
            fix="give torch-fidelity's state dict (weights-inception-2015-12-05-6726825d.pth)")  # fmt: skip


def _radimagenet_inception(weights: Weights, resize: Resize, device: str) -> NetworkExtractor:
    network = inception.Inception(fid=False)
    load_into(network, _numbered(weights.tensors, inception.LAYERS, skip="AuxLogits"), weights.path)
    rule = InputRule(299, resize, (127.5,), (127.5,))
    return NetworkExtractor("radimagenet_inception", network, inception.DIMENSION, rule, weights.sha256, device)


def _radimagenet_resnet50(weights: Weights, resize: Resize, device: str) -> NetworkExtractor:
    tensors = _numbered(weights.tensors, resnet.LAYERS)
    network = resnet.ResNet50(_stages(tensors))
    load_into(network, tensors, weights.path)
    rule = InputRule(224, resize, (127.5,), (127.5,))
    return NetworkExtractor("radimagenet_resnet50", network, resnet.DIMENSION, rule, weights.sha256, device)


def _stages(tensors: Mapping[str, torch.Tensor]) -> tuple[int, int, int, int]:
    """Blocks of each stage, by the names in the file."""
    found = [{int(m[1]) for n in tensors if (m := re.match(rf"layer{s}\.(\d+)\.", n))} for s in (1, 2, 3, 4)]
    one, two, three, four = (len(blocks) or 1 for blocks in found)
    return one, two, three, four


def _dinov2(weights: Weights, resize: Resize, device: str) -> NetworkExtractor:
    from understudy.quality.networks.dinov2 import dinov2

    network = dinov2(weights.tensors, weights.path)
    rule = InputRule(224, resize, _IMAGENET_MEAN, _IMAGENET_STD)
    hidden = int(network.body.config.hidden_size)  # type: ignore[union-attr,arg-type]
    return NetworkExtractor("dinov2", network, hidden, rule, weights.sha256, device)


def _numbered(tensors: Mapping[str, torch.Tensor], layers: tuple[str, ...], skip: str = "") -> dict[str, torch.Tensor]:
    """Names such as "backbone.4.0.conv1.weight" (RadImageNet keeps its layers in a list) as "layer1.0.conv1.weight".

    Layers without weights take numbers too, so the numbers that occur, in order, are `layers` in order.
    """
    bare = {re.sub(r"^(module\.)?(backbone|base_model|model)\.", "", name): t for name, t in tensors.items()}
    numbers = sorted({int(m[1]) for name in bare if (m := re.match(r"(\d+)\.", name))})
    if not numbers:
        return {name: t for name, t in bare.items() if not skip or not name.startswith(skip)}
    if len(numbers) == len(layers) + 1 and skip:
        numbers.remove(numbers[layers.index("Mixed_7a")])  # the second classifier stands before it
    names = dict(zip(map(str, numbers), layers, strict=False))
    parts = {name: name.partition(".") for name in bare}
    return {f"{names[p[0]]}.{p[2]}": bare[n] for n, p in parts.items() if p[0] in names}


def needs_a_file(name: str) -> bool:
    """Whether an extractor is made by `from_file`."""
    return name in FROM_A_FILE


__all__ = ["FROM_A_FILE", "Extractor", "from_file", "needs_a_file", "random_network"]
