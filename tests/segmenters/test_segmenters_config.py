"""Trainings as data: the paper's schedules in closed form, budgets, identities, optimisers."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss
from pydantic import ValidationError

from understudy.errors import UnderstudyError
from understudy.segmenters.augment import AugmentConfig
from understudy.segmenters.config import (
    LATER,
    SegmenterTrainingConfig,
    build_model,
    model_config,
    paper_training,
    segmenter_config,
)
from understudy.segmenters.losses import segmentation_loss
from understudy.segmenters.train import optimiser_for
from understudy.segmenters.unet import UNetConfig


def test_the_papers_swin_training() -> None:
    config = paper_training("swin")
    assert (config.optimiser, config.lr, config.betas, config.weight_decay) == ("adamw", 6e-5, (0.9, 0.999), 0.01)
    assert (config.epochs, config.samples, config.batch, config.clip) == (25, None, 8, None)
    assert (config.loss, config.dice_background) == ("dice_ce", False)
    steps = config.steps(80_003)
    assert steps == 25 * 10_000  # incomplete last batches are dropped
    # warm-up from 1e-6 of the rate over 1500 iterations, then linearly to 0
    assert config.rate(0, steps) == pytest.approx(6e-11)
    assert config.rate(750, steps) == pytest.approx(3e-5, rel=1e-5)
    assert config.rate(1500, steps) == pytest.approx(6e-5)
    assert config.rate((1500 + steps) // 2, steps) == pytest.approx(3e-5)
    assert 0 < config.rate(steps - 1, steps) < 1e-9


def test_the_linear_schedule_is_torchs() -> None:
    config = paper_training("swin", samples=800, warmup_samples=160)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], config.lr)
    warm = torch.optim.lr_scheduler.LinearLR(optimiser, 1e-6, 1.0, total_iters=20)
    down = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=80)
    both = torch.optim.lr_scheduler.SequentialLR(optimiser, [warm, down], milestones=[20])
    for step in range(100):
        assert config.rate(step, 100) == pytest.approx(both.get_last_lr()[0], rel=1e-6, abs=1e-12)
        optimiser.step()
        both.step()


def test_budgets() -> None:
    assert SegmenterTrainingConfig(samples=100, batch=32).steps(10) == 4
    assert SegmenterTrainingConfig(epochs=2.5, batch=4).steps(43) == 25
    assert SegmenterTrainingConfig(epochs=3, batch=8).steps(2) == 3
    with pytest.raises(ValidationError, match="either `samples` or `epochs`"):
        SegmenterTrainingConfig(samples=10, epochs=2)
    with pytest.raises(ValidationError, match="either `samples` or `epochs`"):
        SegmenterTrainingConfig(samples=None)
    with pytest.raises(UnderstudyError, match=r"12000 .* 800"):
        paper_training("swin", samples=800).steps(100)


def test_a_training_keeps_its_identity_when_options_are_added() -> None:
    written = SegmenterTrainingConfig(samples=7).model_dump(mode="json")
    assert not set(LATER) & set(written)
    assert SegmenterTrainingConfig(**written) == SegmenterTrainingConfig(samples=7)
    swin = paper_training("swin", max_minutes=5)
    assert SegmenterTrainingConfig(**swin.model_dump(mode="json")) == swin
    assert swin.model_dump(mode="json")["optimiser"] == "adamw"


def test_the_optimisers_decay_what_they_should() -> None:
    swin = build_model(model_config({"kind": "swin", "size": "mini", "embed": 8}), 1, 2, 32)
    groups = optimiser_for(swin, paper_training("swin")).param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(swin.parameters()))
    unet = build_model(UNetConfig(width=4), 1, 2, 16)
    (group,) = optimiser_for(unet, SegmenterTrainingConfig()).param_groups
    assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (3e-5, 0.99, True)


def test_the_swin_loss_is_monais_on_both_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(3, 4, 16, 16, generator=generator) for _ in range(2)]
    target = torch.randint(0, 4, (3, 16, 16), generator=generator)
    target[0] = 0  # a slice without any structure
    got = segmentation_loss(outputs, target, (1.0, 0.4), background=False, kind="dice_ce")
    probabilities = [scores.softmax(1)[:, 1:].double() for scores in outputs]
    truth = torch.nn.functional.one_hot(target, 4).permute(0, 3, 1, 2)[:, 1:].double()
    expected = 0.0
    for weight, scores, p in zip((1.0, 0.4), outputs, probabilities, strict=True):
        both = (p.square() + truth).sum((2, 3))
        dice = 1 - (2 * (p * truth).sum((2, 3)) + 1e-5) / (both + 1e-5)
        expected += weight * (float(dice.mean()) + float(torch.nn.functional.cross_entropy(scores, target)))
    assert float(got) == pytest.approx(expected, rel=1e-5)
    assert DiceCELoss(softmax=True, to_onehot_y=True)(outputs[0], target[:, None]) != got  # the options matter


def test_each_network_has_its_own_augmentation_and_single_fields_change_it() -> None:
    assert paper_training("unet").augment == AugmentConfig()
    assert paper_training("swin").augment == AugmentConfig(set="swin")
    assert paper_training("swin", augment={"p_elastic": 0}).augment == AugmentConfig(set="swin", p_elastic=0)
    assert paper_training("swin", augment={"set": "unet"}).augment == AugmentConfig()


def test_fields_of_network_and_training_are_told_apart() -> None:
    model, training = segmenter_config("swin", size="mini", samples=40, warmup_samples=8)
    assert (model.kind, model.shape(64).embed) == ("swin", 32)
    assert (training.samples, training.optimiser) == (40, "adamw")
    with pytest.raises(ValidationError, match="size"):
        segmenter_config("unet", size="mini")
