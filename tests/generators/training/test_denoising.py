"""The diffusion model's training step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import state_of

from understudy.generators.training import denoising
from understudy.generators.training.denoising import denoising_loss
from understudy.slices import SliceSet


def test_every_image_has_its_own_step_and_noise(slices: SliceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(slices, "diffusion", batch=16)
    parts: list[dict[str, Any]] = []

    def watched(state: Any, part: dict[str, Any]) -> Any:
        parts.append(part)
        return denoising_loss(state, part)

    monkeypatch.setattr(denoising, "denoising_loss", watched)
    for _ in range(8):
        state.step()
    times = torch.cat([part["t"] for part in parts])
    assert times.min() >= 0
    assert times.max() < 50
    assert len(times.unique()) > 30  # of 50, 128 draws
    noise = torch.cat([part["noise"] for part in parts])
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(parts[0]["noise"], parts[1]["noise"])


@pytest.mark.parametrize(("rampup", "beta"), [(False, 0.9999), (True, 2 / 11)])
def test_the_ema_decays_by_step(slices: SliceSet, rampup: bool, beta: float) -> None:
    state = state_of(slices, "diffusion", ema_rampup=rampup)
    before = state.ema.stem.weight.clone()
    state.step()
    now = state.generator.stem.weight.detach()
    torch.testing.assert_close(state.ema.stem.weight, before * beta + now * (1 - beta))


def test_training_leaves_the_global_random_numbers_alone(slices: SliceSet) -> None:
    state = state_of(slices, "diffusion")
    before = torch.get_rng_state()
    state.step()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loss_falls_and_learned_variance_adds_its_bound(slices: SliceSet) -> None:
    state = state_of(slices, "diffusion", {"learn_sigma": True}, lr=2e-3)
    means = []
    for _ in range(3):
        for _ in range(15):
            state.step()
        means.append(state.take_stats())
    assert set(means[0]) == {"loss", "loss_mse", "loss_vb"}
    assert means[-1]["loss_mse"] < 0.8 * means[0]["loss_mse"]
