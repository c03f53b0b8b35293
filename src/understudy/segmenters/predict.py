"""From a trained segmenter to label images and label volumes: slice by slice in batches, on the original grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor, nn

from understudy.errors import UnderstudyError
from understudy.io.files import read_json, reading
from understudy.io.foreign import MODEL
from understudy.io.readers import built, read_tensors
from understudy.io.seals import check_intact, check_opened
from understudy.runtime.devices import resolve_device, resolve_precision
from understudy.runtime.memory import in_parts
from understudy.segmenters.augment import Input, fed
from understudy.segmenters.config import build_model, model_config
from understudy.segmenters.mixing import channel_order, class_table
from understudy.volumes import TestVolume

FORMAT = "understudy-segmenter-1"
WEIGHTS = "segmenter.safetensors"

Dropped = Literal["background", "predict"]


class _Augmented(BaseModel):
    input: Input = "z_score"


class _Trained(BaseModel):
    precision: Literal["auto", "fp32", "bf16"]
    augment: _Augmented


class _Record(BaseModel):  # what `config.json` must say, whatever else is in it
    model: dict[str, Any]
    training: _Trained
    channels: list[str] = Field(min_length=1)
    classes: list[str] = Field(min_length=2, max_length=256)
    resolution: int = Field(ge=4, le=4096)


@dataclass
class Segmenter:
    """A network with what is needed to use it."""

    network: nn.Module  # maps slices [N, C, R, R] to a list, the first the class scores [N, K, R, R]
    channels: tuple[str, ...]  # names in the network's order, as of the classes
    classes: tuple[str, ...]  # classes[0] is the background
    resolution: int  # pixels
    device: torch.device
    dtype: torch.dtype  # float32 or bfloat16
    record: dict[str, Any]  # the content of `config.json`
    input: Input = "z_score"  # what the network is fed, see `AugmentConfig.input`

    @torch.inference_mode()
    def probabilities(self, images: NDArray[np.uint8], batch: int = 32) -> Tensor:
        """Class probabilities float32 [Z, K, R, R] on the CPU of images uint8 [Z, C, R, R]."""
        self.network.eval()
        out = torch.empty(len(images), len(self.classes), *images.shape[-2:])

        def predict(rows: slice) -> Tensor:
            x = torch.from_numpy(block[rows]).to(self.device)  # uint8 [n, C, R, R]: a quarter of the transfer
            x = fed(x.float() / 255, self.input).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                scores = self.network(x)[0]  # [n, K, R, R]
            return scores.float().softmax(1).cpu()

        for start in range(0, len(images), batch):
            block = images[start : start + batch]
            out[start : start + batch] = torch.cat(in_parts(predict, len(block), "prediction"))
        return out


def load(model_dir: str | Path, device: str = "auto") -> Segmenter:
    """The segmenter of a finished training; an UnderstudyError where it is unfinished, damaged, of another version."""
    folder = Path(model_dir)
    weights = folder / WEIGHTS
    check_opened(folder)
    if not weights.is_file() or not (folder / "config.json").is_file():
        raise UnderstudyError("no finished segmenter", where=folder, fix="train it, or check the path")
    record = read_json(folder / "config.json", dict)
    if record.get("format") != FORMAT:
        raise UnderstudyError("not a segmenter of this version", where=folder, fix="train it again")
    check_intact(folder / WEIGHTS, record)
    tensors = read_tensors(weights)
    with reading(folder / "config.json", MODEL):
        said = _Record.model_validate(record)
        channels, classes, resolution = tuple(said.channels), tuple(said.classes), said.resolution
        build = partial(build_model, channels=len(channels), classes=len(classes), resolution=resolution)
        network = built(build, model_config(said.model), tensors.values(), weights)
    with reading(weights, MODEL):  # other names or shapes of weights
        network.load_state_dict(tensors)
    target = resolve_device(device)
    network = network.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = resolve_precision(said.training.precision, target)
    return Segmenter(network, channels, classes, resolution, target, dtype, record, said.training.augment.input)


def predict(
    model: Segmenter, images: NDArray[np.uint8], channels: Sequence[str] | None = None, batch: int = 32
) -> NDArray[np.uint8]:
    """Labels uint8 [N, R, R], indices of `model.classes`, of slices uint8 [N, C, R, R] with these channels (None: the
    model's)."""
    return model.probabilities(_checked(model, images, channels, "images"), batch).argmax(1).to(torch.uint8).numpy()


def predict_volume(
    model: Segmenter, volume: TestVolume, channels: Sequence[str] | None = None, classes: Sequence[str] | None = None,
    batch: int = 32, dropped: Dropped = "background",
) -> NDArray[np.uint8]:  # fmt: skip
    """Labels uint8 [Z, H, W] of a volume on its original grid: probabilities up-sampled bilinearly, then the maximum.

    Args:
        channels: names of the volume's channels (`VolumeSet.channels`); None: they are in the model's order.
        classes: names of the classes, background first, whose indices the result has; None: the model's.
        dropped: slices that the slice rule drops: "background" leaves them empty (the network was trained on kept
            slices only; a tumour there is missed), "predict" labels them.
    """
    who = f"patient {volume.subject}"
    images = _checked(model, volume.images, channels, who)
    shown = volume.kept if dropped == "background" else np.ones(len(images), bool)  # [Z]
    labels = np.zeros((len(images), volume.geometry.height, volume.geometry.width), np.uint8)
    if shown.any():
        labels[shown] = volume.geometry.restore(model.probabilities(np.ascontiguousarray(images[shown]), batch))
    return labels if classes is None else class_table(model.classes, classes, who)[labels]


def _checked(
    model: Segmenter, images: NDArray[np.uint8], channels: Sequence[str] | None, where: str
) -> NDArray[np.uint8]:
    """The images with the model's channels; an UnderstudyError where channels or resolution do not fit."""
    if channels is not None:
        images = np.ascontiguousarray(images[:, channel_order(channels, model.channels, where)])
    if images.shape[1:] != (len(model.channels), model.resolution, model.resolution):
        given = f"slices of {images.shape[1]} channels and {images.shape[-1]} pixels"
        wanted = f"{len(model.channels)} ({', '.join(model.channels)}) and {model.resolution}"
        fix = "prepare the patient as the training slices were"
        raise UnderstudyError(f"{given} for a segmenter of {wanted}", where, fix)
    return images
