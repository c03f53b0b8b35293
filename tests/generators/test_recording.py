"""Recorded steps give the same numbers, bit by bit, as those of autograd; and what must not be recorded is not."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest
import torch
from small_models import trainer_of
from torch import Tensor, nn

from understudy.generators.training import recording
from understudy.generators.training.recording import Loss, Recordings
from understudy.slices import SliceSet


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are recorded when they come for the second time."""
    monkeypatch.setattr(recording, "TRIES", 1)


def kinds(recordings: Recordings) -> list[str]:
    """What became of the losses."""
    return sorted(type(found).__name__ for found in recordings._found.values())


def equal(a: Any, b: Any) -> bool:
    """Whether two states are the same bit by bit, but for the time that they took."""
    if isinstance(a, dict):
        return all(equal(a[k], b[k]) for k in a.keys() | b.keys() if k != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.mark.parametrize(
    ("kind", "model", "training", "recorded"),
    [
        ("stylegan2", {}, {"r1_interval": 2, "pl_interval": 2, "precision": "bf16"}, 4),
        ("stylegan2", {}, {"micro_batch": 4, "r1_interval": 2, "pl_interval": 2}, 3),
        ("diffusion", {"dropout": 0.0, "learn_sigma": True}, {}, 1),
    ],
)
def test_recorded_steps_are_the_same_steps(
    slices: SliceSet, kind: str, model: dict[str, Any], training: dict[str, Any], recorded: int
) -> None:
    """The path length is not recorded in shares, as the mean over them is a new constant in every step."""
    found, plain = (trainer_of(slices, kind, model, **training) for _ in range(2))
    plain.recordings.active = False
    for _ in range(8):
        found.step()
        plain.step()
    assert kinds(found.recordings).count("_Recording") == recorded
    assert not plain.recordings._found
    assert equal(found.state(), plain.state())


def in_lanes(trainer: Any) -> Any:
    """The trainer with two lanes, whatever its kind and however many threads there are."""
    trainer.side_by_side = True
    trainer.recordings.lanes.count = 2
    return trainer


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize(
    ("kind", "model", "training"),
    [
        ("stylegan2", {"mbstd_group": 2}, {"pl_weight": 0.0}),  # the path length needs the whole batch
        ("diffusion", {"dropout": 0.0, "learn_sigma": True}, {}),
    ],
)
def test_recorded_steps_in_lanes_are_the_same_steps(
    slices: SliceSet, monkeypatch: pytest.MonkeyPatch, kind: str, model: dict[str, Any],
    training: dict[str, Any], micro_batch: int | None,
) -> None:  # fmt: skip
    """Two halves of the batch side by side: bit by bit what they are one after the other, and nearly what the whole
    batch is; the mean of w, which every half moves, included."""
    found, plain, whole = (trainer_of(slices, kind, model, micro_batch=micro_batch, **training) for _ in range(3))
    whole.recordings.active = False
    in_lanes(plain)
    runs = list[int]()
    run = in_lanes(found).recordings.lanes.run
    monkeypatch.setattr(found.recordings.lanes, "run", lambda works: runs.append(len(works)) or run(works))
    for _ in range(6):
        found.step()
    monkeypatch.setattr(recording, "TRIES", 1000)
    for _ in range(6):
        plain.step()
        whole.step()
    assert runs
    assert set(runs) == {2}
    assert not kinds(plain.recordings).count("_Recording")
    assert equal(found.state(), plain.state())
    for name, weights in whole.average.state_dict().items():
        torch.testing.assert_close(found.average.state_dict()[name], weights, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_recorded_gets_no_lanes(slices: SliceSet) -> None:
    dropping = in_lanes(trainer_of(slices, "diffusion", {"dropout": 0.5}))
    state = torch.get_rng_state()
    dropping.step()
    assert list(dropping._side_by_side.values()) == [False]
    assert torch.equal(torch.get_rng_state(), state)


def test_lanes_end_where_memory_leaves_one_group_at_once(slices: SliceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of four in two lanes; from the second step on memory is too small for more than one of them."""
    trainer = in_lanes(trainer_of(slices, micro_batch=8, pl_weight=0.0))
    original, sizes = trainer.generator.synthesis.forward, list[int]()

    def forward(ws: Tensor, *args: Any) -> Tensor:
        sizes.append(len(ws))
        if trainer.steps and trainer.shares == 1:
            raise MemoryError
        return original(ws, *args)  # type: ignore[no-any-return]

    monkeypatch.setattr(trainer.generator.synthesis, "forward", forward)
    for _ in range(2):
        trainer.step()
    assert trainer.shares == 2
    assert set(sizes) == {4}


def test_a_resumed_training_records_anew_and_stays_the_same(slices: SliceSet) -> None:
    unbroken, first, second = (trainer_of(slices) for _ in range(3))
    for _ in range(9):
        unbroken.step()
    for _ in range(5):
        first.step()
    second.restore(5, first.state())
    for _ in range(4):
        second.step()
    assert "_Recording" in kinds(second.recordings)
    assert equal(unbroken.state(), second.state())


def descend(
    recordings: Recordings, key: Hashable, loss: Loss, inputs: dict[str, Any], layer: nn.Module, weight: float = 1.0
) -> dict[str, Tensor]:
    """The figures of one share."""
    (figures,) = recordings.descend(key, loss, [(weight, inputs)], list(layer.parameters()))
    return figures


def run(loss: Callable[[nn.Linear, dict[str, Any]], Tensor], times: int = 5) -> list[str]:
    """What became of a loss of a layer and of inputs x [2, 3] that change."""
    layer, recordings = nn.Linear(3, 1), Recordings(active=True)
    for i in range(times):
        x = {"x": torch.full((2, 3), float(i))}
        descend(recordings, "loss", lambda part: (loss(layer, part), {}), x, layer)
    return kinds(recordings)


def test_only_lists_of_operations_are_recorded() -> None:
    numbers = iter(range(100))
    tensors = iter([torch.tensor(float(i)) for i in range(100)])
    assert run(lambda layer, part: layer(part["x"]).sum()) == ["_Recording"]
    looks = run(lambda layer, part: layer(part["x"]).sum() * float(part["x"].sum()))
    random = run(lambda layer, part: (layer(part["x"]) * torch.rand(1)).sum())
    number = run(lambda layer, part: layer(part["x"]).sum() * next(numbers))
    tensor = run(lambda layer, part: layer(part["x"]).sum() * next(tensors))
    assert looks == random == number == tensor == ["NoneType"]


def test_large_networks_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LARGEST", 10)
    assert run(lambda layer, part: layer(part["x"]).sum()) == ["NoneType"]


def test_autograd_goes_on_where_a_recording_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_script(source: str) -> Any:
        raise RuntimeError("torch.jit is not supported")

    monkeypatch.setattr(torch.jit, "CompilationUnit", no_script)
    layer, recordings = nn.Linear(3, 1, bias=False), Recordings(active=True)
    for i in range(1, 6):
        layer.weight.grad = None
        x = {"x": torch.full((1, 3), float(i))}
        descend(recordings, "loss", lambda part: (layer(part["x"]).sum(), {}), x, layer)
        assert torch.equal(layer.weight.grad, x["x"])
    assert kinds(recordings) == ["NoneType"]


def test_gradients_are_those_of_the_last_inputs_and_add_up() -> None:
    layer, recordings = nn.Linear(3, 1, bias=False), Recordings(active=True)

    def loss(part: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        value = (layer(part["in"]["x"]) * part["y"]).sum()
        return value, {"value": value}

    for i in range(1, 6):
        layer.weight.grad = None
        inputs = {"in": {"x": torch.full((2, 3), float(i))}, "y": torch.tensor(2.0)}
        for _ in range(2):
            figures = descend(recordings, "loss", loss, inputs, layer, 0.5)
        assert torch.equal(layer.weight.grad, torch.full((1, 3), 4.0 * i))
        assert torch.equal(figures["value"], loss(inputs)[0].detach())
        with torch.no_grad():
            layer.weight += 1
    assert kinds(recordings) == ["_Recording"]


def test_a_number_in_the_key_makes_a_recording_of_its_own() -> None:
    layer, recordings = nn.Linear(3, 1, bias=False), Recordings(active=True)
    for i in range(12):
        factor = 1.0 + i // 6
        layer.weight.grad = None
        descend(
            recordings,
            factor,
            lambda part, factor=factor: (layer(part["x"]).sum() * factor, {}),
            {"x": torch.ones(1, 3)},
            layer,
        )
        assert torch.equal(layer.weight.grad, torch.full((1, 3), factor))
    assert kinds(recordings) == ["_Recording", "_Recording"]


def test_few_losses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "KEPT", 3)
    layer, recordings = nn.Linear(3, 1), Recordings(active=True)
    for i in range(9):
        descend(recordings, i, lambda part: (layer(part["x"]).sum(), {}), {"x": torch.ones(1, 3)}, layer)
    assert kinds(recordings) == ["int"] * 3
