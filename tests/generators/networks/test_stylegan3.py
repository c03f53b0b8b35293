"""StyleGAN 3: the schedule, equivariance, independence of the batch, shares, and the importer's errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from test_golden import FOLDER, read
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.networks.stylegan3 import FilteredConv, StyleGan3, StyleGan3Config, build
from understudy.generators.official.weights import load_official_arrays

R = {"conv_kernel": 1, "use_radial_filters": True}


def tiny(**fields: Any) -> StyleGan3Config:
    return StyleGan3Config(
        **{"resolution": 16, "channels": 3, "z_dim": 16, "w_dim": 16, "channel_base": 128, "channel_max": 12} | fields
    )  # fmt: skip


def latents(model: StyleGan3, count: int) -> dict[str, Tensor]:
    return model.generator.draw(count, torch.Generator().manual_seed(4), 0.0)


# --- schedule -------------------------------------------------------------------------------------------------------


def test_schedule_at_256_is_the_official_print_out() -> None:
    bands = StyleGan3Config().bands
    assert [b.size for b in bands] == [36] * 3 + [52] * 2 + [84] * 2 + [148] * 3 + [276] * 3 + [256] * 2
    assert [b.channels for b in bands] == [512] * 9 + [362, 256, 181, 128, 128, 5]
    assert [b.rate for b in bands] == [16] * 3 + [32] * 2 + [64] * 2 + [128] * 3 + [256] * 5
    np.testing.assert_allclose([b.cutoff for b in bands], 2 * 64 ** np.minimum(np.arange(15) / 12, 1))


@pytest.mark.parametrize(
    ("fields", "millions"),
    [({}, 28.47), (R | {"channel_base": 65536, "channel_max": 1024, "discriminator_base": 32768}, 18.82)],
)
def test_parameters_of_the_official_generators(fields: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        generator = StyleGan3(StyleGan3Config(**fields)).generator
    assert round(sum(p.numel() for p in generator.parameters()) / 1e6, 2) == millions


def test_filter_lengths_at_256() -> None:
    with torch.device("meta"):
        layers = StyleGan3(StyleGan3Config()).generator.synthesis.layers
    taps = [len(layer.up_filter) for layer in layers if isinstance(layer, FilteredConv)]
    assert [i for i, n in enumerate(taps) if n == 24] == [3, 5, 7, 10]
    assert set(taps) == {12, 24}


@pytest.mark.parametrize(
    "fields", [{}, R, {"num_layers": 5, "num_critical": 1}, {"margin": 0, "num_layers": 3, "num_critical": 1}]
)
@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_every_resolution_runs(resolution: int, fields: dict[str, Any]) -> None:
    model = build(tiny(resolution=resolution, **fields))
    image = model.generator(torch.randn(2, 16))
    assert image.shape == (2, 3, resolution, resolution)
    assert image.dtype == torch.float32
    model.discriminator(image).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.generator.parameters())


@pytest.mark.parametrize(
    "fields",
    [
        {"resolution": 48},
        {"channel_base": 64, "resolution": 128},
        {"num_layers": 4, "num_critical": 4},
        {"first_cutoff": 5.0},
        {"first_stopband": 12.0},
        {"first_cutoff": 8.0, "first_stopband": 9.5},
    ],
)
def test_configurations_that_cannot_be_built(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        tiny(**fields)


# --- the network ----------------------------------------------------------------------------------------------------


def test_layer_equals_modulated_kernels() -> None:
    """Against a kernel for each sample, normalised, modulated and demodulated as the paper describes."""
    model = build(tiny()).double()
    layer = model.generator.synthesis.layers[5]
    assert isinstance(layer, FilteredConv)
    layer.magnitude.fill_(0.7)
    x = torch.randn(3, 12, layer.resampling.size_in - 2 + sum(layer.resampling.crop), 1, dtype=torch.float64)
    x = x * torch.randn(1, 1, 1, x.shape[2], dtype=torch.float64)
    w = torch.randn(3, 16, dtype=torch.float64)
    found: list[Tensor] = []
    for sample, style in zip(x, layer.affine(w), strict=True):
        weight = layer.weight * layer.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        kernel = weight * (style * style.square().mean().rsqrt())[None, :, None, None]
        kernel = kernel * (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt() / 0.7**0.5
        found.append(F.conv2d(sample[None], kernel, padding=2) + layer.bias[:, None, None])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("understudy.generators.networks.stylegan3.filtered_lrelu", lambda x, resampling, clamp: x)
        torch.testing.assert_close(layer(x, w, torch.float64), torch.cat(found), rtol=1e-7, atol=1e-7)


def steady(model: StyleGan3, z: Tensor) -> Tensor:
    """Image of z [N, z_dim] once the magnitudes have settled: a fresh network's image is nearly empty."""
    model.generator.synthesis.beta = 0.0
    for _ in range(16):  # each layer follows the one before
        model.generator.synthesise({"z": z}, track=True)
    return model.generator(z)


@pytest.mark.parametrize("axis", [0, 1])
@torch.no_grad()
def test_t_follows_translations(axis: int) -> None:
    """The pattern moved by whole pixels moves the image, by less than a sample of the inner layers."""
    model = build(tiny(resolution=32), seed=1)
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    image = steady(model, z)
    model.generator.synthesis.input.transform[axis, 2] = -3 / 32
    moved, image = (x.transpose(3 - axis, 3) for x in (model.generator(z), image))
    assert (moved[..., 3:] - image[..., :-3]).square().mean() < 1e-4 * image.var()
    assert (moved[..., 3:] - image[..., 3:]).square().mean() > 1e-2 * image.var()


@torch.no_grad()
def test_r_follows_turns() -> None:
    """Of the pattern by a quarter about the image's centre; sizes are centred up to half a high-rate sample."""
    model = build(tiny(resolution=32, **R), seed=1)
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    image = steady(model, z)
    model.generator.synthesis.input.transform[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned = model.generator(z)
    errors = [(turned - torch.rot90(image, k, (2, 3))).square().mean() / image.var() for k in (1, 0)]
    assert errors[0] < 1e-2 < errors[1], errors


def test_same_seed_same_weights_and_global_generator_untouched() -> None:
    before = torch.get_rng_state()
    first, second, other = (build(tiny(), seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    states = [m.state_dict() for m in (first, second, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["generator.synthesis.input.weight"], states[2]["generator.synthesis.input.weight"])


def test_sample_does_not_depend_on_its_neighbours() -> None:
    model = build(tiny())
    whole = model.generator.sample(20, seed=7)
    assert torch.equal(whole[13:18], model.generator.sample(5, seed=7, start=13))
    assert not torch.equal(whole[0], model.generator.sample(1, seed=8)[0])


def test_truncation_leads_to_the_mean() -> None:
    model = build(tiny())
    model.generator.mapping.w_avg.normal_(generator=torch.Generator().manual_seed(0))
    images = model.generator.sample(2, seed=0, psi=0.0)
    torch.testing.assert_close(images[0], images[1])


@pytest.mark.parametrize("fields", [{}, R])
def test_strided_shares_equal_the_whole_batch(fields: dict[str, Any]) -> None:
    model = build(tiny(num_layers=4, magnitude_beta=0.5, w_avg_beta=0.5, **fields)).double()
    generator = model.generator
    inputs = {name: x.double() for name, x in latents(model, 6).items()}
    before = {k: v.clone() for k, v in generator.named_buffers()}
    with torch.no_grad():
        whole = generator.synthesise(inputs, dtype=torch.float64, track=True)
        after = {k: v.clone() for k, v in generator.named_buffers()}
        ends = []
        for share in range(2):
            for name, buffer in generator.named_buffers():
                buffer.copy_(before[name])
            part = {name: x[share::2] for name, x in inputs.items()}
            images = generator.synthesise(part, dtype=torch.float64, track=True)
            torch.testing.assert_close(images, whole[share::2])
            ends.append({k: v.clone() for k, v in generator.named_buffers()})
    moved = [k for k in before if not torch.equal(before[k], after[k])]
    assert len(moved) == 1 + 5  # mean w, and the magnitude in front of every layer and of the image
    for name in before:
        torch.testing.assert_close((ends[0][name] + ends[1][name]) / 2, after[name])


def test_magnitudes_are_mean_squares() -> None:
    model = build(tiny(magnitude_beta=0.0))
    generator, inputs = model.generator, latents(model, 4)
    with torch.no_grad():
        first = generator.synthesis.input(generator.mapping(inputs["z"]))
        generator.synthesise(inputs)
        assert float(generator.synthesis.layers[0].magnitude) == 1
        generator.synthesise(inputs, track=True)
    torch.testing.assert_close(generator.synthesis.layers[0].magnitude, first.square().mean())


def test_bfloat16_is_close() -> None:
    model = build(tiny(resolution=32))
    inputs = latents(model, 4)
    with torch.no_grad():
        exact, rough = (model.generator.synthesise(inputs, dtype=d) for d in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.float32
    assert (rough - exact).square().mean() < 1e-3 * exact.square().mean()


# --- official weights -----------------------------------------------------------------------------------------------


def official(name: str = "stylegan3t_r32") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    config, weights, _ = read(Path(FOLDER) / f"{name}.npz")
    return config, weights


def test_a_generator_alone() -> None:
    config, weights = official()
    whole = load_official_arrays(config, weights).state_dict()
    only = load_official_arrays(config, {k: v for k, v in weights.items() if k.startswith("G/")}).state_dict()
    assert all(torch.equal(whole[k], only[k]) for k in whole if k.startswith("generator."))


def test_widths_of_the_discriminator_are_its_own() -> None:
    """In configuration R the generator is twice as wide as the arguments of the discriminator say."""
    config, weights = official("stylegan3r_r32")
    narrow = build(tiny(resolution=32, channels=5, channel_base=300, channel_max=17))
    theirs = _official_names(narrow.discriminator.state_dict())
    rest = {k: v for k, v in weights.items() if k.startswith("G/")}
    loaded = load_official_arrays(config, rest | theirs)
    x = torch.randn(4, 5, 32, 32)
    assert torch.equal(loaded.discriminator(x), narrow.discriminator(x))


def _official_names(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    names = {"from_image": "fromrgb", "dense": "b4.fc", "conv": "b4.conv", "out": "b4.out"}
    found = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts = [f"b{32 >> int(parts[1])}", names.get(parts[2], parts[2]), *parts[3:]]
        else:
            parts[0] = names[parts[0]]
        found["D/" + ".".join(parts)] = value.numpy()
    return found


def _wrong_filter(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    weights["G/synthesis.L3_36_32.down_filter"] = weights["G/synthesis.L3_36_32.down_filter"] * 1.01


def _wrong_layer(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    weights["G/synthesis.L9_52_28.bias"] = weights.pop("G/synthesis.L9_52_27.bias")


def _too_many_layers(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    weights["G/synthesis.L15_32_5.bias"] = np.zeros(5)


def _missing(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    del weights["G/synthesis.input.phases"]


def _unknown(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    weights["G/synthesis.other"] = np.zeros(1)


def _wrong_shape(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    weights["G/synthesis.input.freqs"] = np.zeros((3, 2))


def _argument(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    config["filter_size"] = 8


def _schedule(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    config["last_stopband_rel"] = 1.5


def _unknown_argument(config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    config["depth"] = 8


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_wrong_filter, "L3_36_32.down_filter"),
        (_wrong_layer, "L9_52_28.bias"),
        (_too_many_layers, "15 layers"),
        (_missing, "synthesis.input.phases"),
        (_unknown, "synthesis.other"),
        (_wrong_shape, "synthesis.input.freqs"),
        (_argument, "filter_size = 8"),
        (_schedule, "filter of shape"),
        (_unknown_argument, "depth"),
    ],
)
def test_importer_names_what_is_wrong(spoil: Any, message: str) -> None:
    config, weights = official()
    spoil(config, weights)
    with pytest.raises(UnderstudyError, match=message.replace(".", r"\.")):
        load_official_arrays(config, weights)
