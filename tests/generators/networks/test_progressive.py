"""Schedule, fading, and the layers that the two growing models share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from understudy.generators.networks.progressive import (
    LevelSchedule,
    ProgressiveConfig,
    ProgressiveDiscriminator,
    fade_real,
    resets_optimiser,
    split_level,
)
from understudy.generators.training.config import ProGanTraining, StyleGan1Training

PROGAN_SCHEDULE, STYLEGAN1_SCHEDULE = ProGanTraining().schedule(), StyleGan1Training().schedule()


@pytest.mark.parametrize(
    ("schedule", "kimg", "level"),
    [
        (PROGAN_SCHEDULE, 0, 6), (PROGAN_SCHEDULE, 600, 6), (PROGAN_SCHEDULE, 900, 5.5), (PROGAN_SCHEDULE, 1200, 5),
        (PROGAN_SCHEDULE, 6600, 1), (PROGAN_SCHEDULE, 6900, 0.5), (PROGAN_SCHEDULE, 7200, 0),
        (PROGAN_SCHEDULE, 12000, 0), (STYLEGAN1_SCHEDULE, 0, 5), (STYLEGAN1_SCHEDULE, 5400, 1),
        (STYLEGAN1_SCHEDULE, 5999, 1 / 600), (STYLEGAN1_SCHEDULE, 6000, 0),
    ],
)  # fmt: skip
def test_levels_are_the_official_ones_at_256_pixels(schedule: LevelSchedule, kimg: float, level: float) -> None:
    assert schedule.level(int(kimg * 1000), 256) == pytest.approx(level, abs=1e-9)


@given(
    st.sampled_from([4, 8, 16, 32, 512]),
    st.sampled_from([16, 64, 256, 512]),
    st.floats(0, 50),
    st.floats(0, 50),
    st.integers(0, 300_000),
)
def test_level_only_falls_and_ends_at_zero(
    start: int, resolution: int, stable: float, fade: float, images: int
) -> None:
    schedule = LevelSchedule(start_resolution=start, stabilise_kimg=stable, fade_kimg=fade)
    level = schedule.level(images, resolution)
    assert schedule.level(images + 1000, resolution) <= level + 1e-6
    assert 0 <= level <= max(0, np.log2(resolution / start))
    grown_kimg = max(0, np.log2(resolution / start)) * (stable + fade)
    assert schedule.level(int(1000 * grown_kimg) + 1000, resolution) == 0


def test_batch_follows_the_active_resolution() -> None:
    assert PROGAN_SCHEDULE.batch_at(PROGAN_SCHEDULE.level(6_600_000, 256), 256) == 16
    assert PROGAN_SCHEDULE.batch_at(PROGAN_SCHEDULE.level(6_601_000, 256), 256) == 8


def test_optimisers_are_reset_when_layers_join_or_leave() -> None:
    assert resets_optimiser(6.0, 5.99)
    assert resets_optimiser(5.01, 5.0)
    assert not resets_optimiser(5.6, 5.4)
    assert not resets_optimiser(5.0, 5.0)


def test_impossible_schedules_are_refused() -> None:
    for kind, wrong in ((LevelSchedule, {"start_resolution": 12}), (ProGanTraining, {"batches": {8: 0}})):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            kind(**wrong)


def test_levels_beyond_the_network_are_refused() -> None:
    assert split_level(1.25, [4, 8, 16]) == (1, 0.25)
    for level in (-0.1, 2.1):
        with pytest.raises(ValueError, match="level"):
            split_level(level, [4, 8, 16])


@pytest.mark.parametrize("level", [0, 0.25, 1, 1.5, 2])
def test_real_images_fade_as_at_full_size(level: float) -> None:
    """Against the definition: the mip levels below and above, enlarged, blended pixel by pixel."""
    x = torch.randn(2, 3, 16, 16)
    factor = 2 ** int(level)
    fine, coarse = (F.avg_pool2d(x, f).repeat_interleave(f, 2).repeat_interleave(f, 3) for f in (factor, 2 * factor))
    expected = fine + (coarse - fine) * (level - int(level))
    found = fade_real(x, level)
    assert found.shape[-1] == 16 // factor
    torch.testing.assert_close(found.repeat_interleave(factor, 2).repeat_interleave(factor, 3), expected)


def _discriminator(group: int = 4) -> ProgressiveDiscriminator:
    torch.manual_seed(3)
    config = ProgressiveConfig(resolution=16, channels=3, fmap_base=64, fmap_max=8, mbstd_group=group)
    return ProgressiveDiscriminator(config, blurred=True)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 1.3, 2.0])
def test_discriminator_takes_enlarged_images_as_well(level: float) -> None:
    """The official networks always see full size: a box filter of an enlarged image is the image."""
    model, small = _discriminator(), torch.randn(4, 3, 16 >> int(level), 16 >> int(level))
    large = F.interpolate(small, scale_factor=1 << int(level))
    torch.testing.assert_close(model(small, level=level), model(large, level=level))


def test_discriminator_shares_equal_the_whole_batch() -> None:
    model, images = _discriminator(), torch.randn(8, 3, 16, 16)
    whole = model(images, level=0.5)
    for r in range(2):
        torch.testing.assert_close(model(images[r::2], level=0.5), whole[r::2])
    both = model(torch.cat([images, images.flip(0)]), batches=2)
    torch.testing.assert_close(both, torch.cat([model(images), model(images.flip(0))]))


def test_discriminator_without_deviation_judges_every_image_alone() -> None:
    model, images = _discriminator(group=1), torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(model(images)[:1], model(images[:1]))
