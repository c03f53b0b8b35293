"""Losses of adversarial training as functions of scores, and the penalties on gradients."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.generators.ops.fused import input_gradient


def logistic_generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss -log D(G(z)) of the scores [N, 1] of synthetic images (Goodfellow et al. 2014), a mean."""
    return F.softplus(-fake).mean()


def logistic_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))) of scores [N, 1] (Goodfellow et al. 2014), a mean."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def wasserstein_generator_loss(fake: Tensor) -> Tensor:
    """-D(G(z)) of scores [N, 1] (Arjovsky et al. 2017), a mean."""
    return -fake.mean()


def wgan_gp_discriminator_loss(
    real: Tensor, fake: Tensor, squared: Tensor, weight: float = 10.0, drift: float = 0.001
) -> Tensor:
    """Critic's loss with gradient penalty (Gulrajani et al. 2017) and drift (Karras et al. 2018, app. A.1), a mean.

    Args:
        real, fake: scores [N, 1]. squared: squared norm [N] of the gradient at images on the line between them.
        weight, drift: of the gradient penalty and of the squared scores of real images.
    """
    return fake.mean() - real.mean() + weight * gradient_penalty(squared) + drift * real.square().mean()


def gradient_penalty(squared: Tensor) -> Tensor:
    """Mean of (||gradient|| - 1)^2 of squared norms [N]."""
    norm = (squared + 1e-12).sqrt()  # the root has no derivative at 0
    return (norm - 1).square().mean()


def r1_penalty(squared: Tensor, gamma: float = 10.0) -> Tensor:
    """gamma / 2 times the mean of squared norms [N] of the gradient at real images (Mescheder et al. 2018)."""
    return squared.mean() * (gamma / 2)


def squared_gradient(scores: Tensor, images: Tensor, level: float = 0.0) -> Tensor:
    """Squared norm [N] of the gradient of scores [N, 1] by the images [N, C, H, W] that they are of.

    It can be differentiated by the weights. At a level of a growing discriminator it is the norm by the enlarged
    images, which the official code penalises: each of the f x f copies of a pixel has 1 / f^2 of its gradient there, so
    that the squared norm is smaller by f^2, f = 2^floor(level).
    """
    gradient = input_gradient(scores.sum(), images)
    return gradient.square().sum(dim=(1, 2, 3)) / 4 ** math.floor(level)


def path_lengths(
    synthesis: nn.Module, ws: Tensor, noise: Tensor, maps: list[Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Length [N] of the image's gradient by w in the direction `noise` [N, C, R, R] (Karras et al. 2020, eq. 4).

    Args:
        noise: N(0, 1) divided by the resolution. maps: noise inputs of the synthesis.
    """
    if not ws.requires_grad:
        ws = ws.detach().requires_grad_()
    images = synthesis(ws, maps, dtype)
    gradient = input_gradient((images * noise).sum(), ws)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()
