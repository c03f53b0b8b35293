"""The network beyond the golden file: sizes, gradients, noise, mixing, sampling."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from understudy.generators import registry as models
from understudy.generators.networks.stylegan2 import StyleGan2Config, build
from understudy.generators.training.losses import path_lengths, squared_gradient


@pytest.mark.parametrize(("resolution", "channels"), [(16, 1), (32, 7), (64, 4)])
def test_any_resolution_and_channel_count(resolution: int, channels: int) -> None:
    config = StyleGan2Config(
        resolution=resolution, channels=channels, z_dim=8, w_dim=8, channel_base=128, channel_max=8, mapping_layers=1
    )
    model = build(config)
    images = model.generator(torch.randn(2, 8))
    assert images.shape == (2, channels, resolution, resolution)
    assert model.discriminator(images).shape == (2, 1)


@pytest.mark.parametrize("resolution", [24, 8, 1024])
def test_other_resolutions_are_refused(resolution: int) -> None:
    with pytest.raises(ValidationError):
        StyleGan2Config(resolution=resolution)


def test_bfloat16_stays_near_float32(small_model: StyleGan2Config) -> None:
    model = build(small_model)
    z = torch.randn(4, small_model.z_dim, generator=torch.Generator().manual_seed(0))
    exact = model.generator(z)
    rough = model.generator(z, dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() / exact.abs().max() < 0.05


def test_r1_is_the_squared_norm_of_the_numerical_gradient(small_model: StyleGan2Config) -> None:
    discriminator = build(small_model.model_copy(update={"mbstd_maps": 0})).discriminator.double()
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    image.requires_grad_()
    found = squared_gradient(discriminator(image, torch.float64), image)
    # Along one random direction the directional derivative must match the gradient.
    direction = torch.randn_like(image)
    step = 1e-5 * direction
    numeric = (discriminator(image + step, torch.float64) - discriminator(image - step, torch.float64)) / 2e-5
    (gradient,) = torch.autograd.grad(discriminator(image.requires_grad_(), torch.float64).sum(), image)
    torch.testing.assert_close((gradient * direction).sum(), numeric[0, 0].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0], gradient.square().sum(), atol=1e-6, rtol=1e-4)


def test_path_length_is_differentiable_by_the_weights(small_model: StyleGan2Config) -> None:
    generator = build(small_model).generator
    ws = generator.broadcast(generator.mapping(torch.randn(2, small_model.z_dim)))
    lengths = path_lengths(generator.synthesis, ws, torch.randn(2, 3, 16, 16) / 16)
    lengths.square().sum().backward()
    weight = generator.mapping.layers[0].weight
    assert isinstance(weight, torch.Tensor)
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_sample_i_does_not_depend_on_what_else_is_asked_for(small_model: StyleGan2Config) -> None:
    model = build(small_model)
    whole = model.generator.sample(40, seed=7)
    assert torch.equal(model.generator.sample(1, seed=7, start=17)[0], whole[17])
    assert torch.equal(torch.cat([model.generator.sample(5, 7, start) for start in range(0, 40, 5)]), whole)
    assert not torch.equal(model.generator.sample(1, seed=8)[0], whole[0])


def test_truncation_draws_towards_the_mean(small_model: StyleGan2Config) -> None:
    model = build(small_model)
    assert model.generator.sample(8, 0, psi=0.0).std(dim=0).max() < 1e-5
    assert model.generator.sample(8, 0).std(dim=0).max() > 1e-2


def test_build_is_reproducible_and_leaves_the_global_generator_alone(small_model: StyleGan2Config) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = build(small_model, 1), build(small_model, 1)
    assert torch.equal(torch.rand(3), expected)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_shares_of_what_was_drawn_are_shares_of_the_batch(small_model: StyleGan2Config) -> None:
    generator = build(small_model).generator
    drawn = generator.draw(4, torch.Generator().manual_seed(0), mixing=1.0)
    assert 1 <= int(drawn["cutoff"]) < small_model.num_ws
    whole = generator.synthesise(drawn)
    share = {name: x[1::2] if x.ndim else x for name, x in drawn.items()}
    torch.testing.assert_close(generator.synthesise(share), whole[1::2], atol=1e-4, rtol=1e-4)
    again = generator.draw(4, torch.Generator().manual_seed(0), mixing=1.0)
    assert all(torch.equal(again[name], x) for name, x in drawn.items())


def test_every_drawn_noise_reaches_the_image(small_model: StyleGan2Config) -> None:
    generator = build(small_model).generator
    convs = [c for b in generator.synthesis.blocks for c in ([b.conv1] if b.first else [b.conv0, b.conv1])]
    for conv in convs:
        conv.noise_strength.data.fill_(1.0)  # 0 in a fresh network
    drawn = generator.draw(2, torch.Generator().manual_seed(0))
    image = generator.synthesise(drawn)
    for i in range(len(convs)):
        other = generator.synthesise(drawn | {f"noise{i}": -drawn[f"noise{i}"]})
        assert (other - image).abs().max() > 1e-3, i
    stored = {f"noise{i}": conv.noise_const.expand_as(drawn[f"noise{i}"]) for i, conv in enumerate(convs)}
    torch.testing.assert_close(generator.synthesise(drawn | stored), generator(drawn["z"]))


def test_mixing_takes_the_later_styles_of_the_other_latent(small_model: StyleGan2Config) -> None:
    generator = build(small_model).generator
    drawn = generator.draw(2, torch.Generator().manual_seed(0), mixing=1.0)
    cutoff, ws = int(drawn["cutoff"]), generator.ws(drawn)
    torch.testing.assert_close(ws[:, :cutoff], generator.broadcast(generator.mapping(drawn["z"]))[:, :cutoff])
    later = generator.broadcast(generator.mapping(drawn["other"]))[:, cutoff:]
    torch.testing.assert_close(ws[:, cutoff:], later)
    unmixed = generator.draw(2, torch.Generator().manual_seed(0), mixing=0.0)
    assert int(unmixed["cutoff"]) == small_model.num_ws
    assert torch.equal(unmixed["noise0"], drawn["noise0"])


def test_only_tracked_passes_move_the_mean_of_w(small_model: StyleGan2Config) -> None:
    generator = build(small_model).generator
    drawn = generator.draw(2, torch.Generator().manual_seed(0), mixing=0.5)
    before = generator.mapping.w_avg.clone()
    generator.ws(drawn)
    assert torch.equal(generator.mapping.w_avg, before)
    generator.ws(drawn, track=True)
    mean = generator.mapping(drawn["z"]).mean(dim=0)
    torch.testing.assert_close(generator.mapping.w_avg, mean.lerp(before, small_model.w_avg_beta))


def test_too_narrow_for_its_resolution_is_told_once_the_resolution_is_known() -> None:
    narrow = StyleGan2Config(channels=3, channel_base=64)  # of a study file, whose slices say the resolution
    assert narrow.at(32).width(32) == 2
    with pytest.raises(ValueError, match=r"channel_base 64 .* 128"):
        narrow.at(128)
    with pytest.raises(ValueError, match="at 256 pixels"):
        models.build(narrow)
