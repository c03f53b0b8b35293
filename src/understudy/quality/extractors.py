"""Feature extractors: what turns slices into vectors, how a slice becomes a network's input, and which there are.

To add one that reads weights from a file, write its maker and add a line to `FROM_A_FILE`.
"""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from understudy.errors import UnderstudyError
from understudy.io.files import plain
from understudy.quality import networks
from understudy.quality.radiomics import RadiomicExtractor, TumourRadiomics
from understudy.quality.weights import Weights, load_into, read_weights
from understudy.runtime.devices import resolve_device
from understudy.runtime.memory import in_parts

Features = NDArray[np.float32]
Resize = Literal["antialiased_bicubic", "tf1"]
BICUBIC: Resize = "antialiased_bicubic"


@runtime_checkable
class Extractor(Protocol):
    """Turns slices into vectors. Anything with these members will do (radiomic features need no network)."""

    name: str  # e.g. "inception2015"
    sha256: str  # of its weights (hex), or of whatever its features depend on
    rule: dict[str, Any]  # how slices become its input, plain JSON; stored with results and part of the cache's key
    dimension: int  # length of a vector
    channels: tuple[str, ...] | None  # None: looks at one channel at a time. Names: wants these together, in this order

    def features(self, images: NDArray[np.uint8]) -> Features:
        """Vectors float32 [n, dimension] of images uint8 [n, H, W], or [n, C, H, W] if `channels` are named."""
        ...


@runtime_checkable
class LabelledExtractor(Protocol):
    """An extractor that looks at the annotation too: labels uint8 [n, H, W], class indices."""

    def labelled_features(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Features: ...


@runtime_checkable
class Classifier(Protocol):
    """An extractor whose features a last layer turns into class scores [n, classes], for the inception score."""

    def logits(self, features: Features) -> Features: ...


@dataclass(frozen=True)
class InputRule:
    """What is done to uint8 slices before a network sees them: resized, repeated, shifted and scaled.

    It travels with every result: resizing alone moves an FID by more than a generator does (Parmar et al. 2022).
    """

    size: int  # edge of the network's input, pixels
    # "antialiased_bicubic": float32, clipped to 0..255, as clean-fid (PIL's filter on float images). "tf1": bilinear
    # without antialiasing between corner-aligned grids, as TensorFlow 1 and so the first FID did; for old numbers only
    resize: Resize = BICUBIC
    mean: tuple[float, ...] = (0.0,)  # input = (grey value - mean) / std, for each copy
    std: tuple[float, ...] = (1.0,)
    copies: int = 3  # how often the one channel is repeated (3: RGB)

    def apply(self, images: NDArray[np.uint8], device: torch.device | str = "cpu") -> torch.Tensor:
        """Images uint8 [n, H, W] as float32 [n, copies, size, size]."""
        x = torch.from_numpy(np.ascontiguousarray(images)).to(device).float()[:, None]
        if x.shape[-2:] != (self.size, self.size):
            x = resized(x, self.size, self.resize)
        x = x.repeat(1, self.copies, 1, 1)
        mean, std = (torch.tensor(v, device=x.device).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


def resized(x: torch.Tensor, size: int, how: Resize) -> torch.Tensor:
    """Float32 [n, c, H, W] in 0..255 as [n, c, size, size] in 0..255."""
    if how == BICUBIC:
        out = nn.functional.interpolate(x, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        return out.clamp(0, 255)  # the filter's negative lobes overshoot at edges

    def weights(inputs: int) -> torch.Tensor:  # tf1: output i reads at i * inputs / size, between two neighbours
        at = torch.arange(size, dtype=torch.float32) * (inputs / size)
        low = at.floor().long().clamp(max=inputs - 1)
        share, rows, found = at - low, torch.arange(size), torch.zeros(size, inputs)
        found.index_put_((rows, low), 1 - share, accumulate=True)
        found.index_put_((rows, (low + 1).clamp(max=inputs - 1)), share, accumulate=True)
        return found.to(x.device)

    return weights(x.shape[-2]) @ x @ weights(x.shape[-1]).T


class NetworkExtractor:
    """A network that maps float32 [n, copies, S, S] to [n, dimension], with its input rule."""

    channels: tuple[str, ...] | None = None

    def __init__(
        self, name: str, network: nn.Module, rule: InputRule, sha256: str, device: str | torch.device = "cpu",
        batch: int = 32,
    ) -> None:  # fmt: skip
        self.name, self.dimension, self.sha256, self.batch = name, int(network.dimension), sha256, batch  # type: ignore[arg-type]
        self.input_rule, self.rule = rule, plain(asdict(rule))
        self.device = resolve_device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def features(self, images: NDArray[np.uint8]) -> Features:
        """In batches; in smaller ones after an OOM."""
        out = np.empty((len(images), self.dimension), np.float32)
        for start in range(0, len(images), self.batch):
            block = images[start : start + self.batch]

            def of(rows: slice, block: NDArray[np.uint8] = block) -> Features:
                return np.asarray(self.network(self.input_rule.apply(block[rows], self.device)).float().cpu().numpy())

            out[start : start + self.batch] = np.concatenate(in_parts(of, len(block), "features"))
        return out


class ClassifyingExtractor(NetworkExtractor):
    """A network with a last linear layer `network.fc`, of which the inception score leaves out the bias."""

    @torch.inference_mode()
    def logits(self, features: Features) -> Features:
        weight = self.network.fc.weight.cpu().numpy()  # type: ignore[union-attr,operator]
        return np.asarray(features @ weight.T, np.float32)


def random_network(resize: Resize = BICUBIC, device: str = "cpu", seed: int = 0) -> NetworkExtractor:
    """The network with fixed random weights, on slices of 64 x 64 pixels."""
    network, digest = networks.RandomNetwork(seed), hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    rule = InputRule(64, resize, (127.5,), (127.5,), copies=1)
    return NetworkExtractor("random", network, rule, digest.hexdigest(), device, batch=128)


@torch.inference_mode()
def _inception2015(weights: Weights, resize: Resize) -> tuple[nn.Module, InputRule]:
    network = networks.Inception(fid=True).eval()
    load_into(network, weights.tensors if weights.script is None else networks.from_graph(weights.tensors), weights)
    layers: Any = getattr(weights.script, "layers", None)
    if hasattr(layers, "forward"):  # the archive's own layers (its hash was checked) must give the same features
        x = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = layers(x).reshape(1, -1).float()
        ours = network(x)
        if theirs.shape != ours.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.std())):
            what = "the weights were read, but the network computes other features than the file's own"
            fix = "give torch-fidelity's state dict (weights-inception-2015-12-05-6726825d.pth)"
            raise UnderstudyError(what, where=weights.path, fix=fix)
    return network, InputRule(299, resize, (128.0,), (128.0,))


def _radimagenet_inception(weights: Weights, resize: Resize) -> tuple[nn.Module, InputRule]:
    network = networks.Inception(fid=False)
    load_into(network, _numbered(weights.tensors, list(dict(network.named_children()))), weights)
    return network, InputRule(299, resize, (127.5,), (127.5,))


def _radimagenet_resnet50(weights: Weights, resize: Resize) -> tuple[nn.Module, InputRule]:
    tensors = _numbered(weights.tensors, ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"])
    # blocks of each stage, by the names in the file
    found = [{m[1] for n in tensors if (m := re.match(rf"layer{stage}\.(\d+)\.", n))} for stage in (1, 2, 3, 4)]
    network = networks.ResNet50([len(blocks) or 1 for blocks in found])
    load_into(network, tensors, weights)
    return network, InputRule(224, resize, (127.5,), (127.5,))


def _dinov2(weights: Weights, resize: Resize) -> tuple[nn.Module, InputRule]:
    # ImageNet's mean and standard deviation
    mean, std = (tuple(255 * v for v in values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return networks.dinov2(weights), InputRule(224, resize, mean, std)


def _numbered(tensors: Mapping[str, torch.Tensor], layers: list[str]) -> dict[str, torch.Tensor]:
    """Names such as "backbone.4.0.conv1.weight" (RadImageNet keeps its layers in a list) as "layer1.0.conv1.weight".

    Layers without weights take numbers too, so the numbers that occur, in order, are `layers` in order.
    """
    bare = {re.sub(r"^(module\.)?(backbone|base_model|model)\.", "", name): t for name, t in tensors.items()}
    numbers = sorted({int(m[1]) for name in bare if (m := re.match(r"(\d+)\.", name))})
    if not numbers:
        return bare
    if len(numbers) == len(layers) + 1 and "Mixed_7a" in layers:
        numbers.remove(numbers[layers.index("Mixed_7a")])  # Inception's second classifier stands before it
    names = dict(zip(map(str, numbers), layers, strict=False))
    parts = {name: name.partition(".") for name in bare}
    return {f"{names[p[0]]}.{p[2]}": bare[n] for n, p in parts.items() if p[0] in names}


_Maker = Callable[[Weights, Resize], tuple[nn.Module, InputRule]]
FROM_A_FILE: dict[str, tuple[_Maker, str]] = {  # its maker, and the file that it reads
    "inception2015": (
        _inception2015,
        "torch-fidelity's weights-inception-2015-12-05-6726825d.pth or NVIDIA's inception-2015-12-05.pt",
    ),
    "radimagenet_inception": (_radimagenet_inception, "InceptionV3.pt of RadImageNet's PyTorch release"),
    "radimagenet_resnet50": (_radimagenet_resnet50, "ResNet50.pt of RadImageNet's PyTorch release"),
    "dinov2": (_dinov2, "dinov2_vitl14_pretrain.pth (or vitb14, vits14) of facebookresearch/dinov2"),
}
NAMES = ("random", "radiomics", "radiomics_tumour", *FROM_A_FILE)


def make_extractor(
    name: str, weights: str | Path | None = None, sha256: str | None = None, resize: Resize = BICUBIC,
    device: str = "cpu",
) -> Extractor:  # fmt: skip
    """An extractor by its name.

    Args:
        name: one of `NAMES`.
        weights: of `FROM_A_FILE`: a state dict (.pth, .pt, .safetensors); for inception2015 also NVIDIA's TorchScript.
        sha256: that the file must have; None: the published one where there is one.
        resize: see `InputRule`.

    Example:
        >>> make_extractor("random").features(np.zeros((2, 64, 64), np.uint8)).shape
        (2, 128)
    """
    if name == "random":
        return random_network(resize, device)
    if name in ("radiomics", "radiomics_tumour"):
        return RadiomicExtractor() if name == "radiomics" else TumourRadiomics()
    if name not in FROM_A_FILE:
        raise UnderstudyError(f"there is no extractor {name!r}", fix=f"use one of {', '.join(NAMES)}")
    make, file = FROM_A_FILE[name]
    if weights is None:
        what = f"the extractor {name} needs a file of weights, and nothing is downloaded"
        raise UnderstudyError(what, fix=f"give it (--weights FILE); {file}")
    read = read_weights(weights, name, sha256)
    network, rule = make(read, resize)
    kind = ClassifyingExtractor if hasattr(network, "fc") else NetworkExtractor
    return kind(name, network, rule, read.sha256, device)
