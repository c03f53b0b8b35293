"""From a trained segmenter to label volumes: slice by slice in batches, restacked on the original grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from understudy.errors import UnderstudyError
from understudy.io.files import read_json
from understudy.runtime.devices import resolve_device
from understudy.runtime.memory import in_parts
from understudy.segmenters.augment import Input
from understudy.segmenters.augment_apply import fed
from understudy.segmenters.models import build_model, model_config
from understudy.segmenters.pools import channel_order, class_table
from understudy.volumes import TestVolume, VolumeSet

FORMAT = "understudy-segmenter-1"

Dropped = Literal["background", "predict"]


def choose_precision(precision: str, device: torch.device) -> str:
    """ "auto" is "bf16" where the hardware computes in it, else "fp32"."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    # emulated bf16 is slower than fp32 on CPUs without the instructions
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


@dataclass
class Segmenter:
    """A network with what is needed to use it.

    Attributes:
        network: see `models`; maps slices [N, C, R, R], fed as `input` says, to a list, the first the class scores
            [N, K, R, R].
        channels, classes: names in the network's order; `classes[0]` is the background.
        resolution: edge of the slices, pixels.
        device, precision: where and how it computes ("fp32" or "bf16").
        record: the content of `config.json`.
        input: what the network is fed, see `AugmentConfig.input`.
    """

    network: nn.Module
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    resolution: int
    device: torch.device
    precision: str
    record: dict[str, Any]
    input: Input = "z_score"

    @torch.inference_mode()
    def probabilities(self, images: NDArray[np.uint8], batch: int = 32) -> torch.Tensor:
        """Class probabilities float32 [Z, K, R, R] on the CPU of images uint8 [Z, C, R, R]."""
        self.network.eval()
        out = torch.empty(len(images), len(self.classes), *images.shape[-2:])
        for start in range(0, len(images), batch):
            block = images[start : start + batch]
            out[start : start + batch] = torch.cat(
                in_parts(lambda rows, block=block: self._of(block[rows]), len(block), "prediction")  # type: ignore[misc]
            )
        return out

    def _of(self, images: NDArray[np.uint8]) -> torch.Tensor:
        x = torch.from_numpy(images).to(self.device)
        x = fed(x.float() / 255, self.input).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            scores = self.network(x)[0]
        return scores.float().softmax(1).cpu()


def load(model_dir: str | Path, device: str = "auto") -> Segmenter:
    """Opens the folder of a finished training.

    Raises:
        UnderstudyError: the training is not finished, or the folder is damaged or of another version.
    """
    folder = Path(model_dir)
    weights = folder / "segmenter.safetensors"
    if not weights.is_file() or not (folder / "config.json").is_file():
        raise UnderstudyError("no finished segmenter", where=folder, fix="train it, or check the path")
    record = read_json(folder / "config.json", dict)
    if record.get("format") != FORMAT:
        raise UnderstudyError("not a segmenter of this version", where=folder, fix="train it again")
    where = resolve_device(device)
    try:
        network = build_model(
            model_config(record["model"]), len(record["channels"]), len(record["classes"]), record["resolution"]
        )
        network.load_state_dict(load_file(weights))
    except (
        SafetensorError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:  # damaged file; other names or shapes of weights; unknown fields of the network
        raise UnderstudyError(
            f"the weights cannot be read ({str(error).splitlines()[0]})", where=weights, fix="train it again"
        ) from error
    return Segmenter(
        network=network.to(where, memory_format=torch.channels_last),  # type: ignore[call-overload]
        channels=tuple(record["channels"]),
        classes=tuple(record["classes"]),
        resolution=int(record["resolution"]),
        device=where,
        precision=choose_precision(record["training"]["precision"], where),
        record=record,
        input=record["training"]["augment"].get("input", "z_score"),
    )


def predict_volume(
    model: Segmenter,
    volume: TestVolume,
    channels: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    batch: int = 32,
    dropped: Dropped = "background",
) -> NDArray[np.uint8]:
    """Labels of a whole volume.

    Args:
        model: from `load`.
        volume: the patient.
        channels: names of the volume's channels (`VolumeSet.channels`); put into the model's order by name.
            None: they are in the model's order.
        classes: names of the classes, background first, whose indices the result has; None: the model's.
        batch: slices at a time.
        dropped: what becomes of slices that the slice rule drops: "background" leaves them empty (the network was
            trained on kept slices only and knows nothing of others; a tumour there is missed), "predict" labels them.

    Returns:
        uint8 [Z, H, W] on the original grid: probabilities up-sampled bilinearly, then the most probable class.

    Raises:
        UnderstudyError: channels, classes or resolution do not fit.
    """
    who = f"patient {volume.subject}"
    images = volume.images
    if channels is not None:
        images = images[:, channel_order(channels, model.channels, who)]
    if images.shape[1:] != (len(model.channels), model.resolution, model.resolution):
        raise UnderstudyError(
            f"slices of {images.shape[1]} channels and {images.shape[-1]} pixels for a segmenter of"
            f" {len(model.channels)} ({', '.join(model.channels)}) and {model.resolution}",
            where=who, fix="prepare the patient as the training slices were")  # fmt: skip
    seen = volume.kept if dropped == "background" else np.ones(len(images), bool)
    labels = np.zeros((len(images), volume.geometry.height, volume.geometry.width), np.uint8)
    if seen.any():
        labels[seen] = volume.geometry.restore(model.probabilities(np.ascontiguousarray(images[seen]), batch))
    return labels if classes is None else class_table(model.classes, classes, who)[labels]


def predict_set(
    model: Segmenter, volumes: VolumeSet, subjects: Sequence[str] | None = None, batch: int = 32
) -> Iterator[tuple[TestVolume, NDArray[np.uint8]]]:
    """(volume, labels in the set's class indices) of each patient, the test patients by default."""
    names = [c.name for c in volumes.classes]
    for subject in volumes.subjects("test") if subjects is None else subjects:
        volume = volumes.read(subject)
        yield volume, predict_volume(model, volume, volumes.channels, names, batch)
