"""What is there to watch while a generator trains: pictures of samples, and curves for TensorBoard if it is installed.

tensorboard --logdir understudy-mystudy/jobs
"""

from __future__ import annotations

import importlib.util
import logging
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import torch
from numpy.typing import NDArray

from understudy.io.files import atomic_path

FOLDER = "tensorboard"


def grid(images: NDArray[np.uint8], labels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """Picture uint8 [(C + 1) H, n W, 3]: one column a sample, a row each channel, and one of the first channel with
    the classes in colour over it.

    Args:
        images: uint8 [n, C, H, W]. labels: uint8 [n, H, W]. classes: number of classes, background included.
    """
    palette = matplotlib.colormaps["tab10"](np.arange(10))[:, :3] * 255
    colours = palette[(np.arange(classes) - 1) % 10]  # class k has colour k - 1
    first = images[:, 0, :, :, None].repeat(3, axis=3).astype(np.float32)
    overlay = np.where(labels[..., None] > 0, 0.35 * first + 0.65 * colours[labels], first)
    rows = images[..., None].repeat(3, axis=4)  # [n, C, H, W, 3]
    joint = np.concatenate([rows, overlay[:, None].round().astype(np.uint8)], axis=1)
    n, c, h, w, _ = joint.shape
    return joint.transpose(1, 2, 0, 3, 4).reshape(c * h, n * w, 3)


def save_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes an RGB picture as PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        matplotlib.image.imsave(temporary, picture, format="png")


def memory_mb(device: torch.device) -> float:
    """Peak memory: of the GPU what tensors took, of the CPU what the process took, MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


class Board:
    """TensorBoard's event file of a run, below its folder; does nothing if not wanted or not installed.

    Args:
        images: real images shown so far: what an interrupted run wrote after them is hidden.
    """

    def __init__(self, folder: Path, wanted: bool, images: int) -> None:
        self._writer: Any = None
        if not wanted or importlib.util.find_spec("tensorboard") is None:
            return
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and is not needed without it

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=images + 1 if images else None)

    def scalars(self, figures: Mapping[str, Any], images: int) -> None:
        """Adds a point to each curve; what is not a number is left out."""
        if self._writer is None:
            return
        for name, value in figures.items():
            if isinstance(value, int | float) and name != "kimg":
                self._writer.add_scalar(name, value, images)

    def picture(self, picture: NDArray[np.uint8], images: int) -> None:
        """Adds a picture of samples."""
        if self._writer is not None:
            self._writer.add_image("samples", picture, images, dataformats="HWC")

    def close(self) -> None:
        """Writes what is pending."""
        if self._writer is not None:
            self._writer.close()
