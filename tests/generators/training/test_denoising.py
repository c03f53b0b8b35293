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


MOVED = {"augment": {"p": 0.5}}


def test_without_augmentation_the_network_is_the_plain_one_and_with_it_starts_like_it(slices: SliceSet) -> None:
    plain, moved = state_of(slices, "diffusion"), state_of(slices, "diffusion", **MOVED)
    assert "augment" not in plain.config.model_dump()
    assert "told_movement" not in plain.model.model_dump()
    assert moved.model.model_dump()["told_movement"] is True
    weights, others = plain.generator.state_dict(), moved.generator.state_dict()
    assert set(others) - set(weights) == {"movement.weight"}
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert others["movement.weight"].shape == (32, 6)


def test_the_network_is_told_how_each_image_was_moved(slices: SliceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(slices, "diffusion", augment={"p": 0.15})
    parts: list[dict[str, Any]] = []

    def watched(state: Any, part: dict[str, Any]) -> Any:
        parts.append(part)
        return denoising_loss(state, part)

    monkeypatch.setattr(denoising, "denoising_loss", watched)
    before = state.generator.movement.weight.clone()
    for _ in range(4):  # fresh branches are zero: the third step is the first to reach it
        state.step()
    real, active = state.data.batch(3, 8), parts[3]["moved"]["active"]
    assert 0 < active.sum() < 8
    assert torch.equal(parts[3]["clean"][~active], real[~active])
    assert not torch.equal(parts[3]["clean"][active], real[active])
    assert not torch.equal(state.generator.movement.weight, before)  # it learns


def test_samples_are_those_of_no_movement(slices: SliceSet) -> None:
    network = state_of(slices, "diffusion", **MOVED).generator.eval()
    with torch.no_grad():
        for parameter in network.parameters():  # fresh branches are zero
            parameter.add_(0.05)
        x, t = torch.randn(4, 3, 16, 16), torch.arange(4)
        still = network(x, t, moved=torch.zeros(4, 6))
        assert torch.equal(network(x, t), still)
        assert not torch.allclose(network(x, t, moved=torch.full((4, 6), 0.3)), still)


def test_in_micro_batches_each_image_keeps_its_movement(slices: SliceSet) -> None:
    whole, parts = (state_of(slices, "diffusion", {"dropout": 0.0}, **MOVED, micro_batch=n) for n in (None, 2))
    for state in (whole, parts):
        state.step()
    for a, b in zip(whole.generator.parameters(), parts.generator.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
