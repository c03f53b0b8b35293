"""The importer of official weights: by name, complete, and clear about what it does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from understudy.errors import UnderstudyError
from understudy.generators.networks.stylegan2 import StyleGan2, StyleGan2Config, build
from understudy.generators.networks.stylegan3 import StyleGan3
from understudy.generators.official.weights import load_official_arrays, stylegan2_config

CONFIG: dict[str, Any] = {
    "kind": "sg2", "resolution": 16, "img_channels": 2, "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8,
    "mapping_layers": 3, "conv_clamp": None,
}  # fmt: skip


def official_arrays(model: StyleGan2) -> dict[str, np.ndarray]:
    """Our weights under the official names."""
    arrays: dict[str, np.ndarray] = {"G/synthesis.b8.resample_filter": np.ones((4, 4), np.float32)}
    for name, value in model.generator.state_dict().items():
        parts = name.split(".")
        if parts[0] == "mapping" and parts[1] == "layers":
            name = f"mapping.fc{parts[2]}.{parts[3]}"
        elif parts[0] == "synthesis":
            rest = ".".join(p for p in parts[3:] if p != "conv").replace("to_image", "torgb")
            name = f"synthesis.b{4 << int(parts[2])}.{rest}"
        arrays["G/" + name] = value.numpy()
    return arrays | official_discriminator(model)


def official_discriminator(model: StyleGan2 | StyleGan3) -> dict[str, np.ndarray]:
    """The same of the discriminator alone, which StyleGAN 3 shares."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in model.discriminator.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            name = f"b{model.config.resolution >> int(parts[1])}." + ".".join(parts[2:]).replace(
                "from_image", "fromrgb"
            )
        else:
            name = "b4." + name.replace("dense", "fc")
        arrays["D/" + name] = value.numpy()
    return arrays


@pytest.fixture
def source() -> StyleGan2:
    return build(stylegan2_config(CONFIG), seed=11)


def test_every_weight_arrives(source: StyleGan2) -> None:
    loaded = load_official_arrays(CONFIG, official_arrays(source))
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_official_names_of_arguments() -> None:
    assert stylegan2_config(CONFIG) == StyleGan2Config(
        resolution=16, channels=2, z_dim=8, w_dim=8, channel_base=64, channel_max=8, mapping_layers=3, conv_clamp=None
    )


def test_missing_surplus_and_misshapen_weights_are_named(source: StyleGan2) -> None:
    arrays = official_arrays(source)
    without = {k: v for k, v in arrays.items() if k != "D/b4.out.bias"}
    with pytest.raises(UnderstudyError, match=r"out\.bias"):
        load_official_arrays(CONFIG, without)
    with pytest.raises(UnderstudyError, match=r"b4\.surprise"):
        load_official_arrays(CONFIG, {**arrays, "D/b4.surprise": np.zeros(1)})
    with pytest.raises(UnderstudyError, match="shape"):
        load_official_arrays(CONFIG, {**arrays, "D/b4.out.bias": np.zeros(3)})


def test_arguments_that_the_official_conversion_from_tensorflow_writes() -> None:
    written = {"embed_features": None, "layer_features": 8, "resample_filter": [1, 3, 3, 1], "activation": "lrelu"}
    assert stylegan2_config({**CONFIG, **written}) == stylegan2_config(CONFIG)
    with pytest.raises(UnderstudyError, match="width 16"):
        stylegan2_config({**CONFIG, "layer_features": 16})


def test_a_residual_generator_is_named(source: StyleGan2) -> None:
    arrays = official_arrays(source) | {"G/synthesis.b8.skip.weight": np.zeros((8, 8, 1, 1), np.float32)}
    with pytest.raises(UnderstudyError, match="residual generator"):
        load_official_arrays({**CONFIG, "architecture": "resnet"}, arrays)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"resolution": 48}, "power of two"),
        ({"channel_base": 15}, "channel_base"),
        ({"kind": "sg3t", "conv_clamp": 256, "num_layers": 2, "num_critical": 0, "resolution": 64}, "full rate"),
    ],
)
def test_what_cannot_be_built_is_one_error(update: dict[str, Any], message: str) -> None:
    with pytest.raises(UnderstudyError, match=message):
        load_official_arrays({**CONFIG, **update}, {})


@pytest.mark.parametrize("update", [{"kind": "unheard-of"}, {"architecture": "orig"}, {"c_dim": 10}, {"typo": 1}])
def test_what_is_not_supported_is_refused(source: StyleGan2, update: dict[str, Any]) -> None:
    with pytest.raises(UnderstudyError):
        load_official_arrays({**CONFIG, **update}, official_arrays(source))
