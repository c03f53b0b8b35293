"""Augmentation: nothing at p = 0, all channels move together, exact where exactness is possible, controlled p."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from understudy.generators.training.ada import Augment, AugmentConfig, MoveConfig, Mover, movement

NOTHING: dict[str, Any] = {"flip": False, "translate": 0, "scale": 0, "stretch": 0, "rotate": 0, "shift": 0}


def applied(step: Augment, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return step.apply(images, step.draw(len(images), images.shape[-1], rng))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augment(p: float = 1.0, **operations: Any) -> Augment:
    return Augment(AugmentConfig(mode="fixed", p=p, **(NOTHING | operations)))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(8, 3, 16, 16, generator=rng(1)) * 2 - 1


@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(mode="fixed", p=0.0), AugmentConfig(p=0.9)])
def test_identity_when_off_or_at_p_0(config: AugmentConfig, images: torch.Tensor) -> None:
    assert torch.equal(applied(Augment(config), images, rng()), images)


def test_samples_that_drew_nothing_are_untouched(images: torch.Tensor) -> None:
    step = Augment(AugmentConfig(mode="fixed", p=0.05))
    active = step.draw(8, 16, rng(4))["active"]
    assert 0 < active.sum() < 8
    moved = applied(step, images, rng(4))
    assert torch.equal(moved[~active], images[~active])
    assert (moved[active] != images[active]).any()


def test_image_and_annotation_move_together(images: torch.Tensor) -> None:
    """The same picture in two channels stays the same picture under everything at once."""
    images[:, 2] = images[:, 0]
    step = Augment(AugmentConfig(mode="fixed", p=1.0, quarter_turns=True, cutout=0.3))
    moved = applied(step, images, rng(3))
    assert not torch.equal(moved[:, 0], images[:, 0])
    assert torch.equal(moved[:, 2], moved[:, 0])


def test_flips_are_exact_and_happen_half_of_the_time(images: torch.Tensor) -> None:
    images = images.repeat(25, 1, 1, 1)
    moved = applied(augment(flip=True), images, rng())
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(moved, images, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(moved, images, strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert 70 < sum(mirrored) < 130  # of 200, 4 s.d.


def test_quarter_turns_and_whole_translations_are_exact(images: torch.Tensor) -> None:
    turned = applied(augment(quarter_turns=True), images, rng(2))
    for a, b in zip(turned, images, strict=True):
        assert any(torch.allclose(a, b.rot90(k, (1, 2)), atol=1e-4) for k in range(4))
    shifted = applied(augment(translate=0.25), images, rng(2))
    for a, b in zip(shifted, images, strict=True):
        padded = torch.nn.functional.pad(b, (4, 4, 4, 4), value=-1.0)
        crops = [padded[:, i : i + 16, j : j + 16] for i in range(9) for j in range(9)]
        assert any(torch.allclose(a, crop, atol=1e-4) for crop in crops)


def test_rotation_keeps_the_centre_of_a_disc() -> None:
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    disc = torch.where(x**2 + y**2 < 100, 1.0, -1.0).expand(4, 1, 32, 32)
    moved = applied(augment(rotate=180), disc, rng())
    assert (moved - disc).abs().mean() < 0.05
    assert ((moved > 0).float() - (disc > 0).float()).abs().sum(dim=(1, 2, 3)).max() < 30


def test_gradients_reach_the_images(images: torch.Tensor) -> None:
    images.requires_grad_()
    step = Augment(AugmentConfig(mode="fixed", p=0.5))
    applied(step, images, rng()).square().sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_p_follows_the_sign_of_the_real_scores() -> None:
    step = Augment(AugmentConfig(mode="adaptive", interval=4, kimg=1, target=0.6, p_max=0.5))
    for _ in range(3):
        step.observe(1.0, 8)
    assert step.p == 0
    step.observe(1.0, 8)
    assert step.p == pytest.approx(8 * 4 / 1000)
    for _ in range(400):
        step.observe(1.0, 8)
    assert step.p == 0.5
    for _ in range(8):
        step.observe(0.0, 8)
    assert step.p == pytest.approx(0.5 - 2 * 0.032)


def test_state_restores_p_in_the_middle_of_an_interval() -> None:
    config = AugmentConfig(mode="adaptive", p=0.3, kimg=1)
    first, second = Augment(config), Augment(config)
    first.observe(1.0, 8)
    first.observe(0.9, 8)
    second.load_state_dict(first.state_dict())
    for step in (first, second):
        step.observe(0.8, 8)
        step.observe(0.7, 8)
    assert second.p == first.p != 0.3


def test_auto_augments_few_slices_only() -> None:
    config = AugmentConfig(mode="auto", p=0.2)
    assert Augment(config.resolved(4000)).p == 0.2
    assert config.resolved(4000).mode == "adaptive"
    assert Augment(config.resolved(5000)).p == 0
    assert AugmentConfig(mode="fixed", p=0.2).resolved(10**6).mode == "fixed"


def test_annotations_take_the_nearest_pixel_and_stay_codes(images: torch.Tensor) -> None:
    codes = torch.tensor([-1.0, -0.2, 0.6])
    images[:, 2] = codes[torch.randint(0, 3, (8, 16, 16), generator=rng(2))]
    mover = Mover(MoveConfig(p=0.9))
    drawn = mover.draw(8, 16, rng(5))
    moved = mover.apply(images, drawn, annotation=1)
    assert torch.isclose(moved[:, 2, :, :, None], codes, atol=1e-6).any(dim=-1).all()
    assert not torch.equal(moved[:, 2], images[:, 2])
    assert torch.equal(moved[:, :2], mover.apply(images, drawn)[:, :2])
    blended = mover.apply(images, drawn)[:, 2, :, :, None]
    assert not torch.isclose(blended, codes, atol=1e-3).any(dim=-1).all()  # as it would be without


def test_a_network_is_told_the_map_and_zero_where_nothing_moves() -> None:
    mover = Mover(MoveConfig(p=0.3))
    drawn = mover.draw(64, 16, rng())
    told = movement(drawn)
    assert told is not None
    assert told.shape == (64, 6)
    assert 0 < drawn["active"].sum() < 64
    assert (told[~drawn["active"]] == 0).all()
    torch.testing.assert_close(told[:, 0] + 1, drawn["matrix"][:, 0, 0])
    assert torch.equal(told[:, 5], drawn["matrix"][:, 1, 2])
    assert movement(Mover(MoveConfig()).draw(4, 16, rng())) is None


def test_the_movement_is_the_one_of_its_configuration() -> None:
    """By default at most 20 degrees, 0.1 octaves and 6 % of the edge, half of the images mirrored where chosen."""
    matrix = Mover(MoveConfig(p=0.5)).draw(4000, 32, rng())["matrix"]
    turned = torch.atan2(matrix[:, 1, 0], matrix[:, 1, 1]).rad2deg().abs()
    assert turned.max() < 25  # 20, and what stretching adds
    assert float((matrix[:, 0, 0] < 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    size = matrix[:, :2, :2].det().abs().log2() / 2
    assert float(size[size.abs() > 1e-6].std()) == pytest.approx(0.1, abs=0.01)
    shift = matrix[:, 0, 2][matrix[:, 0, 2] != 0] / 2
    assert float(shift.std()) == pytest.approx(0.06, abs=0.006)
