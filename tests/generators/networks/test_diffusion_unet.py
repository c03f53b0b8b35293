"""The U-Net of guided diffusion: shapes, sizes, official names, types, and that what is folded changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from understudy.errors import UnderstudyError
from understudy.generators import registry as models
from understudy.generators.diffusion.process import training_losses
from understudy.generators.diffusion.samplers import SamplerConfig
from understudy.generators.networks.unet import Attention, DiffusionConfig, UNet, build, sinusoids
from understudy.generators.official.weights import load_official_arrays, unet_config

SMALL: dict[str, Any] = {"resolution": 16, "model_channels": 8, "num_res_blocks": 1, "num_heads": 2}


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def small(seed: int = 0, **options: Any) -> UNet:
    """A small network none of whose weights is zero."""
    network = build(DiffusionConfig(**(SMALL | options)), seed).generator
    rng = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    return network


# --- network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 16, "channels": 1},
        {"resolution": 32, "channels": 2, "learn_sigma": True},
        {"resolution": 64, "channels": 7, "model_channels": 4, "num_heads": 1, "attention_resolutions": ()},
        {"channels": 3, "resblock_updown": True, "scale_shift_norm": False, "num_head_channels": 4},
        {
            "channels": 4,
            "model_channels": 5,
            "channel_mult": (1, 2.4),
            "num_heads": 3,
            "dropout": 0.5,
            "attention_resolutions": (8,),
        },
        {"resolution": 64, "channels": 3, "patch": 4, "learn_sigma": True},
        {"channels": 5, "channel_mult": (1, 1, 1, 2), "split_heads_first": False, "rescale_timesteps": True},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_configuration_runs_and_trains(options: dict[str, Any], dtype: torch.dtype) -> None:
    network = small(**options)
    config = network.config
    x = torch.randn(2, config.channels, config.resolution, config.resolution)
    losses = training_losses(
        lambda a, b: network(a, b, dtype), config.process(), x, torch.tensor([0, 99]), torch.randn_like(x)
    )
    assert losses["loss"].shape == (2,)
    losses["loss"].mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in network.parameters())  # type: ignore[union-attr]
    out = network(x, torch.tensor([3, 4]), dtype)
    assert out.shape == (2, config.channels * (2 if config.learn_sigma else 1), config.resolution, config.resolution)
    assert out.dtype == torch.float32


# Facts 0.6 and 1.5: measured on the official code with 5 channels.
@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({}, 41.1),
        ({"model_channels": 128, "num_res_blocks": 2}, 124),
        (
            {"model_channels": 256, "num_res_blocks": 2, "attention_resolutions": (32, 16, 8), "num_head_channels": 64,
             "resblock_updown": True, "learn_sigma": True},
            553,
        ),
    ],
    ids=["paper", "defaults", "ADM-256"],
)  # fmt: skip
def test_official_sizes(options: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        network = UNet(DiffusionConfig(**options))
    size = sum(p.numel() for p in network.parameters()) / 1e6
    assert abs(size - millions) < (0.05 if millions < 100 else 0.5)


def test_fresh_networks() -> None:
    state = torch.get_rng_state()
    first, second, other = (build(DiffusionConfig(**SMALL), seed).generator for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.stem.weight, other.stem.weight)
    x = torch.randn(1, 5, 16, 16)
    assert first(x, torch.tensor([5])).abs().max() == 0  # the last convolution starts at zero


def test_configurations_that_cannot_be_built_are_refused() -> None:
    for wrong in (
        {"resolution": 48},
        {"resolution": 16, "channel_mult": (1,) * 5},
        {"num_heads": 3},
        {"num_head_channels": 48},
        {"model_channels": 2, "channel_mult": (0.25, 1)},
        {"steps": 20},
        {"noise_schedule": "quadratic"},
        {"width": 3},
    ):
        with pytest.raises(ValueError):
            models.build(DiffusionConfig(**{"resolution": 256} | wrong))


def test_time_code() -> None:
    code = sinusoids(torch.tensor([0, 7]), 9)
    assert code.shape == (2, 9)
    assert torch.equal(code[0], torch.tensor([1.0] * 4 + [0.0] * 5))
    assert code[1, 2].item() == pytest.approx(math.cos(7 / 100))
    assert code[1, 5].item() == pytest.approx(math.sin(7 / 10))


def test_no_sample_depends_on_its_neighbours() -> None:
    network, x, t = small(), torch.randn(3, 5, 16, 16), torch.tensor([1, 500, 3999])
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    assert torch.allclose(network(x, t), alone, atol=1e-5)


def test_a_patch_of_pixels_is_the_channels_of_one() -> None:
    patched = small(resolution=32, channels=3, patch=2, channel_mult=(1, 2, 2))
    plain = small(resolution=16, channels=12, channel_mult=(1, 2, 2))
    plain.load_state_dict(patched.state_dict())
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3.0, 700.0])

    def as_channels(image: torch.Tensor) -> torch.Tensor:
        parts = [image[:, c, i::2, j::2] for c in range(3) for i in (0, 1) for j in (0, 1)]
        return torch.stack(parts, dim=1)

    assert torch.equal(as_channels(patched(x, t)), plain(as_channels(x), t))


def test_orders_of_the_projection_are_a_permutation_of_rows() -> None:
    first = Attention(24, DiffusionConfig(num_heads=4))
    second = Attention(24, DiffusionConfig(num_heads=4, split_heads_first=False))
    nn.init.normal_(first.project.weight)
    second.load_state_dict(first.state_dict())
    rows = torch.arange(72).reshape(4, 3, 6).transpose(0, 1).flatten()  # [head, q k v, 6] -> [q k v, head, 6]
    second.qkv.weight.data, second.qkv.bias.data = first.qkv.weight[rows].data, first.qkv.bias[rows].data
    x, time = torch.randn(2, 24, 4, 4), torch.zeros(2, 1)
    assert torch.allclose(first(x, time), second(x, time), atol=1e-6)


def test_attention_is_the_softmax_of_scaled_products() -> None:
    layer = Attention(4, DiffusionConfig(num_heads=2))
    nn.init.normal_(layer.project.weight)
    x = torch.randn(1, 4, 2, 3)
    rows = layer.qkv(layer.norm(x)[0].flatten(1).T).T.reshape(2, 3, 2, 6)  # [head, q k v, channel, pixel]
    heads = [v @ torch.softmax(q.T @ k / math.sqrt(2), dim=1).T for q, k, v in rows]
    wanted = x[0].flatten(1) + layer.project(torch.cat(heads).T).T
    assert torch.allclose(layer(x, torch.zeros(1, 1))[0].flatten(1), wanted, atol=1e-5)


# --- group norm -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_bfloat16_agrees_with_float32(learn_sigma: bool) -> None:
    network = small(model_channels=32, learn_sigma=learn_sigma)
    x, t = torch.randn(4, 5, 16, 16), torch.tensor([0, 10, 1000, 3999])
    exact, rounded = network(x, t), network(x, t, torch.bfloat16)
    assert (rounded - exact).norm() < 0.03 * exact.norm()
    first, second = (
        torch.cat([g.flatten() for g in torch.autograd.grad(y.square().mean(), list(network.parameters()))])
        for y in (exact, rounded)
    )
    assert torch.cosine_similarity(first, second, dim=0) > 0.998


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_samples_are_the_same_however_asked_for() -> None:
    network, config = small(dropout=0.3), SamplerConfig(kind="ancestral", steps=3)
    network.train()
    every = network.sample(10, seed=4, sampler=config)
    assert every.shape == (10, 5, 16, 16)
    assert every.dtype == torch.float32
    parts = [network.sample(3, 4, sampler=config), network.sample(7, 4, start=3, sampler=config)]
    assert torch.equal(torch.cat(parts), every)
    assert network.training  # as it was left


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("patch", [1, 2])
def test_samples_of_large_blocks_are_the_same_however_asked_for(dtype: torch.dtype, patch: int) -> None:
    network = small(resolution=32, channels=2, channel_mult=(1, 2), attention_resolutions=(), steps=50, patch=patch)
    sampler = SamplerConfig(steps=2)
    every = network.sample(200, 4, sampler=sampler, dtype=dtype)  # blocks of 8, 8, 16, 32, 64, 64, 64 in bfloat16
    asked = ((0, 3), (3, 10), (13, 60), (73, 119), (192, 8))
    parts = [network.sample(count, 4, start, sampler=sampler, dtype=dtype) for start, count in asked[:4]]
    assert torch.equal(torch.cat(parts), every[:192])
    assert torch.equal(network.sample(8, 4, 192, sampler=sampler, dtype=dtype), every[192:])
    assert len({image.sum().item() for image in every}) == 200


def test_default_sampler_and_truncation() -> None:
    network = small(channels=1, steps=10, noise_schedule="cosine")
    network.config.process()
    with pytest.raises(UnderstudyError, match="no truncation"):
        network.sample(1, 0, psi=0.7)
    # The usual 15 are more than this model has.
    assert torch.equal(network.sample(1, 0), network.sample(1, 0, sampler=SamplerConfig(steps=10)))
    with pytest.raises(UnderstudyError, match="15 sampling steps"):
        network.sample(1, 0, sampler=SamplerConfig(steps=15))
    assert network.sample(1, 0, sampler=SamplerConfig(steps=2)).shape == (1, 1, 16, 16)


# --- official names ---------------------------------------------------------------------------------------------------


def block_shapes(inputs: int, outputs: int, time: int, film: int) -> dict[str, tuple[int, ...]]:
    shapes = {
        "in_layers.0": (inputs,), "in_layers.2": (outputs, inputs, 3, 3), "emb_layers.1": (film * outputs, time),
        "out_layers.0": (outputs,), "out_layers.3": (outputs, outputs, 3, 3),
    }  # fmt: skip
    return shapes | ({"skip_connection": (outputs, inputs, 1, 1)} if inputs != outputs else {})


def attention_shapes(width: int) -> dict[str, tuple[int, ...]]:
    return {"norm": (width,), "qkv": (3 * width, width, 1), "proj_out": (width, width, 1)}


def official_shapes(arguments: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official state dictionary, counted out independently."""
    unit, mult = arguments["model_channels"], arguments["channel_mult"]
    film, updown = (2 if arguments["use_scale_shift_norm"] else 1), arguments["resblock_updown"]
    time, width = 4 * unit, int(mult[0] * unit)
    layers: dict[str, tuple[int, ...]] = {"time_embed.0": (time, unit), "time_embed.2": (time, time)}

    def put(place: str, shapes: dict[str, tuple[int, ...]]) -> None:
        layers.update({f"{place}.{name}": shape for name, shape in shapes.items()})

    layers["input_blocks.0.0"] = (width, arguments["in_channels"], 3, 3)
    skips, index = [width], 1
    for level, factor in enumerate(mult):
        for _ in range(arguments["num_res_blocks"]):
            put(f"input_blocks.{index}.0", block_shapes(width, int(factor * unit), time, film))
            width = int(factor * unit)
            if 2**level in arguments["attention_resolutions"]:
                put(f"input_blocks.{index}.1", attention_shapes(width))
            skips.append(width)
            index += 1
        if level < len(mult) - 1:
            down = block_shapes(width, width, time, film) if updown else {"op": (width, width, 3, 3)}
            put(f"input_blocks.{index}.0", down)
            skips.append(width)
            index += 1
    for place, shapes in enumerate([block_shapes(width, width, time, film), attention_shapes(width)] * 2):
        if place < 3:
            put(f"middle_block.{place}", shapes)
    index = 0
    for level in reversed(range(len(mult))):
        for number in range(arguments["num_res_blocks"] + 1):
            outputs, place = int(mult[level] * unit), 1
            put(f"output_blocks.{index}.0", block_shapes(width + skips.pop(), outputs, time, film))
            width = outputs
            if 2**level in arguments["attention_resolutions"]:
                put(f"output_blocks.{index}.1", attention_shapes(width))
                place = 2
            if level and number == arguments["num_res_blocks"]:
                up = block_shapes(width, width, time, film) if updown else {"conv": (width, width, 3, 3)}
                put(f"output_blocks.{index}.{place}", up)
            index += 1
    layers["out.0"], layers["out.2"] = (width,), (arguments["out_channels"], width, 3, 3)
    weights = {f"{name}.weight": shape for name, shape in layers.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in layers.items()}


NETWORK: dict[str, Any] = {
    "kind": "diffusion", "steps": 200, "noise_schedule": "cosine", "learn_sigma": True, "image_size": 32,
    "in_channels": 3, "model_channels": 8, "out_channels": 6, "num_res_blocks": 2, "attention_resolutions": (2, 8),
    "channel_mult": (1, 2, 3, 1), "num_head_channels": 4, "use_scale_shift_norm": True, "resblock_updown": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resblock_updown": False, "attention_resolutions": (4,), "channel_mult": (0.5, 1, 2)},
        {"use_scale_shift_norm": False, "num_res_blocks": 1, "out_channels": 3, "learn_sigma": False},
        {"image_size": 64, "use_new_attention_order": True, "num_head_channels": 8},
    ],
)
def test_official_weights_of_other_architectures(changes: dict[str, Any]) -> None:
    arguments, rng = NETWORK | changes, np.random.default_rng(0)
    weights = {f"M/{n}": rng.standard_normal(s, np.float32) for n, s in official_shapes(arguments).items()}
    network = load_official_arrays(arguments, weights).generator
    assert isinstance(network, UNet)
    held = sorted(p.sum().item() for p in network.parameters())
    assert np.allclose(held, sorted(float(a.sum()) for a in weights.values()), atol=1e-3)
    x = torch.zeros(1, 3, arguments["image_size"], arguments["image_size"])
    assert network(x, torch.tensor([1])).shape[1] == arguments["out_channels"]


def test_wrong_official_weights_are_named() -> None:
    weights = {f"M/{n}": np.zeros(s, np.float32) for n, s in official_shapes(NETWORK).items()}
    with pytest.raises(UnderstudyError, match=r"lack 1 variables, e.g. middle.1.qkv.weight"):
        load_official_arrays(NETWORK, {k: v for k, v in weights.items() if k != "M/middle_block.1.qkv.weight"})
    with pytest.raises(UnderstudyError, match="label_emb"):
        load_official_arrays(NETWORK, weights | {"M/label_emb.weight": np.zeros((10, 32))})
    with pytest.raises(UnderstudyError, match=r"out\.2\.bias"):
        load_official_arrays(NETWORK, weights | {"M/out.2.bias": np.zeros(5)})


@pytest.mark.parametrize(
    ("told", "words"),
    [({"wings": 2}, "wings"), ({"num_heads": 2}, "num_head_channels"), ({"noise_schedule": "none"}, "noise_schedule")],
)
def test_arguments_that_are_not_understood_are_refused(told: dict[str, Any], words: str) -> None:
    weights = {f"M/{n}": np.zeros(s, np.float32) for n, s in official_shapes(NETWORK).items()}
    with pytest.raises(UnderstudyError, match=words):
        load_official_arrays(NETWORK | told, weights)


def test_the_size_follows_from_the_official_widths_if_it_is_not_told() -> None:
    arguments = NETWORK | {"channel_mult": (1, 2, 3, 4)}
    weights = {f"M/{n}": np.zeros(s, np.bool_) for n, s in official_shapes(arguments).items()}
    config = unet_config(weights, {"steps": 10, "noise_schedule": "cosine"})
    assert (config.resolution, config.attention_resolutions) == (64, (32, 8))
