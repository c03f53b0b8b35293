"""What is drawn for a sample, and its rendering against SciPy and NumPy."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage, stats

from understudy.segmenters.augment import (
    AugmentConfig,
    AugmentPlan,
    add_noise,
    apply,
    blur,
    change_gamma,
    change_intensities,
    draw,
    lower_resolution,
    move,
    normalise,
    sampling_grid,
    spline_functions,
)

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


# --- rendering ---

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
    for config in (OFF, AugmentConfig(p_rotate=0, p_scale=0, p_noise=0, p_blur=0, p_low_resolution=0, p_gamma=0)):
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


def batch(n: int, seed: int = 0, edge: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 2, edge, edge), np.uint8)
    images[:, :, :3] = 0
    return torch.from_numpy(images), torch.from_numpy(rng.integers(0, 3, (n, edge, edge), np.uint8))


# every transform, each on some of the samples only
BUSY = AugmentConfig(p_rotate=0.6, p_scale=0.3, p_blur=0.5, p_low_resolution=0.5, p_elastic=0.5, p_gamma=0.5)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([AugmentConfig(), AugmentConfig(set="swin"), BUSY, AugmentConfig(set="swin", input="raw")]),
    st.integers(0, 10**6),
    st.permutations(range(6)),
    st.integers(1, 6),
    st.integers(1, 3),
)
def test_a_sample_is_the_same_to_the_bit_in_any_batch(
    config: AugmentConfig, seed: int, order: list[int], size: int, threads: int
) -> None:
    images, labels = batch(6)
    plan = draw(config, seed, range(6))
    x, y = apply(plan, images, labels)
    some = order[:size]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x_some, y_some = apply(plan.part(some), images[some], labels[some])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(x_some, x[some])
    assert torch.equal(y_some, y[some])
    assert x_some.is_contiguous(memory_format=torch.channels_last)


def test_the_parts_of_a_plan_render_as_the_whole() -> None:
    """What a GPU does (the batch at once) against what a CPU does (one by one)."""
    images, labels = batch(8, edge=32)
    plan = draw(BUSY, 3, range(8))
    x, y = apply(plan, images, labels)
    moved, target = move(plan, images.float() / 255, labels)
    for n, sample in enumerate(moved):
        change_intensities(plan, n, sample, torch.empty_like(sample))
    torch.testing.assert_close(normalise(moved), x, rtol=1e-4, atol=1e-5)
    assert torch.equal(target, y)
    assert torch.equal(images, batch(8, edge=32)[0])  # the input is left alone


def test_an_empty_batch() -> None:
    x, y = apply(draw(BUSY, 0, []), *batch(0))
    assert x.shape == (0, 2, 16, 16)
    assert y.shape == (0, 16, 16)


def test_raw_input_is_the_moved_image_in_0_to_255() -> None:
    images, labels = batch(2)
    x, _ = apply(draw(AugmentConfig(enabled=False, input="raw"), 0, range(2)), images, labels)
    torch.testing.assert_close(x, images.float())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["unet", "swin"]), st.integers(0, 10**6), st.lists(st.integers(0, 255), min_size=1, max_size=4))
def test_no_new_label_value_ever_appears(which: str, seed: int, values: list[int]) -> None:
    config = AugmentConfig.model_validate({"set": which, "quarter_turns": True, "elastic_sd": 4})
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.choice(np.array(values, np.uint8), (4, 16, 16)))
    _, moved = apply(draw(config, seed, range(4)), batch(4)[0], labels)
    assert set(moved.unique().tolist()) <= {0, *values}  # 0 comes in from outside
    assert moved.dtype == torch.uint8


def test_elastic_deformation_is_scipys() -> None:
    edge = 48
    image = smooth(1, edge, seed=2)[0, 0]
    label = (image > 0.5).astype(np.uint8) * 3
    plan = draw(AugmentConfig(set="swin", p_rotate=0, p_scale=0, flips=False, p_gamma=0), 1, [0])
    x, y = move(plan, torch.from_numpy(image)[None, None], torch.from_numpy(label)[None])
    points = np.mgrid[:edge, :edge] * 2 / (edge - 1)  # the 3 x 3 grid spans the image from edge to edge
    shift = [ndimage.map_coordinates(d, points, order=3, mode="mirror") for d in plan.elastic[0]]
    places = np.mgrid[:edge, :edge] + shift
    assert np.abs(shift).max() > 2
    np.testing.assert_allclose(
        x[0, 0], ndimage.map_coordinates(image, places, order=1, mode="grid-constant"), atol=1e-4
    )
    nearest = ndimage.map_coordinates(label, places, order=0, mode="grid-constant")
    off = np.abs(places - np.floor(places) - 0.5).min(0) > 1e-3  # ties between two pixels apart
    np.testing.assert_array_equal(y[0].numpy()[off], nearest[off])


def test_deformation_is_of_the_moved_image() -> None:
    """Rotation, scaling and flip first, then the deformation, in one resampling instead of two."""
    edge = 64
    image = smooth(1, edge, seed=5)[0, 0]
    whole = draw(AugmentConfig(set="swin"), 4, [0])
    still_grid = replace(whole, elastic=np.zeros((1, 2, 3, 3)))
    blank = torch.zeros(1, edge, edge, dtype=torch.uint8)
    moved = move(still_grid, torch.from_numpy(image)[None, None], blank)[0]
    only = replace(still(), elastic=whole.elastic)
    twice = move(only, moved, blank)[0][0, 0]
    once = move(whole, torch.from_numpy(image)[None, None], blank)[0][0, 0]
    inside = slice(14, -14)
    np.testing.assert_allclose(once[inside, inside], twice[inside, inside], atol=0.01)


def test_splines_pass_through_the_points_and_are_smooth() -> None:
    weights = spline_functions(33, 5)
    np.testing.assert_allclose(weights[::8], np.eye(5), atol=1e-12)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    assert np.abs(np.diff(weights, 2, axis=0)).max() < 0.1


def test_grid_of_nothing_is_the_pixels_themselves() -> None:
    grid = sampling_grid(still(2), torch.empty(2, 4, 4, 2))
    np.testing.assert_allclose(grid[1, :, :, 0], np.tile([-0.75, -0.25, 0.25, 0.75], (4, 1)), atol=1e-7)
    np.testing.assert_allclose(grid[1, :, :, 1].T, grid[1, :, :, 0], atol=1e-7)


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
    blocks = np.kron(np.random.default_rng(0).integers(0, 4, (40, 4, 4)), np.ones((16, 16), int)).astype(np.uint8)
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
    plan, y = replace(still(2), noise_sd=np.array([0.04, 0.0])), x.clone()
    for n, sample in enumerate(y):
        change_intensities(plan, n, sample, torch.empty_like(sample))
    noise = (y - x)[0, :, 8:]
    assert float(noise.std()) == pytest.approx(0.04, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    assert not (y - x)[0, :, :8].any()
    assert torch.equal(y[1], x[1])
    assert abs(np.corrcoef(noise.flatten(1).numpy())[0, 1]) < 0.1


def test_noise_is_white_normal_and_differs_by_sample() -> None:
    x = torch.full((3, 4, 128, 128), 0.5)
    seeds, y = draw(OFF, 8, range(3)).noise_seed.tolist(), x.clone()
    for sample, seed in zip(y, seeds, strict=True):
        add_noise(sample, 0.04, seed, torch.empty_like(sample))
    noise = ((y - x) / 0.04).double().numpy()
    assert stats.kstest(noise[0].ravel(), "norm").pvalue > 1e-3
    count = noise[0].size
    for lag in (1, 2, 16, 128, 129, 128 * 128):  # neighbours in a row, in a column, across channels
        one = noise[0].ravel()
        assert abs(np.mean(one[lag:] * one[:-lag])) < 5 / np.sqrt(count - lag), lag
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.mean(noise[a] * noise[b])) < 5 / np.sqrt(count)
    signs = draw(OFF, 0, range(1000)).noise_seed & 1
    assert signs.mean() == pytest.approx(0.5, abs=0.08)


def test_blur_is_scipys() -> None:
    image = smooth(1, seed=1)[0] + np.random.default_rng(2).random((1, 32, 32)).astype(np.float32)
    y = torch.from_numpy(image.copy())
    blur(y, 0.9)
    expected = ndimage.gaussian_filter(image[0], 0.9, mode="nearest", radius=3)
    np.testing.assert_allclose(y[0], expected, atol=1e-5)


def test_low_resolution_loses_detail_but_not_place() -> None:
    image = smooth(1, 64, seed=3)[0]
    checker = np.indices((64, 64)).sum(0) % 2
    kept, lost = torch.from_numpy(image.copy()), torch.from_numpy(checker[None].astype(np.float32))
    lower_resolution(kept, 0.75)
    assert np.abs(kept.numpy() - image)[0, 4:-4, 4:-4].max() < 0.05
    lower_resolution(lost, 0.75)
    assert float(lost.std()) < 0.8 * checker.std()


def test_gamma() -> None:
    x = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    y = x.clone()
    change_gamma(y, 1.2)
    np.testing.assert_allclose(y, x**1.2, rtol=2e-6)
