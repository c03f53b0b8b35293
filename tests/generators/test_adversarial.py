"""Training: resuming equals not stopping, the minibatches, the records, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from understudy.checkpoints import History
from understudy.errors import Interrupted, UnderstudyError
from understudy.generators.adversarial import GanTrainingConfig, train
from understudy.generators.stylegan2 import StyleGan2Config
from understudy.generators.trainer import GanTrainer
from understudy.slices import SliceSet

QUICK: dict[str, Any] = {
    "kimg": 0.096, "batch": 8, "r1_interval": 4, "tick_kimg": 0.024, "snapshot_kimg": 0.048, "seed": 3,
    "augment": {"mode": "adaptive", "p": 0.3, "kimg": 1}, "annotation_noise": 0.1, "balance_classes": 0.5,
}  # fmt: skip
TIMES = ("seconds", "images_per_second")


def history(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in TIMES} for line in History.read(folder / "history.jsonl")
    ]


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGTERM to this very process while a step runs."""
    original = GanTrainer.step

    def wrapped(self: GanTrainer) -> None:
        original(self)
        if self.steps == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(GanTrainer, "step", wrapped)


def test_resumed_training_is_bit_identical_to_an_unbroken_one(
    slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GanTrainingConfig(**QUICK)
    whole = train(slices, None, small_model, config, tmp_path / "whole", "cpu", progress=False)
    with monkeypatch.context() as patch:
        stop_at(7, patch)
        with pytest.raises(Interrupted):
            train(slices, None, small_model, config, tmp_path / "broken", "cpu", progress=False)
    assert not (tmp_path / "broken" / "config.json").exists()
    broken = train(slices, None, small_model, config, tmp_path / "broken", "cpu", progress=False)
    ours, theirs = (load_file(folder / "generator.safetensors") for folder in (broken, whole))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert history(broken) == history(whole)
    assert history(whole)[-1]["kimg"] == pytest.approx(0.096)
    assert len(list(whole.glob("samples-*.png"))) == 2
    assert not list(whole.glob("checkpoint-*"))


def test_finished_training_is_returned_and_another_one_refused(
    slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path
) -> None:
    config = GanTrainingConfig(kimg=0.016, batch=8, pl_weight=0)
    folder = train(slices, None, small_model, config, tmp_path / "run", "cpu", progress=False)
    before = (folder / "generator.safetensors").stat().st_mtime_ns
    assert train(slices, None, small_model, config, folder, "cpu", progress=False) == folder
    assert (folder / "generator.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UnderstudyError, match="another training"):
        train(slices, None, small_model, config.model_copy(update={"seed": 9}), folder, "cpu", progress=False)
    record = json.loads((folder / "config.json").read_text())
    assert record["channels"] == ["T1w", "FLAIR"]
    assert record["r1_gamma"] == pytest.approx(0.0002 * 16**2 / 8)


def test_every_step_draws_its_own_reproducible_minibatch(
    slices: SliceSet, small_model: StyleGan2Config
) -> None:
    rows = np.arange(len(slices))
    trainer, again = (
        GanTrainer(slices, rows, small_model, GanTrainingConfig(batch=8, seed=5), torch.device("cpu"))
        for _ in range(2)
    )
    trainer.step()
    assert torch.equal(trainer.real_batch(4), again.real_batch(4))
    assert not torch.equal(trainer.real_batch(4), trainer.real_batch(5))


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_balanced_batches_have_the_wanted_share_of_annotated_slices(
    slices: SliceSet, small_model: StyleGan2Config, share: float
) -> None:
    config = GanTrainingConfig(batch=16, balance_classes=share)
    trainer = GanTrainer(slices, np.arange(len(slices)), small_model, config, torch.device("cpu"))
    annotated = [(trainer.real_batch(i)[:, -1] > -1).any(dim=(1, 2)).float().mean() for i in range(40)]
    assert float(torch.stack(annotated).mean()) == pytest.approx(share, abs=0.07)  # 640 draws: 4 s.d.


def test_lazy_penalties_correct_the_optimisers(slices: SliceSet, small_model: StyleGan2Config) -> None:
    trainer = GanTrainer(slices, np.arange(8), small_model, GanTrainingConfig(), torch.device("cpu"))
    g, d = trainer.g_optimiser.param_groups[0], trainer.d_optimiser.param_groups[0]
    assert g["lr"] == pytest.approx(0.002 * 4 / 5)
    assert g["betas"] == pytest.approx((0.0, 0.99**0.8))
    assert d["lr"] == pytest.approx(0.002 * 16 / 17)
    assert d["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))


def test_average_follows_the_ramp(slices: SliceSet, small_model: StyleGan2Config) -> None:
    trainer = GanTrainer(
        slices, np.arange(8), small_model, GanTrainingConfig(batch=8, pl_weight=0), torch.device("cpu")
    )
    name = "synthesis.blocks.0.conv1.conv.weight"
    for _ in range(2):
        before = trainer.average.state_dict()[name].clone()
        trainer.step()
    beta = 0.5 ** (8 / (2 * 8 * 0.05))
    expected = before * beta + trainer.network.generator.state_dict()[name] * (1 - beta)
    torch.testing.assert_close(trainer.average.state_dict()[name], expected)


def test_mean_w_follows_the_first_latents_only(slices: SliceSet, small_model: StyleGan2Config) -> None:
    """Whether the styles are mixed or not: the latents that are mixed in do not count."""
    averages = []
    for mixing in (0.0, 1.0):
        config = GanTrainingConfig(batch=8, mixing=mixing)
        trainer = GanTrainer(slices, np.arange(8), small_model, config, torch.device("cpu"))
        trainer._ws(8, torch.Generator().manual_seed(1), update_average=True)
        averages.append(trainer.network.generator.mapping.w_avg)
    assert averages[0].abs().max() > 0
    torch.testing.assert_close(averages[0], averages[1])


def test_nan_gradients_are_repaired_and_counted(slices: SliceSet, small_model: StyleGan2Config) -> None:
    trainer = GanTrainer(slices, np.arange(8), small_model, GanTrainingConfig(batch=8), torch.device("cpu"))
    weight = next(trainer.network.discriminator.parameters())
    weight.grad = torch.full_like(weight, float("nan"))
    before = weight.detach().clone()
    trainer._update(trainer.d_optimiser)
    assert torch.equal(weight, before)
    assert trainer.take_figures() == {"repaired_gradients": 1.0}


def test_divergence_ends_the_training_with_advice(
    slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = GanTrainer.__init__

    def poisoned(self: GanTrainer, *args: Any) -> None:
        original(self, *args)
        with torch.no_grad():
            self.network.discriminator.out.bias.fill_(float("nan"))

    monkeypatch.setattr(GanTrainer, "__init__", poisoned)
    with pytest.raises(UnderstudyError, match="diverged"):
        train(slices, None, small_model, GanTrainingConfig(**QUICK), tmp_path / "run", "cpu", progress=False)


def test_a_model_of_another_size_is_refused(
    slices: SliceSet, small_model: StyleGan2Config, tmp_path: Path
) -> None:
    for update in ({"channels": 4}, {"resolution": 32}):
        with pytest.raises(UnderstudyError, match="channels at"):
            train(slices, None, small_model.model_copy(update=update), GanTrainingConfig(), tmp_path / "run")
