"""Cross-entropy plus soft Dice over the outputs of a network (paper, section 4.3), and its gradient in parts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMOOTH = 1e-5  # of the authors' code and nnU-Net

Forward = Callable[[Tensor, int], Sequence[Tensor]]
"""Slices [n, C, R, R] and the number of their part -> class scores of each level; the same for the same arguments."""


def soft_dice_loss(scores: Tensor, target: Tensor, background: bool = True) -> Tensor:
    """1 - mean over classes of the soft Dice coefficient, summed over the whole batch (`batch_dice`): of scores
    [N, K, H, W] before the softmax and int64 [N, H, W]. The authors' U-Net counts the background; nnU-Net does not."""
    probabilities = scores.float().softmax(1)  # [N, K, H, W]
    truth = torch.zeros_like(probabilities).scatter_(1, target[:, None], 1.0)  # [N, K, H, W], one-hot
    overlap = (probabilities * truth).sum((0, 2, 3))  # [K]
    sizes = probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3))  # [K]
    dice = (2 * overlap + SMOOTH) / (sizes + SMOOTH)
    return 1 - (dice if background else dice[1:]).mean()


def shrink_target(target: Tensor, size: int) -> Tensor:
    """Class indices [N, H, W] -> [N, size, size]: of each block the pixel nearest its centre, never a mixture."""
    factor = target.shape[-1] // size
    return target[:, factor // 2 :: factor, factor // 2 :: factor]


def segmentation_loss(
    outputs: Sequence[Tensor], target: Tensor, weights: Sequence[float], background: bool = True,
    kind: Literal["ce_dice", "dice_ce"] = "ce_dice",
) -> Tensor:  # fmt: skip
    """Sum over levels of weight x (cross-entropy + soft Dice loss).

    Args:
        outputs: class scores [N, K, h, w] of each level, highest resolution first.
        target: integer [N, H, W] class indices at the highest resolution.
        kind: "ce_dice" for the U-Net's soft Dice over the whole batch, "dice_ce" for MONAI's of each slice.
    """
    target = target.long()
    total = outputs[0].new_zeros((), dtype=torch.float32)
    for scores, weight in zip(outputs, weights, strict=True):
        level, scores = shrink_target(target, scores.shape[-1]), scores.float()
        if kind == "ce_dice":
            total = total + weight * (F.cross_entropy(scores, level) + soft_dice_loss(scores, level, background))
        else:
            from monai.losses import DiceCELoss  # takes seconds

            loss = DiceCELoss(  # the authors' options for their Swin transformer
                include_background=background, to_onehot_y=True, softmax=True, squared_pred=True,
                smooth_nr=SMOOTH, smooth_dr=SMOOTH, batch=False,
            )  # fmt: skip
            total = total + weight * loss(scores, level[:, None])
    return total


def backward(
    network: nn.Module, forward: Forward, loss: Callable[[Sequence[Tensor]], Tensor], x: Tensor, parts: int
) -> Tensor:
    """Adds the gradient of the loss (of the whole batch's scores) of x [N, C, R, R] to the parameters' `grad`; returns
    the loss. Only a network that normalises over the batch, or draws random numbers for it, gives other results in
    several parts (at most N)."""
    if parts == 1:
        value = loss(forward(x, 0))
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()
    # The soft Dice coefficient is one over the batch, so the losses of parts do not add up to it. Instead the scores of
    # all parts are computed without graphs, the loss of the whole batch gives the gradient of these scores, and each
    # part is computed once more and differentiated from there.
    pieces = torch.tensor_split(x, parts)
    with torch.no_grad(), _momentum(network, 0.0):
        found = [forward(piece, number) for number, piece in enumerate(pieces)]
    levels = [torch.cat(level).float().requires_grad_() for level in zip(*found, strict=True)]
    value = loss(levels)
    value.backward()  # type: ignore[no-untyped-call]
    gradients = [torch.tensor_split(level.grad, parts) for level in levels if level.grad is not None]
    with _momentum(network, 1 / parts):
        for number, piece in enumerate(pieces):
            scores = list(forward(piece, number))
            of_scores = [g[number].to(s.dtype) for g, s in zip(gradients, scores, strict=True)]
            torch.autograd.backward(scores, of_scores)
    return value.detach()


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Layers by which a slice's scores in training depend on the slices beside it."""
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def _momentum(network: nn.Module, power: float) -> Iterator[None]:
    """Slows running means down: with 1 / n, n passes together move them as far as one usually does."""
    norms = [(norm, norm.momentum) for norm in batch_norms(network)]
    for norm, momentum in norms:
        norm.momentum = 1 - (1 - (momentum or 0.0)) ** power
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
