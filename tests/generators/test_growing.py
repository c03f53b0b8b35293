"""Growing GANs: level, batch, rate and optimisers follow the schedule, and the objectives are the papers'."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import trainer_of

from understudy.errors import UnderstudyError
from understudy.generators.training.shares import Workers
from understudy.slices import SliceSet


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_level_batch_and_rate_follow_the_schedule(kind: str, slices: SliceSet) -> None:
    trainer = trainer_of(slices, kind, stabilise_kimg=0.128, fade_kimg=0.128, rates={16: 0.002}, d_lr=0.001)
    seen = []
    for _ in range(24):
        trainer.step()
        seen.append((trainer.level, trainer.batch, trainer.d_optimiser.param_groups[0]["lr"], trainer.images))
    assert seen[0] == (1.0, 16, 0.001, 16)
    assert [level for level, *_ in seen[:8]] == [1.0] * 8  # 8 steps of 16 images
    assert [level for level, *_ in seen[8:12]] == [1.0] * 4  # the fade begins at 128 images, with weight 0
    assert [level for level, *_ in seen[12:20]] == [0.5] * 4 + [0.25] * 4  # held for four steps, now of 8 images
    assert all(batch == 16 for level, batch, *_ in seen if level >= 1)
    assert all(batch == 8 for level, batch, *_ in seen if level < 1)
    assert all(rate == (0.001 if level >= 1 else 0.002) for level, _, rate, _ in seen)
    levels = [level for level, *_ in seen]
    assert levels == sorted(levels, reverse=True)
    assert float(trainer.average.level) == trainer.level
    assert trainer.average.sample(2, 0).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_optimisers_forget_when_layers_join(kind: str, slices: SliceSet) -> None:
    trainer = trainer_of(slices, kind, stabilise_kimg=0.128, fade_kimg=0.128)
    counts = []
    for _ in range(20):
        trainer.step()
        states = [s for o in trainer._optimisers().values() for s in o.state.values()]
        counts.append((trainer.level, max(int(s["step"]) for s in states)))
    fading = next(i for i, (level, _) in enumerate(counts) if level < 1)
    assert counts[fading - 1][1] == fading
    assert counts[fading][1] == 1
    assert counts[fading + 1][1] == 2


def test_progan_learns_by_wgan_gp_with_drift(slices: SliceSet) -> None:
    trainer = trainer_of(slices, "progan", start_resolution=16)
    rng = torch.Generator().manual_seed(0)
    part = trainer._draw_fakes(rng) | trainer._draw_more(rng) | {"real": trainer._reals(rng)}
    loss, _ = trainer._discriminator_loss(part)
    critic = trainer.discriminator
    fake = trainer.generator.synthesise(part["latents"]).detach()
    real, u = part["real"], part["between"]
    middle = (real * (1 - u) + fake * u).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(middle).sum(), middle)
    norms = gradient.flatten(1).norm(dim=1)
    expected = critic(fake).mean() - critic(real).mean() + 10 * (norms - 1).square().mean()
    expected = expected + 0.001 * critic(real).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_stylegan1_learns_by_logistic_loss_and_r1_in_every_step(slices: SliceSet) -> None:
    trainer = trainer_of(slices, "stylegan1", start_resolution=16, r1_gamma=3.0)
    rng = torch.Generator().manual_seed(0)
    part = trainer._draw_fakes(rng) | {"real": trainer._reals(rng)}
    loss, figures = trainer._discriminator_loss(part)
    critic = trainer.discriminator
    fake, real = trainer.generator.synthesise(part["latents"]).detach(), part["real"].requires_grad_()
    (gradient,) = torch.autograd.grad(critic(real).sum(), real)
    penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
    expected = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean() + 1.5 * penalty
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(figures["r1"], penalty, rtol=1e-4, atol=1e-7)


def test_stylegan1_with_a_lazy_penalty(slices: SliceSet) -> None:
    """Scaled by the interval, every so many steps, with rates and betas corrected (Karras et al. 2020, app. B)."""
    trainer = trainer_of(
        slices, "stylegan1", start_resolution=8, stabilise_kimg=0.064, fade_kimg=0.064, batches={8: 16, 16: 8},
        d_lr=0.005, rates={16: 0.01}, r1_gamma=3.0, r1_interval=4,
    )  # fmt: skip
    penalties: list[tuple[int, bool]] = []
    follow_up = trainer._follow_up

    def watched(inputs: Any, figures: Any) -> None:
        images = inputs["real"].detach().requires_grad_()
        scores = trainer.discriminator(images, level=trainer.level)
        (gradient,) = torch.autograd.grad(scores.sum(), images)
        expected = 1.5 * 4 * gradient.square().sum(dim=(1, 2, 3)).mean() / 4 ** math.floor(trainer.level)
        if trainer.steps % 4 == 0:
            torch.testing.assert_close(trainer._r1({"real": images}, 12.0)[0], expected, rtol=1e-4, atol=1e-7)
        before = [p.detach().clone() for p in trainer.discriminator.parameters()]
        follow_up(inputs, figures)
        moved = any(not torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters(), strict=True))
        penalties.append((trainer.steps, moved))

    trainer._follow_up = watched  # type: ignore[method-assign]
    while trainer.images < 256:
        trainer.step()
    assert [n for n, moved in penalties if moved] == list(range(0, len(penalties), 4))
    assert trainer.edge == 16
    group = trainer.d_optimiser.param_groups[0]
    assert group["lr"] == pytest.approx(0.01 * 4 / 5)
    assert group["betas"] == (0.0, pytest.approx(0.99 ** (4 / 5)))
    assert trainer.g_optimiser.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(("kind", "beta"), [("progan", 0.999), ("stylegan1", 0.5 ** (16 / 10_000))])
def test_the_average_decays_as_the_code_does(kind: str, beta: float, slices: SliceSet) -> None:
    trainer = trainer_of(slices, kind, start_resolution=16, batches={16: 16})
    name = "to_image.2.weight"
    before = trainer.average.state_dict()[name].clone()
    trainer.step()
    after: Any = trainer.generator.state_dict()[name]
    torch.testing.assert_close(trainer.average.state_dict()[name], before * beta + after * (1 - beta))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_batches_of_later_levels_are_checked_before_the_first_step(kind: str, slices: SliceSet) -> None:
    workers = Workers()
    workers.world = 16
    growing = trainer_of(slices, kind, workers=workers, kimg=1.0)
    assert growing.batch == 16  # 8 at the end, which 16 workers cannot part
    assert growing.batches == {16, 8}
    with pytest.raises(UnderstudyError, match="batch 8 cannot be parted among 16 devices"):
        growing.check_parting()
    trainer_of(slices, kind, workers=workers, kimg=0.02).check_parting()  # ends before
