from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from understudy.segmenters.augment import AugmentConfig, AugmentPlan, draw

SWIN = AugmentConfig(set="swin")


def same(a: AugmentPlan, b: AugmentPlan) -> None:
    for field in fields(AugmentPlan):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def test_paper_probabilities_and_ranges() -> None:
    plan = draw(AugmentConfig(), 0, range(4000))
    shares = {
        "rotate": (plan.angle != 0).mean(),
        "scale": (plan.scale[:, 0] != 1).mean(),
        "noise": (plan.noise_sd > 0).mean(),
        "blur": (plan.blur_sd > 0).mean(),
        "zoom": (plan.zoom < 1).mean(),
        "gamma": (plan.gamma != 1).mean(),
    }
    expected = {"rotate": 0.75, "scale": 0.75, "noise": 0.5, "blur": 0.2, "zoom": 0.25, "gamma": 0.3}
    for name, p in expected.items():
        assert shares[name] == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 4000)), name
    ranges = {
        "angle": (-30, 30, plan.angle[plan.angle != 0]),
        "rows": (0.9, 1.1, plan.scale[plan.scale[:, 0] != 1, 0]),
        "columns": (0.9, 1.1, plan.scale[plan.scale[:, 1] != 1, 1]),
        "noise": (0, 0.05, plan.noise_sd[plan.noise_sd > 0]),
        "blur": (0.5, 1.0, plan.blur_sd[plan.blur_sd > 0]),
        "zoom": (0.75, 1.0, plan.zoom[plan.zoom < 1]),
        "gamma": (0.8, 1.2, plan.gamma[plan.gamma != 1]),
    }
    for name, (low, high, values) in ranges.items():
        reach = high - low
        assert low <= values.min() < low + reach / 20, name
        assert high - reach / 20 < values.max() <= high, name
        assert values.mean() == pytest.approx((low + high) / 2, abs=reach / 20), name
    assert abs(np.corrcoef(plan.scale.T)[0, 1]) < 0.7  # rows and columns are drawn apart (p couples them a little)
    moved = plan.scale[plan.scale[:, 0] != 1]
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.1
    assert not plan.flip.any()
    assert not plan.turns.any()


def test_flips_and_turns_are_options() -> None:
    plan = draw(AugmentConfig(flips=True, quarter_turns=True), 0, range(400))
    assert np.allclose(plan.flip.mean(0), 0.5, atol=0.1)
    assert (np.bincount(plan.turns, minlength=4) > 60).all()
    np.testing.assert_array_equal(plan.angle, draw(AugmentConfig(), 0, range(400)).angle)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["unet", "swin"]),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 10**9), min_size=1, max_size=5),
    st.data(),
)
def test_a_sample_depends_on_seed_and_number_only(
    which: str, seed: int, numbers: list[int], data: st.DataObject
) -> None:
    config = AugmentConfig.model_validate({"set": which})
    plan = draw(config, seed, numbers)
    pick = data.draw(st.integers(0, len(numbers) - 1))
    same(plan.part([pick]), draw(config, seed, [numbers[pick]]))
    same(plan.part(slice(pick, pick + 1)), plan.part([pick]))
    if seed:
        assert draw(config, seed - 1, numbers).noise_seed[0] != plan.noise_seed[0]


def test_swin_set_is_the_papers() -> None:
    plan = draw(SWIN, 0, range(3000))
    for low, high, values in ((0, 30, plan.angle), (0.8, 1.2, plan.scale), (0.8, 1.2, plan.gamma)):
        assert low <= values.min() < low + (high - low) / 20
        assert high - (high - low) / 20 < values.max() <= high
    assert abs(np.corrcoef(plan.scale.T)[0, 1]) < 0.06
    either = plan.flip.any(1).mean(), plan.flip.mean(0)
    np.testing.assert_allclose(either[0], 0.5, atol=0.04)
    np.testing.assert_allclose(either[1], 0.25, atol=0.04)
    assert not plan.flip.all(1).any()
    assert plan.elastic.shape == (3000, 2, 3, 3)
    assert plan.elastic.std() == pytest.approx(2, rel=0.02)
    assert plan.elastic.mean() == pytest.approx(0, abs=0.03)
    assert not plan.noise_sd.any()
    assert not plan.blur_sd.any()
    assert (plan.zoom == 1).all()


def test_what_is_given_wins_over_the_set_and_comes_back() -> None:
    config = AugmentConfig(set="swin", p_elastic=0.25, rotate=(-10, 10))
    plan = draw(config, 0, range(400))
    assert plan.elastic.any((1, 2, 3)).mean() == pytest.approx(0.25, abs=0.08)
    assert plan.angle.min() < -8
    assert (plan.gamma != 1).all()
    assert AugmentConfig.model_validate_json(config.model_dump_json()) == config
    same(draw(AugmentConfig(set="swin", p_elastic=0, p_gamma=0), 0, [7]),
         draw(AugmentConfig(set="swin", p_elastic=0, gamma=(1, 1)), 0, [7]))  # fmt: skip


def test_older_trainings_keep_their_identity() -> None:
    """The record of the U-Net's set has the fields of the first release; the Swin's has all, so that it comes back."""
    first = {"enabled", "p_rotate", "rotate", "p_scale", "scale", "p_noise", "noise_sd", "p_blur", "blur_sd", "gamma",
             "p_low_resolution", "low_resolution", "p_gamma", "flips", "quarter_turns"}  # fmt: skip
    assert set(AugmentConfig().model_dump()) == first
    assert AugmentConfig().model_dump()["rotate"] == 30.0
    assert "input" in AugmentConfig(input="raw").model_dump()
    odd = AugmentConfig(set="swin", p_elastic=0)
    assert AugmentConfig.model_validate(odd.model_dump()) == odd


def test_nothing_is_drawn_when_switched_off() -> None:
    plan = draw(AugmentConfig(set="swin", enabled=False, quarter_turns=True), 0, range(20))
    assert (plan.matrices() == np.eye(2)).all()
    assert not plan.elastic.any()
    assert (plan.gamma == 1).all()


@pytest.mark.parametrize(
    "wrong", [{"rotate": (30, -30)}, {"scale": (0, 1)}, {"set": "vit"}, {"p_blur": 1.1}, {"shear": 1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AugmentConfig.model_validate(wrong)
