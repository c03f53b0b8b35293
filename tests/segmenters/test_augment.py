from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from understudy.segmenters.augment import (
    AugmentConfig,
    AugmentPlan,
    add_noise,
    apply,
    blur,
    change_gamma,
    draw,
    lower_resolution,
    move,
    normalise,
)

OFF = AugmentConfig(enabled=False)


def still(n: int = 1) -> AugmentPlan:
    return draw(OFF, 0, range(n))


def smooth(n: int = 1, edge: int = 32, seed: int = 0) -> np.ndarray:
    """float32 [n, 1, edge, edge] in 0..1, smooth and without symmetry."""
    noise = np.random.default_rng(seed).random((n, 1, edge, edge))
    field = ndimage.gaussian_filter(noise, (0, 0, 3, 3))
    return ((field - field.min()) / (field.max() - field.min())).astype(np.float32)


def test_nothing_is_changed_but_the_scale_when_switched_off() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (3, 2, 16, 16), np.uint8))
    labels = torch.from_numpy(rng.integers(0, 4, (3, 16, 16), np.uint8))
    for config in (
        OFF,
        AugmentConfig(p_rotate=0, p_scale=0, p_noise=0, p_blur=0, p_low_resolution=0, p_gamma=0),
    ):
        x, y = apply(draw(config, 3, range(3)), images, labels)
        assert torch.equal(x, normalise(images.float() / 255))
        assert torch.equal(y, labels)


def test_normalise_is_the_z_score_of_the_foreground() -> None:
    images = np.random.default_rng(0).integers(0, 200, (2, 3, 16, 16))
    images[:, :, :5] = 0
    images[1, 2] = 0
    got = normalise(torch.from_numpy(images).float() / 255).numpy()
    for n, c in [(0, 0), (0, 1), (1, 0)]:
        inside = images[n, c][images[n, c] > 0] / 255
        expected = (images[n, c] / 255 - inside.mean()) / inside.std()
        np.testing.assert_allclose(got[n, c], expected, atol=2e-4)
    assert not got[1, 2].any()


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
    assert (
        abs(np.corrcoef(plan.scale.T)[0, 1]) < 0.7
    )  # rows and columns are drawn apart (p couples them a little)
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
@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**9), min_size=1, max_size=5), st.data())
def test_a_sample_depends_on_seed_and_number_only(seed: int, numbers: list[int], data: st.DataObject) -> None:
    plan = draw(AugmentConfig(flips=True), seed, numbers)
    pick = data.draw(st.integers(0, len(numbers) - 1))
    alone = draw(AugmentConfig(flips=True), seed, [numbers[pick]])
    for field in fields(plan):
        np.testing.assert_array_equal(getattr(plan.take([pick]), field.name), getattr(alone, field.name))


def test_a_plan_replays_alone_and_in_a_batch() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (8, 2, 16, 16), np.uint8))
    labels = torch.from_numpy(rng.integers(0, 3, (8, 16, 16), np.uint8))
    plan = draw(AugmentConfig(p_noise=1, p_blur=0.5), 5, range(8))
    x, y = apply(plan, images, labels)
    again, _ = apply(plan, images, labels)
    assert torch.equal(x, again)
    one, label = apply(plan.take([3]), images[3:4], labels[3:4])
    torch.testing.assert_close(one[0], x[3], rtol=1e-4, atol=1e-4)
    assert torch.equal(label[0], y[3])
    assert not torch.equal(x, apply(draw(AugmentConfig(p_noise=1), 6, range(8)), images, labels)[0])


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("flip", [(False, False), (True, False), (False, True)])
def test_turns_and_flips_are_numpys(turns: int, flip: tuple[bool, bool]) -> None:
    image = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 5, (16, 16)).astype(np.uint8)
    plan = replace(still(), turns=np.array([turns]), flip=np.array([flip]))
    x, y = move(plan, torch.from_numpy(image)[None, None], torch.from_numpy(label)[None])
    axes = [axis for axis in (0, 1) if flip[axis]]
    np.testing.assert_allclose(x[0, 0].numpy(), np.flip(np.rot90(image, turns), axes), atol=1e-5)
    np.testing.assert_array_equal(y[0].numpy(), np.flip(np.rot90(label, turns), axes))


def test_rotation_and_scaling_are_scipys() -> None:
    image = smooth()[0, 0]
    turned = replace(still(), angle=np.array([20.0]))
    got = move(turned, torch.from_numpy(image)[None, None], torch.zeros(1, 32, 32, dtype=torch.uint8))[0]
    expected = ndimage.rotate(image, 20.0, reshape=False, order=1)  # counter-clockwise as displayed
    np.testing.assert_allclose(got[0, 0, 4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-4)
    scaled = replace(still(), scale=np.array([[1.1, 0.9]]))
    got = move(scaled, torch.from_numpy(image)[None, None], torch.zeros(1, 32, 32, dtype=torch.uint8))[0]
    centre = 15.5
    expected = ndimage.affine_transform(
        image, np.diag([1 / 1.1, 1 / 0.9]), [centre - centre / 1.1, centre - centre / 0.9], order=1
    )
    np.testing.assert_allclose(got[0, 0, 3:-3, 3:-3], expected[3:-3, 3:-3], atol=1e-4)


def test_the_label_moves_with_the_image_and_is_never_interpolated() -> None:
    codes = np.array([0, 51, 102, 204], np.uint8)
    blocks = np.kron(np.random.default_rng(0).integers(0, 4, (40, 4, 4)), np.ones((16, 16), int)).astype(
        np.uint8
    )
    plan = draw(AugmentConfig(flips=True, quarter_turns=True), 1, range(40))
    x, y = move(plan, torch.from_numpy(codes[blocks])[:, None].float(), torch.from_numpy(blocks))
    assert set(np.unique(y)) <= {0, 1, 2, 3}
    coded = codes[y.numpy()].astype(float)
    flat = ndimage.maximum_filter(coded, (1, 5, 5)) == ndimage.minimum_filter(coded, (1, 5, 5))
    flat[:, [0, 1, -2, -1]] = flat[:, :, [0, 1, -2, -1]] = False  # beyond the edge the filters cannot look
    assert flat.mean() > 0.5
    np.testing.assert_allclose(x[:, 0].numpy()[flat], coded[flat], atol=1e-2)


def test_noise_has_its_strength_spares_the_background_and_differs_by_channel() -> None:
    x = torch.full((2, 2, 64, 64), 0.5)
    x[:, :, :8] = 0
    plan = replace(still(2), noise_sd=np.array([0.04, 0.0]))
    y = add_noise(plan, x.clone())
    noise = (y - x)[0, :, 8:]
    assert float(noise.std()) == pytest.approx(0.04, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    assert not (y - x)[0, :, :8].any()
    assert torch.equal(y[1], x[1])
    assert abs(np.corrcoef(noise.flatten(1).numpy())[0, 1]) < 0.1


def test_blur_is_scipys() -> None:
    image = smooth(2, seed=1) + np.random.default_rng(2).random((2, 1, 32, 32)).astype(np.float32)
    plan = replace(still(2), blur_sd=np.array([0.9, 0.0]))
    y = blur(plan, torch.from_numpy(image.copy()))
    expected = ndimage.gaussian_filter(image[0, 0], 0.9, mode="nearest", radius=3)
    np.testing.assert_allclose(y[0, 0], expected, atol=1e-5)
    np.testing.assert_array_equal(y[1], image[1])


def test_low_resolution_loses_detail_but_not_place() -> None:
    image = smooth(1, 64, seed=3)
    checker = np.indices((64, 64)).sum(0) % 2
    plan = replace(still(), zoom=np.array([0.75]))
    kept = lower_resolution(plan, torch.from_numpy(image.copy()))[0, 0].numpy()
    assert np.abs(kept - image[0, 0])[4:-4, 4:-4].max() < 0.05
    lost = lower_resolution(plan, torch.from_numpy(checker[None, None].astype(np.float32)))
    assert float(lost.std()) < 0.8 * checker.std()


def test_gamma() -> None:
    x = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]]).repeat(2, 1, 1, 1)
    y = change_gamma(replace(still(2), gamma=np.array([1.2, 1.0])), x.clone())
    np.testing.assert_allclose(y[0], x[0] ** 1.2, atol=1e-6)
    assert torch.equal(y[1], x[1])
