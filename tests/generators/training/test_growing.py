"""Growing GANs: level, batch, rate and optimisers follow the schedule, and the objectives are the papers'."""

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
from understudy.generators.training.gan import discriminator_loss, draw_fakes, draw_reals, r1_loss
from understudy.slices import SliceSet


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
    between = {"between": torch.rand(8, 1, 1, 1, generator=rng)}
    part = draw_fakes(state, rng) | between | {"real": draw_reals(state, rng)}
    loss, _ = discriminator_loss(state, part)
    critic = state.discriminator
    fake = state.generator.synthesise(part["latents"]).detach()
    real, u = part["real"], part["between"]
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
    loss, figures = discriminator_loss(state, part)
    critic = state.discriminator
    fake, real = state.generator.synthesise(part["latents"]).detach(), part["real"].requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real)
    penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
    expected = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean() + 1.5 * penalty
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(figures["r1"], penalty, rtol=1e-4, atol=1e-7)


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
        loss, figures = r1_loss(state, part)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-7)
        penalties.append(state.steps)
        return loss, figures

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
def test_the_average_decays_as_the_code_does(kind: str, beta: float, slices: SliceSet) -> None:
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
    with pytest.raises(UnderstudyError, match="8 is not divisible by the world size 16"):
        growing.check_batches()
    state_of(slices, kind, processes=processes, kimg=0.02).check_batches()  # ends before
