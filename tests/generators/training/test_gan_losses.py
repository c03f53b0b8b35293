"""Losses against their closed forms, gradients against a linear critic and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.generators.networks.progressive import ProgressiveConfig, ProgressiveDiscriminator
from understudy.generators.training import losses as gan_losses


class Linear(nn.Module):
    """D(x) = <a, x>: its gradient is a everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.arange(12.0).reshape(3, 2, 2) / 10)

    def forward(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return (x * self.a).sum(dim=(1, 2, 3))[:, None]


def test_logistic_losses() -> None:
    real, fake = torch.tensor([[1.5], [-0.5]]), torch.tensor([[0.3], [2.0]])
    log = -(torch.sigmoid(real).log().mean() + (1 - torch.sigmoid(fake)).log().mean())
    torch.testing.assert_close(gan_losses.logistic_discriminator_loss(real, fake), log)
    torch.testing.assert_close(gan_losses.logistic_generator_loss(fake), -torch.sigmoid(fake).log().mean())


def test_wgan_gp_loss_of_a_linear_critic() -> None:
    critic, real, fake = Linear(), torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    mixed = real.lerp(fake, torch.rand(4, 1, 1, 1)).requires_grad_()
    squared = gan_losses.squared_gradient(critic(mixed), mixed)
    found = gan_losses.wgan_gp_discriminator_loss(critic(real), critic(fake), squared)
    norm = critic.a.norm()
    expected = critic(fake).mean() - critic(real).mean()
    expected = expected + 10 * (norm - 1) ** 2 + 0.001 * critic(real).square().mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, critic.a, retain_graph=True)[0], torch.autograd.grad(expected, critic.a)[0]
    )
    assert gan_losses.wasserstein_generator_loss(critic(fake)) == -critic(fake).mean()


def test_r1_of_a_linear_critic_and_its_derivative() -> None:
    critic = Linear()
    images = torch.randn(5, 3, 2, 2, requires_grad=True)
    squared = gan_losses.squared_gradient(critic(images), images)
    penalty = gan_losses.r1_penalty(squared, gamma=10)
    torch.testing.assert_close(penalty, 5 * critic.a.square().sum())
    torch.testing.assert_close(torch.autograd.grad(penalty, critic.a)[0], 10 * critic.a.detach())


def test_a_vanishing_gradient_makes_no_nan() -> None:
    squared = torch.zeros(3, requires_grad=True)
    gan_losses.gradient_penalty(squared).backward()
    assert squared.grad is not None
    assert torch.isfinite(squared.grad).all()


@pytest.mark.parametrize("level", [0.0, 0.6, 1.0, 1.5])
@pytest.mark.parametrize("blurred", [False, True])
def test_gradient_is_that_by_the_enlarged_images(level: float, blurred: bool) -> None:
    """The official code penalises the gradient by the full-size image."""
    torch.manual_seed(0)
    config = ProgressiveConfig(resolution=16, channels=2, fmap_base=64, fmap_max=8)
    model = ProgressiveDiscriminator(config, blurred).double()
    images = torch.randn(4, 2, 16 >> math.floor(level), 16 >> math.floor(level), dtype=torch.float64).requires_grad_()
    found = gan_losses.squared_gradient(model(images, torch.float64, level=level), images, level)
    large = F.interpolate(images, scale_factor=1 << math.floor(level)).requires_grad_()
    (gradient,) = torch.autograd.grad(model(large, torch.float64, level=level).sum(), large)
    torch.testing.assert_close(found, gradient.square().sum(dim=(1, 2, 3)), atol=1e-12, rtol=1e-6)


def test_penalty_has_the_right_derivative_by_every_weight() -> None:
    """Second derivatives through the whole discriminator, against finite differences along one direction."""
    torch.manual_seed(1)
    config = ProgressiveConfig(resolution=16, channels=2, fmap_base=64, fmap_max=4)
    model = ProgressiveDiscriminator(config, blurred=True).double()
    images = torch.randn(4, 2, 16, 16, dtype=torch.float64, requires_grad=True)

    def penalty() -> Tensor:
        return gan_losses.gradient_penalty(gan_losses.squared_gradient(model(images, torch.float64), images))

    weights = [p for n, p in model.named_parameters() if "from_image" not in n or "from_image.2" in n]
    gradients = torch.autograd.grad(penalty(), weights, allow_unused=True)
    directions = [torch.randn_like(w) for w in weights]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
    values = []
    for step in (1e-6, -2e-6):
        for weight, direction in zip(weights, directions, strict=True):
            weight.data.add_(direction, alpha=step)
        values.append(float(penalty().detach()))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-4)
