"""The encoder of a trained U-Net as an extractor of features (see `quality.extractors.Extractor`)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file
from understudy.segmenters.augment import fed
from understudy.segmenters.predict import load


class EncoderExtractor:
    """Features of our own U-Net: the mean over positions of its lowest stage's last convolution, before its norm.

    The network sees all channels together, each z-scored as in its training. It knows the training patients: their
    features may differ from those of other patients for that reason alone, which the floor of held-out patients shows.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self._segmenter = load(folder, device=device)
        body = getattr(self._segmenter.network, "body", None)
        convolution = getattr(getattr(body, "bottleneck", None), "conv2", None)
        if body is None or convolution is None:
            raise UnderstudyError("this segmenter is no U-Net", where=folder, fix="use a U-Net, or another extractor")
        self.name = "unet"
        self.sha256 = sha256_file(folder / "segmenter.safetensors")
        self.channels: tuple[str, ...] | None = self._segmenter.channels
        self.rule: dict[str, Any] = {"size": self._segmenter.resolution, "resize": "none", "scale": "z-score"}
        self.dimension = int(convolution.conv.out_channels)
        self._encoder = [body.input_block, *body.downsamples, body.bottleneck]
        self._found: list[Any] = []
        # before the norm, after which every channel would have the same mean
        convolution.register_forward_hook(lambda module, inputs, output: self._found.append(output))

    def features(self, images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
        """Vectors float32 [n, dimension] of images uint8 [n, C, R, R], channels in the network's order."""
        model, out = self._segmenter, np.empty((len(images), self.dimension), np.float32)
        if images.shape[1:] != (len(model.channels), model.resolution, model.resolution):
            what = f"slices of {images.shape[-1]} pixels for a segmenter of {model.resolution}"
            raise UnderstudyError(what, fix="use a segmenter that was trained at this resolution")
        model.network.eval()
        for start in range(0, len(images), batch):
            self._found.clear()
            with torch.inference_mode():
                x = torch.from_numpy(images[start : start + batch]).to(model.device)
                y = fed(x.float() / 255, model.input).contiguous(memory_format=torch.channels_last)
                for stage in self._encoder:
                    y = stage(y)
                out[start : start + batch] = self._found[0].float().mean((2, 3)).cpu().numpy()
        self._found.clear()
        return out
