"""Samplers against the exact solution for Gaussian data, for which the best noise prediction is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.generators.diffusion.process import GaussianProcess, noise_schedule
from understudy.generators.diffusion.samplers import (
    SamplerConfig,
    ddim_steps,
    dpm_solver_steps,
    evenly_spaced,
    limit_clean,
    sample,
    select_steps,
    strided,
)

MEAN, DEVIATION = 0.2, 0.4  # of the data


def log_snr_process(steps: int) -> GaussianProcess:
    """A process in which lambda falls evenly from 4 to -4, so that any even selection is even in lambda."""
    alpha_bar = 1 / (1 + np.exp(-2 * np.linspace(4, -4, steps)))
    return GaussianProcess(1 - alpha_bar / np.append(1.0, alpha_bar[:-1]))


def exact(process: GaussianProcess, learned: bool = False) -> Callable[[Tensor, Tensor], Tensor]:
    """E[noise | x_t] for data ~ N(MEAN, DEVIATION^2)."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        level = torch.from_numpy(process.alpha_bar)[t.long()].to(x.dtype).reshape(-1, 1, 1, 1)
        variance = level * DEVIATION**2 + 1 - level
        noise = (1 - level).sqrt() * (x - level.sqrt() * MEAN) / variance
        return torch.cat([noise, torch.zeros_like(noise)], dim=1) if learned else noise

    return network


def flow(process: GaussianProcess, x: Tensor, step: int) -> Tensor:
    """Where the probability flow takes x from the last step of the process to `step`."""
    levels = process.alpha_bar[[-1, step]]
    start, end = np.sqrt(levels * DEVIATION**2 + 1 - levels)
    return math.sqrt(levels[1]) * MEAN + end / start * (x - math.sqrt(levels[0]) * MEAN)


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


@pytest.mark.parametrize("walk", [ddim_steps, dpm_solver_steps], ids=["ddim", "dpm++"])
def test_a_velocity_network_takes_the_same_way_as_its_noise_network(walk: Callable) -> None:
    by_noise = GaussianProcess(noise_schedule("cosine", 50))
    by_velocity = GaussianProcess(noise_schedule("cosine", 50), prediction="velocity")
    of_noise = exact(by_noise)

    def of_velocity(x: Tensor, t: Tensor) -> Tensor:
        noise = of_noise(x, t)
        return by_noise.velocity(by_noise.clean(x, t.long(), noise), t.long(), noise)

    x = torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    ends = [
        list(walk(network, process, x, SamplerConfig(clip="none"), no_noise))[-1]
        for network, process in ((of_noise, by_noise), (of_velocity, by_velocity))
    ]
    assert torch.allclose(*ends, atol=1e-9)


@pytest.mark.parametrize(
    ("walk", "order", "largest"), [(ddim_steps, 1, 0.1), (dpm_solver_steps, 2, 0.01)], ids=["ddim", "dpm++"]
)
def test_error_falls_with_the_order_of_the_solver(walk: Callable, order: int, largest: float) -> None:
    full = log_snr_process(4001)
    x = torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    errors = []
    for steps in (21, 41, 81, 161):  # 20, 40, ... equal steps in lambda
        process = full.kept(np.linspace(0, 4000, steps).astype(int))
        states = list(walk(exact(full), process, x, SamplerConfig(clip="none"), no_noise))
        errors.append((states[-2] - flow(full, x, 0)).abs().max().item())  # before the last, noise-free step
    assert errors[0] < largest
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.all(np.abs(ratios / 2**order - 1) < 0.25), ratios


@pytest.mark.parametrize(("spacing", "steps"), [("edm", 12), ("logsnr", 20), ("quadratic", 20), ("even", 60)])
def test_dpm_solver_reaches_the_data_in_few_steps(spacing: str, steps: int) -> None:
    full = GaussianProcess(noise_schedule("linear", 4000))
    config = SamplerConfig(kind="dpm++", steps=steps, spacing=spacing, clip="none")  # type: ignore[arg-type]
    found = sample(exact(full), full, config, (1, 16, 16), 8, seed=3)
    start = sample(exact(full), full, SamplerConfig(steps=4000, clip="none"), (1, 16, 16), 8, seed=3)
    assert (found - start).abs().max() < 0.03
    assert found.mean().item() == pytest.approx(MEAN, abs=4 * DEVIATION / math.sqrt(found.numel()))
    assert found.std().item() == pytest.approx(DEVIATION, rel=0.06)


def test_dpm_solver_does_not_overshoot_in_growing_steps() -> None:
    full = GaussianProcess(noise_schedule("linear", 4000))
    config = SamplerConfig(kind="dpm++", steps=15, spacing="even", clip="none")
    found = sample(exact(full), full, config, (1, 16, 16), 8, seed=3)
    assert found.std().item() == pytest.approx(DEVIATION, rel=0.1)  # 0.58 by the formula without a limit


@pytest.mark.parametrize(
    ("config", "learned"),
    [
        (SamplerConfig(kind="ancestral", steps=None, clip="none"), False),
        (SamplerConfig(kind="ancestral", steps=None, clip="none"), True),
        (SamplerConfig(kind="ancestral", steps=150, clip="none"), True),
        (SamplerConfig(kind="ddim", steps=None, eta=1.0, clip="none"), False),
    ],
)
def test_random_samplers_give_the_distribution_of_the_data(config: SamplerConfig, learned: bool) -> None:
    full = GaussianProcess(noise_schedule("linear", 600), learned_range=learned)
    found = sample(exact(full, learned), full, config, (1, 48, 48), 8, seed=1)
    assert found.mean().item() == pytest.approx(MEAN, abs=4 * DEVIATION / math.sqrt(found.numel()))
    assert found.std().item() == pytest.approx(DEVIATION, rel=0.03)


def test_ddim_with_full_eta_is_ancestral_with_the_smallest_variance() -> None:
    full = GaussianProcess(noise_schedule("cosine", 50), learned_range=True)

    def network(x: Tensor, t: Tensor) -> Tensor:
        noise = exact(full)(x, t)
        return torch.cat([noise, -torch.ones_like(noise)], dim=1)

    configs = [SamplerConfig(kind="ancestral", steps=None), SamplerConfig(kind="ddim", steps=None, eta=1.0)]
    found = [sample(network, full, config, (1, 4, 4), 2, seed=0) for config in configs]
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("kind", ["ancestral", "ddim", "dpm++"])
def test_a_sample_does_not_depend_on_how_it_is_asked_for(kind: str) -> None:
    full = GaussianProcess(noise_schedule("linear", 100))
    config = SamplerConfig(kind=kind, steps=10, eta=0.5)  # type: ignore[arg-type]
    convolution = torch.nn.Conv2d(2, 2, 3, padding=1)

    def ask(count: int, start: int = 0, seed: int = 7) -> Tensor:
        return sample(lambda x, t: convolution(x), full, config, (2, 8, 8), count, seed, start)

    every = ask(19)
    assert every.shape == (19, 2, 8, 8)
    assert torch.equal(torch.cat([ask(5), ask(1, 5), ask(13, 6)]), every)
    assert ask(0).shape == (0, 2, 8, 8)
    assert not torch.equal(ask(1, seed=8), every[:1])
    assert len({x.sum().item() for x in every}) == 19


@pytest.mark.parametrize("kind", ["ancestral", "ddim", "dpm++"])
@pytest.mark.parametrize("spacing", [None, "even", "quadratic", "logsnr", "edm", "stride"])
def test_evaluations_are_what_is_said(kind: str, spacing: str | None) -> None:
    full = GaussianProcess(noise_schedule("linear", 1000))
    config = SamplerConfig(kind=kind, steps=25, spacing=spacing)  # type: ignore[arg-type]
    calls: list[float] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t[0].item())
        return x

    sample(network, full, config, (1, 2, 2), 1, seed=0)
    assert calls == select_steps(full, config)[::-1]
    assert 20 <= len(calls) == len(select_steps(full, config)) <= 25


def test_log_snr_spacing_is_even_in_lambda() -> None:
    full = GaussianProcess(noise_schedule("linear", 4000))
    steps = select_steps(full, SamplerConfig(steps=10, spacing="logsnr"))
    assert (steps[0], steps[-1]) == (0, 3999)
    level = np.log(np.sqrt(full.alpha_bar / (1 - full.alpha_bar)))[steps]
    assert np.allclose(np.diff(level), (level[-1] - level[0]) / 9, atol=0.15)


def test_edm_spacing_is_that_of_karras_after_the_first_step() -> None:
    full = GaussianProcess(noise_schedule("linear", 4000))
    steps = select_steps(full, SamplerConfig(steps=9))  # the default of DPM-Solver++
    assert steps[-1] == 3999
    sigma = np.sqrt(1 / full.alpha_bar - 1)[steps]
    wanted = (8 ** (1 / 7) + np.arange(8) / 7 * (0.03 ** (1 / 7) - 8 ** (1 / 7))) ** 7  # eq. 5, rho = 7
    assert np.allclose(sigma[-2::-1], wanted, rtol=0.01)


def test_edm_spacing_of_a_process_with_less_noise() -> None:
    full = GaussianProcess(noise_schedule("cosine", 10))
    assert select_steps(full, SamplerConfig(steps=5))[-1] == 9
    assert len(sample(exact(full), full, SamplerConfig(steps=5), (1, 4, 4), 2, seed=0)) == 2


def test_too_many_steps_are_refused() -> None:
    full = GaussianProcess(noise_schedule("linear", 50))
    with pytest.raises(UnderstudyError, match="60 sampling steps"):
        select_steps(full, SamplerConfig(steps=60))


def test_clipping() -> None:
    x = torch.linspace(-3, 3, 2000).reshape(2, 1, 20, 50)
    assert torch.equal(limit_clean(x, "none"), x)
    assert torch.equal(limit_clean(x, "clamp"), x.clamp(-1, 1))
    dynamic = limit_clean(x, "dynamic")
    assert dynamic.abs().max() == 1
    assert torch.allclose(dynamic[0, 0, 10], x[0, 0, 10] / x[0].abs().quantile(0.995))
    small = x / 10
    assert torch.equal(limit_clean(small, "dynamic"), small)


def test_clipped_samples_stay_in_range() -> None:
    full = GaussianProcess(noise_schedule("linear", 100))
    found = sample(lambda x, t: -x, full, SamplerConfig(steps=10), (1, 4, 4), 3, seed=0)
    assert found.abs().max() <= 1


@given(st.integers(2, 3000), st.data())
@settings(max_examples=60, deadline=None)
def test_even_spacing_spreads_over_all_steps(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, total))
    kept = evenly_spaced(total, count)
    assert len(kept) == len(set(kept)) == count
    assert (kept[0], kept[-1]) == (0, total - 1)
    gaps = np.diff(kept)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@given(st.integers(1, 400), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_strides_give_the_number_or_say_which_is_near(total: int, count: int) -> None:
    if any(len(range(0, total, k)) == count for k in range(1, total + 1)):
        kept = strided(total, count)
        assert len(kept) == count
        assert len(set(np.diff(kept))) <= 1
    else:
        with pytest.raises(UnderstudyError, match="nearest"):
            strided(total, count)
