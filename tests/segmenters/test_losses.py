"""A batch that memory does not hold is trained in parts: the same gradient, the same training, and a record of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from safetensors.torch import load_file
from torch import Tensor, nn

from understudy.io.files import read_json, write_json
from understudy.runtime.memory import OutOfMemory, oom_fallback
from understudy.segmenters.config import SegmenterTrainingConfig, build_model
from understudy.segmenters.losses import backward, batch_norms, segmentation_loss, shrink_target, soft_dice_loss
from understudy.segmenters.predict import load
from understudy.segmenters.swin import Swin, SwinConfig
from understudy.segmenters.train import train_segmenter
from understudy.segmenters.unet import UNet, UNetConfig
from understudy.slices import SliceSet


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


TINY = UNetConfig(width=4, max_width=8)
SWIN = SwinConfig(size="mini", embed=8, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), head_channels=8, auxiliary_channels=4)


def gradient(network: nn.Module, parts: int, kind: Any = "ce_dice") -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a fixed batch of 6 slices, and its gradients."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 32, 32, generator=generator)
    target = torch.randint(0, 3, (6, 32, 32), generator=generator)
    network.zero_grad(set_to_none=True)
    levels: Sequence[float] = network.level_weights  # type: ignore[assignment]
    loss = backward(
        network, lambda part, _: network(part), lambda s: segmentation_loss(s, target, levels, True, kind), x, parts
    )
    return loss, {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", [2, 4, 6])
def test_the_gradient_of_parts_is_that_of_the_batch(parts: int) -> None:
    network = build_model(TINY, 3, 3, 32).train()
    whole, wanted = gradient(network, 1)
    loss, found = gradient(network, parts)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_running_means_of_parts_move_as_far_as_those_of_a_batch() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.1)
    x = torch.randn(6, 3, 4, 4) + 5
    other = nn.BatchNorm2d(3, momentum=0.1)
    other(x)
    backward(norm, lambda part, _: [norm(part)], lambda s: s[0].square().sum(), x, 3)
    # each part has another mean: the way there is the same, 1 - 0.9 of it, where it leads to is not exactly
    torch.testing.assert_close(norm.running_mean, other.running_mean, rtol=0.2, atol=0)
    assert norm.momentum == 0.1


def test_which_networks_normalise_over_the_batch() -> None:
    assert not batch_norms(build_model(TINY, 1, 2, 32))
    assert batch_norms(build_model(SWIN, 1, 2, 32))


def limited(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], most: int) -> list[int]:
    """Lets a network run out of memory with more than `most` slices; a list of what it was asked for."""
    asked: list[int] = []
    usual: Callable[..., Any] = kind.forward

    def forward(self: nn.Module, x: Tensor) -> Any:
        asked.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return usual(self, x)

    monkeypatch.setattr(kind, "forward", forward)
    return asked


def trained(folder: Path, real: SliceSet, model: Any = TINY, **changes: Any) -> dict[str, Tensor]:
    given: dict[str, Any] = {"samples": 24, "batch": 4, "momentum": 0.9, "precision": "fp32", **changes}
    config = SegmenterTrainingConfig(**given)
    with oom_fallback(folder / "memory.json") as found:
        train_segmenter(real, None, model, config, folder / "model", device="cpu", progress=False)
    write_json(folder / "told.json", found.record)
    return load_file(folder / "model" / "segmenter.safetensors")


def test_a_training_that_runs_out_of_memory_goes_on_in_parts_and_says_so(
    real: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", real)
    assert read_json(tmp_path / "whole" / "told.json") == {}
    asked = limited(monkeypatch, UNet, most=2)
    parts = trained(tmp_path / "parts", real)
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5)
    assert asked[:3] == [4, 2, 2]
    assert asked.count(4) == 1  # it does not try the whole batch again
    assert read_json(tmp_path / "parts" / "model" / "config.json")["parts"] == 2
    told = read_json(tmp_path / "parts" / "told.json")
    assert told == {"training of a segmenter": "2 of 4 at once: the same up to rounding"}


def test_slices_that_are_normalised_together_stay_two_and_the_record_says_what_changes(
    real: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, Swin, most=2)
    trained(tmp_path / "parts", real, SWIN, samples=8, optimiser="adamw", lr=1e-4)
    told = read_json(tmp_path / "parts" / "told.json")["training of a segmenter"]
    assert told == "2 of 4 at once: other results, slices are normalised within a part"
    limited(monkeypatch, Swin, most=1)
    with pytest.raises(OutOfMemory, match="memory"):
        trained(tmp_path / "none", real, SWIN, samples=8, optimiser="adamw", lr=1e-4)


def test_prediction_goes_on_in_parts(real: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "run", real)
    images, _ = real.read(np.arange(12))
    model = load(tmp_path / "run" / "model", "cpu")
    whole = model.probabilities(images)
    asked = limited(monkeypatch, UNet, most=4)
    with oom_fallback(tmp_path / "memory.json") as found:
        torch.testing.assert_close(model.probabilities(images), whole)
    assert asked == [12, 6, 3, 3, 3, 3]
    assert found.record == {"prediction": "3 of 12 at once: the same up to rounding"}
