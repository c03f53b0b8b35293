"""StyleGAN 1 beyond the golden file: sizes, levels, styles, noise, truncation, sampling, and the importer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tf_variables import fused_enlarging, variables
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.networks.stylegan1 import Generator, StyleGan1, StyleGan1Config, build, restyle
from understudy.generators.official.weights import load_official_arrays, stylegan1_config

CONFIG: dict[str, Any] = {
    "kind": "sg1", "resolution": 32, "num_channels": 3, "fmap_base": 64, "fmap_max": 8, "latent_size": 5,
    "dlatent_size": 6, "mapping_layers": 3, "mapping_fmaps": 7, "label_size": 0, "truncation_cutoff": 4,
}  # fmt: skip


def small(**update: Any) -> StyleGan1:
    """Noise strengths and mean w are drawn, so that neither is without effect."""
    settings: dict[str, Any] = {
        "resolution": 16, "channels": 3, "fmap_base": 64, "fmap_max": 8, "z_dim": 8, "w_dim": 6, "mapping_layers": 2,
        "mapping_width": 7,
    }  # fmt: skip
    model = build(StyleGan1Config(**settings | update))
    rng = torch.Generator().manual_seed(0)
    for name, value in model.generator.state_dict().items():
        if name.endswith(("noise_weight", "w_avg")):
            value.normal_(generator=rng)
    return model


def drawn(generator: Generator, count: int = 6, mixing: float = 1.0, level: float = 0.0) -> dict[str, Tensor]:
    return generator.draw(count, torch.Generator().manual_seed(1), mixing, level)


@pytest.mark.parametrize(("resolution", "channels"), [(16, 1), (32, 7), (64, 4), (128, 2)])
def test_any_resolution_and_channel_count(resolution: int, channels: int) -> None:
    model = small(resolution=resolution, channels=channels, fmap_base=128)
    images = model.generator(torch.randn(4, 8))
    assert images.shape == (4, channels, resolution, resolution)
    assert model.discriminator(images).shape == (4, 1)
    assert model.config.num_ws == 2 * math.log2(resolution) - 2


def test_weights_are_the_papers() -> None:
    with torch.device("meta"):
        model = StyleGan1(StyleGan1Config())
    assert sum(p.numel() for p in model.generator.parameters()) == 26_091_235
    assert sum(p.numel() for p in model.discriminator.parameters()) == 23_057_345


def test_fresh_weights_are_the_official_ones() -> None:
    generator = build(StyleGan1Config(resolution=16, fmap_base=256)).generator
    assert (generator.blocks[0].const == 1).all()
    assert (generator.blocks[1].style0.noise_weight == 0).all()
    assert generator.mapping.layers[3].weight.std().item() == pytest.approx(100, rel=0.02)
    assert torch.isfinite(generator(torch.randn(2, 512))).all()  # a constant has no variance to be divided by


def test_restyle_is_instance_norm_and_has_its_gradient() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    scale, shift = (torch.randn(2, 3, 1, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(restyle(x, scale, shift), F.instance_norm(x, eps=1e-8) * scale + shift)
    assert torch.autograd.gradcheck(restyle, (x, scale, shift))


@pytest.mark.parametrize("level", [1.0, 2.0])
def test_levels_meet_from_both_sides(level: float) -> None:
    generator, z = small().generator, torch.randn(4, 8)
    for near in (level - 1e-6, level + 1e-6 if level < 2 else level):
        torch.testing.assert_close(generator(z, level=near), generator(z, level=level), atol=1e-4, rtol=1e-4)


def test_active_images_are_the_full_ones_before_enlargement() -> None:
    generator = small().generator
    inputs = drawn(generator, mixing=0.0)
    for i in range(generator.config.num_ws):
        inputs[f"noise{i}"] = generator.blocks[i // 2].get_submodule(f"style{i % 2}").noise_const.expand(6, -1, -1, -1)
    for level in (0.0, 0.4, 1.0, 1.7):
        active = generator.synthesise(inputs, level)
        assert active.shape[-1] == 16 >> math.floor(level)
        large = F.interpolate(active, scale_factor=1 << math.floor(level))
        torch.testing.assert_close(large, generator(inputs["z"], level=level), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 1.5])
def test_strided_shares_equal_the_whole_batch(level: float) -> None:
    generator = small().generator
    inputs = drawn(generator, level=level)
    whole = generator.synthesise(inputs, level)
    for r in range(2):
        part = {k: v[r::2] if v.ndim else v for k, v in inputs.items()}
        torch.testing.assert_close(generator.synthesise(part, level), whole[r::2], atol=1e-5, rtol=1e-5)


def test_styles_mix_within_the_active_layers() -> None:
    generator = small(resolution=32).generator
    rng = torch.Generator().manual_seed(0)
    for level, last in ((0.0, 7), (0.9, 7), (1.0, 5), (3.0, 1)):
        inputs = [generator.draw(1, rng, 1.0, level) for _ in range(100)]
        assert {int(i["cutoff"]) for i in inputs} == set(range(1, last + 1))
        assert sum(k.startswith("noise") for k in inputs[0]) == last + 1
    assert int(generator.draw(1, rng, 0.0)["cutoff"]) == 8


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_every_drawn_noise_reaches_the_image(level: float) -> None:
    generator = small().generator
    inputs = drawn(generator, mixing=0.0, level=level)
    names = [name for name in inputs if name.startswith("noise")]
    assert len(names) == (6 if level == 0 else 4)
    image = generator.synthesise(inputs, level)
    for name in names:
        other = generator.synthesise(inputs | {name: -inputs[name]}, level)
        assert (other - image).abs().max() > 1e-3, name
    styles = [style for block in generator.blocks for style in (block.style0, block.style1)]
    stored = {name: style.noise_const.expand_as(inputs[name]) for name, style in zip(names, styles, strict=False)}
    expected = generator.full_size(generator.synthesise(inputs | stored, level))
    torch.testing.assert_close(generator(inputs["z"], level=level), expected)


def test_mixed_ws_are_of_one_latent_then_of_the_other() -> None:
    generator = small().generator
    inputs = drawn(generator) | {"cutoff": torch.tensor(2)}
    ws = generator.ws(inputs)
    torch.testing.assert_close(ws[:, :2], generator.mapping(inputs["z"])[:, None].expand(-1, 2, -1))
    torch.testing.assert_close(ws[:, 2:], generator.mapping(inputs["other"])[:, None].expand(-1, 4, -1))


def test_the_mean_w_moves_only_when_tracked() -> None:
    generator = small().generator
    inputs, before = drawn(generator), generator.mapping.w_avg.clone()
    generator.synthesise(inputs)
    assert torch.equal(generator.mapping.w_avg, before)
    generator.synthesise(inputs, track=True)
    mean = generator.mapping(inputs["z"]).mean(dim=0)
    torch.testing.assert_close(generator.mapping.w_avg, 0.995 * before + 0.005 * mean)


def test_truncation_draws_the_first_layers_towards_the_mean() -> None:
    generator = small(psi_cutoff=4).generator
    ws = generator.broadcast(generator.mapping(torch.randn(3, 8)))
    found = generator.truncated(ws, 0.7)
    torch.testing.assert_close(found[:, :4], generator.mapping.w_avg * 0.3 + ws[:, :4] * 0.7)
    assert torch.equal(found[:, 4:], ws[:, 4:])
    assert small(psi_cutoff=None).generator(torch.randn(4, 8), psi=0.0).std(dim=0).max() < 1e-5


def test_sample_i_does_not_depend_on_what_else_is_asked_for() -> None:
    model = small()
    whole = model.generator.sample(40, seed=7)
    assert torch.equal(model.generator.sample(1, seed=7, start=17)[0], whole[17])
    assert torch.equal(torch.cat([model.generator.sample(5, 7, start) for start in range(0, 40, 5)]), whole)
    assert not torch.equal(model.generator.sample(1, seed=8)[0], whole[0])
    assert not torch.equal(model.generator.sample(1, seed=7, psi=0.5)[0], whole[0])


def test_bfloat16_stays_near_float32() -> None:
    model, z = small(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    exact, rough = model.generator(z), model.generator(z, dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() / exact.abs().max() < 0.05


# --- official weights -----------------------------------------------------------------------------------------------


def test_official_names_of_arguments() -> None:
    assert stylegan1_config(CONFIG) == StyleGan1Config(
        resolution=32, channels=3, fmap_base=64, fmap_max=8, z_dim=5, w_dim=6, mapping_layers=3, mapping_width=7,
        psi_cutoff=4,
    )  # fmt: skip


def test_sizes_of_the_mapping_are_read_off_the_weights() -> None:
    weights = variables("sg1", 32, channels=3, base=64, most=8, z=5)
    left = {"latent_size", "dlatent_size", "mapping_layers", "mapping_fmaps"}
    model = load_official_arrays({k: v for k, v in CONFIG.items() if k not in left}, weights)
    assert model.config == stylegan1_config(CONFIG)


@pytest.mark.parametrize(
    ("resolution", "fused_scale", "fused"),
    [(64, "auto", False), (128, "auto", True), (64, True, True), (128, False, False)],
)
def test_only_large_enlarging_layers_are_transposed_convolutions(
    resolution: int, fused_scale: str | bool, fused: bool
) -> None:
    """Against both official forms, written out."""
    weights = variables("sg1", resolution, channels=1, base=512, most=8, z=5)
    arguments = CONFIG | {
        "resolution": resolution, "num_channels": 1, "fmap_base": 512, "fused_scale": fused_scale,
    }  # fmt: skip
    layer = load_official_arrays(arguments, weights).generator.blocks[-1].conv0
    kernel = weights[f"G/G_synthesis/{resolution}x{resolution}/Conv0_up/weight"] * layer.scale  # [3, 3, I, O]
    x = np.random.default_rng(0).standard_normal((1, kernel.shape[2], 5, 5)).astype(np.float32)
    if fused:
        expected = fused_enlarging(x, kernel.transpose(0, 1, 3, 2))
    else:
        wide = np.pad(x.repeat(2, axis=2).repeat(2, axis=3), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(2, 3))
        expected = np.einsum("nihwyx,yxio->nohw", windows, kernel, optimize=True)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)


def test_missing_surplus_and_misshapen_weights_are_named() -> None:
    weights = variables("sg1", 32, channels=3, base=64, most=8, z=5)
    without = {k: v for k, v in weights.items() if k != "G/G_synthesis/noise3"}
    with pytest.raises(UnderstudyError, match=r"noise_const"):
        load_official_arrays(CONFIG, without)
    with pytest.raises(UnderstudyError, match="surplus"):
        load_official_arrays(CONFIG, {**weights, "G/surplus": np.zeros(1)})
    with pytest.raises(UnderstudyError, match="shape"):
        load_official_arrays(CONFIG, {**weights, "G/dlatent_avg": np.zeros(3)})
    with pytest.raises(UnderstudyError, match="ToRGB_lod"):
        load_official_arrays({**CONFIG, "num_channels": 2}, weights)


@pytest.mark.parametrize(
    "update", [{"label_size": 10}, {"blur_filter": [1, 3, 3, 1]}, {"use_noise": False}, {"typo": 1}]
)
def test_what_is_not_supported_is_refused(update: dict[str, Any]) -> None:
    with pytest.raises(UnderstudyError):
        load_official_arrays({**CONFIG, **update}, {})
