"""Progressive GAN beyond the golden file: sizes, levels, sampling, and the importer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tf_variables import fused_enlarging, variables

from understudy.errors import UnderstudyError
from understudy.generators.networks.progan import ProGan, ProGanConfig, build
from understudy.generators.official.weights import load_official_arrays

CONFIG: dict[str, Any] = {
    "kind": "progan", "resolution": 32, "num_channels": 3, "fmap_base": 64, "fmap_max": 8, "latent_size": 6,
    "label_size": 0, "fused_scale": True, "mbstd_group_size": 4,
}  # fmt: skip


def small(**update: Any) -> ProGan:
    settings: dict[str, Any] = {"resolution": 16, "channels": 3, "fmap_base": 64, "fmap_max": 8}
    return build(ProGanConfig(**settings | update))


@pytest.mark.parametrize(("resolution", "channels"), [(16, 1), (32, 7), (64, 4), (128, 2)])
def test_any_resolution_and_channel_count(resolution: int, channels: int) -> None:
    model = small(resolution=resolution, channels=channels, fmap_base=128)
    images = model.generator(torch.randn(4, 8))
    assert images.shape == (4, channels, resolution, resolution)
    assert model.discriminator(images).shape == (4, 1)
    inputs = model.generator.draw(4, torch.Generator().manual_seed(0))
    assert model.generator.synthesise(inputs, level=1.5).shape == (4, channels, *[resolution // 2] * 2)


def test_widths_and_weights_are_the_papers() -> None:
    config = ProGanConfig()
    assert [config.width(r) for r in (2, 4, 32, 64, 128, 256)] == [512, 512, 512, 256, 128, 64]
    assert config.latent_size == 512
    with torch.device("meta"):
        model = ProGan(config)
    assert sum(p.numel() for p in model.generator.parameters()) == 23_049_315
    assert sum(p.numel() for p in model.discriminator.parameters()) == 23_057_345


@pytest.mark.parametrize("update", [{"resolution": 24}, {"resolution": 1024}, {"fmap_base": 4}, {"typo": 1}])
def test_impossible_architectures_are_refused(update: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        small(**update)


@pytest.mark.parametrize("level", [1.0, 2.0])
def test_levels_meet_from_both_sides(level: float) -> None:
    model, z = small(), torch.randn(4, 8)
    images = torch.randn(4, 3, 16, 16)
    for near in (level - 1e-6, level + 1e-6 if level < 2 else level):
        torch.testing.assert_close(
            model.generator(z, level=near), model.generator(z, level=level), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            model.discriminator(images, level=near), model.discriminator(images, level=level), atol=1e-4, rtol=1e-4
        )  # fmt: skip


def test_active_images_are_the_full_ones_before_enlargement() -> None:
    generator = small().generator
    inputs = generator.draw(2, torch.Generator().manual_seed(1))
    for level in (0.0, 0.4, 1.0, 1.7):
        active = generator.synthesise(inputs, level)
        assert active.shape[-1] == 16 >> math.floor(level)
        large = F.interpolate(active, scale_factor=1 << math.floor(level))
        torch.testing.assert_close(large, generator(inputs["z"], level=level))


def test_strided_shares_equal_the_whole_batch() -> None:
    generator = small().generator
    inputs = generator.draw(6, torch.Generator().manual_seed(1))
    whole = generator.synthesise(inputs, 0.5)
    for r in range(2):
        part = generator.synthesise({k: v[r::2] for k, v in inputs.items()}, 0.5)
        torch.testing.assert_close(part, whole[r::2])


def test_sample_i_does_not_depend_on_what_else_is_asked_for() -> None:
    model = small()
    whole = model.generator.sample(40, seed=7)
    assert torch.equal(model.generator.sample(1, seed=7, start=17)[0], whole[17])
    assert torch.equal(torch.cat([model.generator.sample(5, 7, start) for start in range(0, 40, 5)]), whole)
    assert not torch.equal(model.generator.sample(1, seed=8)[0], whole[0])


def test_a_half_grown_network_samples_at_its_level() -> None:
    model = small()
    model.generator.level.fill_(1.0)
    blocks = model.generator.sample(2, 0).reshape(2, 3, 8, 2, 8, 2)
    assert torch.equal(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))


def test_truncation_is_refused() -> None:
    with pytest.raises(UnderstudyError, match="truncate"):
        small().generator.sample(1, 0, psi=0.7)


def test_bfloat16_stays_near_float32() -> None:
    model, z = small(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    exact, rough = model.generator(z), model.generator(z, dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() / exact.abs().max() < 0.05


def test_build_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = small(), small()
    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# --- official weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [16, 128])
def test_official_names_at_other_resolutions(resolution: int) -> None:
    weights = variables("progan", resolution, channels=3, base=256, most=8, z=6)
    arguments = {**CONFIG, "resolution": resolution, "fmap_base": 256}
    model = load_official_arrays(arguments, weights)
    assert float(model.generator.level) == 0
    assert model.generator(torch.randn(1, 6)).shape == (1, 3, resolution, resolution)
    weight = weights["D/8x8/Conv1_down/weight"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(model.discriminator.blocks[0].conv1.weight.detach().numpy(), weight)


@pytest.mark.parametrize("resolution", [16, 128])
def test_all_enlarging_layers_are_the_official_transposed_convolutions(resolution: int) -> None:
    weights = variables("progan", resolution, channels=1, base=256, most=8, z=6)
    arguments = {**CONFIG, "resolution": resolution, "fmap_base": 256, "num_channels": 1}
    model = load_official_arrays(arguments, weights)
    layer = model.generator.blocks[-1].conv0
    name = f"G/{resolution}x{resolution}/Conv0_up/"
    x = np.random.default_rng(0).standard_normal((1, layer.weight.shape[1], 4, 4)).astype(np.float32)
    kernel = weights[name + "weight"] * layer.scale
    expected = fused_enlarging(x, kernel) + weights[name + "bias"][:, None, None]
    expected = np.where(expected > 0, expected, 0.2 * expected)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)


def test_one_network_alone() -> None:
    weights = variables("progan", 32, channels=3, base=64, most=8, z=6)
    whole = load_official_arrays(CONFIG, weights)
    for part in ("G", "D"):
        alone = {k: v for k, v in weights.items() if k.startswith(part)}
        model = load_official_arrays(CONFIG, alone)
        ours, theirs = (m.generator if part == "G" else m.discriminator for m in (model, whole))
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_missing_surplus_and_misshapen_weights_are_named() -> None:
    weights = variables("progan", 32, channels=3, base=64, most=8, z=6)
    without = {k: v for k, v in weights.items() if k != "D/4x4/Dense1/bias"}
    with pytest.raises(UnderstudyError, match=r"out\.bias"):
        load_official_arrays(CONFIG, without)
    with pytest.raises(UnderstudyError, match="4x4/Surprise"):
        load_official_arrays(CONFIG, {**weights, "G/4x4/Surprise/weight": np.zeros(1)})
    with pytest.raises(UnderstudyError, match="shape"):
        load_official_arrays(CONFIG, {**weights, "G/4x4/Conv/bias": np.zeros(3)})
    with pytest.raises(UnderstudyError, match="lod3"):
        load_official_arrays({**CONFIG, "resolution": 16}, weights)


@pytest.mark.parametrize("update", [{"label_size": 10}, {"fused_scale": False}, {"use_pixelnorm": False}, {"typo": 1}])
def test_what_is_not_supported_is_refused(update: dict[str, Any]) -> None:
    with pytest.raises(UnderstudyError):
        load_official_arrays({**CONFIG, **update}, variables("progan", 32, channels=3, base=64, most=8, z=6))
