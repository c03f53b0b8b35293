"""The GANs' step: minibatches, optimisers, EMA, what the discriminator sees, growth, and the papers' losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import state_of

from understudy.errors import UnderstudyError
from understudy.generators.training import gan
from understudy.generators.training.distributed import ProcessGroup
from understudy.generators.training.gan import (
    augmented,
    discriminator_loss,
    draw_augmentation,
    draw_fakes,
    draw_reals,
    r1_loss,
)
from understudy.slices import SliceSet


def test_every_step_draws_its_own_reproducible_minibatch(slices: SliceSet) -> None:
    state, again = (state_of(slices, seed=5) for _ in range(2))
    state.step()
    assert torch.equal(state.data.batch(4, 8), again.data.batch(4, 8))
    assert not torch.equal(state.data.batch(4, 8), state.data.batch(5, 8))


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_balanced_batches_have_the_wanted_share_of_annotated_slices(slices: SliceSet, share: float) -> None:
    state = state_of(slices, batch=16, balance_classes=share)
    annotated = [(state.data.batch(i, 16)[:, -1] > -1).any(dim=(1, 2)).float().mean() for i in range(40)]
    assert float(torch.stack(annotated).mean()) == pytest.approx(share, abs=0.07)  # 640 draws: 4 s.d.


def test_lazy_penalties_correct_the_optimisers(slices: SliceSet) -> None:
    state = state_of(slices, batch=32, r1_interval=16)
    g, d = state.optimisers["generator"].param_groups[0], state.optimisers["discriminator"].param_groups[0]
    assert g["lr"] == pytest.approx(0.002 * 4 / 5)
    assert g["betas"] == pytest.approx((0.0, 0.99**0.8))
    assert d["lr"] == pytest.approx(0.002 * 16 / 17)
    assert d["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))
    without = state_of(slices, "stylegan3").optimisers["generator"].param_groups[0]
    assert (without["lr"], without["betas"]) == (0.0025, (0.0, 0.99))


def test_the_ema_follows_the_ramp(slices: SliceSet) -> None:
    state = state_of(slices, pl_weight=0)
    name = "synthesis.blocks.0.conv1.conv.weight"
    for _ in range(2):
        before = state.ema.state_dict()[name].clone()
        state.step()
    beta = 0.5 ** (8 / (2 * 8 * 0.05))
    expected = before * beta + state.generator.state_dict()[name] * (1 - beta)
    torch.testing.assert_close(state.ema.state_dict()[name], expected)


def test_mean_w_follows_the_first_latents_only(slices: SliceSet) -> None:
    """Whether the styles are mixed or not: the latents that are mixed in do not count."""
    averages = []
    for mixing in (0.0, 1.0):
        generator = state_of(slices).generator
        generator.ws(generator.draw(8, torch.Generator().manual_seed(1), mixing), track=True)
        averages.append(generator.mapping.w_avg)
    assert averages[0].abs().max() > 0
    torch.testing.assert_close(averages[0], averages[1])


def test_nan_gradients_are_repaired_and_counted(slices: SliceSet) -> None:
    state = state_of(slices)
    before = {k: v.clone() for k, v in state.discriminator.state_dict().items()}

    def loss(part: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return state.discriminator(part["real"]).sum() * float("nan"), {}

    state.backward_and_step("discriminator", {"real": state.data.batch(0, 8)}, loss)
    for name, value in state.discriminator.state_dict().items():
        assert torch.equal(value, before[name])
    assert state.take_stats() == {"repaired_gradients": 1.0}


def test_the_penalties_come_in_their_intervals(slices: SliceSet) -> None:
    state = state_of(slices, r1_interval=3, pl_interval=2)
    seen = []
    for _ in range(6):
        state.step()
        seen.append({"r1", "pl"} & set(state.take_stats()))
    assert seen == [{"r1", "pl"}, set(), {"pl"}, {"r1"}, {"pl"}, set()]


def test_noise_reaches_the_annotation_only(slices: SliceSet) -> None:
    state = state_of(slices, annotation_noise=0.5)
    real = state.data.batch(0, 8)
    difference = augmented(state, real, draw_augmentation(state, torch.Generator().manual_seed(0))) - real
    assert not difference[:, :-1].any()
    assert float(difference[:, -1].std()) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(("radial", "sigma", "expected"), [(True, None, 10), (False, None, 0), (True, 4.0, 4)])
def test_blur_fades_for_configuration_r(slices: SliceSet, radial: bool, sigma: float | None, expected: float) -> None:
    model = {"use_radial_filters": True, "conv_kernel": 1} if radial else {}
    state = state_of(slices, "stylegan3", model, blur_sigma=sigma)
    sigmas = [state.config.blur(state.model, images) for images in (0, 25_000, 60_000)]
    assert sigmas == pytest.approx([expected, expected / 2, 0])  # fades over batch * 200 / 32 thousand images


def test_a_gamma_far_off_the_guide_is_told(slices: SliceSet, caplog: pytest.LogCaptureFixture) -> None:
    state_of(slices, r1_gamma=5.0)
    assert "far from" in caplog.text


def test_the_path_length_batch_is_divided_among_processes_too(slices: SliceSet) -> None:
    processes = ProcessGroup()
    processes.world_size = 8
    with pytest.raises(UnderstudyError, match="world size 8"):
        state_of(slices, processes=processes).check_batches()
    state_of(slices, processes=processes, pl_shrink=1).check_batches()
    state_of(slices, processes=processes, pl_weight=0).check_batches()


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_level_batch_and_rate_follow_the_schedule(kind: str, slices: SliceSet) -> None:
    state = state_of(slices, kind, stabilise_kimg=0.128, fade_kimg=0.128, rates={16: 0.002}, d_lr=0.001)
    seen = []
    for _ in range(24):
        state.step()
        seen.append((state.level, state.batch, state.optimisers["discriminator"].param_groups[0]["lr"], state.images))
    assert seen[0] == (1.0, 16, 0.001, 16)
    assert [level for level, *_ in seen[:8]] == [1.0] * 8  # 8 steps of 16 images
    assert [level for level, *_ in seen[8:12]] == [1.0] * 4  # the fade begins at 128 images, with weight 0
    assert [level for level, *_ in seen[12:20]] == [0.5] * 4 + [0.25] * 4  # held for four steps, now of 8 images
    assert all(batch == 16 for level, batch, *_ in seen if level >= 1)
    assert all(batch == 8 for level, batch, *_ in seen if level < 1)
    assert all(rate == (0.001 if level >= 1 else 0.002) for level, _, rate, _ in seen)
    levels = [level for level, *_ in seen]
    assert levels == sorted(levels, reverse=True)
    assert float(state.ema.level) == state.level
    assert state.ema.sample(2, 0).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_optimisers_forget_when_layers_join(kind: str, slices: SliceSet) -> None:
    state = state_of(slices, kind, stabilise_kimg=0.128, fade_kimg=0.128)
    counts = []
    for _ in range(20):
        state.step()
        states = [s for o in state.optimisers.values() for s in o.state.values()]
        counts.append((state.level, max(int(s["step"]) for s in states)))
    fading = next(i for i, (level, _) in enumerate(counts) if level < 1)
    assert counts[fading - 1][1] == fading
    assert counts[fading][1] == 1
    assert counts[fading + 1][1] == 2


def test_progan_learns_by_wgan_gp_with_drift(slices: SliceSet) -> None:
    state = state_of(slices, "progan", start_resolution=16)
    rng = torch.Generator().manual_seed(0)
    between = {"interpolates": torch.rand(8, 1, 1, 1, generator=rng)}
    part = draw_fakes(state, rng) | between | {"real": draw_reals(state, rng)}
    loss, _ = discriminator_loss(state, part)
    critic = state.discriminator
    fake = state.generator.synthesise(part["latents"]).detach()
    real, u = part["real"], part["interpolates"]
    middle = (real * (1 - u) + fake * u).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(middle).sum(), middle)
    norms = gradient.flatten(1).norm(dim=1)
    expected = critic(fake).mean() - critic(real).mean() + 10 * (norms - 1).square().mean()
    expected = expected + 0.001 * critic(real).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_stylegan1_learns_by_logistic_loss_and_r1_in_every_step(slices: SliceSet) -> None:
    state = state_of(slices, "stylegan1", start_resolution=16, r1_gamma=3.0)
    rng = torch.Generator().manual_seed(0)
    part = draw_fakes(state, rng) | {"real": draw_reals(state, rng)}
    loss, stats = discriminator_loss(state, part)
    critic = state.discriminator
    fake, real = state.generator.synthesise(part["latents"]).detach(), part["real"].requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real)
    penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
    expected = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean() + 1.5 * penalty
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats["r1"], penalty, rtol=1e-4, atol=1e-7)


def test_stylegan1_with_a_lazy_penalty(slices: SliceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled by the interval, every so many steps, with rates and betas corrected (Karras et al. 2020, app. B)."""
    state = state_of(
        slices, "stylegan1", start_resolution=8, stabilise_kimg=0.064, fade_kimg=0.064, batches={8: 16, 16: 8},
        d_lr=0.005, rates={16: 0.01}, r1_gamma=3.0, r1_interval=4,
    )  # fmt: skip
    penalties: list[int] = []

    def watched(state: Any, part: dict[str, Any]) -> Any:
        images = part["real"].detach().requires_grad_()
        scores = state.discriminator(images, level=state.level)
        (gradient,) = torch.autograd.grad(scores.sum(), images)
        expected = 1.5 * 4 * gradient.square().sum(dim=(1, 2, 3)).mean() / 4 ** math.floor(state.level)
        loss, stats = r1_loss(state, part)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-7)
        penalties.append(state.steps)
        return loss, stats

    monkeypatch.setattr(gan, "r1_loss", watched)
    while state.images < 256:
        state.step()
    assert penalties == list(range(0, state.steps, 4))
    assert state.resolution == 16
    group = state.optimisers["discriminator"].param_groups[0]
    assert group["lr"] == pytest.approx(0.01 * 4 / 5)
    assert group["betas"] == (0.0, pytest.approx(0.99 ** (4 / 5)))
    assert state.optimisers["generator"].param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(("kind", "beta"), [("progan", 0.999), ("stylegan1", 0.5 ** (16 / 10_000))])
def test_the_ema_decays_as_in_the_official_code(kind: str, beta: float, slices: SliceSet) -> None:
    state = state_of(slices, kind, start_resolution=16, batches={16: 16})
    name = "to_image.2.weight"
    before = state.ema.state_dict()[name].clone()
    state.step()
    after: Any = state.generator.state_dict()[name]
    torch.testing.assert_close(state.ema.state_dict()[name], before * beta + after * (1 - beta))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_batches_of_later_levels_are_checked_before_the_first_step(kind: str, slices: SliceSet) -> None:
    processes = ProcessGroup()
    processes.world_size = 16
    growing = state_of(slices, kind, processes=processes, kimg=1.0)
    assert growing.batch == 16  # 8 at the end, which 16 processes cannot part
    assert growing.batches == {16, 8}
    with pytest.raises(UnderstudyError, match="world size 16"):
        growing.check_batches()
    state_of(slices, kind, processes=processes, kimg=0.02).check_batches()  # ends before
