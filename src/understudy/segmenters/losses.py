"""Cross-entropy plus soft Dice, equally weighted, over the outputs of a network (paper 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional as F

SMOOTH = 1e-5  # of the authors' code and nnU-Net


def soft_dice_loss(scores: torch.Tensor, target: torch.Tensor, background: bool = True) -> torch.Tensor:
    """1 - mean over classes of the soft Dice coefficient, summed over the whole batch (`batch_dice`).

    Args:
        scores: float [N, K, H, W] before the softmax.
        target: int64 [N, H, W] class indices.
        background: count the background as a class, as the authors' U-Net code does; nnU-Net does not.

    Returns:
        A scalar in [0, 1].
    """
    probabilities = scores.float().softmax(1)
    truth = torch.zeros_like(probabilities).scatter_(1, target[:, None], 1.0)
    overlap = (probabilities * truth).sum((0, 2, 3))
    sizes = probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    dice = (2 * overlap + SMOOTH) / (sizes + SMOOTH)
    return 1 - (dice if background else dice[1:]).mean()


def shrink_target(target: torch.Tensor, edge: int) -> torch.Tensor:
    """Class indices [N, H, W] -> [N, edge, edge]: of each block the pixel nearest its centre, never a mixture."""
    factor = target.shape[-1] // edge
    return target[:, factor // 2 :: factor, factor // 2 :: factor]


def segmentation_loss(
    outputs: Sequence[torch.Tensor],
    target: torch.Tensor,
    weights: Sequence[float],
    background: bool = True,
    kind: Literal["ce_dice", "dice_ce"] = "ce_dice",
) -> torch.Tensor:
    """Sum over levels of weight x (cross-entropy + soft Dice loss).

    Args:
        outputs: class scores [N, K, h, w] of each level, highest resolution first.
        target: integer [N, H, W] class indices at the highest resolution.
        weights: of the levels.
        background: see `soft_dice_loss`.
        kind: "ce_dice" for the U-Net's soft Dice over the whole batch, "dice_ce" for MONAI's of each slice.

    Example:
        >>> right = torch.tensor([[[[9.0, -9.0], [9.0, 9.0]], [[-9.0, 9.0], [-9.0, -9.0]]]])
        >>> float(segmentation_loss([right], torch.tensor([[[0, 1], [0, 0]]]), [1.0])) < 1e-4
        True
    """
    target = target.long()
    one = _ce_dice if kind == "ce_dice" else _dice_ce
    total = outputs[0].new_zeros((), dtype=torch.float32)
    for scores, weight in zip(outputs, weights, strict=True):
        total = total + weight * one(scores.float(), shrink_target(target, scores.shape[-1]), background)
    return total


def _ce_dice(scores: torch.Tensor, target: torch.Tensor, background: bool) -> torch.Tensor:
    return F.cross_entropy(scores, target) + soft_dice_loss(scores, target, background)


def _dice_ce(scores: torch.Tensor, target: torch.Tensor, background: bool) -> torch.Tensor:
    """MONAI's DiceCELoss with the authors' options for their Swin transformer (facts/segmenters 2.3)."""
    from monai.losses import DiceCELoss  # takes seconds to import

    loss: torch.Tensor = DiceCELoss(
        include_background=background,
        to_onehot_y=True,
        softmax=True,
        squared_pred=True,
        smooth_nr=SMOOTH,
        smooth_dr=SMOOTH,
        batch=False,
    )(scores, target[:, None])
    return loss
