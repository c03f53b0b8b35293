from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss

from understudy.segmenters.losses import segmentation_loss, shrink_target, soft_dice_loss


@pytest.mark.parametrize("background", [True, False])
def test_one_level_equals_monais_loss(background: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, 8, 8, generator=generator) * 2
    target = torch.randint(0, 4, (3, 8, 8), generator=generator)
    oracle = DiceCELoss(
        include_background=background, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    ours = segmentation_loss([scores], target.to(torch.uint8), [1.0], background)
    assert float(ours) == pytest.approx(float(oracle(scores, target[:, None])), rel=1e-5)


def test_dice_by_hand() -> None:
    certain = torch.tensor([[[[50.0, 50.0], [-50.0, 50.0]], [[-50.0, -50.0], [50.0, -50.0]]]])
    target = torch.tensor([[[0, 0], [1, 1]]])
    # background: 2*2 / (3 + 2), lesion: 2*1 / (1 + 2)
    assert float(soft_dice_loss(certain, target)) == pytest.approx(1 - (4 / 5 + 2 / 3) / 2, abs=1e-5)
    assert float(soft_dice_loss(certain, target, background=False)) == pytest.approx(1 - 2 / 3, abs=1e-5)


def test_dice_is_of_the_batch_not_of_each_slice() -> None:
    scores = torch.zeros(2, 2, 4, 4)
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[0] = 1  # the second slice has no lesion
    assert float(soft_dice_loss(scores, target)) == pytest.approx(0.5, abs=1e-5)


def test_levels_are_weighted() -> None:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(2, 3, edge, edge, generator=generator) for edge in (8, 4)]
    target = torch.randint(0, 3, (2, 8, 8), generator=generator)
    alone = [float(segmentation_loss([x], shrink_target(target, x.shape[-1]), [1.0])) for x in levels]
    both = float(segmentation_loss(levels, target, [0.7, 0.3]))
    assert both == pytest.approx(0.7 * alone[0] + 0.3 * alone[1], rel=1e-5)


def test_small_targets_are_picked_not_mixed() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    target[:, 2:6, 2:6] = 3
    expected = torch.nn.functional.interpolate(target[:, None].float(), size=(4, 4), mode="nearest-exact")
    assert torch.equal(shrink_target(target, 4), expected[:, 0].to(torch.uint8))
    assert torch.equal(shrink_target(target, 8), target)
