"""The GANs' steps: minibatches, optimisers, averages, what the discriminator sees, and repairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import state_of

from understudy.errors import UnderstudyError
from understudy.generators.training.distributed import ProcessGroup
from understudy.generators.training.gan import augmented, draw_augmentation
from understudy.slices import SliceSet


def test_every_step_draws_its_own_reproducible_minibatch(slices: SliceSet) -> None:
    state, again = (state_of(slices, seed=5) for _ in range(2))
    state.step()
    assert torch.equal(state.data.batch(4, 8), again.data.batch(4, 8))
    assert not torch.equal(state.data.batch(4, 8), state.data.batch(5, 8))


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_balanced_batches_have_the_wanted_share_of_annotated_slices(slices: SliceSet, share: float) -> None:
    state = state_of(slices, batch=16, balance_classes=share)
    annotated = [(state.data.batch(i, 16)[:, -1] > -1).any(dim=(1, 2)).float().mean() for i in range(40)]
    assert float(torch.stack(annotated).mean()) == pytest.approx(share, abs=0.07)  # 640 draws: 4 s.d.


def test_lazy_penalties_correct_the_optimisers(slices: SliceSet) -> None:
    state = state_of(slices, batch=32, r1_interval=16)
    g, d = state.optimisers["generator"].param_groups[0], state.optimisers["discriminator"].param_groups[0]
    assert g["lr"] == pytest.approx(0.002 * 4 / 5)
    assert g["betas"] == pytest.approx((0.0, 0.99**0.8))
    assert d["lr"] == pytest.approx(0.002 * 16 / 17)
    assert d["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))
    without = state_of(slices, "stylegan3").optimisers["generator"].param_groups[0]
    assert (without["lr"], without["betas"]) == (0.0025, (0.0, 0.99))


def test_the_ema_follows_the_ramp(slices: SliceSet) -> None:
    state = state_of(slices, pl_weight=0)
    name = "synthesis.blocks.0.conv1.conv.weight"
    for _ in range(2):
        before = state.ema.state_dict()[name].clone()
        state.step()
    beta = 0.5 ** (8 / (2 * 8 * 0.05))
    expected = before * beta + state.generator.state_dict()[name] * (1 - beta)
    torch.testing.assert_close(state.ema.state_dict()[name], expected)


def test_mean_w_follows_the_first_latents_only(slices: SliceSet) -> None:
    """Whether the styles are mixed or not: the latents that are mixed in do not count."""
    averages = []
    for mixing in (0.0, 1.0):
        generator = state_of(slices).generator
        generator.ws(generator.draw(8, torch.Generator().manual_seed(1), mixing), track=True)
        averages.append(generator.mapping.w_avg)
    assert averages[0].abs().max() > 0
    torch.testing.assert_close(averages[0], averages[1])


def test_nan_gradients_are_repaired_and_counted(slices: SliceSet) -> None:
    state = state_of(slices)
    before = {k: v.clone() for k, v in state.discriminator.state_dict().items()}

    def loss(part: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return state.discriminator(part["real"]).sum() * float("nan"), {}

    state.backward_and_step("discriminator", {"real": state.data.batch(0, 8)}, loss)
    for name, value in state.discriminator.state_dict().items():
        assert torch.equal(value, before[name])
    assert state.take_figures() == {"repaired_gradients": 1.0}


def test_the_penalties_come_in_their_intervals(slices: SliceSet) -> None:
    state = state_of(slices, r1_interval=3, pl_interval=2)
    seen = []
    for _ in range(6):
        state.step()
        seen.append({"r1", "pl"} & set(state.take_figures()))
    assert seen == [{"r1", "pl"}, set(), {"pl"}, {"r1"}, {"pl"}, set()]


def test_noise_reaches_the_annotation_only(slices: SliceSet) -> None:
    state = state_of(slices, annotation_noise=0.5)
    real = state.data.batch(0, 8)
    difference = augmented(state, real, draw_augmentation(state, torch.Generator().manual_seed(0))) - real
    assert not difference[:, :-1].any()
    assert float(difference[:, -1].std()) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(("radial", "sigma", "expected"), [(True, None, 10), (False, None, 0), (True, 4.0, 4)])
def test_blur_fades_for_configuration_r(slices: SliceSet, radial: bool, sigma: float | None, expected: float) -> None:
    model = {"use_radial_filters": True, "conv_kernel": 1} if radial else {}
    state = state_of(slices, "stylegan3", model, blur_sigma=sigma)
    sigmas = [state.config.blur(state.model, images) for images in (0, 25_000, 60_000)]
    assert sigmas == pytest.approx([expected, expected / 2, 0])  # fades over batch * 200 / 32 thousand images


def test_a_gamma_far_off_the_guide_is_told(slices: SliceSet, caplog: pytest.LogCaptureFixture) -> None:
    state_of(slices, r1_gamma=5.0)
    assert "far from" in caplog.text


def test_the_path_length_batch_is_divided_among_processes_too(slices: SliceSet) -> None:
    processes = ProcessGroup()
    processes.world_size = 8
    with pytest.raises(UnderstudyError, match="world size 8"):
        state_of(slices, processes=processes).check_batches()
    state_of(slices, processes=processes, pl_shrink=1).check_batches()
    state_of(slices, processes=processes, pl_weight=0).check_batches()
