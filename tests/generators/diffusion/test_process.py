"""Noise schedules, posterior, respacing and losses against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

from understudy.errors import UnderstudyError
from understudy.generators.diffusion.process import (
    GaussianProcess,
    decoder_nll,
    noise_schedule,
    training_losses,
    variational_bound,
)
from understudy.generators.diffusion.samplers import evenly_spaced


def process(steps: int = 100, **options: float) -> GaussianProcess:
    return GaussianProcess(noise_schedule("cosine", steps), **options)  # type: ignore[arg-type]


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "first", "last"), [(1000, 1e-4, 0.02), (4000, 2.5e-5, 5e-3)])
def test_linear_schedule_is_rescaled_to_the_number_of_steps(steps: int, first: float, last: float) -> None:
    betas = noise_schedule("linear", steps)
    assert betas[[0, -1]] == pytest.approx([first, last])
    assert np.allclose(np.diff(betas), (last - first) / (steps - 1))
    # Either way the last image is noise with the same rest of signal: exp(-integral of beta) to first order.
    assert np.prod(1 - betas) == pytest.approx(4.2e-5, rel=0.05)


def test_cosine_schedule_is_the_closed_form_of_alpha_bar() -> None:
    steps = 1000
    found = GaussianProcess(noise_schedule("cosine", steps)).alpha_bar
    time = (np.arange(steps) + 1) / steps
    wanted = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert np.allclose(found[:-1], wanted[:-1], rtol=1e-9)
    assert found[-1] == pytest.approx(found[-2] * 1e-3)  # the last beta is held at 0.999


def test_too_few_linear_steps_are_refused() -> None:
    with pytest.raises(UnderstudyError, match="linear"):
        noise_schedule("linear", 20)
    with pytest.raises(UnderstudyError, match="noise schedule"):
        GaussianProcess(np.array([0.5, 1.0]))


# --- fewer steps ---


def test_a_respaced_process_has_the_same_signal_at_the_kept_steps() -> None:
    full = GaussianProcess(noise_schedule("linear", 400), time_scale=2.5)
    half = full.kept(evenly_spaced(400, 50))
    assert np.allclose(half.alpha_bar, full.alpha_bar[half.timesteps], rtol=1e-12)
    again = half.kept(evenly_spaced(50, 5))  # steps of steps still name the network's own
    assert np.allclose(again.alpha_bar, full.alpha_bar[again.timesteps], rtol=1e-12)
    assert again.network_time(torch.tensor([4])).item() == pytest.approx(399 * 2.5)
    with pytest.raises(UnderstudyError, match="increase"):
        full.kept([3, 3])


# --- forward process --------------------------------------------------------------------------------------------------


def test_posterior_is_bayes_rule() -> None:
    found = process()
    x0, xt = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[-0.8]], dtype=torch.float64)
    for t in (1, 50, 99):
        before, beta = found.alpha_bar[t - 1], found.betas[t]
        # q(x_(t-1) | x_0) times q(x_t | x_(t-1)) as a function of x_(t-1): precisions add.
        precision = 1 / (1 - before) + (1 - beta) / beta
        mean = (math.sqrt(before) * 0.3 / (1 - before) + math.sqrt(1 - beta) * -0.8 / beta) / precision
        assert found.posterior_variance[t] == pytest.approx(1 / precision)
        assert found.posterior_mean(x0, xt, torch.tensor([t])).item() == pytest.approx(mean)


def test_noised_clean_and_noise_in_invert_each_other() -> None:
    found, rng = process(), torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 2, 4, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0, 40, 90])
    xt = found.noised(x0, t, noise)
    assert torch.allclose(found.clean(xt, t, noise), x0)
    assert torch.allclose(found.noise_in(xt, t, x0), noise)
    assert torch.allclose(xt[1], math.sqrt(found.alpha_bar[40]) * x0[1] + math.sqrt(1 - found.alpha_bar[40]) * noise[1])


def test_velocity_gives_back_the_clean_image_and_the_same_weighted_loss() -> None:
    """Errors of noise and velocity are errors of x_0, weighted by SNR and SNR + 1 (Salimans & Ho 2022, app. D)."""
    rng = torch.Generator().manual_seed(0)
    x0, noise, error = (torch.randn(3, 2, 4, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0, 40, 90])
    weighted = {}
    for kind in ("noise", "velocity"):
        found = process(prediction=kind)
        xt, snr = found.noised(x0, t, noise), found.at("snr", t, x0)
        wrong = x0 + 0.1 * error  # a network whose x_0 is off by this
        if kind == "noise":
            output = noise - snr.sqrt() * (wrong - x0)
        else:
            output = found.velocity(x0, t, noise) - (snr + 1).sqrt() * (wrong - x0)
        assert torch.allclose(found.predicted_clean(output, xt, t), wrong)
        losses = training_losses(lambda x, time, output=output: output, found, x0, t, noise, min_snr=5)
        weighted[kind] = losses["loss"]
        expected = snr.flatten().clamp_max(5) * (0.1 * error).square().flatten(1).mean(dim=1)
        assert torch.allclose(losses["loss"], expected)
    assert torch.allclose(weighted["noise"], weighted["velocity"])


def test_variance_is_beta_or_learned_between_its_bounds() -> None:
    x, t = torch.zeros(3, 2, 4, 4), torch.tensor([0, 1, 60])
    fixed = process()
    log_beta = torch.from_numpy(np.log(fixed.betas[[1, 60]]))
    assert torch.allclose(fixed.log_variance(x, x, t).flatten()[1:].double(), log_beta)
    learned = process(learned_range=True)
    for v, bound in ((-1.0, learned.posterior_variance[[1, 1, 60]]), (1.0, learned.betas[[0, 1, 60]])):
        found = learned.log_variance(torch.cat([x, torch.full_like(x, v)], dim=1), x, t)
        assert np.allclose(found[:, 0, 0, 0], np.log(bound), rtol=1e-5)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [-1.2, 0.1, 0.99])
def test_the_masses_of_all_grey_values_sum_to_one(mean: float) -> None:
    greys = torch.arange(256) / 127.5 - 1
    for log_variance in (-9.0, -4.0, 0.0):
        nll = decoder_nll(greys, torch.tensor(mean), torch.tensor(log_variance))
        assert torch.exp(-nll).sum().item() == pytest.approx(1, abs=1e-4)
        mass = np.diff(stats.norm(mean, math.exp(log_variance / 2)).cdf(np.arange(1, 256) / 127.5 - 1 - 1 / 255))
        assert np.allclose(torch.exp(-nll)[1:-1], mass, atol=1e-3)


def test_variational_bound_is_the_divergence_of_two_gaussians() -> None:
    found, rng = process(learned_range=True), torch.Generator().manual_seed(1)
    x0, noise = torch.rand(2, 3, 4, 4, generator=rng) * 2 - 1, torch.randn(2, 3, 4, 4, generator=rng)
    output, t = torch.randn(2, 6, 4, 4, generator=rng) * 0.5, torch.tensor([30, 70])
    xt = found.noised(x0, t, noise)
    bound = variational_bound(found, output, x0, xt, t)
    for i, step in enumerate([30, 70]):
        deviation = (0.5 * found.log_variance(output, xt, t)[i]).exp()
        mean = found.posterior_mean(found.clean(xt, t, output[:, :3]), xt, t)[i]
        truth = Normal(found.posterior_mean(x0, xt, t)[i], math.sqrt(found.posterior_variance[step]))
        bits = kl_divergence(truth, Normal(mean, deviation)).mean() / math.log(2)
        assert bound[i].item() == pytest.approx(bits.item(), rel=1e-4)


def test_losses_of_a_network_that_knows_the_noise() -> None:
    found, rng = process(learned_range=True, vlb_weight=4.0), torch.Generator().manual_seed(2)
    x0, noise = (torch.rand(3, 1, 4, 4, generator=rng) * 2 - 1 for _ in range(2))
    t = torch.tensor([0, 30, 70])
    variance = torch.full_like(noise, -1.0, requires_grad=True)  # the smallest variance: the posterior's
    output = torch.cat([noise, variance], dim=1)
    losses = training_losses(lambda x, time: output, found, x0, t, noise)
    assert torch.equal(losses["mse"], torch.zeros(3))
    assert losses["vb"][1:].abs().max() < 1e-5  # the model's Gaussian is the posterior
    assert losses["vb"][0] > 0.1  # L_0 is a likelihood of grey values
    assert torch.equal(losses["loss"], losses["mse"] + losses["vb"])
    plain = variational_bound(found, output, x0, found.noised(x0, t, noise), t)
    assert torch.allclose(losses["vb"], 4 * plain)


def test_the_bound_does_not_move_the_mean() -> None:
    found, rng = process(learned_range=True), torch.Generator().manual_seed(3)
    x0, noise = (torch.rand(2, 1, 4, 4, generator=rng) for _ in range(2))
    output = torch.randn(2, 2, 4, 4, generator=rng).requires_grad_()
    losses = training_losses(lambda x, time: output, found, x0, torch.tensor([5, 60]), noise)
    (gradient,) = torch.autograd.grad(losses["vb"].sum(), output)
    assert gradient[:, :1].abs().max() == 0
    assert gradient[:, 1:].abs().max() > 0


def test_min_snr_weighting() -> None:
    found = GaussianProcess(noise_schedule("linear", 1000))
    x0, noise, t = torch.zeros(4, 1, 2, 2), torch.ones(4, 1, 2, 2), torch.tensor([0, 100, 400, 900])
    losses = training_losses(lambda x, time: torch.zeros_like(x), found, x0, t, noise, min_snr=5.0)
    snr = found.alpha_bar[t] / (1 - found.alpha_bar[t])
    assert np.allclose(losses["loss"], np.minimum(snr, 5) / snr, rtol=1e-5)
    assert np.allclose(losses["mse"], 1)
