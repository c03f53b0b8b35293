"""The encoder of a trained U-Net as an extractor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file, write_json
from understudy.quality.extractors import Extractor
from understudy.segmenters.encoder import EncoderExtractor
from understudy.segmenters.predict import FORMAT
from understudy.segmenters.unet import UNetConfig, build_unet


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter's folder with a network that is not trained."""
    folder = tmp_path_factory.mktemp("model")
    config = UNetConfig(width=4)
    state = {k: v.clone() for k, v in build_unet(config, 2, 2, 16, seed=3).state_dict().items()}
    save_file(state, folder / "segmenter.safetensors")
    write_json(folder / "config.json", {
        "format": FORMAT, "model": config.model_dump(mode="json"), "channels": ["T1w", "FLAIR"],
        "classes": ["background", "lesion"], "resolution": 16, "training": {"precision": "fp32", "augment": {}},
    })  # fmt: skip
    return folder


def test_the_encoders_features_are_its_lowest_convolution(model: Path) -> None:
    found = EncoderExtractor(model, "cpu")
    assert isinstance(found, Extractor)
    assert (found.name, found.channels, found.dimension) == ("unet", ("T1w", "FLAIR"), 16)
    assert found.sha256 == sha256_file(model / "segmenter.safetensors")
    images = np.random.default_rng(0).integers(1, 256, (5, 2, 16, 16)).astype(np.uint8)
    features = found.features(images, batch=2)
    # by hand: z-score each slice's channels (all of it is foreground), run the encoder's stages one by one
    network = build_unet(UNetConfig(width=4), 2, 2, 16, seed=3).eval()
    x = torch.from_numpy(images).double()
    x = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True, unbiased=False)
    with torch.inference_mode():
        y = network.body.input_block(x.float())
        for stage in network.body.downsamples:
            y = stage(y)
        block = network.body.bottleneck
        y = block.conv2(block.lrelu(block.norm1(block.conv1(y))))
    np.testing.assert_allclose(features, y.mean((2, 3)).numpy(), rtol=2e-3, atol=2e-3)
    assert np.ptp(features, axis=0).min() > 0
    with pytest.raises(UnderstudyError, match="slices of 32 pixels for a segmenter of 16"):
        found.features(np.zeros((1, 2, 32, 32), np.uint8))
