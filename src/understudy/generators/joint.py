"""Joint images: the MR channels and the annotation as one tensor in [-1, 1], and back.

`coded` writes the annotation as one channel of intensity codes (the paper: 51, 102, 204 for BraTS); `one_hot` gives
each class but the background a channel of its own.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.exchange.pixels import nearest_codes, strongest_class
from understudy.slices import LabelClass

Annotation = Literal["coded", "one_hot"]
_HALF = 127.5  # half the range of 8 bits: x / 127.5 - 1 maps 0..255 to [-1, 1]


def annotation_channels(classes: Sequence[LabelClass], annotation: Annotation = "coded") -> int:
    """Channels that the annotation takes."""
    return 1 if annotation == "coded" else len(classes) - 1


def encode(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], classes: Sequence[LabelClass],
    annotation: Annotation = "coded",
) -> Tensor:  # fmt: skip
    """Images uint8 [n, C, H, W] and labels uint8 [n, H, W] (class indices) -> float32 [n, C + A, H, W] in [-1, 1]."""
    if labels.size and int(labels.max()) >= len(classes):
        what = f"label {int(labels.max())} but only {len(classes)} classes"
        raise UnderstudyError(what, fix="prepare the slices again")
    if annotation == "coded":
        codes = np.array([c.code for c in classes], np.float32)
        channels = codes[labels][:, None]
    else:
        indices = np.arange(1, len(classes))[:, None, None]
        channels = (labels[:, None] == indices).astype(np.float32) * 255
    joint = np.concatenate([images.astype(np.float32), channels], axis=1)
    return torch.from_numpy(joint / _HALF - 1)


def decode(
    joint: Tensor, classes: Sequence[LabelClass], annotation: Annotation = "coded"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Float [n, C + A, H, W] -> images uint8 [n, C, H, W], labels uint8 [n, H, W], code_distance float32 [n].

    Each pixel of the annotation goes to the class with the nearest code (a tie to the class listed first), or in
    `one_hot` to the strongest channel above one half. code_distance is the mean over pixels of the distance between the
    annotation and the code it was given, in grey values: 0 for a perfect annotation, largest for an undecided one.
    """
    values = (joint.detach().float().cpu().numpy() + 1) * _HALF
    count = annotation_channels(classes, annotation)
    images = np.clip(np.rint(values[:, :-count]), 0, 255).astype(np.uint8)
    drawn = np.clip(values[:, -count:], 0, 255)
    if annotation == "coded":
        labels, distance = nearest_codes(drawn[:, 0], [c.code for c in classes])
    else:
        labels, distance = strongest_class(drawn)
    return images, labels.astype(np.uint8), distance.mean(axis=(1, 2)).astype(np.float32)
