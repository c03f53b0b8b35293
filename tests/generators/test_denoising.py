"""The diffusion model's training step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import trainer_of

from understudy.slices import SliceSet


def test_every_image_has_its_own_step_and_noise(slices: SliceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(slices, "diffusion", batch=16)
    parts: list[dict[str, Any]] = []
    original = trainer._loss
    monkeypatch.setattr(trainer, "_loss", lambda part: parts.append(part) or original(part))
    for _ in range(8):
        trainer.step()
    times = torch.cat([part["t"] for part in parts])
    assert times.min() >= 0
    assert times.max() < 50
    assert len(times.unique()) > 30  # of 50, 128 draws
    noise = torch.cat([part["noise"] for part in parts])
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(parts[0]["noise"], parts[1]["noise"])


@pytest.mark.parametrize(("rampup", "beta"), [(False, 0.9999), (True, 2 / 11)])
def test_the_average_decays_by_step(slices: SliceSet, rampup: bool, beta: float) -> None:
    trainer = trainer_of(slices, "diffusion", ema_rampup=rampup)
    before = trainer.average.stem.weight.clone()
    trainer.step()
    now = trainer.generator.stem.weight.detach()
    torch.testing.assert_close(trainer.average.stem.weight, before * beta + now * (1 - beta))


def test_training_leaves_the_global_random_numbers_alone(slices: SliceSet) -> None:
    trainer = trainer_of(slices, "diffusion")
    before = torch.get_rng_state()
    trainer.step()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loss_falls_and_learned_variance_adds_its_bound(slices: SliceSet) -> None:
    trainer = trainer_of(slices, "diffusion", {"learn_sigma": True}, lr=2e-3)
    means = []
    for _ in range(3):
        for _ in range(15):
            trainer.step()
        means.append(trainer.take_figures())
    assert set(means[0]) == {"loss", "loss_mse", "loss_vb"}
    assert means[-1]["loss_mse"] < 0.8 * means[0]["loss_mse"]
